// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The engine for agents of one host: they share memory, and whoever starts a transfer copies by itself. By delegation:
// memory.h is what is registered, board.h where peers see it, transfer.h a request, connection.h the peers. Every
// function may be called from any thread, as nixlx::Engine asks.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "base/mutex.h"
#include "kit/inbox.h"
#include "nixlx/engine.h"
#include "shm/board.h"
#include "shm/connection.h"
#include "shm/memory.h"

namespace nx::shm {

class Engine final : public nixlx::Engine,
                     public nixlx::RemotePeers,
                     public nixlx::Notifications,
                     public nixlx::Costs,
                     public nixlx::Waiting,
                     public nixlx::Barrier {
public:
    /// Throws std::runtime_error with a sentence if the system refuses what it needs.
    static nixlx::Engine *
    create(const nixlBackendInitParams *params);
    ~Engine() override;

    // ---- Memory

    nixl_status_t
    registerMem(const nixlBlobDesc &mem, nixl_mem_t memory, nixlBackendMD *&out) override;
    nixl_status_t
    deregisterMem(nixlBackendMD *meta) override;
    nixl_status_t
    loadLocalMD(nixlBackendMD *input, nixlBackendMD *&output) override;
    nixl_status_t
    shutOut(std::span<nixlBackendMD *const> registrations) override;
    void
    letIn(std::span<nixlBackendMD *const> registrations) noexcept override;

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
    loadRemoteMD(const nixlBlobDesc &mem,
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

    // ---- Waiting

    int
    descriptor() const noexcept override {
        return links_->descriptor();
    }
    bool
    arm() noexcept override {
        return links_->arm();
    }

    // ---- Life

    void
    endBy(std::chrono::steady_clock::time_point deadline) override;

    void *
    ability(std::string_view name, uint32_t version) noexcept override {
        return nixlx::offer<RemotePeers, Notifications, Costs, Waiting, Barrier>(this, name, version);
    }

private:
    Engine(const nixlBackendInitParams *params, std::unique_ptr<Board> board);

    Result<std::string>
    listenerOf(const std::string &connection_info) const;
    /// The own name gives the link by which this agent reaches itself.
    Result<std::shared_ptr<Link>>
    find(const std::string &agent) const;

    const std::string agent_;
    const std::string host_;
    const std::unique_ptr<Board> board_;
    Blocks blocks_;
    mutable kit::Inbox inbox_;
    mutable Mutex mutex_;
    mutable std::unordered_map<std::string, std::shared_ptr<Link>> peers_ NX_GUARDED_BY(mutex_);
    const std::unique_ptr<Links> links_; ///< last: its thread uses the others
};

} // namespace nx::shm
