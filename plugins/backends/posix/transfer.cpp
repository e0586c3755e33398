// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "posix/transfer.h"

#include <algorithm>

namespace nx::posix {

Transfer::Transfer(const nixlx::Plan &plan, bool durable)
    : pieces(plan),
      writes_((plan.operation == NIXL_WRITE) != pieces.filesAreLocal()) {
    for (const nixlx::Run &run : plan.runs) {
        const FileMemory &memory = pieces.fileOf(run);
        const uint64_t page = memory.alignment.page;
        const auto whole = [&](uint64_t bytes) { return page > 0 && bytes % page == 0; };
        has_direct_ = has_direct_ || page > 0;
        has_buffered_ = has_buffered_ || !whole(pieces.offsetOf(run)) || !whole(run.length) ||
            (run.count > 1 && !whole(pieces.strideOf(run)));
        if (!writes_) continue;
        kit::File *const file = memory.file.get();
        if (!to_sync.empty() && to_sync.back() == file) continue;
        if (file->readOnly() && refusal_.ok()) {
            refusal_ = {NIXL_ERR_NOT_ALLOWED, file->name() + " is open for reading only; register it for writing"};
        }
        to_sync.push_back(file);
    }
    is_small_read_ =
        !writes_ && !has_direct_ && plan.total_bytes <= kSmallReadBytes && plan.block_count <= kSmallReadBlocks;
    if (!durable) to_sync.clear();
    std::sort(to_sync.begin(), to_sync.end());
    to_sync.erase(std::unique(to_sync.begin(), to_sync.end()), to_sync.end());
}

void
Transfer::rewind() noexcept {
    pieces.restart();
    stage = has_buffered_ ? Stage::kBuffered : Stage::kDirect;
    in_flight = bytes_in_flight = 0;
    synced = 0;
    open = nullptr;
    is_active = left_out = false;
}

bool
Transfer::hasMore() noexcept {
    if (stage == Stage::kBuffered || stage == Stage::kDirect) {
        if (!pieces.atEnd()) return true;
        if (in_flight > 0) return false;
        if (stage == Stage::kBuffered && has_direct_) {
            stage = Stage::kDirect;
            pieces.restart();
            return true;
        }
        stage = to_sync.empty() ? Stage::kEnd : Stage::kSync;
    }
    if (stage == Stage::kSync && synced == to_sync.size() && in_flight == 0) stage = Stage::kEnd;
    return stage == Stage::kSync && synced < to_sync.size();
}

} // namespace nx::posix
