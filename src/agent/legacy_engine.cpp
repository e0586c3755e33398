// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/legacy_engine.h"

namespace nx::agent {

namespace {

struct LegacyRequest : nixlBackendReqH {
    nixl_meta_dlist_t local{DRAM_SEG};
    nixl_meta_dlist_t remote{DRAM_SEG};
    nixl_xfer_op_t operation = NIXL_READ;
    std::string remote_agent;
    nixlBackendReqH *inner = nullptr;
    bool canceled = false; ///< `inner` is gone: its release cancelled it
};

LegacyRequest &
of(nixlBackendReqH *request) {
    return *static_cast<LegacyRequest *>(request);
}

} // namespace

nixl_status_t
LegacyEngine::prepare(const nixlx::Plan &plan, const nixl_opt_b_args_t *args, nixlBackendReqH *&request) {
    auto made = std::make_unique<LegacyRequest>();
    made->operation = plan.operation;
    made->remote_agent = plan.remote_agent;
    made->local = nixl_meta_dlist_t(plan.local_memory);
    made->remote = nixl_meta_dlist_t(plan.remote_memory);
    made->local.reserve(plan.block_count);
    made->remote.reserve(plan.block_count);
    for (const auto &run : plan.runs) {
        const auto &local = plan.local_segments[run.local_segment];
        const auto &remote = plan.remote_segments[run.remote_segment];
        for (uint64_t i = 0; i < run.count; ++i) {
            made->local.emplace(run.local + i * run.local_stride, run.length, local.device_id, local.metadata);
            made->remote.emplace(run.remote + i * run.remote_stride, run.length, remote.device_id, remote.metadata);
        }
    }
    const auto status =
        engine_->prepXfer(made->operation, made->local, made->remote, made->remote_agent, made->inner, args);
    if (status < 0) return status;
    request = made.release();
    return NIXL_SUCCESS;
}

nixl_status_t
LegacyEngine::post(nixlBackendReqH *request, const std::string *notification) {
    auto &r = of(request);
    if (r.canceled) {
        const auto status = engine_->prepXfer(r.operation, r.local, r.remote, r.remote_agent, r.inner);
        if (status < 0) return status;
        r.canceled = false;
    }
    nixl_opt_b_args_t args;
    args.hasNotif = notification != nullptr;
    if (notification) args.notifMsg = *notification;
    return engine_->postXfer(r.operation, r.local, r.remote, r.remote_agent, r.inner, &args);
}

nixl_status_t
LegacyEngine::check(nixlBackendReqH *request) {
    auto &r = of(request);
    return r.canceled ? NIXL_ERR_CANCELED : engine_->checkXfer(r.inner);
}

void
LegacyEngine::cancel(nixlBackendReqH *request) {
    auto &r = of(request);
    if (r.canceled || engine_->releaseReqH(r.inner) < 0) return;
    r.inner = nullptr;
    r.canceled = true;
}

void
LegacyEngine::release(nixlBackendReqH *request) {
    const std::unique_ptr<LegacyRequest> r(&of(request));
    if (r->inner) (void)engine_->releaseReqH(r->inner);
}

nixlx::RequestInfo
LegacyEngine::describe(const nixlBackendReqH *) const {
    return {"plugin with the interface of NIXL 1.4", ""};
}

std::optional<uint64_t>
LegacyEngine::bytesDone(const nixlBackendReqH *) const {
    return {};
}

nixl_status_t
LegacyEngine::estimate(nixlBackendReqH *request,
                       std::chrono::microseconds &duration,
                       std::chrono::microseconds &err_margin,
                       nixl_cost_t &method,
                       const nixl_opt_args_t *args) const {
    auto &r = of(request);
    return engine_->estimateXferCost(r.operation, r.local, r.remote, r.remote_agent, r.inner, duration, err_margin,
                                     method, args);
}

void *
LegacyEngine::ability(std::string_view name, uint32_t version) noexcept {
    if (name == RemotePeers::kName && !engine_->supportsRemote()) return nullptr;
    if (name == Notifications::kName && !engine_->supportsNotif()) return nullptr;
    return nixlx::offer<RemotePeers, Notifications, Queries, MemoryViews>(this, name, version);
}

// ---- Memory --------------------------------------------------------------------------------------------------------

nixl_status_t
LegacyEngine::registerMem(const nixlBlobDesc &mem, nixl_mem_t memory, nixlBackendMD *&out) {
    return engine_->registerMem(mem, memory, out);
}

nixl_status_t
LegacyEngine::deregisterMem(nixlBackendMD *meta) {
    return engine_->deregisterMem(meta);
}

nixl_status_t
LegacyEngine::loadLocalMD(nixlBackendMD *input, nixlBackendMD *&output) {
    return engine_->loadLocalMD(input, output);
}

nixl_status_t
LegacyEngine::unloadMD(nixlBackendMD *loaded) {
    return engine_->unloadMD(loaded);
}

nixl_status_t
LegacyEngine::queryMem(const nixl_reg_dlist_t &descs, std::vector<nixl_query_resp_t> &resp) const {
    return engine_->queryMem(descs, resp);
}

nixl_status_t
LegacyEngine::prepMemView(const nixl_remote_meta_dlist_t &remote,
                          nixlMemViewH &view,
                          const nixl_opt_b_args_t *args) const {
    return engine_->prepMemView(remote, view, args);
}

nixl_status_t
LegacyEngine::prepMemView(const nixl_meta_dlist_t &local, nixlMemViewH &view, const nixl_opt_b_args_t *args) const {
    return engine_->prepMemView(local, view, args);
}

void
LegacyEngine::releaseMemView(nixlMemViewH view) const {
    engine_->releaseMemView(view);
}

// ---- Peers ---------------------------------------------------------------------------------------------------------

nixl_status_t
LegacyEngine::getConnInfo(std::string &info) const {
    return engine_->getConnInfo(info);
}

nixl_status_t
LegacyEngine::getPublicData(const nixlBackendMD *meta, std::string &data) const {
    return engine_->getPublicData(meta, data);
}

nixl_status_t
LegacyEngine::validatePeer(const std::string &, const std::string *, std::span<const std::string>) const {
    return NIXL_SUCCESS; // 1.4 has no way to ask
}

nixl_status_t
LegacyEngine::loadPeer(const std::string &remote_agent, const std::string &connection_info, const std::string *) {
    return engine_->loadRemoteConnInfo(remote_agent, connection_info);
}

nixl_status_t
LegacyEngine::connect(const std::string &remote_agent) {
    return engine_->connect(remote_agent);
}

nixl_status_t
LegacyEngine::disconnect(const std::string &remote_agent) {
    return engine_->disconnect(remote_agent);
}

nixl_status_t
LegacyEngine::loadRemoteMD(const nixlBlobDesc &mem,
                           nixl_mem_t memory,
                           const std::string &remote_agent,
                           nixlBackendMD *&output) {
    return engine_->loadRemoteMD(mem, memory, remote_agent, output);
}

nixl_status_t
LegacyEngine::getNotifs(notif_list_t &notifications) {
    return engine_->getNotifs(notifications);
}

nixl_status_t
LegacyEngine::genNotif(const std::string &remote_agent, const std::string &message) const {
    return engine_->genNotif(remote_agent, message);
}

} // namespace nx::agent
