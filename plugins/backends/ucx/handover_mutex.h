// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A mutex between those who must have it and those who poll. A thread that polls takes it again the moment it has let
// go, so that one who waits for a std::mutex gets it by luck, after tens of milliseconds at times. Here try_lock()
// fails while somebody waits in lock(). Works with std::lock_guard and std::unique_lock.
#pragma once

#include <atomic>
#include <mutex>

namespace nx::ucx {

class HandoverMutex {
public:
    void
    lock() {
        waiting_.fetch_add(1, std::memory_order_relaxed);
        // Whoever polls is about to let go: to sleep and be woken would take longer.
        for (int i = 0; i < kTries; ++i) {
            if (mutex_.try_lock()) {
                waiting_.fetch_sub(1, std::memory_order_relaxed);
                return;
            }
        }
        mutex_.lock();
        waiting_.fetch_sub(1, std::memory_order_relaxed);
    }

    bool
    try_lock() {
        return !contended() && mutex_.try_lock();
    }

    void
    unlock() {
        mutex_.unlock();
    }

    /// Somebody waits in lock(), or is about to get it. May be old news.
    bool
    contended() const noexcept {
        return waiting_.load(std::memory_order_relaxed) > 0;
    }

private:
    static constexpr int kTries = 100; ///< about two microseconds

    std::mutex mutex_;
    std::atomic<int> waiting_{0};
};

} // namespace nx::ucx
