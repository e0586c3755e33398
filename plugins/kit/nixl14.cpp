// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/nixl14.h"

#include <stdexcept>

#include "base/boundary.h"

namespace nx::kit {

namespace {

// How 1.4's release may help a cancelled request to its end; it must not block.
constexpr int kReleaseChecks = 64;

uint32_t
segmentOf(std::vector<nixlx::Segment> &segments, const nixlMetaDesc &desc) {
    if (segments.empty() || segments.back().metadata != desc.metadataP || segments.back().device_id != desc.devId) {
        segments.push_back({desc.metadataP, desc.devId});
    }
    return static_cast<uint32_t>(segments.size() - 1);
}

/// A plan and the engine's request for it.
class ListRequest final : public nixlBackendReqH {
public:
    ListRequest(nixl_xfer_op_t operation,
                const nixl_meta_dlist_t &local,
                const nixl_meta_dlist_t &remote,
                const std::string &remote_agent)
        : remote_agent_(remote_agent) {
        uint64_t total = 0;
        for (int i = 0; i < local.descCount(); ++i) {
            add(local[i], remote[i]);
            total += local[i].len;
        }
        plan = {operation, local.getType(), remote.getType(), remote_agent_, local_segments_, remote_segments_,
                runs_,     total,           runs_.size()};
    }

    nixlx::Plan plan;
    nixlBackendReqH *inner = nullptr;
    nixl_status_t status = NIXL_ERR_NOT_POSTED;

private:
    void
    add(const nixlMetaDesc &from, const nixlMetaDesc &to) {
        const uint32_t local = segmentOf(local_segments_, from), remote = segmentOf(remote_segments_, to);
        if (!runs_.empty()) {
            nixlx::Run &last = runs_.back();
            if (last.local_segment == local && last.remote_segment == remote && last.local + last.length == from.addr &&
                last.remote + last.length == to.addr) {
                last.length += from.len;
                return;
            }
        }
        runs_.push_back({from.addr, to.addr, from.len, 0, 0, 1, local, remote});
    }

