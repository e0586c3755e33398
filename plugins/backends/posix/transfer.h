// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// One request: which part of its plan comes next, and what is left to be done when that has come to its end.
//
//   stage        begins when what was before is done        moves
//   kBuffered    it is posted                               what goes through the page cache
//   kDirect      there are files for direct I/O             whole pages of those
//   kSync        it is to be durable                        nothing: files are synced
//   kEnd         nothing is left to begin                   nothing: it is final
//
// A page that is written both ways at once could lose bytes, so that no stage begins before the one before it is done:
// in another order than that of the plan all the same, which promises none.
//
// What the mover needs (mover.h) is guarded by the mover's mutex while the request is posted; the rest is immutable.
#pragma once

#include <cstddef>
#include <vector>

#include "kit/request_base.h"
#include "posix/pieces.h"

namespace nx::posix {

class Mover;
struct OpenFile;

inline constexpr uint64_t kSmallReadBytes = uint64_t{256} << 10;
inline constexpr uint64_t kSmallReadBlocks = 64;

class Transfer final : public kit::RequestBase {
public:
    /// `plan` outlives it. `durable`: what it writes is on the device before it succeeds.
    Transfer(const nixlx::Plan &plan, bool durable);

    bool
    writes() const noexcept {
        return writes_;
    }

    /// It reads so little by way of the page cache that, if all is there, it may be read at once.
    bool
    isSmallRead() const noexcept {
        return is_small_read_;
    }

    /// Why it cannot be posted: it would write to what was opened for reading.
    const Status &
    refusal() const noexcept {
        return refusal_;
    }

    // ---- For the mover

    enum class Stage : uint8_t { kBuffered, kDirect, kSync, kEnd };

    /// As posted anew.
    void
    rewind() noexcept;

    /// To the next stage, as long as the present one has nothing to begin and nothing in flight. False: it is at the
    /// last one.
    bool
    hasMore() noexcept;

    /// It belongs to the present stage.
    bool
    wants(const Piece &piece) const noexcept {
        return piece.direct == (stage == Stage::kDirect);
    }

    Pieces pieces;
    Stage stage = Stage::kEnd;
    size_t in_flight = 0; ///< operations
    uint64_t bytes_in_flight = 0;
    size_t synced = 0;        ///< of to_sync, begun
    OpenFile *open = nullptr; ///< the one used last, while it is in use
    bool is_active = false;   ///< in the mover's list
    bool left_out = false;    ///< something that was begun was given up
    Transfer *next = nullptr; ///< in the mover's list
    std::vector<kit::File *> to_sync;

private:
    const bool writes_;
    bool has_buffered_ = false, has_direct_ = false;
    bool is_small_read_ = false;
    Status refusal_;
};

} // namespace nx::posix
