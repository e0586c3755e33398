// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A plan cut into what one operation moves: blocks that lie side by side in a file become one piece, long blocks
// several. What direct I/O cannot do, the ends of a stretch that are no whole pages, are pieces of their own. Lazily
// and always in the same way. Owned by one caller.
#pragma once

#include <cstdint>
#include <sys/uio.h>

#include "kit/cursor.h"
#include "nixlx/engine.h"
#include "posix/memory.h"

namespace nx::posix {

/// Small enough that who cancels a request does not wait for long; the kernel cuts what is longer than 2 GiB.
inline constexpr uint64_t kPieceBytes = uint64_t{1} << 20;

struct Piece {
    const FileMemory *file = nullptr;
    uint64_t offset = 0;
    uint64_t length = 0;
    uint32_t vector_count = 0;
    bool direct = false; ///< whole pages of a file that is opened for direct I/O
};

class Pieces {
public:
    /// `plan` outlives it.
    explicit Pieces(const nixlx::Plan &plan);

    /// Files are on the local side of the plan.
    bool
    filesAreLocal() const noexcept {
        return files_are_local_;
    }

    /// From the first one on.
    void
    restart() noexcept;

    /// Nothing is left.
    bool
    atEnd() const noexcept {
        return cursor_.blocks_left == 0;
    }

    /// The next piece, its memory in `vectors`, which has room for kVectorsMax. Length 0: there was none.
    Piece
    next(iovec *vectors) noexcept;

    /// The last piece comes again.
    void
    putBack() noexcept {
        cursor_ = last_;
    }

    const FileMemory &
    fileOf(const nixlx::Run &run) const noexcept;

    uint64_t
    offsetOf(const nixlx::Run &run) const noexcept {
        return files_are_local_ ? run.local : run.remote;
    }

    uint64_t
    strideOf(const nixlx::Run &run) const noexcept {
        return files_are_local_ ? run.local_stride : run.remote_stride;
    }

private:
    Piece
    gather(iovec *vectors, uint64_t bytes_max) noexcept;

    const nixlx::Plan &plan_;
    const bool files_are_local_;
    kit::Cursor cursor_;
    kit::Cursor last_; ///< where the last piece began
};

} // namespace nx::posix
