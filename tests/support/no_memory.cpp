// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "support/no_memory.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace {

thread_local bool has_memory = true;

} // namespace

void *
operator new(size_t size) {
    void *const memory = has_memory ? std::malloc(std::max<size_t>(size, 1)) : nullptr;
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

NoMemory::NoMemory() noexcept {
    has_memory = false;
}

NoMemory::~NoMemory() {
    has_memory = true;
}

} // namespace nx::test
