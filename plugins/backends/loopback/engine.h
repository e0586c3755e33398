// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The reference backend: moves data between agents of one process, and between them and stores kept in memory. Both
// faces of an engine, by delegation: memory.h is what is registered, transfer.h a request, connection.h the peers.
// Every function may be called from any thread, as nixlBackendEngine and nixlx::Engine ask.
//
// The functions of nixlBackendEngine that start and end requests stand for programs that know NIXL 1.4 only; our agent
// uses the ones of nixlx::Engine.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "backend/backend_engine.h"
#include "loopback/connection.h"
#include "loopback/transfer.h"
#include "nixlx/engine.h"

namespace nx::loopback {

class Engine : public nixlBackendEngine, public nixlx::Engine {
public:
    /// Throws std::system_error if the progress thread cannot be started.
    explicit Engine(const nixlBackendInitParams *params);
    ~Engine() override;

    // ---- nixlBackendEngine: what it is, memory, peers, notifications

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
    getSupportedMems() const override;

    nixl_status_t
    registerMem(const nixlBlobDesc &mem, const nixl_mem_t &nixl_mem, nixlBackendMD *&out) override;
    nixl_status_t
    deregisterMem(nixlBackendMD *meta) override;
    nixl_status_t
    getPublicData(const nixlBackendMD *meta, std::string &data) const override;
    nixl_status_t
    loadLocalMD(nixlBackendMD *input, nixlBackendMD *&output) override;
    nixl_status_t
    loadRemoteMD(const nixlBlobDesc &input,
                 const nixl_mem_t &nixl_mem,
                 const std::string &remote_agent,
                 nixlBackendMD *&output) override;
    nixl_status_t
    unloadMD(nixlBackendMD *input) override;
    nixl_status_t
    queryMem(const nixl_reg_dlist_t &descs, std::vector<nixl_query_resp_t> &resp) const override;

    nixl_status_t
    getConnInfo(std::string &info) const override;
    nixl_status_t
    loadRemoteConnInfo(const std::string &remote_agent, const std::string &info) override;
    nixl_status_t
    connect(const std::string &remote_agent) override;
    nixl_status_t
    disconnect(const std::string &remote_agent) override;

    nixl_status_t
    getNotifs(notif_list_t &notifications) override;
    nixl_status_t
    genNotif(const std::string &remote_agent, const std::string &message) const override;

    // ---- nixlBackendEngine: requests

    nixl_status_t
    prepXfer(const nixl_xfer_op_t &operation,
             const nixl_meta_dlist_t &local,
             const nixl_meta_dlist_t &remote,
             const std::string &remote_agent,
             nixlBackendReqH *&handle,
             const nixl_opt_b_args_t *opt_args) const override;
    nixl_status_t
    postXfer(const nixl_xfer_op_t &operation,
             const nixl_meta_dlist_t &local,
             const nixl_meta_dlist_t &remote,
             const std::string &remote_agent,
             nixlBackendReqH *&handle,
             const nixl_opt_b_args_t *opt_args) const override;
    nixl_status_t
    checkXfer(nixlBackendReqH *handle) const override;
    nixl_status_t
    releaseReqH(nixlBackendReqH *handle) const override;
    nixl_status_t
    estimateXferCost(const nixl_xfer_op_t &operation,
                     const nixl_meta_dlist_t &local,
                     const nixl_meta_dlist_t &remote,
                     const std::string &remote_agent,
                     nixlBackendReqH *const &handle,
                     std::chrono::microseconds &duration,
                     std::chrono::microseconds &err_margin,
                     nixl_cost_t &method,
                     const nixl_opt_args_t *extra_params) const override;

    // ---- nixlx::Engine

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

private:
    /// The own endpoint for the own name; null for a name that was not loaded.
    std::shared_ptr<Endpoint>
    findPeer(const std::string &agent) const;
    // The bodies of both faces' functions.
    nixl_status_t
    start(Transfer &transfer, const std::string *notification) const;
    nixl_status_t
    poll(Transfer &transfer) const;

    const std::shared_ptr<Process> process_;
    const std::shared_ptr<Endpoint> endpoint_;
    const std::unique_ptr<Progress> progress_; ///< null: check() makes the progress
    mutable std::mutex mutex_;
    // Guarded by mutex_:
    std::map<std::string, std::shared_ptr<Endpoint>> peers_;
};

} // namespace nx::loopback
