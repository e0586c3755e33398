// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The reference backend: moves data between agents of one process, and between them and stores kept in memory. By
// delegation: memory.h is what is registered, transfer.h a request, connection.h the peers. Every function may be
// called from any thread, as nixlx::Engine asks.
#pragma once

#include <atomic>
#include <cstddef>
#include <map>
#include <memory>
#include <string>

#include "base/mutex.h"
#include "loopback/connection.h"
#include "loopback/transfer.h"
#include "nixlx/engine.h"

namespace nx::loopback {

class Engine : public nixlx::Engine,
               public nixlx::RemotePeers,
               public nixlx::Notifications,
               public nixlx::Queries,
               public nixlx::Costs,
               public nixlx::Waiting {
public:
    /// Throws std::system_error if the progress thread cannot be started.
    explicit Engine(const nixlBackendInitParams *params);
    ~Engine() override;

    // ---- Memory

    nixl_status_t
    registerMem(const nixlBlobDesc &mem, nixl_mem_t memory, nixlBackendMD *&out) override;
    nixl_status_t
    deregisterMem(nixlBackendMD *meta) override;
    nixl_status_t
    loadLocalMD(nixlBackendMD *input, nixlBackendMD *&output) override;
    nixl_status_t
    unloadMD(nixlBackendMD *input) override;
    nixl_status_t
    queryMem(const nixl_reg_dlist_t &descs, std::vector<nixl_query_resp_t> &resp) const override;

    // ---- Peers

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
    loadRemoteMD(const nixlBlobDesc &input,
                 nixl_mem_t memory,
                 const std::string &remote_agent,
                 nixlBackendMD *&output) override;

    nixl_status_t
    getNotifs(notif_list_t &notifications) override;
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
    nixlx::RequestInfo
    describe(const nixlBackendReqH *request) const override;
    std::optional<uint64_t>
    bytesDone(const nixlBackendReqH *request) const override;
    std::optional<nixlx::Cost>
    cost(nixl_mem_t local, nixl_mem_t remote, std::string_view remote_agent) const override;

    int
    descriptor() const noexcept override;
    bool
    arm() noexcept override;

    void *
    ability(std::string_view name, uint32_t version) noexcept override {
        return nixlx::offer<RemotePeers, Notifications, Queries, Costs, Waiting>(this, name, version);
    }

protected:
    const std::string agent_;

    kit::Bell &
    bell() noexcept {
        return endpoint_->bell();
    }

private:
    /// The own endpoint for the own name; null for a name that was not loaded.
    std::shared_ptr<Endpoint>
    findPeer(const std::string &agent) const;

    const std::shared_ptr<Process> process_;
    const std::shared_ptr<Endpoint> endpoint_;
    const std::unique_ptr<Progress> progress_; ///< null: check() makes the progress
    std::atomic<size_t> unfinished_{0};        ///< transfers that go on in check() only
    mutable Mutex mutex_;
    std::map<std::string, std::shared_ptr<Endpoint>> peers_ NX_GUARDED_BY(mutex_);
};

} // namespace nx::loopback
