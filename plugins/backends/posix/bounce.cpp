// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "posix/bounce.h"

#include <new>
#include <sys/mman.h>

namespace nx::posix {

BouncePool::BouncePool(size_t count, size_t bytes) : mapped_bytes_(count * bytes) {
    free_.reserve(count);
    void *const base =
        ::mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<std::byte *>(base);
    ::madvise(base_, mapped_bytes_, MADV_DONTFORK); // a child would copy what a device writes to
    for (size_t i = 0; i < count; ++i) free_.push_back(base_ + i * bytes);
}

BouncePool::~BouncePool() {
    ::munmap(base_, mapped_bytes_);
}

std::byte *
BouncePool::take() noexcept {
    if (free_.empty()) return nullptr;
    std::byte *const buffer = free_.back(); // the one used last: it is in the cache
    free_.pop_back();
    return buffer;
}

void
BouncePool::give(std::byte *buffer) noexcept {
    free_.push_back(buffer);
}

} // namespace nx::posix
