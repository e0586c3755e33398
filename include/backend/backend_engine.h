// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The interface every backend implements, equal to NIXL 1.4 in the order of its virtual functions. The agent never
// calls an engine under a lock that another agent call needs; an engine must allow concurrent calls of prepXfer,
// postXfer, checkXfer, releaseReqH, genNotif and getNotifs for different requests. Engines of ours additionally
// implement nixlx::Engine (nixlx/engine.h).
#pragma once

#include <chrono>
#include <mutex>
#include <string>
#include <vector>

#include "backend/backend_aux.h"
#include "nixl_types.h"
#include "telemetry_event.h"

#pragma GCC visibility push(default)

inline constexpr size_t MAX_TELEMETRY_QUEUE_SIZE = 1000;

class nixlBackendEngine {
private:
    nixl_backend_t backendType;
    nixl_b_params_t customParams;
    std::vector<nixlTelemetryEvent> telemetryEvents_;
    std::mutex telemetryEventsMutex_;

protected:
    bool initErr = false;
    const std::string localAgent;
    const bool enableTelemetry_;

    /// NOT_ALLOWED if the key is present.
    nixl_status_t
    setInitParam(const std::string &key, const std::string &value) {
        return customParams.emplace(key, value).second ? NIXL_SUCCESS : NIXL_ERR_NOT_ALLOWED;
    }

    /// INVALID_PARAM if the key is missing.
    nixl_status_t
    getInitParam(const std::string &key, std::string &value) const {
        auto it = customParams.find(key);
        if (it == customParams.end()) return NIXL_ERR_INVALID_PARAM;
        value = it->second;
        return NIXL_SUCCESS;
    }

    void
    addTelemetryEvent(nixl_telemetry_event_type_t type, uint64_t value) {
        if (!enableTelemetry_) return;
        std::lock_guard<std::mutex> lock(telemetryEventsMutex_);
        if (telemetryEvents_.size() < MAX_TELEMETRY_QUEUE_SIZE) telemetryEvents_.emplace_back(type, value);
    }

public:
    explicit nixlBackendEngine(const nixlBackendInitParams *init_params)
        : backendType(init_params->type),
          customParams(init_params->customParams ? *init_params->customParams : nixl_b_params_t{}),
          localAgent(init_params->localAgent),
          enableTelemetry_(init_params->enableTelemetry_) {}

    nixlBackendEngine(nixlBackendEngine &&) = delete;
    nixlBackendEngine(const nixlBackendEngine &) = delete;
    void
    operator=(nixlBackendEngine &&) = delete;
    void
    operator=(const nixlBackendEngine &) = delete;
    virtual ~nixlBackendEngine() = default;

    bool
    getInitErr() const noexcept {
        return initErr;
    }

    const nixl_backend_t &
    getType() const noexcept {
        return backendType;
    }

    const nixl_b_params_t &
    getCustomParams() const noexcept {
        return customParams;
    }

    /// Takes the events collected since the last call.
    std::vector<nixlTelemetryEvent>
    getTelemetryEvents() {
        std::lock_guard<std::mutex> lock(telemetryEventsMutex_);
        return std::exchange(telemetryEvents_, {});
    }

    // The order of the virtual functions below is part of the binary contract.

    /// Can move data to other agents. Requires supportsNotif.
    virtual bool
    supportsRemote() const = 0;
    /// Can move data within the agent (loopback, storage).
    virtual bool
    supportsLocal() const = 0;
    virtual bool
    supportsNotif() const = 0;
    virtual nixl_mem_list_t
    getSupportedMems() const = 0;

    /// Registers one range. `mem.metaInfo` is the user's blob (path, key, device string).
    virtual nixl_status_t
    registerMem(const nixlBlobDesc &mem, const nixl_mem_t &nixl_mem, nixlBackendMD *&out) = 0;
    virtual nixl_status_t
    deregisterMem(nixlBackendMD *meta) = 0;

