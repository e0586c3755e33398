// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A place in a plan, which is moved in pieces of blocks. Owned by one caller.
#pragma once

#include <algorithm>
#include <cstdint>

#include "nixlx/engine.h"

namespace nx::kit {

struct Cursor {
    const nixlx::Run *run = nullptr;
    uint64_t block = 0;  ///< in the run
    uint64_t offset = 0; ///< in the block
    uint64_t blocks_left = 0;

    /// Of the next piece, at most `piece_bytes`, and never beyond its block. Requires that there is one.
    uint64_t
    nextLength(uint64_t piece_bytes) {
        while (run->count == 0) ++run;
        return std::min(run->length - offset, piece_bytes);
    }

    void
    step(uint64_t length) {
        offset += length;
        if (offset < run->length) return;
        offset = 0;
        --blocks_left;
        if (++block == run->count) {
            block = 0;
            ++run;
        }
    }
};

} // namespace nx::kit
