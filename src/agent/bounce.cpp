// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/bounce.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <sys/mman.h>
#include <utility>

#include "agent/peer.h"

namespace nx::agent {

namespace {

constexpr size_t kMapped = 2 * Bounce::kLargest;

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
    if (small_ || large_) return;
    for (const auto &[backend, metadata] : registered_) {
        (void)backend->call("deregisterMem", [&](auto &engine) { return engine.deregisterMem(metadata); });
    }
    if (memory_) ::munmap(memory_, kMapped);
}

Result<nixlBackendMD *>
Bounce::registrationWith(const std::shared_ptr<Backend> &backend) {
    const MutexLock lock(registering_);
    for (const auto &each : registered_) {
        if (each.backend == backend) return each.metadata;
    }
    if (!memory_) {
        void *const mapped =
            ::mmap(nullptr, kMapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapped == MAP_FAILED) {
            return {NIXL_ERR_NO_MEMORY,
                    withErrno("mapping " + std::to_string(kMapped) + " bytes of memory to stage through", errno)};
        }
        memory_ = static_cast<std::byte *>(mapped);
    }
    auto &slot = registered_.emplace_back(Registered{backend, nullptr}); // before anything has to be undone
    const nixlBlobDesc whole(reinterpret_cast<uintptr_t>(memory_.load()), kMapped, 0, "");
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
Bounce::take(uint64_t bytes, const Asker &asker) {
    const MutexLock lock(mutex_);
    if (bytes <= kUnit) {
        auto &held = held_[asker.holder];
        const size_t free = kUnits - static_cast<size_t>(std::popcount(small_));
        if (asker.has_some ? held + 2 <= free : free > 0) {
            const auto at = static_cast<size_t>(std::countr_one(small_));
            small_ |= uint64_t{1} << at;
            ++held;
            return memory_ + at * kUnit;
        }
    } else {
        if (std::find(turns_.begin(), turns_.end(), asker.who) == turns_.end()) turns_.push_back(asker.who);
        const size_t units = unitsOf(bytes);
        for (size_t at = 0; turns_.front() == asker.who && at + units <= kUnits; ++at) {
            const uint64_t mask = maskOf(units) << at;
            if (large_ & mask) continue;
            large_ |= mask;
            turns_.pop_front();
            return memory_ + kLargest + at * kUnit;
        }
    }
    refused_ = true;
    return nullptr;
}

bool
Bounce::give(std::byte *memory, uint64_t bytes, const std::string &holder) noexcept {
    const MutexLock lock(mutex_);
    const size_t at = static_cast<size_t>(memory - memory_) / kUnit;
    if (at < kUnits) {
        small_ &= ~(uint64_t{1} << at);
        const auto held = held_.find(holder);
        if (--held->second == 0) held_.erase(held);
    } else {
        large_ &= ~(maskOf(unitsOf(bytes)) << (at - kUnits));
    }
    moved();
    return std::exchange(refused_, false);
}

void
Bounce::forget(const void *who) noexcept {
    const MutexLock lock(mutex_);
    turns_.remove(who);
    std::erase_if(held_, [](const auto &held) { return held.second == 0; });
}

} // namespace nx::agent
