// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "memory/range_index.h"

#include <algorithm>
#include <unordered_set>

namespace nx::memory {

namespace {

bool
before(const RangeIndex::Entry &a, const RangeIndex::Entry &b) {
    return a.range < b.range;
}

} // namespace

void
RangeIndex::Leaf::rank() {
    best.resize(entries.size());
    for (uint32_t i = 0; i < entries.size(); ++i) {
        const bool continues = i > 0 && entries[i - 1].range.devId == entries[i].range.devId;
        best[i] = continues && entries[best[i - 1]].end() > entries[i].end() ? best[i - 1] : i;
    }
}

RangeIndex
RangeIndex::fromSorted(std::vector<Entry> entries) {
    RangeIndex index;
    // Leaves start three quarters full, so that the next few insertions do not split them.
    constexpr size_t fill = kLeafEntries * 3 / 4;
    for (size_t first = 0; first < entries.size(); first += fill) {
        auto leaf = std::make_shared<Leaf>();
        const size_t last = std::min(entries.size(), first + fill);
        leaf->entries.assign(std::make_move_iterator(entries.begin() + first),
                             std::make_move_iterator(entries.begin() + last));
        leaf->rank();
        index.leaves_.push_back({std::move(leaf)});
    }
    index.finish();
    return index;
}

// Recomputes what is derived from the leaves.
void
RangeIndex::finish() {
    size_ = 0;
    for (size_t i = 0; i < leaves_.size(); ++i) {
        auto &slot = leaves_[i];
        size_ += slot.leaf->entries.size();
        slot.carry = nullptr;
        if (i == 0) continue;
        const auto &previous = leaves_[i - 1];
        const Entry &last = previous.leaf->entries.back();
        if (last.range.devId != slot.leaf->entries.front().range.devId) continue;
        slot.carry = &previous.leaf->entries[previous.leaf->best.back()];
        const bool same_device = previous.carry && previous.carry->range.devId == last.range.devId;
        if (same_device && previous.carry->end() > slot.carry->end()) slot.carry = previous.carry;
    }
}

// The leaf that holds the last entry at or before `key`, or would hold it.
size_t
RangeIndex::leafFor(const nixlBasicDesc &key) const noexcept {
    const auto it = std::upper_bound(leaves_.begin(), leaves_.end(), key, [](const nixlBasicDesc &k, const Slot &slot) {
        return k < slot.leaf->entries.front().range;
    });
    return it == leaves_.begin() ? 0 : static_cast<size_t>(it - leaves_.begin()) - 1;
}

RangeIndex
RangeIndex::with(std::vector<std::shared_ptr<Window>> windows) const {
    std::vector<Entry> added;
    added.reserve(windows.size());
    for (auto &window : windows) {
        const nixlBasicDesc range = window->range;
        added.push_back({range, std::move(window)});
    }
    std::stable_sort(added.begin(), added.end(), before);

    if (leaves_.empty() || added.size() * 8 > size_) {
        std::vector<Entry> all;
        all.reserve(size_ + added.size());
        auto next = added.begin();
        forEach([&](const Entry &entry) {
            while (next != added.end() && before(*next, entry)) all.push_back(std::move(*next++));
            all.push_back(entry);
        });
        all.insert(all.end(), std::make_move_iterator(next), std::make_move_iterator(added.end()));
        return fromSorted(std::move(all));
    }

    RangeIndex index = *this;
    for (size_t i = 0; i < added.size();) {
        const size_t at = index.leafFor(added[i].range);
        auto leaf = std::make_shared<Leaf>(*index.leaves_[at].leaf);
        // All additions that belong to this leaf go in together.
        const bool is_last = at + 1 == index.leaves_.size();
        do {
            const auto where = std::upper_bound(leaf->entries.begin(), leaf->entries.end(), added[i], before);
            leaf->entries.insert(where, std::move(added[i]));
            ++i;
        } while (i < added.size() && leaf->entries.size() < kLeafEntries &&
                 (is_last || added[i].range < index.leaves_[at + 1].leaf->entries.front().range));
        if (leaf->entries.size() >= kLeafEntries) {
            auto upper = std::make_shared<Leaf>();
            const auto middle = leaf->entries.begin() + static_cast<ptrdiff_t>(leaf->entries.size() / 2);
            upper->entries.assign(std::make_move_iterator(middle), std::make_move_iterator(leaf->entries.end()));
            leaf->entries.erase(middle, leaf->entries.end());
            upper->rank();
            index.leaves_.insert(index.leaves_.begin() + static_cast<ptrdiff_t>(at) + 1, Slot{std::move(upper)});
        }
        leaf->rank();
        index.leaves_[at].leaf = std::move(leaf);
    }
    index.finish();
    return index;
}

RangeIndex
RangeIndex::without(std::span<const std::shared_ptr<Window>> windows) const {
    std::unordered_set<const Window *> gone;
    for (const auto &window : windows) gone.insert(window.get());
    const auto isGone = [&](const Entry &entry) { return gone.contains(entry.window.get()); };

    RangeIndex index = *this;
    for (const auto &window : windows) {
        // Equal ranges may lie in several leaves: start at the first that can hold one.
        size_t at = index.leafFor({window->range.addr, 0, window->range.devId});
        for (; at < index.leaves_.size(); ++at) {
            const auto &entries = index.leaves_[at].leaf->entries;
            if (window->range < entries.front().range) break;
            if (std::none_of(entries.begin(), entries.end(), isGone)) continue;
            auto leaf = std::make_shared<Leaf>(*index.leaves_[at].leaf);
            std::erase_if(leaf->entries, isGone);
            if (leaf->entries.empty()) {
                index.leaves_.erase(index.leaves_.begin() + static_cast<ptrdiff_t>(at--));
            } else {
                leaf->rank();
                index.leaves_[at].leaf = std::move(leaf);
            }
        }
    }
    index.finish();
    return index;
}

const RangeIndex::Entry *
RangeIndex::reachingFurthest(uint64_t device, uint64_t address) const noexcept {
    if (leaves_.empty()) return nullptr;
    const nixlBasicDesc key(address, SIZE_MAX, device);
    const Slot &slot = leaves_[leafFor(key)];
    const auto &entries = slot.leaf->entries;
    const auto behind = std::upper_bound(entries.begin(), entries.end(), key,
                                         [](const nixlBasicDesc &k, const Entry &entry) { return k < entry.range; });
    if (behind == entries.begin()) return nullptr;
    const auto position = static_cast<size_t>(behind - entries.begin()) - 1;
    if (entries[position].range.devId != device) return nullptr;
    const Entry *best = &entries[slot.leaf->best[position]];
    const bool carried = slot.carry && entries.front().range.devId == device;
    return carried && slot.carry->end() > best->end() ? slot.carry : best;
}

const RangeIndex::Entry *
RangeIndex::covering(const nixlBasicDesc &range) const noexcept {
    const uint64_t end = range.addr + range.len;
    if (end < range.addr) return nullptr;
    const Entry *entry = reachingFurthest(range.devId, range.addr);
    return entry && end <= entry->end() ? entry : nullptr;
}

void
RangeIndex::equal(const nixlBasicDesc &range, std::vector<std::shared_ptr<Window>> &found) const {
    for (size_t at = leaves_.empty() ? 0 : leafFor({range.addr, 0, range.devId}); at < leaves_.size(); ++at) {
        const auto &entries = leaves_[at].leaf->entries;
        if (range < entries.front().range) return;
        auto it = std::lower_bound(entries.begin(), entries.end(), range,
                                   [](const Entry &entry, const nixlBasicDesc &key) { return entry.range < key; });
        for (; it != entries.end() && it->range == range; ++it) found.push_back(it->window);
    }
}

} // namespace nx::memory
