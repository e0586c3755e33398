// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What an engine runs on: UCX, the pool of workers, the peers, the links with those of this host, the mail and the own
// registrations. It starts them in order and ends them in order. Self-synchronised.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>

#include "base/mutex.h"
#include "kit/bell.h"
#include "ucx/connection.h"
#include "ucx/driver.h"
#include "ucx/link_server.h"
#include "ucx/mail.h"
#include "ucx/options.h"
#include "ucx/peer_book.h"
#include "ucx/worker_pool.h"

namespace nx::ucx {

class LocalMemory;

class Runtime {
public:
    /// Loads and starts UCX, which takes 15 ms to 0.4 s. Throws std::runtime_error with a sentence if it cannot.
    Runtime(std::string agent, Options options, bool progress_thread);
    /// Ends all connections, in an orderly way until endBy() or for a second.
    ~Runtime();
    Runtime(const Runtime &) = delete;
    Runtime &
    operator=(const Runtime &) = delete;

    /// Until when the destructor may take its time. The destructor must be the next call.
    void
    endBy(std::chrono::steady_clock::time_point deadline) noexcept {
        end_by_ = deadline;
    }

    const Options &
    options() const noexcept {
        return options_;
    }

    const std::string &
    agent() const noexcept {
        return agent_;
    }

    const Library &
    library() const noexcept {
        return *library_;
    }

    WorkerPool &
    pool() noexcept {
        return *pool_;
    }

    PeerBook &
    peers() noexcept {
        return peers_;
    }

    /// The local context and the links are there.
    bool
    hasLocalFabric() const noexcept {
        return has_local_fabric_.load(std::memory_order_acquire);
    }

    /// Makes them when first called; an INFO line says why they cannot be had. What hasLocalFabric() says then.
    bool
    makeLocalFabric() NX_EXCLUDES(fabric_mutex_, memories_mutex_);

    /// Requires hasLocalFabric().
    LinkServer &
    links() noexcept {
        return *links_;
    }

    /// Rings when something has changed for those who wait, see nixlx::Waiting.
    kit::Bell &
    bell() noexcept {
        return bell_;
    }

    kit::Inbox &
    inbox() noexcept {
        return mail_.inbox();
    }

    /// Moves all notifications to the end of `out`. Without a progress thread it takes in what has arrived, for two
    /// milliseconds at most.
    void
    takeNotifications(notif_list_t &out);

    /// What peers of ours are told.
    PeerInfo
    ownInfo() const;

    bool
    isSameHost(const PeerInfo &info) const {
        return info.host == host_;
    }

    // ---- Registrations, so that none outlives its context ----

    void
    addMemory(LocalMemory &memory);
    void
    removeMemory(LocalMemory &memory);

    /// Every context that is there has all memory that is registered.
    bool
    memoryIsWhole() const noexcept {
        return partial_memories_.load() == 0;
    }

private:
    Status
    start(bool progress_thread);
    void
    tryLocalFabric() NX_EXCLUDES(fabric_mutex_, memories_mutex_);
    static void
    noLocalFabric(const Status &why);
    Status
    startLinks();
    void
    shareMemories() NX_EXCLUDES(memories_mutex_);
    bool
    isPartial(const LocalMemory &memory) const NX_REQUIRES(memories_mutex_);
    void
    takeIn();

    const std::string agent_;
    const Options options_;
    const std::string host_;
    std::optional<std::chrono::steady_clock::time_point> end_by_; ///< owned by who destroys it
    kit::Bell bell_;
    Mail mail_;
    PeerBook peers_;
    // Constant after the constructor:
    const Library *library_ = nullptr;
    std::unique_ptr<WorkerPool> pool_;

    Mutex fabric_mutex_ NX_ACQUIRED_BEFORE(memories_mutex_); ///< held while the local fabric is made
    std::atomic<bool> fabric_tried_{false};
    std::unique_ptr<LinkServer> links_; ///< constant once has_local_fabric_
    std::atomic<bool> has_local_fabric_{false};

    std::atomic<size_t> partial_memories_{0};
    Mutex memories_mutex_;
    std::unordered_set<LocalMemory *> memories_ NX_GUARDED_BY(memories_mutex_);
};

} // namespace nx::ucx
