// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "memory/side.h"

#include <algorithm>
#include <cstdio>
#include <unordered_map>

namespace nx::memory {

namespace {

constexpr uint64_t kElementsMax = INT32_MAX;

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
    Resolver(const RangeIndex &index, Side &side) : index_(index), side_(side) {}

    Status
    add(const nixlBasicDesc &range) {
        const uint64_t end = range.addr + range.len;
        if (end < range.addr) {
            return {NIXL_ERR_INVALID_PARAM, describe(side_.size_, range) + " passes the end of the address space"};
        }
        // The window of the last element is nearly always the window of this one.
        if (!last_ || range.devId != last_->range.devId || range.addr < last_->range.addr || end > last_->end()) {
            const auto *entry = index_.covering(range);
            if (!entry) return addCut(range);
            use(entry);
        }
        append(range.addr, range.len, last_window_);
        return {};
    }

    Status
    add(const nixlStrideDesc &blocks) {
        if (blocks.count == 0) return {};
        uint64_t extent;
        const bool wraps = __builtin_mul_overflow(blocks.count - 1, blocks.stride, &extent) ||
            __builtin_add_overflow(extent, blocks.len, &extent) || blocks.addr + extent < blocks.addr;
        if (wraps || side_.size_ + blocks.count > kElementsMax) {
            return {NIXL_ERR_INVALID_PARAM,
                    describe(side_.size_, blocks) + " with stride " + std::to_string(blocks.stride) + " and count " +
                        std::to_string(blocks.count) + " passes the end of the address space or of 2^31 - 1 elements"};
        }
        if (const auto *entry = index_.covering({blocks.addr, extent, blocks.devId})) {
            use(entry);
            side_.runs_.push_back({side_.size_, blocks.addr, blocks.len, blocks.stride, blocks.count, last_window_});
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
    void
    use(const RangeIndex::Entry *entry) {
        last_ = entry;
        const auto [it, is_new] =
            numbers_.try_emplace(entry->window.get(), static_cast<uint32_t>(side_.windows_.size()));
        if (is_new) side_.windows_.push_back(entry->window);
        last_window_ = it->second;
    }

    void
    append(uint64_t address, uint64_t length, uint32_t window) {
        auto &runs = side_.runs_;
        if (!runs.empty()) {
            Run &run = runs.back();
            if (run.window == window && run.length == length) {
                // Any two elements make a run of two; the third confirms the stride or starts a run of its own.
                if (run.count == 1) {
                    run.stride = address - run.address;
                    run.count = 2;
                    ++side_.size_;
                    return;
                }
                if (address == run.address + run.count * run.stride) {
                    ++run.count;
                    ++side_.size_;
                    return;
                }
            }
        }
        runs.push_back({side_.size_, address, length, 0, 1, window});
        ++side_.size_;
    }

    // No single window covers the element: cut it where windows touch.
    Status
    addCut(const nixlBasicDesc &range) {
        const size_t first_piece = side_.pieces_.size();
        uint64_t at = range.addr;
        const uint64_t end = range.addr + range.len;
        do {
            const auto *entry = index_.reachingFurthest(range.devId, at);
            if (!entry || entry->end() <= at) {
                side_.pieces_.resize(first_piece);
                std::string sentence = describe(side_.size_, range) + " is not inside registered memory";
                if (at != range.addr) sentence += ": only its first " + std::to_string(at - range.addr) + " bytes are";
                return {NIXL_ERR_NOT_FOUND, std::move(sentence)};
            }
            use(entry);
            const uint64_t piece_end = std::min(end, entry->end());
            side_.pieces_.push_back({at, piece_end - at, last_window_});
            at = piece_end;
        } while (at < end);
        side_.runs_.push_back({side_.size_, first_piece, range.len, side_.pieces_.size() - first_piece, 1, kCut});
        ++side_.size_;
        return {};
    }

    const RangeIndex &index_;
    Side &side_;
    const RangeIndex::Entry *last_ = nullptr;
    uint32_t last_window_ = 0;
    std::unordered_map<const Window *, uint32_t> numbers_;
};

namespace {

template<class Desc, class Resolver>
Status
resolveAll(std::span<const Desc> elements, Resolver &resolver) {
    if (elements.size() > kElementsMax) {
        return {NIXL_ERR_INVALID_PARAM, "the list has more than 2^31 - 1 elements"};
    }
    for (const auto &element : elements) {
        auto status = resolver.add(element);
        if (!status.ok()) return status;
    }
    return {};
}

} // namespace

Result<Side>
Side::resolve(const RangeIndex &index, std::span<const nixlBasicDesc> elements) {
    Side side;
    Resolver resolver(index, side);
    auto status = resolveAll(elements, resolver);
    if (!status.ok()) return status;
    side.runs_.shrink_to_fit();
    return side;
}

Result<Side>
Side::resolve(const RangeIndex &index, std::span<const nixlStrideDesc> elements) {
    Side side;
    Resolver resolver(index, side);
    auto status = resolveAll(elements, resolver);
    if (!status.ok()) return status;
    side.runs_.shrink_to_fit();
    return side;
}

const Side::Run &
Side::findRun(uint64_t index, size_t &hint) const noexcept {
    if (runs_.size() == size_) {
        hint = index;
    } else {
        const auto behind = std::upper_bound(runs_.begin(), runs_.end(), index,
                                             [](uint64_t i, const Run &run) { return i < run.first; });
        hint = static_cast<size_t>(behind - runs_.begin()) - 1;
    }
    return runs_[hint];
}

bool
Side::stale() const noexcept {
    return std::any_of(windows_.begin(), windows_.end(), [](const auto &window) { return window->revoked(); });
}

size_t
Side::memoryBytes() const noexcept {
    return runs_.capacity() * sizeof(Run) + pieces_.capacity() * sizeof(Piece) +
        windows_.capacity() * sizeof(windows_[0]);
}

} // namespace nx::memory
