// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// One transfer request and its only state machine:
//
//   state      | event                          | next state
//   -----------+--------------------------------+-----------
//   Prepared   | post                           | Posted, or Final when the engine finished or failed at once
//   Posted     | engine reports a final status  | Final
//   Posted     | cancel, or a limit passes      | Settling
//   Settling   | engine reports a final status  | Final
//   Final      | post                           | Posted (or Final again)
//
// Final means: nobody touches the buffers any more. A request that is past a limit and has been Settling for longer
// than the settle guard has its connection dropped, once, if nothing moves on it any more. Guarded: one mutex per
// request, held across calls into the engine, because an engine must not see two calls for one request at once.
//
// Nothing is counted per piece of memory. Before the backend uses the request's memory, to prepare it and from post to
// the final status, the request looks whether all of it is still there. Who removes memory marks it, raises the epoch,
// and then asks every request to keep() it: one that had not seen the removal is using its memory by then, and what was
// removed stays with the backend until the request does not use it any more.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "agent/peer.h"
#include "agent/waiting.h"
#include "base/handle_table.h"
#include "base/mutex.h"
#include "memory/plan.h"
#include "nixlx/limits.h"
#include "nixlx/report.h"
#include "telemetry/recorder.h"

namespace nx::agent {

/// Counts removals of local registrations: while it stands still, what was resolved earlier is still registered.
using Epoch = std::atomic<uint64_t>;

/// How long a cancelled transfer may take to become quiet before more is done than to wait.
inline constexpr std::chrono::milliseconds kSettleGuard{150};

/// A connection on which nothing has moved for so long is as good as lost, whoever else still waits for it.
inline constexpr std::chrono::milliseconds kPathSilence{std::chrono::seconds(3)};

/// A request's limits: the stall limit it begins with, and what may be asked for.
inline constexpr std::chrono::milliseconds kStallLimit{std::chrono::seconds(30)};
inline constexpr std::chrono::milliseconds kLimitMin{1}, kLimitMax{std::chrono::hours(24)};

/// Whether a request that does not become quiet in time loses its connection.
enum class Force { kIfPastLimit, kAlways };

class TransferRequest {
public:
    struct Parts {
        std::shared_ptr<Backend> backend;
        std::shared_ptr<Peer> peer; ///< null for transfers to oneself
        std::unique_ptr<memory::OwnedPlan> plan;
        std::vector<nixlx::Candidate> candidates;
        std::optional<std::string> notification;
        const Epoch *epoch = nullptr;
        HandleTable<TransferRequest> *requests = nullptr; ///< all of the agent
        uint64_t resolved_at = 0;                         ///< the epoch before the sides were resolved
        uint64_t descriptor_count = 0;                    ///< for telemetry; 0: the plan's blocks
        bool measure = false;                             ///< take times for telemetry
        telemetry::Recorder *recorder = nullptr;          ///< null: no events
        Waiting *waiting = nullptr;                       ///< who waits learns what happens to the request
        std::chrono::milliseconds stall_limit = nixlx::Limits::kNone;
    };

    explicit TransferRequest(Parts parts);

    /// Asks the backend to prepare; once, before anything else and after it can be found by who removes memory. The
    /// backend's status and sentence on failure.
    Status
    prepare(const nixl_opt_b_args_t *args);

    /// Requires that it is not in flight, or that the process is at its end (the engine's side is then leaked).
    ~TransferRequest();

    /// Starts (again). `notification`: absent keeps the stored one; null clears it. A failure's sentence is in
    /// `sentence`. Allocates for a notification that is longer than all before.
    nixl_status_t
    post(std::optional<const std::string *> notification, std::string &sentence);

    /// `sentence` is set when this call is the one that saw the failure.
    nixl_status_t
    status(std::string &sentence);

    /// Like status(), but does not wait for another caller's look at the request, which is as good as this one. Nothing
    /// if there was one or the request is not in flight.
    std::optional<nixl_status_t>
    tryStatus(std::string &sentence);

    /// How often somebody has to look for the limits to be kept; kNone: never. From any thread.
    std::chrono::milliseconds
    lookEvery() const noexcept {
        return look_every_.load(std::memory_order_relaxed);
    }

    /// From any thread.
    bool
    inFlight() const noexcept {
        const State state = state_.load(std::memory_order_relaxed);
        return state == State::kPosted || state == State::kSettling;
    }

    /// Asks a running request to end; no effect otherwise.
    void
    cancel();

    /// For who removed memory of the peer, or of this agent if it is null, after the peer is not alive or the epoch was
    /// raised. If the request uses such memory, it keeps `removed` until it does not. True if it is posted, or just
    /// being posted, on it. Does not wait for the engine.
    bool
    keep(const std::shared_ptr<const memory::RemovedWindows> &removed, const Peer *peer);

    /// Waits until the request is not in flight, at most until `deadline`, or for another settle guard if its
    /// connection was dropped then. True if it is not.
    bool
    settle(std::chrono::steady_clock::time_point deadline, Force force = Force::kIfPastLimit);

    /// For later posts. REPOST_ACTIVE while in flight. The values are in range.
    nixl_status_t
    setLimits(const nixlx::Limits &limits);

    /// Makes every later post() fail. REPOST_ACTIVE: it is in flight; INVALID_PARAM: it is retired already.
    nixl_status_t
    retire();

