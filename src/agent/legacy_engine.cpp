// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/legacy_engine.h"

#include "agent/guarded.h"

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
    const auto status = guarded("prepXfer", [&] {
        return engine_->prepXfer(made->operation, made->local, made->remote, made->remote_agent, made->inner, args);
    });
    if (status < 0) return status;
    request = made.release();
    return NIXL_SUCCESS;
}

nixl_status_t
LegacyEngine::post(nixlBackendReqH *request, const std::string *notification) {
    auto &r = of(request);
    if (r.canceled) {
        const auto status = guarded(
            "prepXfer", [&] { return engine_->prepXfer(r.operation, r.local, r.remote, r.remote_agent, r.inner); });
        if (status < 0) return status;
        r.canceled = false;
    }
    nixl_opt_b_args_t args;
    args.hasNotif = notification != nullptr;
    if (notification) args.notifMsg = *notification;
    return guarded("postXfer",
                   [&] { return engine_->postXfer(r.operation, r.local, r.remote, r.remote_agent, r.inner, &args); });
}

nixl_status_t
LegacyEngine::check(nixlBackendReqH *request) {
    auto &r = of(request);
    if (r.canceled) return NIXL_ERR_CANCELED;
    return guarded("checkXfer", [&] { return engine_->checkXfer(r.inner); });
}

void
LegacyEngine::cancel(nixlBackendReqH *request) {
    auto &r = of(request);
    if (r.canceled) return;
    if (guarded("releaseReqH", [&] { return engine_->releaseReqH(r.inner); }) < 0) return;
    r.inner = nullptr;
    r.canceled = true;
}

bool
LegacyEngine::forceQuiet(nixlBackendReqH *) {
    return false;
}

std::optional<uint64_t>
LegacyEngine::bytesDone(const nixlBackendReqH *) const {
    return {};
}

void
LegacyEngine::release(nixlBackendReqH *request) {
    std::unique_ptr<LegacyRequest> r(&of(request));
    if (r->inner) (void)guarded("releaseReqH", [&] { return engine_->releaseReqH(r->inner); });
}

nixlx::RequestInfo
LegacyEngine::describe(const nixlBackendReqH *) const {
    return {"plugin with the interface of NIXL 1.4", ""};
}

std::optional<double>
LegacyEngine::predict(const nixlx::Plan &) const {
    return {};
}

nixl_status_t
LegacyEngine::getPeerInfo(std::string &info) const {
    info.clear();
    return NIXL_SUCCESS;
}

nixl_status_t
LegacyEngine::loadPeerInfo(const std::string &, const std::string &) {
    return NIXL_SUCCESS;
}

nixl_status_t
LegacyEngine::validatePeer(const std::string &, const std::string *, std::span<const std::string>) const {
    return NIXL_SUCCESS; // 1.4 has no way to ask
}

nixl_status_t
LegacyEngine::estimate(nixlBackendReqH *request,
                       std::chrono::microseconds &duration,
                       std::chrono::microseconds &err_margin,
                       nixl_cost_t &method,
                       const nixl_opt_args_t *args) const {
    auto &r = of(request);
    return guarded("estimateXferCost", [&] {
        return engine_->estimateXferCost(r.operation, r.local, r.remote, r.remote_agent, r.inner, duration, err_margin,
                                         method, args);
    });
}

} // namespace nx::agent
