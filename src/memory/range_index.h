// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// An immutable, ordered set of windows that answers "which window covers this range", also when windows nest, overlap,
// repeat or touch. A changed index shares all untouched leaves with the one it was made from, so that one more window
// costs one leaf and the list of leaves. Immutable: share freely.
//
// Invariants: (1) entries are ordered by device, address, length; (2) a leaf is never empty; (3) `best` of an entry is,
// among the entries of its device at or before it in its leaf, the one that ends last; `carry` of a leaf is the same
// over all earlier leaves for the device of the leaf's first entry. Hence the covering entry, if there is one, is found
// by two binary searches: of all windows that start at or before an address, the one that ends last covers the range
// if any does.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "memory/registration.h"

namespace nx::memory {

class RangeIndex {
public:
    struct Entry {
        nixlBasicDesc range;
        std::shared_ptr<Window> window;

        /// First address behind the range; saturates at the top of the address space.
        uint64_t
        end() const noexcept {
            const uint64_t end = range.addr + range.len;
            return end < range.addr ? UINT64_MAX : end;
        }
    };

    RangeIndex() = default;

    /// A new index with `windows` added, repeated ranges included.
    RangeIndex
    with(std::vector<std::shared_ptr<Window>> windows) const;

    /// A new index without these windows (compared by identity). Unknown ones are ignored.
    RangeIndex
    without(std::span<const std::shared_ptr<Window>> windows) const;

    /// Of the windows of `device` that start at or before `address`, the one that ends last; null if there is none.
    /// It covers [address, address + length) if any single window does. Valid as long as this index.
    const Entry *
    reachingFurthest(uint64_t device, uint64_t address) const noexcept;

    /// A window that covers the range, or null. An empty range at a window's end is covered.
    const Entry *
    covering(const nixlBasicDesc &range) const noexcept;

    /// All windows whose range equals `range`, oldest last, appended to `found`.
    void
    equal(const nixlBasicDesc &range, std::vector<std::shared_ptr<Window>> &found) const;

    size_t
    size() const noexcept {
        return size_;
    }

    bool
    empty() const noexcept {
        return size_ == 0;
    }

    /// Calls visit(entry) in order.
    template<class Visit>
    void
    forEach(Visit visit) const {
        for (const auto &slot : leaves_) {
            for (const auto &entry : slot.leaf->entries) visit(entry);
        }
    }

private:
    struct Leaf {
        std::vector<Entry> entries;
        std::vector<uint32_t> best;

        void
        rank();
    };

    struct Slot {
        std::shared_ptr<const Leaf> leaf;
        const Entry *carry = nullptr;
    };

    static constexpr size_t kLeafEntries = 128;

    static RangeIndex
    fromSorted(std::vector<Entry> entries);
    size_t
    leafFor(const nixlBasicDesc &key) const noexcept;
    void
    finish();

    std::vector<Slot> leaves_;
    size_t size_ = 0;
};

} // namespace nx::memory
