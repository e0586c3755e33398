// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A thread without memory, and how often a thread asks for some. A test program that names no_memory.cpp among its
// sources has its own operator new; what libraries of C allocate is not its business.
#pragma once

#include <cstdint>

namespace nx::test {

/// While it exists, `new` throws std::bad_alloc in this thread, after it has served `spared` times. One at a time and
/// thread.
class NoMemory {
public:
    explicit NoMemory(uint64_t spared = 0) noexcept;
    ~NoMemory();
    NoMemory(const NoMemory &) = delete;
    NoMemory &
    operator=(const NoMemory &) = delete;
};

/// How often this thread has called `new`, with or without success.
uint64_t
allocationCount() noexcept;

} // namespace nx::test
