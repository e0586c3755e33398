// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A thread without memory. A test program that names no_memory.cpp among its sources has its own operator new; what
// libraries of C allocate is not its business.
#pragma once

namespace nx::test {

/// While it exists, `new` throws std::bad_alloc in this thread. One at a time and thread.
class NoMemory {
public:
    NoMemory() noexcept;
    ~NoMemory();
    NoMemory(const NoMemory &) = delete;
    NoMemory &
    operator=(const NoMemory &) = delete;
};

} // namespace nx::test
