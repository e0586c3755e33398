// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "memory/portions.h"

#include <algorithm>

namespace nx::memory {

/// The runs from here on that lie in one segment.
Portions::Group
Portions::group() const {
    const auto segmentOf = [this](const nixlx::Run &run) {
        return limits_.whole == PortionLimits::Whole::kLocalSegments ? run.local_segment : run.remote_segment;
    };
    Group group;
    for (const auto &run : runs_) {
        if (segmentOf(run) != segmentOf(runs_.front())) break;
        ++group.runs;
        group.bytes += run.length * run.count;
        group.blocks += run.count;
    }
    return group;
}

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
        if (limits_.whole != PortionLimits::Whole::kNothing && block_ == 0 && offset_ == 0) {
            const Group whole = group();
            if (whole.bytes <= limits_.whole_bytes_max) {
                if (portion.bytes > 0 && portion.bytes + whole.bytes > limits_.bytes) break;
                for (const auto &each : runs_.first(whole.runs)) {
                    if (each.length * each.count > 0) portion.runs.push_back(each);
                }
                portion.bytes += whole.bytes;
                blocks_left -= std::min(blocks_left, whole.blocks);
                runs_ = runs_.subspan(whole.runs);
                if (portion.bytes >= limits_.bytes) break;
                continue;
            }
        }
        const uint64_t room = limits_.bytes - std::min(limits_.bytes, portion.bytes);
        uint64_t length = run.length - offset_, count = 1;
        if (length <= room) {
            if (offset_ == 0) count = std::min({run.count - block_, room / length, blocks_left});
        } else if (portion.bytes > 0) {
            break;
        } else {
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