    /// `connect(own name)` follows creation if supportsLocal.
    virtual nixl_status_t
    connect(const std::string &remote_agent) = 0;
    virtual nixl_status_t
    disconnect(const std::string &remote_agent) = 0;
    /// Frees what loadLocalMD or loadRemoteMD returned.
    virtual nixl_status_t
    unloadMD(nixlBackendMD *input) = 0;

    /// Once per request. Both lists outlive the handle.
    virtual nixl_status_t
    prepXfer(const nixl_xfer_op_t &operation,
             const nixl_meta_dlist_t &local,
             const nixl_meta_dlist_t &remote,
             const std::string &remote_agent,
             nixlBackendReqH *&handle,
             const nixl_opt_b_args_t *opt_args = nullptr) const = 0;

    /// Many times per request. SUCCESS (done), IN_PROG or an error. A notification may reach the peer only after all
    /// data of this post is visible there.
    virtual nixl_status_t
    postXfer(const nixl_xfer_op_t &operation,
             const nixl_meta_dlist_t &local,
             const nixl_meta_dlist_t &remote,
             const std::string &remote_agent,
             nixlBackendReqH *&handle,
             const nixl_opt_b_args_t *opt_args = nullptr) const = 0;

    virtual nixl_status_t
    checkXfer(nixlBackendReqH *handle) const = 0;

    /// Cancels and frees. Negative: still running, the handle stays valid. Must not block.
    virtual nixl_status_t
    releaseReqH(nixlBackendReqH *handle) const = 0;

    virtual nixl_status_t
    prepMemView(const nixl_remote_meta_dlist_t &, nixlMemViewH &, const nixl_opt_b_args_t * = nullptr) const {
        return NIXL_ERR_NOT_SUPPORTED;
    }

    virtual nixl_status_t
    prepMemView(const nixl_meta_dlist_t &, nixlMemViewH &, const nixl_opt_b_args_t * = nullptr) const {
        return NIXL_ERR_NOT_SUPPORTED;
    }

    virtual void
    releaseMemView(nixlMemViewH) const {}

    /// The key a peer needs for this registration; may be empty.
    virtual nixl_status_t
    getPublicData(const nixlBackendMD *, std::string &) const {
        return NIXL_ERR_BACKEND;
    }

    /// How a peer reaches this engine; must not be empty.
    virtual nixl_status_t
    getConnInfo(std::string &) const {
        return NIXL_ERR_BACKEND;
    }

    /// Once per peer.
    virtual nixl_status_t
    loadRemoteConnInfo(const std::string &, const std::string &) {
        return NIXL_ERR_BACKEND;
    }

    /// `metaInfo` of the descriptor is the peer's public data.
    virtual nixl_status_t
    loadRemoteMD(const nixlBlobDesc &, const nixl_mem_t &, const std::string &, nixlBackendMD *&) {
        return NIXL_ERR_BACKEND;
    }

    /// The remote face of a local registration, for transfers to oneself; may return the same pointer.
    virtual nixl_status_t
    loadLocalMD(nixlBackendMD *, nixlBackendMD *&) {
        return NIXL_ERR_BACKEND;
    }

    /// Appends what arrived. The list is given empty.
    virtual nixl_status_t
    getNotifs(notif_list_t &) {
        return NIXL_ERR_BACKEND;
    }

    virtual nixl_status_t
    genNotif(const std::string &, const std::string &) const {
        return NIXL_ERR_BACKEND;
    }

    virtual nixl_status_t
    queryMem(const nixl_reg_dlist_t &, std::vector<nixl_query_resp_t> &) const {
        return NIXL_ERR_NOT_SUPPORTED;
    }

    virtual nixl_status_t
    estimateXferCost(const nixl_xfer_op_t &,
                     const nixl_meta_dlist_t &,
                     const nixl_meta_dlist_t &,
                     const std::string &,
                     nixlBackendReqH *const &,
                     std::chrono::microseconds &,
                     std::chrono::microseconds &,
                     nixl_cost_t &,
                     const nixl_opt_args_t * = nullptr) const {
        return NIXL_ERR_NOT_SUPPORTED;
    }
};

#pragma GCC visibility pop
