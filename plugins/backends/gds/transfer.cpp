// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "gds/transfer.h"

#include "kit/file_plan.h"

namespace nx::gds {

namespace {

const FileMemory &
fileOf(const nixlx::Plan &plan, const nixlx::Run &run) noexcept {
    const nixlx::Segment &segment =
        kit::filesAreLocal(plan) ? plan.local_segments[run.local_segment] : plan.remote_segments[run.remote_segment];
    return *static_cast<const FileMemory *>(segment.metadata);
}

const Memory &
memoryOf(const nixlx::Plan &plan, const nixlx::Run &run) noexcept {
    const nixlx::Segment &segment =
        kit::filesAreLocal(plan) ? plan.remote_segments[run.remote_segment] : plan.local_segments[run.local_segment];
    return *static_cast<const Memory *>(segment.metadata);
}

} // namespace

Transfer::Transfer(const nixlx::Plan &plan)
    : plan_(plan),
      files_are_local_(kit::filesAreLocal(plan)),
      writes_(kit::writesFiles(plan)) {
    if (!writes_) return;
    for (const nixlx::Run &run : plan.runs) {
        const kit::File &file = *fileOf(plan, run).file;
        if (!file.readOnly()) continue;
        refusal_ = {NIXL_ERR_NOT_ALLOWED, file.name() + " is open for reading only; register it for writing"};
        return;
    }
}

void
Transfer::rewind() noexcept {
    cursor_ = last_ = {plan_.runs.data(), 0, 0, plan_.block_count};
    users = 0;
    left_out = queued = false;
}

Piece
Transfer::next(uint64_t length_max) noexcept {
    last_ = cursor_;
    Piece piece{.transfer = this};
    while (!atEnd() && piece.length == 0) {
        piece.length = cursor_.nextLength(length_max);
        const nixlx::Run &run = *cursor_.run;
        const uint64_t local = run.local + cursor_.block * run.local_stride + cursor_.offset;
        const uint64_t remote = run.remote + cursor_.block * run.remote_stride + cursor_.offset;
        piece.file = &fileOf(plan_, run);
        piece.context = memoryOf(plan_, run).context;
        piece.memory = reinterpret_cast<char *>(files_are_local_ ? remote : local);
        piece.offset = files_are_local_ ? local : remote;
        cursor_.step(piece.length);
    }
    return piece;
}

} // namespace nx::gds
