// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/files/file_transfer.h"

#include "kit/files/file_plan.h"

namespace nx::kit {

namespace {

const FileMemory &
fileOf(const nixlx::Plan &plan, const nixlx::Run &run) noexcept {
    const nixlx::Segment &segment =
        filesAreLocal(plan) ? plan.local_segments[run.local_segment] : plan.remote_segments[run.remote_segment];
    return *static_cast<const FileMemory *>(segment.metadata);
}

const nixlBackendMD *
memoryOf(const nixlx::Plan &plan, const nixlx::Run &run) noexcept {
    const nixlx::Segment &segment =
        filesAreLocal(plan) ? plan.remote_segments[run.remote_segment] : plan.local_segments[run.local_segment];
    return segment.metadata;
}

} // namespace

FileTransfer::FileTransfer(const nixlx::Plan &plan)
    : plan_(plan),
      files_are_local_(filesAreLocal(plan)),
      writes_(writesFiles(plan)) {
    if (!writes_) return;
    for (const nixlx::Run &run : plan.runs) {
        const File &file = *fileOf(plan, run).file;
        if (!file.readOnly()) continue;
        refusal_ = {NIXL_ERR_NOT_ALLOWED, file.name() + " is open for reading only; register it for writing"};
        return;
    }
}

void
FileTransfer::rewind() noexcept {
    cursor_ = last_ = {plan_.runs.data(), 0, 0, plan_.block_count};
    users = 0;
    left_out = queued = false;
}

FilePiece
FileTransfer::next(uint64_t length_max) noexcept {
    last_ = cursor_;
    FilePiece piece{.transfer = this};
    while (!atEnd() && piece.length == 0) {
        piece.length = cursor_.nextLength(length_max);
        const nixlx::Run &run = *cursor_.run;
        const uint64_t local = run.local + cursor_.block * run.local_stride + cursor_.offset;
        const uint64_t remote = run.remote + cursor_.block * run.remote_stride + cursor_.offset;
        piece.file = &fileOf(plan_, run);
        piece.memory_metadata = memoryOf(plan_, run);
        piece.memory = reinterpret_cast<char *>(files_are_local_ ? remote : local);
        piece.offset = files_are_local_ ? local : remote;
        cursor_.step(piece.length);
    }
    return piece;
}

} // namespace nx::kit
