// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Which mutexes a thread takes. A test program that names lock_watch.cpp among its sources has its own
// pthread_mutex_lock and pthread_mutex_trylock, which all libraries but the C library itself find before that one's.
#pragma once

#include <cstddef>
#include <set>

namespace nx::test {

/// While it exists, the mutexes that this thread takes are noted. One at a time and thread.
class LockWatch {
public:
    LockWatch() noexcept;
    ~LockWatch();
    LockWatch(const LockWatch &) = delete;
    LockWatch &
    operator=(const LockWatch &) = delete;

    /// Their addresses.
    std::set<const void *>
    taken() const;

    /// False under the thread sanitizer, which needs these functions for itself.
    static bool
    works() noexcept;
};

} // namespace nx::test
