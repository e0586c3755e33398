// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A transfer between two memories that no backend joins: portion by portion one backend brings the bytes into host
// memory and another one carries them on, several portions at a time, so that both have something to do. Either leg is
// an ordinary transfer of its backend within this agent or with the peer, from or to the bounce memory.
//
// It is moved on by whoever asks for its status, and by the agent's thread for that if it has one. Guarded by one
// mutex, which is held across calls into both backends.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/bounce.h"
#include "base/mutex.h"
#include "memory/portions.h"
#include "nixlx/engine.h"

namespace nx::agent {

/// One end of staged transfers and the backend that reaches it.
struct StagedEnd {
    const Backend *backend;
    nixlBackendMD *bounce; ///< the bounce memory's, with this backend
};

class StagedTransfer {
public:
    static constexpr uint64_t kPortionBytes = Bounce::kUnit, kPortionBlocks = 1024;
    static constexpr size_t kPortionsInFlight = 16;

    /// The kind of memory that the bytes go to.
    static nixl_mem_t
    sinkOf(const nixlx::Plan &plan) noexcept {
        return plan.operation == NIXL_READ ? plan.local_memory : plan.remote_memory;
    }

    /// `plan` and what else is named here is there while it runs. The plan's local segments are such as the local end's
    /// backend takes for the remote side of transfers to oneself.
    StagedTransfer(const nixlx::Plan &plan,
                   const StagedEnd &local,
                   const StagedEnd &remote,
                   const std::string &agent,
                   const std::string &custom_param,
                   Bounce &bounce);
    /// Requires that it does not run.
    ~StagedTransfer();
    StagedTransfer(const StagedTransfer &) = delete;
    StagedTransfer &
    operator=(const StagedTransfer &) = delete;

    /// Begins, from the beginning. `notification` (null: none) is sent when all is done.
    void
    start(const std::string *notification);

    struct Advanced {
        nixl_status_t status = NIXL_IN_PROG;
        bool more = false;    ///< there is something to do at once
        bool stirs = false;   ///< others who wait may go on
        bool refused = false; ///< it waits for bounce memory
    };
    /// Moves it on for about a millisecond. Nothing: another thread is at it.
    std::optional<Advanced>
    tryAdvance() noexcept;

    /// It was started and is not over.
    bool
    running() const noexcept {
        return running_.load();
    }

    /// What it waits for now cannot be slept on.
    bool
    polled() const noexcept {
        return polled_ || inbox_full_.load(std::memory_order_relaxed);
    }

    void
    cancel();
    /// As nixlx::ForcedQuiet::forceQuiet.
    bool
    force();
    nixlx::RequestInfo
    describe() const;

    uint64_t
    bytesDone() const noexcept {
        return bytes_done_.load(std::memory_order_relaxed);
    }

    std::optional<uint64_t>
    pathMark() const noexcept {
        const uint64_t mark = path_mark_.load(std::memory_order_relaxed);
        return mark ? std::optional(mark) : std::nullopt;
    }

private:
    class Leg;

    /// Bytes that have a place in the bounce memory.
    struct Passage {
        memory::Portion portion;
        std::byte *memory;
        std::unique_ptr<Leg> leg;
    };

    /// The legs from or to one end.
    struct Half {
        const StagedEnd end;
        const bool is_local;
        const std::string agent; ///< whose memory it is
        uint64_t bytes = 0;      ///< moved by this post
        std::string path = {};   ///< how, once that is known
    };

    /// How the plan is cut.
    static memory::PortionLimits
    limitsOf(const nixlx::Plan &plan) noexcept;
    void
    advanceLocked(Advanced &advanced) NX_REQUIRES(mutex_);
    bool
    admitLocked(Advanced &advanced) NX_REQUIRES(mutex_);
    bool
    leaveLocked(size_t index) noexcept NX_REQUIRES(mutex_);
    bool
    overLocked(Passage &passage, nixl_status_t status) NX_REQUIRES(mutex_);
    nixl_status_t
    beginLegLocked(Passage &passage, bool reads) NX_REQUIRES(mutex_);
    void
    failLocked(nixl_status_t status, std::string &&sentence) noexcept NX_REQUIRES(mutex_);
    void
    endLocked() NX_REQUIRES(mutex_);
    void
    publishLocked() noexcept NX_REQUIRES(mutex_);
    Half &
    source() NX_REQUIRES(mutex_) {
        return plan_.operation == NIXL_READ ? remote_ : local_;
    }
    Half &
    sink() NX_REQUIRES(mutex_) {
        return plan_.operation == NIXL_READ ? local_ : remote_;
    }

    const nixlx::Plan &plan_;
    const memory::PortionLimits limits_;
    std::vector<nixlx::Run> ordered_; ///< the plan's runs, in the order of segments where these stay whole
    const std::string holder_;        ///< of bounce memory
    nixl_opt_b_args_t leg_args_;
    Bounce &bounce_;
    const bool polled_;

    mutable Mutex mutex_;
    Half local_ NX_GUARDED_BY(mutex_);
    Half remote_ NX_GUARDED_BY(mutex_);
    memory::Portions portions_ NX_GUARDED_BY(mutex_);
    memory::Portion next_ NX_GUARDED_BY(mutex_); ///< empty: all are under way or done
    std::vector<Passage> passages_ NX_GUARDED_BY(mutex_);
    std::optional<std::string> notification_ NX_GUARDED_BY(mutex_);
    nixl_status_t status_ NX_GUARDED_BY(mutex_) = NIXL_ERR_NOT_POSTED;
    nixl_status_t outcome_ NX_GUARDED_BY(mutex_) = NIXL_SUCCESS; ///< what it will end with
    std::string error_ NX_GUARDED_BY(mutex_);

    uint64_t seen_mark_ NX_GUARDED_BY(mutex_) = 0; ///< of the legs

    std::atomic<bool> running_{false};
    std::atomic<bool> inbox_full_{false};
    std::atomic<uint64_t> bytes_done_{0};
    std::atomic<uint64_t> path_mark_{0}; ///< 0: a backend cannot tell
};

} // namespace nx::agent
