// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "support/no_memory.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace {

thread_local uint64_t left = UINT64_MAX; ///< allocations of this thread that succeed
thread_local uint64_t asked = 0;

} // namespace

// std::stable_sort and others ask in this way, and give back by the same delete.
void *
operator new(size_t size, const std::nothrow_t &) noexcept {
    ++asked;
    void *const memory = left > 0 ? std::malloc(std::max<size_t>(size, 1)) : nullptr;
    if (left > 0 && left < UINT64_MAX) --left;
    return memory;
}

void *
operator new(size_t size) {
    void *const memory = operator new(size, std::nothrow);
    if (!memory) throw std::bad_alloc();
    return memory;
}

void
operator delete(void *memory) noexcept {
    std::free(memory);
}

void
operator delete(void *memory, size_t) noexcept {
    std::free(memory);
}

namespace nx::test {

NoMemory::NoMemory(uint64_t spared) noexcept {
    left = spared;
}

NoMemory::~NoMemory() {
    left = UINT64_MAX;
}

uint64_t
allocationCount() noexcept {
    return asked;
}

} // namespace nx::test
