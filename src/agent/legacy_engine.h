// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Gives an engine that was written for NIXL 1.4 the face of nixlx::Engine, so that the agent speaks to one interface.
// Descriptor lists are made from the plan; cancelling is 1.4's release. Thread-safe as far as the engine is.
#pragma once

#include <memory>

#include "nixlx/engine.h"

namespace nx::agent {

class LegacyEngine final : public nixlx::Engine {
public:
    /// `engine` is not owned and must outlive this object.
    explicit LegacyEngine(nixlBackendEngine *engine) : engine_(engine) {}

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

    /// 1.4's own estimate of a prepared request.
    nixl_status_t
    estimate(nixlBackendReqH *request,
             std::chrono::microseconds &duration,
             std::chrono::microseconds &err_margin,
             nixl_cost_t &method,
             const nixl_opt_args_t *args) const;

private:
    nixlBackendEngine *const engine_;
};

} // namespace nx::agent
