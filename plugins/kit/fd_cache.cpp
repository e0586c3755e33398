// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/fd_cache.h"

#include <utility>

namespace nx::kit {

void
FdCache::fill(Slot &slot, Fd fd) noexcept {
    Closed closed;
    const MutexLock lock(mutex_);
    slot.fd_ = std::move(fd);
    slot.recent_.store(false, std::memory_order_relaxed);
    slots_.splice(slots_.end(), slot.node_);
    open_.fetch_add(1, std::memory_order_relaxed);
    slot.uses_.fetch_or(Slot::kOpen, std::memory_order_release);
    shrinkLocked(open_max_, kAtOnceMax, closed);
}

void
FdCache::fillSecond(Slot &slot, Fd fd) noexcept {
    const MutexLock lock(mutex_);
    slot.second_ = std::move(fd);
    open_.fetch_add(1, std::memory_order_relaxed);
    slot.second_number_.store(slot.second_.get(), std::memory_order_release);
}

void
FdCache::drop(Slot &slot) noexcept {
    Closed closed;
    const MutexLock lock(mutex_);
    takeIdleLocked(slot, closed);
}

bool
FdCache::closeSome() noexcept {
    Closed closed;
    const MutexLock lock(mutex_);
    shrinkLocked(0, slots_.size(), closed);
    return closed.count > 0;
}

void
FdCache::closeIdle(Slot &slot) noexcept {
    Closed closed;
    const MutexLock lock(mutex_);
    if (open_.load(std::memory_order_relaxed) > open_max_) takeIdleLocked(slot, closed);
}

void
FdCache::shrinkLocked(size_t keep, size_t looks, Closed &closed) noexcept {
    for (size_t i = 0; i < looks && !slots_.empty() && open_.load(std::memory_order_relaxed) > keep; ++i) {
        if (closed.count + 2 > closed.fds.size()) return;
        Slot &slot = *slots_.front();
        // One that was used since it was last looked at is spared once, unless all were.
        const bool spared = i < looks / 2 && slot.recent_.exchange(false, std::memory_order_relaxed);
        if (spared || !takeIdleLocked(slot, closed)) slots_.splice(slots_.end(), slots_, slots_.begin());
    }
}

bool
FdCache::takeIdleLocked(Slot &slot, Closed &closed) noexcept {
    uint32_t idle = Slot::kOpen;
    if (!slot.uses_.compare_exchange_strong(idle, 0, std::memory_order_acquire, std::memory_order_relaxed))
        return false;
    slot.node_.splice(slot.node_.begin(), slots_, slot.place_);
    slot.second_number_.store(-1, std::memory_order_relaxed);
    for (Fd *const fd : {&slot.fd_, &slot.second_}) {
        if (!*fd) continue;
        closed.fds[closed.count++] = std::move(*fd);
        open_.fetch_sub(1, std::memory_order_relaxed);
    }
    return true;
}

} // namespace nx::kit
