// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/files/fd_cache.h"

namespace nx::kit {

void
FdCache::fill(Slot &slot, Fd fd) noexcept {
    Closed closed;
    const MutexLock lock(mutex_);
    slot.fd_ = fd.release();
    slot.recent_.store(false, std::memory_order_relaxed);
    // It is the last to be looked at.
    if (!next_) next_ = slot.before_ = slot.behind_ = &slot;
    slot.behind_ = next_;
    slot.before_ = next_->before_;
    slot.before_->behind_ = slot.behind_->before_ = &slot;
    ++slot_count_;
    open_.fetch_add(1, std::memory_order_relaxed);
    slot.uses_.fetch_or(Slot::kOpen, std::memory_order_release);
    shrinkLocked(open_max_, kAtOnceMax, closed);
}

void
FdCache::fillSecond(Slot &slot, Fd fd) noexcept {
    const MutexLock lock(mutex_);
    open_.fetch_add(1, std::memory_order_relaxed);
    slot.second_.store(fd.release(), std::memory_order_release);
}

void
FdCache::drop(Slot &slot) noexcept {
    Closed closed;
    const MutexLock lock(mutex_);
    // Whoever forgot done() cannot make the ring point to nowhere.
    if (slot.uses_.exchange(0, std::memory_order_acquire) & Slot::kOpen) takeLocked(slot, closed);
}

bool
FdCache::closeSome() noexcept {
    Closed closed;
    const MutexLock lock(mutex_);
    shrinkLocked(0, slot_count_, closed);
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
    for (size_t i = 0; i < looks && next_ && open_.load(std::memory_order_relaxed) > keep; ++i) {
        if (closed.count + 2 > closed.fds.size()) return;
        Slot &slot = *next_;
        next_ = slot.behind_;
        // One that was used since it was last looked at is spared once, unless all were.
        if (i < looks / 2 && slot.recent_.exchange(false, std::memory_order_relaxed)) continue;
        takeIdleLocked(slot, closed);
    }
}

void
FdCache::takeIdleLocked(Slot &slot, Closed &closed) noexcept {
    uint32_t idle = Slot::kOpen;
    if (!slot.uses_.compare_exchange_strong(idle, 0, std::memory_order_acquire, std::memory_order_relaxed)) return;
    takeLocked(slot, closed);
}

void
FdCache::takeLocked(Slot &slot, Closed &closed) noexcept {
    slot.before_->behind_ = slot.behind_;
    slot.behind_->before_ = slot.before_;
    if (next_ == &slot) next_ = slot.behind_;
    if (--slot_count_ == 0) next_ = nullptr;
    for (const int fd : {slot.fd_, slot.second_.exchange(-1, std::memory_order_relaxed)}) {
        if (fd < 0) continue;
        closed.fds[closed.count++] = fd;
        open_.fetch_sub(1, std::memory_order_relaxed);
    }
}

} // namespace nx::kit
