// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A peer: how it is reached, and the endpoints to it, one per worker of ours, made when first needed.
// Self-synchronised; each endpoint is guarded by its worker's lock. Once an endpoint has failed the peer counts as gone
// for good: who wants it back disconnects and loads it again.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/mutex.h"
#include "ucx/address.h"
#include "ucx/driver.h"
#include "ucx/local_workers.h"
#include "ucx/outbox.h"
#include "ucx/peer_info.h"

namespace nx::ucx {

class Runtime;

class Connection {
public:
    /// `address` as NIXL 1.4 exchanges it.
    Connection(Runtime &runtime, std::string name, std::string address);
    ~Connection();

    const std::string &
    name() const noexcept {
        return name_;
    }

    const std::string &
    address() const noexcept {
        return address_;
    }

    /// The domains whose keys must not be used, see segmentDomains. That of the local context: once it is chosen.
    uint64_t
    refusedDomains(Fabric fabric) const noexcept {
        return refused_domains_[static_cast<size_t>(fabric)];
    }

    /// The peer is one of ours; call before the first use. BACKEND: it runs on this host and has ended.
    Status
    setPeerInfo(const PeerInfo &info, bool same_host);

    /// Which context serves messages and requests, `vram`: with memory of a GPU at either side. Decided at the first
    /// call, which waits for the peer's process, or for its listeners on the network, to answer.
    Fabric
    fabric(bool vram);

    /// For what the local context cannot have.
    Fabric
    network();

    /// Memory of the peer that has no key for the local context comes and goes.
    void
    addPlainOnly() noexcept {
        plain_only_.fetch_add(1);
    }
    void
    removePlainOnly() noexcept {
        plain_only_.fetch_sub(1);
    }

    /// All that is loaded of the peer's memory can be reached through either context.
    bool
    reachesAll() const noexcept {
        return plain_only_.load() == 0;
    }

    /// Of a context that fabric() or network() gave.
    Worker &
    worker(Fabric fabric, size_t index) noexcept;

    /// Lock of that worker held. REMOTE_DISCONNECT once the peer is gone.
    Result<Endpoint *>
    endpoint(Fabric fabric, size_t worker);

    /// The notifications to it.
    Outbox &
    outbox() noexcept {
        return *outbox_;
    }

    /// Counts what has ended through one worker: pieces of transfers, flushes, messages.
    struct alignas(64) Mark {
        void
        advance() noexcept { // one at a time: the worker's lock is held
            count.store(count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
        }

        std::atomic<uint64_t> count{0};
    };

    Mark &
    mark(Fabric fabric, size_t worker) noexcept {
        return marks_[static_cast<size_t>(fabric)][worker];
    }

    /// Of all workers: while it rises, the peer takes or gives something. From any thread.
    uint64_t
    pathMark(Fabric fabric) const noexcept {
        uint64_t sum = 0;
        for (const Mark &each : marks_[static_cast<size_t>(fabric)]) sum += each.count.load(std::memory_order_relaxed);
        return sum;
    }

    bool
    gone() const noexcept {
        return gone_;
    }

    /// Why the peer cannot be used any more, for people.
    std::string
    sentence() const;

    /// Remembers the first reason.
    void
    setGone(std::string_view reason) noexcept;

    /// The reason is what UCX says of it. To UCX a copy between processes that the system refuses is a connection that
    /// was reset: that is told as what it is.
    void
    setGone(Code code) noexcept;

    /// Ends it. Returns at once; closed() tells when the last endpoint is.
    void
    close(bool orderly);

    bool
    closed();

    /// Ends all endpoints at once with an error for whatever is outstanding. The peer has ended and sends nothing more.
    void
    abandon(std::string_view reason);

    /// The same for a peer that may still live.
    void
    sever(std::string_view reason);

private:
    template<class Visit>
    void
    forEachEndpoint(Visit visit);
    Status
    connect(const std::string &link_name);
    bool
    isLocal();
    bool
    makeLocal() NX_REQUIRES(fabric_mutex_);
    void
    usesNetwork(const std::string &why) const;
    void
    choosePaths() NX_REQUIRES(fabric_mutex_);
    std::string
    withPlaces(std::string reason) const;

    Runtime &runtime_;
    const std::string name_;
    const std::string address_;
    std::array<uint64_t, kFabricCount> refused_domains_{};
    // Constant after setPeerInfo:
    bool may_be_local_ = false;
    std::string link_name_;
    Fd link_; ///< constant once linked_
    std::atomic<bool> linked_{false};
    std::atomic<bool> gone_{false};
    std::atomic<size_t> plain_only_{0};
    enum class Local { kUndecided, kNo, kYes };
    std::atomic<Local> is_local_{Local::kUndecided};
    std::atomic<bool> has_paths_{false};
    Mutex fabric_mutex_ NX_ACQUIRED_BEFORE(mutex_); ///< held while either is being decided
    std::unique_ptr<LocalWorkers> local_workers_;
    // Constant once has_paths_:
    std::string usable_address_; ///< address_ without what cannot be reached of it
    std::vector<TcpListener> left_out_;
    std::atomic<WorkerSet *> workers_; ///< for the network
    // Constant once is_local_, except that local_ is set before the first endpoint is made:
    std::vector<std::string> local_addresses_;
    std::atomic<LocalWorkers *> local_{nullptr};
    std::array<std::vector<Mark>, kFabricCount> marks_;

    const std::shared_ptr<Outbox> outbox_;

    mutable Mutex mutex_;
    std::string reason_ NX_GUARDED_BY(mutex_);
    bool copies_refused_ NX_GUARDED_BY(mutex_) = false; ///< the peer lives
    // Each guarded by its worker's lock:
    std::array<std::vector<std::unique_ptr<Endpoint>>, kFabricCount> endpoints_;
};

} // namespace nx::ucx
