// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "memory/side.h"

#include <algorithm>
#include <bit>
#include <cstdio>

#include "base/mutex.h"

namespace nx::memory {

namespace {

constexpr uint64_t kElementsMax = INT32_MAX;
// From so many elements on a run takes less than half the memory of rows.
constexpr size_t kRunElementsMin = 8;
// So many runs are searched as they are.
constexpr size_t kRunsSearchedMax = 64;

std::string
describe(uint64_t element, const nixlBasicDesc &range) {
    char text[160];
    std::snprintf(text, sizeof text, "element %llu (address 0x%llx, length %llu, device %llu)",
                  static_cast<unsigned long long>(element), static_cast<unsigned long long>(range.addr),
                  static_cast<unsigned long long>(range.len), static_cast<unsigned long long>(range.devId));
    return text;
}

} // namespace

class Side::Resolver {
public:
    Resolver(const RangeIndex &index, Side &side, size_t expected, Face face)
        : side_(side),
          cursor_(index),
          expected_(expected),
          face_(face),
          numbers_(index.leafCount()) {}

    Status
    add(const nixlBasicDesc &range) {
        const uint64_t end = range.addr + range.len;
        if (end < range.addr) {
            return {NIXL_ERR_INVALID_PARAM, describe(side_.size_, range) + " passes the end of the address space"};
        }
        if (!last_.covers(range.devId, range.addr, end)) {
            const auto *entry = cursor_.covering(range);
            if (!entry) return addCut(range);
            use(*entry);
        }
        append(range.addr, range.len, last_.number);
        return {};
    }

    Status
    add(const nixlStrideDesc &blocks) {
        if (blocks.count == 0) return {};
        uint64_t extent;
        const bool wraps = __builtin_mul_overflow(blocks.count - 1, blocks.stride, &extent) ||
            __builtin_add_overflow(extent, blocks.len, &extent) || blocks.addr + extent < blocks.addr;
        if (wraps || blocks.count > kElementsMax - side_.size_) {
            return {NIXL_ERR_INVALID_PARAM,
                    describe(side_.size_, blocks) + " with stride " + std::to_string(blocks.stride) + " and count " +
                        std::to_string(blocks.count) + " passes the end of the address space or of 2^31 - 1 elements"};
        }
        const auto *entry =
            blocks.count < kRunElementsMin ? nullptr : cursor_.covering({blocks.addr, extent, blocks.devId});
        if (entry) {
            use(*entry);
            side_.runs_.push_back({side_.size_, blocks.addr, blocks.len, blocks.stride, blocks.count, last_.number});
            side_.size_ += blocks.count;
            return {};
        }
        for (size_t i = 0; i < blocks.count; ++i) {
            auto status = add(nixlBasicDesc(blocks.addr + i * blocks.stride, blocks.len, blocks.devId));
            if (!status.ok()) return status;
        }
        return {};
    }

private:
    /// The window that the last element was found in.
    struct Known {
        uint64_t device = 0;
        uint64_t begin = 1; // covers nothing
        uint64_t end = 0;
        uint32_t number = 0;

        bool
        covers(uint64_t of_device, uint64_t first, uint64_t behind) const noexcept {
            return device == of_device && begin <= first && behind <= end;
        }
    };

    /// Requires that it is what the cursor found last.
    void
    use(const RangeIndex::Entry &entry) {
        const auto [leaf, place] = cursor_.position();
        auto &numbers = numbers_[leaf];
        if (!numbers) numbers = std::make_unique<uint32_t[]>(side_.index_.leafSize(leaf));
        uint32_t &number = numbers[place];
        if (number == 0) {
            const auto &mapping = *entry.window->mapping;
            side_.windows_.push_back(entry.window.get());
            side_.segments_.push_back(
                {face_ == Face::kToSelf ? mapping.remote_face : mapping.metadata, entry.range.devId});
            number = static_cast<uint32_t>(side_.windows_.size());
        }
        last_ = {entry.range.devId, entry.range.addr, entry.end(), number - 1};
    }

    // Elements go into a table until enough of them in a row have one stride.
    void
    append(uint64_t address, uint64_t length, uint32_t window) {
        auto &runs = side_.runs_;
        if (runs.empty() || !continues(runs.back(), address, length, window)) {
            if (length > UINT32_MAX) {
                runs.push_back({side_.size_, address, length, 0, 0, window});
            } else {
                appendRow(address, static_cast<uint32_t>(length), window);
            }
        }
        ++runs.back().count;
        ++side_.size_;
        if (alike_ == kRunElementsMin) foldRows();
    }

    static bool
    continues(const Run &run, uint64_t address, uint64_t length, uint32_t window) noexcept {
        return run.window == window && run.length == length && address == run.address + run.count * run.stride;
    }

    void
    appendRow(uint64_t address, uint32_t length, uint32_t window) {
        auto &rows = side_.rows_;
        if (side_.runs_.empty() || side_.runs_.back().window != kTable) {
            side_.runs_.push_back({side_.size_, rows.size(), 0, 0, 0, kTable});
            alike_ = 0;
        }
        uint64_t stride = 0;
        if (alike_ > 0 && rows.back().window == window && rows.back().length == length) {
            stride = address - rows.back().address;
            alike_ = alike_ == 1 || stride == stride_ ? alike_ + 1 : 2;
        } else {
            alike_ = 1;
        }
        stride_ = stride;
        if (rows.size() == rows.capacity()) {
            // Where a list has no pattern at its beginning, it has none in the rest.
            rows.reserve(rows.empty() ? kRunElementsMin : std::max(rows.size() * 2, expected_));
        }
        rows.push_back({address, length, window});
    }

