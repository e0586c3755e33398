// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A thread that keeps workers going while no caller does, and sleeps while there is nothing to do. Self-synchronised.
//
// Only this thread arms its workers. Invariant: it sleeps without limit only if since arming nobody else has worked on
// them; whoever does calls nudge() afterwards. While callers poll it stays out of their way: it naps, and takes over
// when a nap passes without a visit.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/thread.h"
#include "ucx/driver.h"

namespace nx::ucx {

class ProgressThread {
public:
    /// The workers outlive the thread and were created with wakeup. Throws std::system_error.
    ProgressThread(const std::string &name, std::vector<Worker *> workers, WakeFd wake);
    ~ProgressThread();

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

    /// Calls `fired` on the thread when `fd` is readable, until it returns false. The descriptor stays the caller's.
    void
    watch(int fd, std::function<bool()> fired);

    /// After it returns `fired` neither runs nor will. Not from within `fired`.
    void
    unwatch(int fd);

private:
    struct Watch {
        int fd;
        std::function<bool()> fired;
    };

    void
    run();
    bool
    progressAll();
    bool
    armAll();
    void
    sleep(int64_t timeout_us);

    const std::vector<Worker *> workers_;
    WakeFd wake_;
    std::atomic<bool> stop_{false};
    std::atomic<bool> sleeping_{false};
    std::atomic<uint64_t> visits_{0};
    std::mutex watch_mutex_; ///< held while `fired` runs
    // Guarded by watch_mutex_:
    std::vector<Watch> watches_;
    Thread thread_; ///< last: it uses the others
};

} // namespace nx::ucx