    const std::string remote_agent_;
    std::vector<nixlx::Segment> local_segments_, remote_segments_;
    std::vector<nixlx::Run> runs_;
};

ListRequest &
of(nixlBackendReqH *handle) {
    return *static_cast<ListRequest *>(handle);
}

std::unique_ptr<nixlx::Engine>
created(nixlx::Engine *engine) {
    if (!engine) throw std::runtime_error("the engine was not created");
    return std::unique_ptr<nixlx::Engine>(engine);
}

} // namespace

Nixl14Engine::Nixl14Engine(const nixlBackendInitParams *params, const nixlx_plugin_descriptor_t &descriptor)
    : nixlBackendEngine(params),
      descriptor_(descriptor),
      engine_(created(descriptor.create(params))) {}

Nixl14Engine::~Nixl14Engine() = default;

template<class Ability, class Body>
nixl_status_t
Nixl14Engine::with(Body body) const {
    auto *ability = nixlx::abilityOf<Ability>(*engine_);
    return ability ? guarded("the engine", [&] { return body(*ability); }) : NIXL_ERR_NOT_SUPPORTED;
}

bool
Nixl14Engine::supportsRemote() const {
    return nixlx::abilityOf<nixlx::RemotePeers>(*engine_);
}

bool
Nixl14Engine::supportsLocal() const {
    return descriptor_.capabilities & NIXLX_CAP_LOCAL;
}

bool
Nixl14Engine::supportsNotif() const {
    return nixlx::abilityOf<nixlx::Notifications>(*engine_);
}

nixl_mem_list_t
Nixl14Engine::getSupportedMems() const {
    return listOf(memoriesOf(descriptor_.partners));
}

// ---- Memory --------------------------------------------------------------------------------------------------------

nixl_status_t
Nixl14Engine::registerMem(const nixlBlobDesc &mem, const nixl_mem_t &memory, nixlBackendMD *&out) {
    return guarded("registerMem", [&] { return engine_->registerMem(mem, memory, out); });
}

nixl_status_t
Nixl14Engine::deregisterMem(nixlBackendMD *meta) {
    return guarded("deregisterMem", [&] { return engine_->deregisterMem(meta); });
}

nixl_status_t
Nixl14Engine::loadLocalMD(nixlBackendMD *input, nixlBackendMD *&out) {
    return guarded("loadLocalMD", [&] { return engine_->loadLocalMD(input, out); });
}

nixl_status_t
Nixl14Engine::unloadMD(nixlBackendMD *input) {
    return guarded("unloadMD", [&] { return engine_->unloadMD(input); });
}

nixl_status_t
Nixl14Engine::queryMem(const nixl_reg_dlist_t &descs, std::vector<nixl_query_resp_t> &resp) const {
    return with<nixlx::Queries>([&](auto &queries) { return queries.queryMem(descs, resp); });
}

nixl_status_t
Nixl14Engine::prepMemView(const nixl_remote_meta_dlist_t &remote,
                          nixlMemViewH &view,
                          const nixl_opt_b_args_t *args) const {
    return with<nixlx::MemoryViews>([&](auto &views) { return views.prepMemView(remote, view, args); });
}

nixl_status_t
Nixl14Engine::prepMemView(const nixl_meta_dlist_t &local, nixlMemViewH &view, const nixl_opt_b_args_t *args) const {
    return with<nixlx::MemoryViews>([&](auto &views) { return views.prepMemView(local, view, args); });
}

void
Nixl14Engine::releaseMemView(nixlMemViewH view) const {
    if (auto *views = nixlx::abilityOf<nixlx::MemoryViews>(*engine_)) {
        (void)guarded("releaseMemView", [&] { views->releaseMemView(view); });
    }
}

// ---- Peers ---------------------------------------------------------------------------------------------------------

nixl_status_t
Nixl14Engine::getConnInfo(std::string &info) const {
    return with<nixlx::RemotePeers>([&](auto &peers) { return peers.getConnInfo(info); });
}

nixl_status_t
Nixl14Engine::getPublicData(const nixlBackendMD *meta, std::string &data) const {
    return with<nixlx::RemotePeers>([&](auto &peers) { return peers.getPublicData(meta, data); });
}

nixl_status_t
Nixl14Engine::loadRemoteConnInfo(const std::string &remote_agent, const std::string &info) {
    return with<nixlx::RemotePeers>([&](auto &peers) { return peers.loadPeer(remote_agent, info, nullptr); });
}

nixl_status_t
Nixl14Engine::connect(const std::string &remote_agent) {
    if (remote_agent == localAgent) return NIXL_SUCCESS; // 1.4 says so after creation
    return with<nixlx::RemotePeers>([&](auto &peers) { return peers.connect(remote_agent); });
}

nixl_status_t
Nixl14Engine::disconnect(const std::string &remote_agent) {
    if (remote_agent == localAgent) return NIXL_SUCCESS;
    return with<nixlx::RemotePeers>([&](auto &peers) { return peers.disconnect(remote_agent); });
}

nixl_status_t
Nixl14Engine::loadRemoteMD(const nixlBlobDesc &mem,
                           const nixl_mem_t &memory,
                           const std::string &remote_agent,
                           nixlBackendMD *&out) {
    return with<nixlx::RemotePeers>([&](auto &peers) { return peers.loadRemoteMD(mem, memory, remote_agent, out); });
}

nixl_status_t
Nixl14Engine::getNotifs(notif_list_t &out) {
    return with<nixlx::Notifications>([&](auto &messages) { return messages.getNotifs(out); });
}

nixl_status_t
Nixl14Engine::genNotif(const std::string &remote_agent, const std::string &message) const {
    return with<nixlx::Notifications>([&](auto &messages) { return messages.genNotif(remote_agent, message); });
}

// ---- Requests ------------------------------------------------------------------------------------------------------

nixl_status_t
Nixl14Engine::prepXfer(const nixl_xfer_op_t &operation,
                       const nixl_meta_dlist_t &local,
                       const nixl_meta_dlist_t &remote,
                       const std::string &remote_agent,
                       nixlBackendReqH *&handle,
                       const nixl_opt_b_args_t *opt_args) const {
    if (local.descCount() != remote.descCount()) {
        return nixlx::fail(NIXL_ERR_INVALID_PARAM,
                           "the two lists have " + std::to_string(local.descCount()) + " and " +
                               std::to_string(remote.descCount()) + " elements; they must be equally long");
    }
    for (int i = 0; i < local.descCount(); ++i) {
        if (local[i].len == remote[i].len) continue;
        return nixlx::fail(NIXL_ERR_INVALID_PARAM,
                           "element " + std::to_string(i) + " has " + std::to_string(local[i].len) +
                               " bytes here and " + std::to_string(remote[i].len) + " at the peer");
    }
    return guarded("prepXfer", [&] {
        auto request = std::make_unique<ListRequest>(operation, local, remote, remote_agent);
        const auto status = engine_->prepare(request->plan, opt_args, request->inner);
        if (status >= 0) handle = request.release();
        return status;
    });
}

nixl_status_t
Nixl14Engine::postXfer(const nixl_xfer_op_t &,
                       const nixl_meta_dlist_t &,
                       const nixl_meta_dlist_t &,
                       const std::string &,
                       nixlBackendReqH *&handle,
                       const nixl_opt_b_args_t *opt_args) const {
    auto &request = of(handle);
    if (request.status == NIXL_IN_PROG) {
        return nixlx::fail(NIXL_ERR_REPOST_ACTIVE, "the request is still running; ask for its status first");
    }
    const auto *notification = opt_args && opt_args->hasNotif ? &opt_args->notifMsg : nullptr;
    return request.status = guarded("postXfer", [&] { return engine_->post(request.inner, notification); });
}

nixl_status_t
Nixl14Engine::checkXfer(nixlBackendReqH *handle) const {
    auto &request = of(handle);
    if (request.status == NIXL_IN_PROG) {
        request.status = guarded("checkXfer", [&] { return engine_->check(request.inner); });
    }
    return request.status;
}

nixl_status_t
Nixl14Engine::releaseReqH(nixlBackendReqH *handle) const {
    auto &request = of(handle);
    if (request.status == NIXL_IN_PROG) (void)guarded("cancelling", [&] { engine_->cancel(request.inner); });
    for (int i = 0; i < kReleaseChecks && request.status == NIXL_IN_PROG; ++i) checkXfer(handle);
    if (request.status == NIXL_IN_PROG) {
        return nixlx::fail(NIXL_ERR_REPOST_ACTIVE,
                           "the request is cancelled, but the backend still works on it; release it again later");
    }
    const auto status = guarded("releaseReqH", [&] { engine_->release(request.inner); });
    delete &request;
    return status;
}

nixl_status_t
Nixl14Engine::estimateXferCost(const nixl_xfer_op_t &,
                               const nixl_meta_dlist_t &,
                               const nixl_meta_dlist_t &,
                               const std::string &,
                               nixlBackendReqH *const &handle,
                               std::chrono::microseconds &duration,
                               std::chrono::microseconds &margin,
                               nixl_cost_t &method,
                               const nixl_opt_args_t *) const {
    return with<nixlx::Costs>([&](auto &costs) -> nixl_status_t {
        const nixlx::Plan &plan = of(handle).plan;
        const auto cost = costs.cost(plan.local_memory, plan.remote_memory, plan.remote_agent);
        if (!cost) return NIXL_ERR_NOT_FOUND;
        duration = std::chrono::microseconds(static_cast<int64_t>(nixlx::predict(*cost, plan) + 0.5));
        margin = std::chrono::microseconds(0);
        method = nixl_cost_t::ANALYTICAL_BACKEND;
        return NIXL_SUCCESS;
    });
}

} // namespace nx::kit
