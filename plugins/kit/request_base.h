// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What every request of a backend has: its state, why it failed, how far it came, and the wish that it ends.
//
//   state (status())   call                                             next
//   NOT_POSTED, final  begin()                                          IN_PROG
//   IN_PROG            finish() after fail()                            the status of the first failure
//   IN_PROG            finish() after cancel(), something was left out  CANCELED
//   IN_PROG            finish() else                                    SUCCESS
//
// An engine derives its own request from this, and returns outcome() from post and check, describe() and bytesDone()
// from the functions of these names. Owned by one caller at a time, as the agent's calls for a request are; what those
// call who work on it is self-synchronised.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "base/mutex.h"
#include "nixlx/engine.h"

namespace nx::kit {

class RequestBase : public nixlBackendReqH {
public:
    /// Whoever sees a final one sees all that the request moved, and nobody touches the request any more. Any thread.
    nixl_status_t
    status() const noexcept {
        return status_.load(std::memory_order_acquire);
    }

    /// Not posted, or final. Any thread.
    bool
    quiet() const noexcept {
        return status() != NIXL_IN_PROG;
    }

    /// status(), with the sentence of a failure left for the agent, see nixlx::fail.
    nixl_status_t
    outcome() const;

    /// What is told of it; `path` is how its data travels. The error is empty unless it is final and failed.
    nixlx::RequestInfo
    describe(std::string path) const;

    /// Of the last post. Any thread. To be overridden where the parts of a request are counted apart.
    virtual uint64_t
    bytesDone() const noexcept {
        return bytes_done_.load(std::memory_order_relaxed);
    }

    /// Whoever works on it is to leave out what is not begun. Any thread; returns at once. Of one that is quiet: no
    /// effect.
    void
    cancel() noexcept {
        stop_.store(true, std::memory_order_release);
    }

    // ---- For those who work on it

    /// Posted: nothing is done, nothing has failed. Requires quiet().
    void
    begin() noexcept;

    /// Cancelled or failed: no more is to be begun. Any thread.
    bool
    stopping() const noexcept {
        return stop_.load(std::memory_order_relaxed);
    }

    /// So much more is done. One thread at a time.
    void
    moved(uint64_t bytes) noexcept {
        bytes_done_.store(bytes_done_.load(std::memory_order_relaxed) + bytes, std::memory_order_relaxed);
    }

    /// Keeps the first failure of a post and ignores the later ones. Returns `status`. Any thread that works on it.
    nixl_status_t
    fail(nixl_status_t status, std::string sentence) noexcept;

    /// The last call for a post, once nothing refers to the caller's memory: makes it final, after which the object may
    /// be gone. `complete`: nothing was left out, so that a cancel() came too late.
    nixl_status_t
    finish(bool complete) noexcept;

private:
    std::atomic<nixl_status_t> status_{NIXL_ERR_NOT_POSTED};
    std::atomic<bool> stop_{false};
    std::atomic<uint64_t> bytes_done_{0};
    mutable Mutex mutex_;
    nixl_status_t failure_ NX_GUARDED_BY(mutex_) = NIXL_SUCCESS; ///< the first
    std::string sentence_ NX_GUARDED_BY(mutex_);
};

} // namespace nx::kit
