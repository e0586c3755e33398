// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "posix/pieces.h"

#include <algorithm>

#include "posix/queue.h"

namespace nx::posix {

Pieces::Pieces(const nixlx::Plan &plan) : plan_(plan), files_are_local_(plan.local_memory != DRAM_SEG) {
    restart();
}

void
Pieces::restart() noexcept {
    cursor_ = last_ = {plan_.runs.data(), 0, 0, plan_.block_count};
}

const FileMemory &
Pieces::fileOf(const nixlx::Run &run) const noexcept {
    const nixlx::Segment &segment =
        files_are_local_ ? plan_.local_segments[run.local_segment] : plan_.remote_segments[run.remote_segment];
    return *static_cast<const FileMemory *>(segment.metadata);
}

Piece
Pieces::next(iovec *vectors) noexcept {
    last_ = cursor_;
    Piece piece = gather(vectors, kPieceBytes);
    const uint64_t page = piece.length > 0 ? piece.file->alignment.page : 0;
    if (page == 0) return piece;
    const uint64_t begin = piece.offset % page;
    uint64_t kept = piece.length;
    if (begin > 0) {
        kept = std::min(kept, page - begin);
    } else if (kept >= page) {
        kept -= kept % page;
        piece.direct = true;
    }
    if (kept < piece.length) {
        const bool direct = piece.direct;
        cursor_ = last_;
        piece = gather(vectors, kept);
        piece.direct = direct;
    }
    return piece;
}

Piece
Pieces::gather(iovec *vectors, uint64_t bytes_max) noexcept {
    Piece piece;
    const nixlx::Run *run = nullptr;
    const FileMemory *file = nullptr;
    while (cursor_.blocks_left > 0 && piece.length < bytes_max) {
        const uint64_t length = cursor_.nextLength(bytes_max - piece.length);
        if (run != cursor_.run) {
            run = cursor_.run;
            file = &fileOf(*run);
        }
        const uint64_t local = run->local + cursor_.block * run->local_stride + cursor_.offset;
        const uint64_t remote = run->remote + cursor_.block * run->remote_stride + cursor_.offset;
        const uint64_t offset = files_are_local_ ? local : remote;
        auto *const memory = reinterpret_cast<char *>(files_are_local_ ? remote : local);
        if (length > 0) {
            if (piece.length == 0) {
                piece.file = file;
                piece.offset = offset;
            } else if (offset != piece.offset + piece.length || file->file != piece.file->file) {
                break;
            }
            iovec *const last = vectors + piece.vector_count - 1;
            if (piece.vector_count > 0 && static_cast<char *>(last->iov_base) + last->iov_len == memory) {
                last->iov_len += length;
            } else if (piece.vector_count == kVectorsMax) {
                break;
            } else {
                vectors[piece.vector_count++] = {memory, length};
            }
            piece.length += length;
        }
        cursor_.step(length);
    }
    return piece;
}

} // namespace nx::posix
