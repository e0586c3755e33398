// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A libcuda.so.1 and a libcufile.so.0 for tests: memory of GPUs lies in the host's, cuFile's files are read and written
// with pread and pwrite, and both fail as a test wishes. A test finds the functions below in the library by their
// names. Self-synchronised.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nx::gds::test {

inline constexpr int kGpuCount = 2;

/// What cuFile's double does wrong from now on. Zero: nothing.
struct Faults {
    uint64_t seed = 1;       ///< of what happens by chance
    uint64_t only_inode = 0; ///< reads, writes and events of one file; 0: of all
    int open_error = 0;      ///< of cuFileDriverOpen; the same for the following
    int file_error = 0;      ///< registration of files
    int buffer_error = 0;    ///< registration of memory
    int setup_error = 0;     ///< new batches
    int submit_error = 0;    ///< submissions of batches, of which half of the entries have been begun
    int status_error = 0;    ///< answers to what has become of a batch
    int io_error = 0;        ///< an errno, or a code of cuFile's: what `error_percent` end with
    unsigned error_percent = 0;
    unsigned short_percent = 0; ///< of reads and writes that move a part only
    int event_status = 0;       ///< what `event_percent` of the events are; nothing is moved
    unsigned event_percent = 0;
    bool few_events = false; ///< an answer has one event at most, and events before the last one of an entry
    bool held = false;       ///< reads and writes wait
};

/// What there is, and what has been.
struct Counts {
    int drivers_open = 0;
    int files = 0;
    int buffers = 0;
    int batches = 0;
    int contexts = 0; ///< retained
    unsigned submissions = 0;
    unsigned entries_max = 0; ///< of a submission
    size_t piece_max = 0;     ///< bytes of a read or write
    unsigned failed = 0;      ///< reads, writes and events that failed as a test wished
    unsigned waiting = 0;     ///< reads and writes that are held
    char violation[200] = {}; ///< the first thing that a caller must not do
};

using SetFaults = void(const Faults &);
using GetCounts = Counts();

} // namespace nx::gds::test
