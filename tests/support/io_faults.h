// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What a system may do to reads and writes of files and seldom does: interruptions, short ones, errors. The program's
// own preadv() and pwritev() stand in for those of the C library, in plugins too, and harm as a seed says. Calls of
// these are harmed only, not io_uring and AIO. The program has ENABLE_EXPORTS. Any thread.
#pragma once

#include <cstdint>
#include <sys/types.h>

namespace nx::test {

/// While it exists. One at a time; calls may come from any thread.
class IoFaults {
public:
    /// `failing`: the inode whose reads and writes fail now and then, with EIO.
    IoFaults(uint64_t seed, ino_t failing);
    ~IoFaults();
    IoFaults(const IoFaults &) = delete;
    IoFaults &
    operator=(const IoFaults &) = delete;

    struct Counts {
        uint64_t calls, interrupted, cut, failed;
    };
    Counts
    counts() const;
};

} // namespace nx::test
