// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A thread that keeps workers going while no caller does, and sleeps while there is nothing to do. Self-synchronised.
//
// Only this thread arms its workers. Invariant: it sleeps without limit only if since arming nobody else has given them
// work; whoever does calls nudge() afterwards. While callers poll, and often enough to drive the workers themselves, it
// stays out of their way: it naps, and takes over when they come less often.
#pragma once

#include <atomic>
#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/thread.h"
#include "ucx/driver.h"
#include "ucx/handover_mutex.h"

namespace nx::ucx {

/// Whether callers come often enough to drive the workers themselves. Those who come seldom, say between two naps of
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

class ProgressThread {
public:
    /// Throws std::system_error.
    ProgressThread(const std::string &name, WakeFd wake);
    ~ProgressThread();

    /// The thread ends; the workers stay added.
    void
    stop();

    /// The worker was created with wakeup and outlives the thread, unless it is removed.
    void
    add(Worker &worker);
    /// After it returns the thread does not touch the worker. Lock of the worker not held.
    void
    remove(Worker &worker);

    /// A caller is about to drive these workers itself. A few nanoseconds.
    void
    visit() noexcept {
        visits_.fetch_add(1, std::memory_order_relaxed);
    }

    /// After work on a worker from outside. Costs a system call only if the thread sleeps.
    void
    nudge() noexcept {
        if (sleeping_.load(std::memory_order_seq_cst) && sleeping_.exchange(false)) wake_.wake();
    }

private:
    template<class Change>
    void
    changeWorkers(Change change);
    void
    run();
    bool
    progressAll();
    bool
    armAll();
    void
    sleep(int64_t timeout_us);

    WakeFd wake_;
    std::atomic<bool> stop_{false};
    std::atomic<bool> sleeping_{false};
    std::atomic<uint64_t> visits_{0};
    HandoverMutex mutex_;
    std::vector<Worker *> workers_ NX_GUARDED_BY(mutex_);
    Thread thread_; ///< last: it uses the others
};

} // namespace nx::ucx
