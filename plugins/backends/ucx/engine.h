// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The UCX engine: DRAM and VRAM to other agents and to the own one, with notifications. Argument checks and delegation
// only. Self-synchronised.
#pragma once

#include <memory>

#include "nixlx/engine.h"
#include "ucx/runtime.h"
#include "ucx/transfer.h"

namespace nx::ucx {

class Engine final : public nixlx::Engine,
                     public nixlx::RemotePeers,
                     public nixlx::Notifications,
                     public nixlx::ForcedQuiet,
                     public nixlx::Costs,
                     public nixlx::Waiting {
public:
    /// Waits for UCX, see Runtime. Throws with a sentence: std::invalid_argument if a parameter is wrong,
    /// std::runtime_error if UCX cannot start.
    explicit Engine(const nixlBackendInitParams *init_params);
    ~Engine() override;

    // ---- Memory

    nixl_status_t
    registerMem(const nixlBlobDesc &mem, nixl_mem_t memory, nixlBackendMD *&out) override;
    nixl_status_t
    loadLocalMD(nixlBackendMD *input, nixlBackendMD *&out) override;

    // ---- Peers

    nixl_status_t
    getConnInfo(std::string &out) const override;
    nixl_status_t
    getPeerInfo(std::string &info) const override;
    nixl_status_t
    getPublicData(const nixlBackendMD *meta, std::string &out) const override;
    nixl_status_t
    validatePeer(const std::string &connection_info,
                 const std::string *peer_info,
                 std::span<const std::string> public_data) const override;
    nixl_status_t
    loadPeer(const std::string &remote_agent,
             const std::string &connection_info,
             const std::string *peer_info) override;
    nixl_status_t
    connect(const std::string &remote_agent) override;
    nixl_status_t
    disconnect(const std::string &remote_agent) override;
    nixl_status_t
    loadRemoteMD(const nixlBlobDesc &mem,
                 nixl_mem_t memory,
                 const std::string &remote_agent,
                 nixlBackendMD *&out) override;

    nixl_status_t
    getNotifs(notif_list_t &out) override;
    nixl_status_t
    genNotif(const std::string &remote_agent, const std::string &message) const override;

    // ---- Requests

    nixl_status_t
    prepare(const nixlx::Plan &plan, const nixl_opt_b_args_t *args, nixlBackendReqH *&request) override;
    nixl_status_t
    post(nixlBackendReqH *request, const std::string *notification) override;
    nixl_status_t
    check(nixlBackendReqH *request) override;
    void
    cancel(nixlBackendReqH *request) override;
    bool
    forceQuiet(nixlBackendReqH *request) override;
    nixlx::RequestInfo
    describe(const nixlBackendReqH *request) const override;
    std::optional<uint64_t>
    bytesDone(const nixlBackendReqH *request) const override;
    std::optional<uint64_t>
    pathMark(const nixlBackendReqH *request) const override;
    std::optional<nixlx::Cost>
    cost(nixl_mem_t local, nixl_mem_t remote, std::string_view remote_agent) const override;

    int
    descriptor() const noexcept override;
    bool
    arm() noexcept override;

    void
    endBy(std::chrono::steady_clock::time_point deadline) override;

    void *
    ability(std::string_view name, uint32_t version) noexcept override {
        return nixlx::offer<RemotePeers, Notifications, ForcedQuiet, Costs, Waiting>(this, name, version);
    }

private:
    Result<size_t>
    chooseWorker(const nixl_opt_b_args_t *args) const;

    const std::string agent_;
    const std::unique_ptr<Runtime> runtime_;
};

} // namespace nx::ucx