    nixl_status_t
    telemetry(nixl_xfer_telem_t &out) const;
    nixlx::Report
    report() const;
    nixl_status_t
    estimate(std::chrono::microseconds &duration,
             std::chrono::microseconds &err_margin,
             nixl_cost_t &method,
             const nixl_opt_args_t *args) const;

    const std::shared_ptr<Backend> &
    backend() const noexcept {
        return parts_.backend;
    }

    const std::shared_ptr<Peer> &
    peer() const noexcept {
        return parts_.peer;
    }

    nixl_xfer_op_t
    operation() const noexcept {
        return parts_.plan->plan.operation;
    }

    std::atomic<bool> dropped{false}; ///< its owner gave the handle away

private:
    using Clock = std::chrono::steady_clock;

    enum class Use { kNone, kPreparing, kPosted };
    enum class State { kPrepared, kPosted, kSettling, kFinal };
    enum class Cause { kAsked, kDeadline, kStall }; ///< why it settles

    template<class Ability = nixlx::Engine, class Body>
    nixl_status_t
    call(const char *function, Body body) const {
        return callFor<Ability>(parts_.peer.get(), *parts_.backend, function, std::move(body));
    }

    void
    enterLocked(State state) noexcept NX_REQUIRES(mutex_) {
        state_.store(state, std::memory_order_relaxed);
    }

    nixl_status_t
    advanceLocked(nixl_status_t engine_status, std::string &sentence) NX_REQUIRES(mutex_);
    nixl_status_t
    checkLocked(std::string &sentence) NX_REQUIRES(mutex_);
    nixl_status_t
    beginUseLocked(Use use, std::string &sentence) NX_REQUIRES(mutex_);
    void
    endUseLocked() NX_REQUIRES(mutex_);
    void
    settleLocked(Cause cause) NX_REQUIRES(mutex_);
    bool
    enforceLimitsLocked() NX_REQUIRES(mutex_);
    std::optional<Cause>
    passedLimitLocked() const NX_REQUIRES(mutex_);
    bool
    mayForceLocked(bool still) const NX_REQUIRES(mutex_);
    bool
    forceLocked() NX_REQUIRES(mutex_);
    bool
    sharesItsPeer() const;
    std::chrono::milliseconds
    usualLookLocked() const NX_REQUIRES(mutex_);
    std::string
    timeoutSentenceLocked() const NX_REQUIRES(mutex_);
    std::optional<uint64_t>
    pathMarkLocked() const NX_REQUIRES(mutex_);
    std::optional<uint64_t>
    bytesDoneLocked() const NX_REQUIRES(mutex_);
    nixlx::RequestInfo
    describeLocked() const NX_REQUIRES(mutex_);
    bool
    memoryGone() const;
    std::optional<double>
    predictLocked() const NX_REQUIRES(mutex_);

    // Constant after creation:
    Parts parts_;
    nixlBackendReqH *handle_ = nullptr; ///< constant after prepare()

    mutable Mutex mutex_;
    nixl_status_t status_ NX_GUARDED_BY(mutex_) = NIXL_ERR_NOT_POSTED;
    bool retired_ NX_GUARDED_BY(mutex_) = false;
    uint64_t valid_epoch_ NX_GUARDED_BY(mutex_) = 0;
    uint64_t attempts_ NX_GUARDED_BY(mutex_) = 0;
    std::string notification_ NX_GUARDED_BY(mutex_); ///< stored, if it notifies; else its room is, for later posts
    bool notifies_ NX_GUARDED_BY(mutex_);
    std::string error_ NX_GUARDED_BY(mutex_);
    nixl_xfer_telem_t telemetry_ NX_GUARDED_BY(mutex_);
    std::chrono::milliseconds deadline_ NX_GUARDED_BY(mutex_) = nixlx::Limits::kNone;
    std::chrono::milliseconds stall_limit_ NX_GUARDED_BY(mutex_);
    // Of the post in flight, as of the last look:
    Cause cause_ NX_GUARDED_BY(mutex_) = Cause::kAsked;
    bool forced_ NX_GUARDED_BY(mutex_) = false; ///< the engine was asked for quiet by force, whether it can or not
    int64_t tick_ NX_GUARDED_BY(mutex_) = 0;
    Clock::time_point posted_at_ NX_GUARDED_BY(mutex_);
    Clock::time_point looked_at_ NX_GUARDED_BY(mutex_);
    std::optional<uint64_t> path_mark_ NX_GUARDED_BY(mutex_);
    Clock::duration still_for_ NX_GUARDED_BY(mutex_){0};    ///< since anything moved on its path
    Clock::duration settling_for_ NX_GUARDED_BY(mutex_){0}; ///< since it was cancelled

    bool severed_ NX_GUARDED_BY(mutex_) = false; ///< the connection was dropped, or was lost while the request settled

    Mutex use_mutex_ NX_ACQUIRED_AFTER(mutex_);      // the last in the order of locks
    Use use_ NX_GUARDED_BY(use_mutex_) = Use::kNone; ///< of the memory, by the engine
    std::vector<std::shared_ptr<const memory::RemovedWindows>> kept_ NX_GUARDED_BY(use_mutex_); ///< while it is used

    // Changed under mutex_:
    std::atomic<State> state_{State::kPrepared};
    std::atomic<std::chrono::milliseconds> look_every_{nixlx::Limits::kNone};
};

} // namespace nx::agent
