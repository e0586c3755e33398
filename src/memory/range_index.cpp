// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "memory/range_index.h"

#include <algorithm>
#include <functional>
#include <iterator>

namespace nx::memory {

namespace {

bool
before(const RangeIndex::Entry &a, const RangeIndex::Entry &b) {
    return a.range < b.range;
}

// The last of [first, first + count) that starts at or before the address, or the first if none does. Without branches:
// in a list without order they would be mispredicted every other time.
template<class T, class RangeOf>
const T *
lastStartingBy(const T *first, size_t count, uint64_t device, uint64_t address, RangeOf rangeOf) noexcept {
    while (count > 1) {
        const size_t half = count / 2;
        const nixlBasicDesc &range = rangeOf(first[half]);
        const bool starts_by =
            (range.devId < device) | ((range.devId == device) & (static_cast<uint64_t>(range.addr) <= address));
        first += half * starts_by;
        count -= half;
    }
    return first;
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

std::vector<RangeIndex::Slot>
RangeIndex::slotsOf(std::vector<Entry> sorted) {
    std::vector<Slot> slots;
    // Leaves start three quarters full, so that the next few insertions do not split them.
    constexpr size_t fill = kLeafEntries * 3 / 4;
    slots.reserve(sorted.size() / fill + 1);
    for (size_t first = 0; first < sorted.size(); first += fill) {
        auto leaf = std::make_shared<Leaf>();
        const size_t last = std::min(sorted.size(), first + fill);
        leaf->entries.assign(std::make_move_iterator(sorted.begin() + static_cast<ptrdiff_t>(first)),
                             std::make_move_iterator(sorted.begin() + static_cast<ptrdiff_t>(last)));
        leaf->rank();
        slots.push_back({std::move(leaf)});
    }
    return slots;
}

RangeIndex::RangeIndex(std::vector<Slot> slots) {
    if (slots.empty()) return;
    carryOver(slots);
    auto tree = std::make_shared<Tree>();
    for (const auto &slot : slots) tree->size += slot.leaf->entries.size();
    tree->slots = std::move(slots);
    tree_ = std::move(tree);
}

// Computes what is derived from the leaves.
void
RangeIndex::carryOver(std::vector<Slot> &slots) {
    const auto entryAt = [&](Position at) -> const Entry & { return slots[at.leaf].leaf->entries[at.entry]; };
    for (uint32_t i = 0; i < slots.size(); ++i) {
        auto &slot = slots[i];
        slot.first = slot.leaf->entries.front().range;
        slot.carried = false;
        if (i == 0) continue;
        const auto &previous = slots[i - 1];
        const Entry &last = previous.leaf->entries.back();
        if (last.range.devId != slot.first.devId) continue;
        slot.carried = true;
        slot.carry = {i - 1, previous.leaf->best.back()};
        const bool same_device = previous.carried && previous.first.devId == last.range.devId;
        if (same_device && entryAt(previous.carry).end() > entryAt(slot.carry).end()) slot.carry = previous.carry;
    }
}

RangeIndex
RangeIndex::with(std::vector<std::shared_ptr<Window>> windows) const {
    if (windows.empty()) return *this;
    std::vector<Entry> added;
    added.reserve(windows.size());
    for (auto &window : windows) {
        const nixlBasicDesc range = window->range;
        added.push_back({range, std::move(window)});
    }
    std::stable_sort(added.begin(), added.end(), before);

    if (empty() || added.size() * 8 > size()) {
        std::vector<Entry> all;
        all.reserve(size() + added.size());
        auto next = added.begin();
        forEach([&](const Entry &entry) {
            while (next != added.end() && before(*next, entry)) all.push_back(std::move(*next++));
            all.push_back(entry);
        });
        all.insert(all.end(), std::make_move_iterator(next), std::make_move_iterator(added.end()));
        return RangeIndex(slotsOf(std::move(all)));
    }

    std::vector<Slot> changed;
    changed.reserve(slots().size() + 1);
    auto next = added.begin();
    for (size_t i = 0; i < slots().size(); ++i) {
        const auto &slot = slots()[i];
        const bool is_last = i + 1 == slots().size();
        const auto end = is_last
            ? added.end()
            : std::lower_bound(next, added.end(), slots()[i + 1].first,
                               [](const Entry &entry, const nixlBasicDesc &first) { return entry.range < first; });
        if (next == end) {
            changed.push_back(slot);
            continue;
        }
        // Equal ranges: the older ones first.
        std::vector<Entry> entries;
        entries.reserve(slot.leaf->entries.size() + static_cast<size_t>(end - next));
        std::merge(slot.leaf->entries.begin(), slot.leaf->entries.end(), std::make_move_iterator(next),
                   std::make_move_iterator(end), std::back_inserter(entries), before);
        next = end;
        if (entries.size() < kLeafEntries) {
            auto leaf = std::make_shared<Leaf>();
            leaf->entries = std::move(entries);
            leaf->rank();
            changed.push_back({std::move(leaf)});
        } else {
            for (auto &part : slotsOf(std::move(entries))) changed.push_back(std::move(part));
        }
    }
    return RangeIndex(std::move(changed));
}

RangeIndex
RangeIndex::without(std::span<const std::shared_ptr<Window>> windows) const {
    std::vector<const Window *> gone;
    gone.reserve(windows.size());
    for (const auto &window : windows) gone.push_back(window.get());
    const auto order = [](const Window *a, const Window *b) {
        if (a->range < b->range) return true;
        return a->range == b->range && std::less<>()(a, b);
    };
    std::sort(gone.begin(), gone.end(), order);

    std::vector<Slot> left;
    left.reserve(slots().size());
    auto next = gone.begin();
    for (const auto &slot : slots()) {
        const auto &entries = slot.leaf->entries;
        while (next != gone.end() && (*next)->range < slot.first) ++next;
        if (next == gone.end() || entries.back().range < (*next)->range) {
            left.push_back(slot);
            continue;
        }
        // Those of one range may lie in several leaves: `next` stays at the first of its range.
        auto leaf = std::make_shared<Leaf>();
        leaf->entries.reserve(entries.size());
        auto equals_end = next;
        for (const auto &entry : entries) {
            while (next != gone.end() && (*next)->range < entry.range) ++next;
            if (equals_end < next) equals_end = next;
            while (equals_end != gone.end() && (*equals_end)->range == entry.range) ++equals_end;
            if (!std::binary_search(next, equals_end, static_cast<const Window *>(entry.window.get()), order)) {
                leaf->entries.push_back(entry);
            }
        }
        if (leaf->entries.size() == entries.size()) {
            left.push_back(slot);
        } else if (!leaf->entries.empty()) {
            leaf->rank();
            left.push_back({std::move(leaf)});
        }
    }
    return RangeIndex(std::move(left));
}

const RangeIndex::Entry *
RangeIndex::Cursor::reachingFurthest(uint64_t device, uint64_t address) noexcept {
    if (slots_.empty()) return nullptr;
    ++searches_;
    const Slot *slot = lastStartingBy(slots_.data(), slots_.size(), device, address,
                                      [](const Slot &s) -> const nixlBasicDesc & { return s.first; });
    const auto &entries = slot->leaf->entries;
    const Entry *entry = lastStartingBy(entries.data(), entries.size(), device, address,
                                        [](const Entry &e) -> const nixlBasicDesc & { return e.range; });
    if (entry->range.devId != device || entry->range.addr > address) return nullptr;
    at_ = {static_cast<uint32_t>(slot - slots_.data()), slot->leaf->best[static_cast<size_t>(entry - entries.data())]};
    const Entry *best = &entries[at_.entry];
    if (slot->carried && slot->first.devId == device) {
        const Entry *carry = &slots_[slot->carry.leaf].leaf->entries[slot->carry.entry];
        if (carry->end() > best->end()) {
            at_ = slot->carry;
            return carry;
        }
    }
    return best;
}

const RangeIndex::Entry *
RangeIndex::Cursor::covering(const nixlBasicDesc &range) noexcept {
    const uint64_t end = range.addr + range.len;
    if (end < range.addr || slots_.empty()) return nullptr;
    Position next{at_.leaf, at_.entry + 1};
    if (next.entry >= slots_[next.leaf].leaf->entries.size()) next = {next.leaf + 1, 0};
    if (next.leaf < slots_.size()) {
        const Entry &entry = slots_[next.leaf].leaf->entries[next.entry];
        if (entry.range.devId == range.devId && entry.range.addr <= range.addr && end <= entry.end()) {
            at_ = next;
            return &entry;
        }
    }
    const Entry *entry = reachingFurthest(range.devId, range.addr);
    return entry && end <= entry->end() ? entry : nullptr;
}

const RangeIndex::Entry *
RangeIndex::covering(const nixlBasicDesc &range) const noexcept {
    return Cursor(*this).covering(range);
}

void
RangeIndex::equal(const nixlBasicDesc &range, std::vector<std::shared_ptr<Window>> &found) const {
    // The first of them may be in the leaf before the one that begins with such a range.
    auto slot = std::lower_bound(slots().begin(), slots().end(), range,
                                 [](const Slot &s, const nixlBasicDesc &key) { return s.first < key; });
    if (slot != slots().begin()) --slot;
    for (; slot != slots().end() && !(range < slot->first); ++slot) {
        const auto &entries = slot->leaf->entries;
        auto it = std::lower_bound(entries.begin(), entries.end(), range,
                                   [](const Entry &entry, const nixlBasicDesc &key) { return entry.range < key; });
        for (; it != entries.end() && it->range == range; ++it) found.push_back(it->window);
    }
}

} // namespace nx::memory
