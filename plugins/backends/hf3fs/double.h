// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A libhf3fs_api_shared.so for tests: any directory with a folder 3fs-virt/iovs is a mount, its files are read and
// written with pread and pwrite, memory that a program lends is mapped by its link, as 3FS does, and all fails as a
// test wishes. A test finds the functions below in the library by their names. Self-synchronised.
#pragma once

#include <cstdint>

namespace nx::hf3fs::test {

/// What the double does wrong from now on. Zero: nothing.
struct Faults {
    uint64_t seed = 1;       ///< of what happens by chance
    uint64_t only_inode = 0; ///< I/Os of one file; 0: of all
    bool foreign = false;    ///< files are not on 3FS
    int file_error = 0;      ///< registration of files, an errno; the same for the following
    int room_error = 0;      ///< new memory of the library's
    int wrap_error = 0;      ///< memory that is lent
    int ring_error = 0;      ///< new rings
    int prep_error = 0;      ///< what `prep_percent` of the preparations answer
    unsigned prep_percent = 0;
    int submit_error = 0; ///< submissions
    int wait_error = 0;   ///< waiting
    int io_error = 0;     ///< what `error_percent` of the I/Os end with
    unsigned error_percent = 0;
    unsigned short_percent = 0; ///< of I/Os that move a part only
    bool few = false;           ///< one I/O ends for each time that somebody waits
    bool held = false;          ///< no I/O ends
};

/// What there is, and what has been.
struct Counts {
    int files = 0;
    int rooms = 0;
    int rings = 0;
    unsigned lent = 0;     ///< so far
    unsigned straight = 0; ///< I/Os from and to memory that was lent
    unsigned copied = 0;   ///< others
    unsigned failed = 0;   ///< as a test wished
    unsigned waiting = 0;  ///< I/Os that are held
    unsigned in_flight_max = 0;
    char violation[200] = {}; ///< the first thing that a caller must not do
};

using SetFaults = void(const Faults &);
using GetCounts = Counts();

} // namespace nx::hf3fs::test
