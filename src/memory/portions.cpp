// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "memory/portions.h"

#include <algorithm>

namespace nx::memory {

Portion
Portions::next() {
    Portion portion;
    uint64_t blocks_left = limits_.blocks;
    while (!runs_.empty() && blocks_left > 0) {
        const nixlx::Run &run = runs_.front();
        if (block_ == run.count || run.length == 0) {
            block_ = 0;
            runs_ = runs_.subspan(1);
            continue;
        }
        const uint64_t room = limits_.bytes - std::min(limits_.bytes, portion.bytes);
        uint64_t length = run.length - offset_, count = 1;
        if (length <= room) {
            if (offset_ == 0) count = std::min({run.count - block_, room / length, blocks_left});
        } else if (portion.bytes > 0) {
            break;
        } else if (!limits_.whole_blocks) {
            length = room;
        }
        portion.runs.push_back({run.local + block_ * run.local_stride + offset_,
                                run.remote + block_ * run.remote_stride + offset_, length, run.local_stride,
                                run.remote_stride, count, run.local_segment, run.remote_segment});
        portion.bytes += length * count;
        blocks_left -= count;
        offset_ = offset_ + length < run.length ? offset_ + length : 0;
        if (offset_ == 0) block_ += count;
    }
    return portion;
}

} // namespace nx::memory
