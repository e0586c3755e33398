// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What we add for clients: the sentence behind a status, and what became of a request.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "nixl_types.h"

#pragma GCC visibility push(default)

namespace nixlx {

/// Why one backend was or was not chosen for a request.
struct Candidate {
    std::string backend;
    bool chosen = false;
    double predicted_us = -1; ///< predicted duration in microseconds; negative when the backend predicts nothing
    std::string reason;       ///< for example "cheapest of 2" or "no registration covers element 3 of the local list"
};

/// Snapshot of one request.
struct Report {
    nixl_status_t status = NIXL_ERR_NOT_POSTED;
    std::string backend;               ///< backend that serves it, as queryXferBackend answers
    std::string path;                  ///< how, in the backend's words, for example "ucx 1.13.1, shared memory", behind
                                       ///< the name of a companion that does it in its stead: "SHM: ..."
    std::vector<Candidate> candidates; ///< in the order they were considered
    uint64_t total_bytes = 0;
    uint64_t descriptor_count = 0; ///< after merging
    uint64_t bytes_done = 0;       ///< moved by the last post, as far as the backend knows
    uint64_t attempts = 0;         ///< times posted
    bool settling = false;         ///< cancelled, buffers not quiet yet
    bool stuck = false;            ///< settling for longer than the settle guard (150 ms)
    std::string error;             ///< the sentence of a failed request, empty otherwise
};

/// The sentence of the last failed call of this thread, empty if none failed yet. Valid until the thread's next call.
const std::string &
lastError() noexcept;

} // namespace nixlx

#pragma GCC visibility pop
