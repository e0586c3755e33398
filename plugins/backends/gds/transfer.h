// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// One request, cut into pieces. What the mover needs (mover.h) is guarded by the mover's mutex while the request is
// posted; the rest is immutable.
#pragma once

#include <cstdint>

#include "gds/memory.h"
#include "kit/cursor.h"
#include "kit/request_base.h"

namespace nx::gds {

class Transfer;

/// What one call of cuFile moves, or one entry of a batch. Owned by the thread that has taken it.
struct Piece {
    Transfer *transfer = nullptr;
    const FileMemory *file = nullptr;
    abi::Context context = nullptr; ///< of the memory
    char *memory = nullptr;
    uint64_t offset = 0; ///< in the file
    uint64_t length = 0;

    // What came of it:
    uint64_t done = 0;   ///< bytes
    bool failed = false; ///< it ended before its last byte, for the reason that code or event says
    int code = 0;        ///< an errno, or cuFile's; 0: the file ends there, or takes no more
    int event = 0;       ///< the status of a batch's event, if it was that
};

class Transfer final : public kit::RequestBase {
public:
    /// `plan` outlives it.
    explicit Transfer(const nixlx::Plan &plan);

    bool
    writes() const noexcept {
        return writes_;
    }

    /// Why it cannot be posted: it would write to what was opened for reading.
    const Status &
    refusal() const noexcept {
        return refusal_;
    }

    // ---- For the mover

    /// As posted anew.
    void
    rewind() noexcept;

    bool
    atEnd() const noexcept {
        return cursor_.blocks_left == 0;
    }

    /// The next piece, of `length_max` bytes at most. Length 0: nothing is left.
    Piece
    next(uint64_t length_max) noexcept;

    /// The last piece comes again.
    void
    putBack() noexcept {
        cursor_ = last_;
    }

    size_t users = 0;      ///< threads that have pieces of it
    bool left_out = false; ///< a piece was given up
    bool queued = false;   ///< it waits for a thread
    Transfer *next_queued = nullptr;

private:
    const nixlx::Plan &plan_;
    const bool files_are_local_, writes_;
    Status refusal_;
    kit::Cursor cursor_, last_; ///< where the next piece begins, and where the last one began
};

} // namespace nx::gds
