// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/bounce.h"

#include <bit>
#include <cerrno>
#include <sys/mman.h>

#include "agent/peer.h"

namespace nx::agent {

namespace {

size_t
unitsOf(uint64_t bytes) {
    return (bytes + Bounce::kUnit - 1) / Bounce::kUnit;
}

uint64_t
maskOf(size_t units) {
    return units >= Bounce::kUnits ? ~uint64_t{0} : (uint64_t{1} << units) - 1;
}

} // namespace

Bounce::~Bounce() {
    for (const auto &[backend, metadata] : registered_) {
        (void)backend->call("deregisterMem", [&](auto &engine) { return engine.deregisterMem(metadata); });
    }
    if (memory_) ::munmap(memory_, kBytes);
}

Result<nixlBackendMD *>
Bounce::registrationWith(const std::shared_ptr<Backend> &backend) {
    const MutexLock lock(registering_);
    for (const auto &each : registered_) {
        if (each.backend == backend) return each.metadata;
    }
    if (!memory_) {
        void *const mapped =
            ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapped == MAP_FAILED) {
            return {NIXL_ERR_NO_MEMORY,
                    withErrno("mapping " + std::to_string(kBytes) + " bytes of memory to stage through", errno)};
        }
        memory_ = static_cast<std::byte *>(mapped);
        const MutexLock base_lock(mutex_);
        base_ = memory_;
    }
    auto &slot = registered_.emplace_back(Registered{backend, nullptr}); // before anything has to be undone
    const nixlBlobDesc whole(reinterpret_cast<uintptr_t>(memory_), kBytes, 0, "");
    const auto status =
        backend->call("registerMem", [&](auto &engine) { return engine.registerMem(whole, DRAM_SEG, slot.metadata); });
    if (status < 0) {
        registered_.pop_back();
        return {status,
                "backend " + backend->type +
                    " does not take the memory to stage through: " + backendFailure("registerMem", status)};
    }
    return slot.metadata;
}

std::byte *
Bounce::take(uint64_t bytes, const std::string &holder) {
    const size_t units = unitsOf(bytes);
    const MutexLock lock(mutex_);
    auto &held = held_[holder];
    const size_t free = kUnits - static_cast<size_t>(std::popcount(used_));
    // Who holds some takes no more before those who hold none and wait, and leaves as much as it holds then.
    const bool may = held == 0 ? units <= free : hungry_.empty() && held + 2 * units <= free;
    if (may) {
        for (size_t at = 0; at + units <= kUnits; ++at) {
            const uint64_t mask = maskOf(units) << at;
            if (used_ & mask) continue;
            used_ |= mask;
            held += units;
            hungry_.erase(holder);
            return base_ + at * kUnit;
        }
    }
    if (held == 0) hungry_.insert(holder);
    return nullptr;
}

bool
Bounce::give(std::byte *memory, uint64_t bytes, const std::string &holder) noexcept {
    const size_t units = unitsOf(bytes);
    const MutexLock lock(mutex_);
    used_ &= ~(maskOf(units) << static_cast<size_t>(memory - base_) / kUnit);
    const auto held = held_.find(holder);
    held->second -= units;
    if (held->second == 0) held_.erase(held);
    moves_.fetch_add(1, std::memory_order_relaxed);
    return !hungry_.empty();
}

void
Bounce::forget(const std::string &holder) noexcept {
    const MutexLock lock(mutex_);
    hungry_.erase(holder);
    const auto held = held_.find(holder);
    if (held != held_.end() && held->second == 0) held_.erase(held);
}

} // namespace nx::agent
