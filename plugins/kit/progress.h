// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A thread that keeps things going while no caller does, and sleeps while there is nothing to do. Self-synchronised.
//
// After an event it polls for a while, since the next one often comes before it could have gone to sleep and been
// woken. While callers poll, and often enough to drive the things themselves, it stays out of their way: it naps, and
// takes over when they come less often.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <poll.h>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/thread.h"
#include "kit/handover_mutex.h"

namespace nx::kit {

/// What the thread keeps going: one of its owner's queues, workers, completion queues ... The thread makes these calls,
/// one at a time for all that was added to it; callers who help may call tryDrive() as well. None of them may call the
/// ProgressThread, but for visit() and nudge().
class Driven {
public:
    /// Works off what is there and returns soon. True: something happened. None: somebody else is at it; does not wait.
    virtual std::optional<bool>
    tryDrive() noexcept = 0;

    /// The last call before the thread sleeps; waits for whoever is at it. True: there is nothing to do, and
    /// descriptor() will become readable as soon as there is. False: there is something to do, or it cannot tell.
    virtual bool
    arm() noexcept = 0;

    /// To be slept on once it is armed; -1: there is none, whoever gives it work calls nudge().
    virtual int
    descriptor() const noexcept = 0;

protected:
    ~Driven() = default;
};

/// Whether callers come often enough to drive everything themselves. Those who come seldom, say between two naps of
/// their own, leave the work to the thread. Not thread-safe.
class Attendance {
public:
    using Time = std::chrono::steady_clock::time_point;

    static constexpr std::chrono::microseconds kEvery{4};   ///< often enough
    static constexpr std::chrono::microseconds kWindow{20}; ///< looked at over so long

    Attendance(uint64_t visits, Time now) noexcept : seen_(visits), since_(now) {}

    /// `visits` so far. Empty: it is too early to say.
    std::optional<bool>
    look(uint64_t visits, Time now) noexcept {
        if (now - since_ < kWindow) return {};
        const bool often = (visits - seen_) * kEvery >= now - since_;
        *this = Attendance(visits, now);
        return often;
    }

    /// Nobody has come since the last answer.
    bool
    none(uint64_t visits) const noexcept {
        return visits == seen_;
    }

private:
    uint64_t seen_;
    Time since_;
};

/// Invariant: it sleeps without limit only if since arming nobody else has given what it drives any work; whoever does
/// calls nudge() afterwards. Only this thread arms.
///
/// A child of fork has a copy of the object and no such thread: it must neither use nor destroy it.
class ProgressThread {
public:
    /// Starts it, under a name of which the kernel keeps 15 bytes. Throws std::runtime_error with a sentence if the
    /// system refuses a thread or a descriptor.
    explicit ProgressThread(const std::string &name);
    /// As stop().
    ~ProgressThread();

    /// Returns when the thread has ended, after what it was at; then nobody makes the calls of Driven, nothing needs to
    /// be removed, and the other calls have no effect. May be called again. Not from the thread itself.
    void
    stop();

    /// From now on the thread drives it; it outlives the thread, unless it is removed. Not while holding what its own
    /// functions wait for. Throws std::bad_alloc, having done nothing.
    void
    add(Driven &driven);
    /// After it returns the thread does not touch it. No effect if it was not added. As add(), what it waits for.
    void
    remove(Driven &driven) noexcept;

    /// A caller is about to drive itself what this thread would. A few nanoseconds.
    void
    visit() noexcept {
        visits_.fetch_add(1, std::memory_order_relaxed);
    }

    /// A caller that may have driven it until now is about to sleep, so that this thread is needed at once. Costs a
    /// system call only if it naps.
    void
    takeOver() noexcept {
        alone_.store(true, std::memory_order_seq_cst);
        if (napping_.load(std::memory_order_seq_cst) && napping_.exchange(false)) wake_.wake();
    }

    /// To be called after work was given to something from outside. Costs a system call only if the thread sleeps.
    void
    nudge() noexcept {
        if (sleeping_.load(std::memory_order_seq_cst) && sleeping_.exchange(false)) wake_.wake();
    }

private:
    void
    run() noexcept;
    bool
    driveAll() noexcept;
    bool
    armAll() noexcept;
    void
    sleep(int64_t timeout_us) noexcept;

    const WakeFd wake_;
    std::atomic<bool> stop_{false};
    std::atomic<bool> sleeping_{false};
    std::atomic<bool> napping_{false}; ///< leaves the work to callers
    std::atomic<bool> alone_{false};   ///< they have said that they stop
    std::atomic<uint64_t> visits_{0};
    HandoverMutex mutex_; ///< held across the calls of Driven
    std::vector<Driven *> driven_ NX_GUARDED_BY(mutex_);
    std::vector<pollfd> room_ NX_GUARDED_BY(mutex_); ///< for all descriptors: who goes to sleep needs no memory
    std::vector<pollfd> fds_;                        ///< the thread's
    Thread thread_;                                  ///< last: it uses the others
};

} // namespace nx::kit
