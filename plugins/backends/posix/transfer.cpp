// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "posix/transfer.h"

#include <algorithm>

namespace nx::posix {

Transfer::Transfer(const nixlx::Plan &plan, bool durable)
    : pieces(plan),
      plan_(plan),
      writes_((plan.operation == NIXL_WRITE) != pieces.filesAreLocal()) {
    if (!writes_) return;
    for (const nixlx::Run &run : plan.runs) {
        kit::File *const file = pieces.fileOf(run).file.get();
        if (!to_sync.empty() && to_sync.back() == file) continue;
        if (file->readOnly() && refusal_.ok()) {
            refusal_ = {NIXL_ERR_NOT_ALLOWED, file->name() + " is open for reading only; register it for writing"};
        }
        to_sync.push_back(file);
    }
    if (!durable) to_sync.clear();
    std::sort(to_sync.begin(), to_sync.end());
    to_sync.erase(std::unique(to_sync.begin(), to_sync.end()), to_sync.end());
}

Status
Transfer::validate(const nixlx::Plan &plan) {
    const bool files_are_local = plan.local_memory != DRAM_SEG;
    for (const nixlx::Run &run : plan.runs) {
        if (run.count == 0) continue;
        const uint64_t first = files_are_local ? run.local : run.remote;
        const uint64_t stride = files_are_local ? run.local_stride : run.remote_stride;
        for (const uint64_t offset : {first, first + (run.count - 1) * stride}) {
            if (offset <= INT64_MAX && run.length <= INT64_MAX - offset) continue;
            return {NIXL_ERR_INVALID_PARAM,
                    std::to_string(run.length) + " bytes at offset " + std::to_string(offset) +
                        ": no file reaches so far; the offset is negative, or has wrapped around"};
        }
    }
    return {};
}

void
Transfer::rewind() noexcept {
    pieces.restart();
    stage = Stage::kMove;
    in_flight = bytes_in_flight = 0;
    synced = 0;
    open = nullptr;
    is_active = left_out = false;
}

bool
Transfer::hasMore() noexcept {
    if (stage == Stage::kMove) {
        if (!pieces.atEnd()) return true;
        if (in_flight > 0) return false;
        stage = to_sync.empty() ? Stage::kEnd : Stage::kSync;
    }
    if (stage == Stage::kSync && synced == to_sync.size() && in_flight == 0) stage = Stage::kEnd;
    return stage == Stage::kSync && synced < to_sync.size();
}

} // namespace nx::posix
