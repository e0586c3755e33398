// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The UCX engine: DRAM and VRAM to other agents and to the own one, with notifications. Argument checks and delegation
// only. Self-synchronised.
#pragma once

#include <memory>

#include "backend/backend_engine.h"
#include "nixlx/engine.h"
#include "ucx/runtime.h"
#include "ucx/transfer.h"

namespace nx::ucx {

class Engine final : public nixlBackendEngine, public nixlx::Engine {
public:
    /// Waits for UCX, see Runtime. Throws with a sentence: std::invalid_argument if a parameter is wrong,
    /// std::runtime_error if UCX cannot start.
    explicit Engine(const nixlBackendInitParams *init_params);
    ~Engine() override;

    bool
    supportsRemote() const override {
        return true;
    }

    bool
    supportsLocal() const override {
        return true;
    }

    bool
    supportsNotif() const override {
        return true;
    }

    nixl_mem_list_t
    getSupportedMems() const override {
        return {DRAM_SEG, VRAM_SEG};
    }

    nixl_status_t
    registerMem(const nixlBlobDesc &mem, const nixl_mem_t &memory, nixlBackendMD *&out) override;
    nixl_status_t
    deregisterMem(nixlBackendMD *meta) override;
    nixl_status_t
    connect(const std::string &remote_agent) override;
    nixl_status_t
    disconnect(const std::string &remote_agent) override;
    nixl_status_t
    unloadMD(nixlBackendMD *input) override;

    nixl_status_t
    prepXfer(const nixl_xfer_op_t &operation,
             const nixl_meta_dlist_t &local,
             const nixl_meta_dlist_t &remote,
             const std::string &remote_agent,
             nixlBackendReqH *&handle,
             const nixl_opt_b_args_t *opt_args = nullptr) const override;
    nixl_status_t
    postXfer(const nixl_xfer_op_t &operation,
             const nixl_meta_dlist_t &local,
             const nixl_meta_dlist_t &remote,
             const std::string &remote_agent,
             nixlBackendReqH *&handle,
             const nixl_opt_b_args_t *opt_args = nullptr) const override;
    nixl_status_t
    checkXfer(nixlBackendReqH *handle) const override;
    nixl_status_t
    releaseReqH(nixlBackendReqH *handle) const override;

    using nixlBackendEngine::prepMemView;
    nixl_status_t
    prepMemView(const nixl_remote_meta_dlist_t &, nixlMemViewH &, const nixl_opt_b_args_t * = nullptr) const override;
    nixl_status_t
    prepMemView(const nixl_meta_dlist_t &, nixlMemViewH &, const nixl_opt_b_args_t * = nullptr) const override;

    nixl_status_t
    getPublicData(const nixlBackendMD *meta, std::string &out) const override;
    nixl_status_t
    getConnInfo(std::string &out) const override;
    nixl_status_t
    loadRemoteConnInfo(const std::string &remote_agent, const std::string &info) override;
    nixl_status_t
    loadRemoteMD(const nixlBlobDesc &mem,
                 const nixl_mem_t &memory,
                 const std::string &remote_agent,
                 nixlBackendMD *&out) override;
    nixl_status_t
    loadLocalMD(nixlBackendMD *input, nixlBackendMD *&out) override;
    nixl_status_t
    getNotifs(notif_list_t &out) override;
    nixl_status_t
    genNotif(const std::string &remote_agent, const std::string &message) const override;
    nixl_status_t
    estimateXferCost(const nixl_xfer_op_t &operation,
                     const nixl_meta_dlist_t &local,
                     const nixl_meta_dlist_t &remote,
                     const std::string &remote_agent,
                     nixlBackendReqH *const &handle,
                     std::chrono::microseconds &duration,
                     std::chrono::microseconds &margin,
                     nixl_cost_t &method,
                     const nixl_opt_args_t *opt_args = nullptr) const override;

    // ---- nixlx::Engine ----

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
    std::optional<uint64_t>
    bytesDone(const nixlBackendReqH *request) const override;
    std::optional<uint64_t>
    pathMark(const nixlBackendReqH *request) const override;
    void
    endBy(std::chrono::steady_clock::time_point deadline) override;
    void
    release(nixlBackendReqH *request) override;
    nixlx::RequestInfo
    describe(const nixlBackendReqH *request) const override;
    std::optional<double>
    predict(const nixlx::Plan &plan) const override;
    nixl_status_t
    getPeerInfo(std::string &info) const override;
    nixl_status_t
    loadPeerInfo(const std::string &remote_agent, const std::string &info) override;
    nixl_status_t
    validatePeer(const std::string &connection_info,
                 const std::string *peer_info,
                 std::span<const std::string> public_data) const override;

private:
    Result<size_t>
    chooseWorker(const nixl_opt_b_args_t *args) const;
    std::optional<double>
    predictSeconds(const std::string &remote_agent, uint64_t bytes, uint64_t blocks) const;

    const std::unique_ptr<Runtime> runtime_;
};

} // namespace nx::ucx
