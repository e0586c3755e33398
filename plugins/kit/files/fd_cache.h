// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Descriptors that may be closed while nobody uses them, so that few are open of many. Which one is closed goes by when
// it was last used, roughly: use() and done() of an open one take no lock. Self-synchronised; a slot is filled by one
// thread at a time.
#pragma once

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>

#include "base/fd.h"
#include "base/mutex.h"

namespace nx::kit {

class FdCache {
public:
    /// One descriptor, and a second one of the same file beside it if somebody wants that. Its owner drops it from the
    /// cache before it goes.
    class Slot {
    public:
        Slot() = default;
        Slot(const Slot &) = delete;
        Slot &
        operator=(const Slot &) = delete;

        /// The descriptor, or -1: it is not open. Counts a use either way.
        int
        use() noexcept {
            if (!(uses_.fetch_add(1, std::memory_order_acquire) & kOpen)) return -1;
            if (!recent_.load(std::memory_order_relaxed)) recent_.store(true, std::memory_order_relaxed);
            return fd_;
        }

        /// The descriptor, or -1. Only while a use is counted.
        int
        get() const noexcept {
            return uses_.load(std::memory_order_acquire) & kOpen ? fd_ : -1;
        }

        /// The second descriptor, or -1. Only while a use is counted.
        int
        second() const noexcept {
            return second_.load(std::memory_order_acquire);
        }

    private:
        friend class FdCache;
        static constexpr uint32_t kOpen = 1u << 31;

        std::atomic<uint32_t> uses_ = 0; ///< and kOpen; without uses, whoever takes kOpen away closes
        std::atomic<bool> recent_ = false;
        std::atomic<int> second_ = -1;
        int fd_ = -1; ///< changes while uses_ has no kOpen only, under the cache's mutex
        // Of the cache's ring, under its mutex. Opening needs no memory.
        Slot *before_ = nullptr;
        Slot *behind_ = nullptr;
    };

    /// At most `open_max` are open, but for those in use beyond.
    explicit FdCache(size_t open_max) noexcept : open_max_(open_max) {}

    size_t
    openMax() const noexcept {
        return open_max_;
    }

    /// What `open()` gives; idle ones are closed and it is tried again when the process has no descriptor left. None:
    /// errno says why.
    template<class Open>
    Fd
    open(Open open) {
        for (;;) {
            Fd fd = open();
            const int error = errno;
            if (fd || (error != EMFILE && error != ENFILE) || !closeSome()) {
                errno = error;
                return fd;
            }
        }
    }

    /// The slot's descriptor, or its second one. The caller has counted a use, and the slot has none.
    void
    fill(Slot &slot, Fd fd) noexcept;
    void
    fillSecond(Slot &slot, Fd fd) noexcept;

    /// Ends a use.
    void
    done(Slot &slot) noexcept {
        const bool idle = slot.uses_.fetch_sub(1, std::memory_order_release) == (Slot::kOpen | 1);
        if (idle && open_.load(std::memory_order_relaxed) > open_max_) closeIdle(slot);
    }

    /// Closes the slot, which nobody uses any more.
    void
    drop(Slot &slot) noexcept;

    /// Closes some that nobody uses. False: all are in use.
    bool
    closeSome() noexcept;

    /// Descriptors that are open.
    size_t
    openCount() const noexcept {
        return open_.load(std::memory_order_relaxed);
    }

private:
    /// How many are looked at, and closed, to make room.
    static constexpr size_t kAtOnceMax = 32;

    /// Descriptors that are closed once the mutex is given back: that may take long.
    struct Closed {
        ~Closed() {
            for (size_t i = 0; i < count; ++i) Fd(fds[i]).reset();
        }

        std::array<int, 2 * kAtOnceMax> fds;
        size_t count = 0;
    };

    void
    closeIdle(Slot &slot) noexcept;
    void
    shrinkLocked(size_t keep, size_t looks, Closed &closed) noexcept NX_REQUIRES(mutex_);
    void
    takeIdleLocked(Slot &slot, Closed &closed) noexcept NX_REQUIRES(mutex_);
    void
    takeLocked(Slot &slot, Closed &closed) noexcept NX_REQUIRES(mutex_);

    const size_t open_max_;
    std::atomic<size_t> open_ = 0; ///< changed under the mutex
    Mutex mutex_;
    Slot *next_ NX_GUARDED_BY(mutex_) = nullptr; ///< to be looked at, of the ring of those that are open
    size_t slot_count_ NX_GUARDED_BY(mutex_) = 0;
};

} // namespace nx::kit