    // Makes a run of the last rows of the table, which have one stride.
    void
    foldRows() {
        auto &runs = side_.runs_;
        auto &rows = side_.rows_;
        const Row start = rows[rows.size() - alike_];
        rows.resize(rows.size() - alike_);
        runs.back().count -= alike_;
        if (runs.back().count == 0) runs.pop_back();
        runs.push_back({side_.size_ - alike_, start.address, start.length, stride_, alike_, start.window});
        alike_ = 0;
    }

    // No single window covers the element: cut it where windows touch.
    Status
    addCut(const nixlBasicDesc &range) {
        const size_t first_piece = side_.pieces_.size();
        uint64_t at = range.addr;
        const uint64_t end = range.addr + range.len;
        do {
            const auto *entry = cursor_.reachingFurthest(range.devId, at);
            if (!entry || entry->end() <= at) {
                side_.pieces_.resize(first_piece);
                std::string sentence = describe(side_.size_, range) + " is not inside registered memory";
                if (at != range.addr) sentence += ": only its first " + std::to_string(at - range.addr) + " bytes are";
                return {NIXL_ERR_NOT_FOUND, std::move(sentence)};
            }
            use(*entry);
            const uint64_t piece_end = std::min(end, entry->end());
            side_.pieces_.push_back({at, piece_end - at, last_.number});
            at = piece_end;
        } while (at < end);
        side_.runs_.push_back({side_.size_, first_piece, range.len, side_.pieces_.size() - first_piece, 1, kCut});
        ++side_.size_;
        return {};
    }

    Side &side_;
    RangeIndex::Cursor cursor_;
    const size_t expected_; // elements in all
    const Face face_;
    Known last_; // nearly always the window of the next element, too
    // Per leaf and entry of the index: the number of its window plus 1; 0: none yet.
    std::vector<std::unique_ptr<uint32_t[]>> numbers_;
    size_t alike_ = 0; // how many rows at the end of the table have one length, one window and one stride
    uint64_t stride_ = 0;
};

template<class Desc>
Result<Side>
Side::resolveAll(const RangeIndex &index, std::span<const Desc> elements, Face face) {
    if (elements.size() > kElementsMax) {
        return {NIXL_ERR_INVALID_PARAM, "the list has more than 2^31 - 1 elements"};
    }
    Side side;
    side.index_ = index;
    Resolver resolver(index, side, elements.size(), face);
    for (const auto &element : elements) {
        auto status = resolver.add(element);
        if (!status.ok()) return status;
    }
    side.runs_.shrink_to_fit();
    side.rows_.shrink_to_fit();
    side.windows_.shrink_to_fit();
    side.segments_.shrink_to_fit();
    side.fillStarts();
    return side;
}

void
Side::fillStarts() {
    if (runs_.size() < kRunsSearchedMax) return;
    bucket_shift_ = std::bit_width(size_ / runs_.size()) - 1;
    starts_.resize(((size_ - 1) >> bucket_shift_) + 1);
    uint32_t run = 0;
    for (uint64_t bucket = 0; bucket < starts_.size(); ++bucket) {
        while (runs_[run].first + runs_[run].count <= bucket << bucket_shift_) ++run;
        starts_[bucket] = run;
    }
}

Result<Side>
Side::resolve(const RangeIndex &index, std::span<const nixlBasicDesc> elements, Face face) {
    return resolveAll(index, elements, face);
}

Result<Side>
Side::resolve(const RangeIndex &index, std::span<const nixlStrideDesc> elements, Face face) {
    return resolveAll(index, elements, face);
}

const Side::Run &
Side::findRun(uint64_t index, size_t &hint) const noexcept {
    auto from = runs_.begin(), to = runs_.end();
    if (!starts_.empty()) {
        const uint64_t bucket = index >> bucket_shift_;
        from = runs_.begin() + starts_[bucket];
        if (bucket + 1 < starts_.size()) to = runs_.begin() + starts_[bucket + 1] + 1;
    }
    const auto behind = std::upper_bound(from, to, index, [](uint64_t i, const Run &run) { return i < run.first; });
    hint = static_cast<size_t>(behind - runs_.begin()) - 1;
    return runs_[hint];
}

uint64_t
Side::bytesOf(std::span<const int> indices) const noexcept {
    uint64_t bytes = 0;
    size_t hint = 0;
    for (const int signed_index : indices) {
        const auto index = static_cast<uint64_t>(static_cast<int64_t>(signed_index));
        if (index < size_) bytes += element(runOf(index, hint), index).length;
    }
    return bytes;
}

std::span<const nixlx::Segment>
Side::segmentsToSelf() const {
    static Mutex mutex;
    const MutexLock lock(mutex);
    if (!segments_to_self_) {
        std::vector<nixlx::Segment> made;
        made.reserve(segments_.size());
        for (size_t i = 0; i < segments_.size(); ++i) {
            made.push_back({windows_[i]->mapping->remote_face, segments_[i].device_id});
        }
        segments_to_self_ = std::make_shared<const std::vector<nixlx::Segment>>(std::move(made));
    }
    return *segments_to_self_;
}

bool
Side::stale() const noexcept {
    return std::any_of(windows_.begin(), windows_.end(), [](const Window *window) { return window->revoked(); });
}

size_t
Side::memoryBytes() const noexcept {
    return runs_.capacity() * sizeof(Run) + rows_.capacity() * sizeof(Row) + pieces_.capacity() * sizeof(Extent) +
        windows_.capacity() * sizeof(windows_[0]) + segments_.capacity() * sizeof(segments_[0]) +
        starts_.capacity() * sizeof(starts_[0]);
}

} // namespace nx::memory
