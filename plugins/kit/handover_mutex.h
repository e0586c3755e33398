// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A mutex between those who must have it and those who poll. A thread that polls takes it again the moment it has let
// go, so that one who waits for a std::mutex gets it by luck, after tens of milliseconds at times. Here try_lock()
// fails while somebody waits in lock(). Works with MutexLock.
#pragma once

#include <atomic>

#include "base/mutex.h"

namespace nx::kit {

class NX_CAPABILITY("mutex") HandoverMutex : Mutex {
public:
    /// For those who must have it: waits, at the end asleep.
    void
    lock() NX_ACQUIRE() {
        waiting_.fetch_add(1, std::memory_order_relaxed);
        // Whoever polls is about to let go: to sleep and be woken would take longer.
        for (int i = 0; i < kTries; ++i) {
            if (Mutex::try_lock()) {
                waiting_.fetch_sub(1, std::memory_order_relaxed);
                return;
            }
        }
        Mutex::lock();
        waiting_.fetch_sub(1, std::memory_order_relaxed);
    }

    /// For those who poll. False: somebody has it, or waits for it.
    bool
    try_lock() NX_TRY_ACQUIRE(true) {
        return !contended() && Mutex::try_lock();
    }

    void
    unlock() NX_RELEASE() {
        Mutex::unlock();
    }

    /// Does nothing. Says that the caller holds it where Clang cannot see that: through a vendor's library, or under
    /// another name.
    void
    assertHeld() const noexcept NX_ASSERT_CAPABILITY(this) {}

    /// Somebody waits in lock(), or is about to get it. May be old news.
    bool
    contended() const noexcept {
        return waiting_.load(std::memory_order_relaxed) > 0;
    }

private:
    static constexpr int kTries = 100; ///< about two microseconds

    std::atomic<int> waiting_{0};
};

} // namespace nx::kit
