// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Gives an engine that was written for NIXL 1.4 the interface of nixlx::Engine, so that the agent speaks to one.
// Descriptor lists are made from the plan; cancelling is 1.4's release. Thread-safe as far as the engine is.
#pragma once

#include <memory>

#include "backend/backend_engine.h"
#include "nixlx/engine.h"

namespace nx::agent {

class LegacyEngine final : public nixlx::Engine,
                           public nixlx::RemotePeers,
                           public nixlx::Notifications,
                           public nixlx::Queries,
                           public nixlx::MemoryViews {
public:
    /// Who destroys the 1.4 engine is the deleter's business.
    using Owned = std::shared_ptr<nixlBackendEngine>;

    explicit LegacyEngine(Owned engine) : engine_(std::move(engine)) {}

    /// For what is 1.4's only.
    nixlBackendEngine &
    engine() const noexcept {
        return *engine_;
    }

    /// 1.4's own estimate of a prepared request.
    nixl_status_t
    estimate(nixlBackendReqH *request,
             std::chrono::microseconds &duration,
             std::chrono::microseconds &err_margin,
             nixl_cost_t &method,
             const nixl_opt_args_t *args) const;

    // ---- nixlx::Engine

    nixl_status_t
    registerMem(const nixlBlobDesc &mem, nixl_mem_t memory, nixlBackendMD *&out) override;
    nixl_status_t
    deregisterMem(nixlBackendMD *meta) override;
    nixl_status_t
    loadLocalMD(nixlBackendMD *input, nixlBackendMD *&output) override;
    nixl_status_t
    unloadMD(nixlBackendMD *loaded) override;
    nixl_status_t
    prepare(const nixlx::Plan &plan, const nixl_opt_b_args_t *args, nixlBackendReqH *&request) override;
    nixl_status_t
    post(nixlBackendReqH *request, const std::string *notification) override;
    nixl_status_t
    check(nixlBackendReqH *request) override;
    void
    cancel(nixlBackendReqH *request) override;
    void
    release(nixlBackendReqH *request) override;
    nixlx::RequestInfo
    describe(const nixlBackendReqH *request) const override;
    std::optional<uint64_t>
    bytesDone(const nixlBackendReqH *request) const override;
    void *
    ability(std::string_view name, uint32_t version) noexcept override;

    // ---- Abilities

    nixl_status_t
    getConnInfo(std::string &info) const override;
    nixl_status_t
    getPublicData(const nixlBackendMD *meta, std::string &data) const override;
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
                 nixlBackendMD *&output) override;
    nixl_status_t
    getNotifs(notif_list_t &notifications) override;
    nixl_status_t
    genNotif(const std::string &remote_agent, const std::string &message) const override;
    nixl_status_t
    queryMem(const nixl_reg_dlist_t &descs, std::vector<nixl_query_resp_t> &resp) const override;
    nixl_status_t
    prepMemView(const nixl_remote_meta_dlist_t &remote,
                nixlMemViewH &view,
                const nixl_opt_b_args_t *args) const override;
    nixl_status_t
    prepMemView(const nixl_meta_dlist_t &local, nixlMemViewH &view, const nixl_opt_b_args_t *args) const override;
    void
    releaseMemView(nixlMemViewH view) const override;

private:
    const Owned engine_;
};

} // namespace nx::agent
