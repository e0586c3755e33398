// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// An immutable, ordered set of windows that answers "which window covers this range", also when windows nest, overlap,
// repeat or touch. A changed index shares all untouched leaves with the one it was made from, so that one more window
// costs one leaf and the list of leaves; a copy shares everything and costs nothing. Immutable: share freely.
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

    /// Where an entry stands in one index.
    struct Position {
        uint32_t leaf = 0;
        uint32_t entry = 0; ///< in the leaf
    };

    class Cursor;

    RangeIndex() = default;

    /// A new index with `windows` added, repeated ranges included.
    RangeIndex
    with(std::vector<std::shared_ptr<Window>> windows) const;

    /// A new index without these windows (compared by identity). Unknown ones are ignored.
    RangeIndex
    without(std::span<const std::shared_ptr<Window>> windows) const;

    /// A window that covers the range, or null. An empty range at a window's end is covered. Valid as long as this
    /// index. For many ranges: Cursor.
    const Entry *
    covering(const nixlBasicDesc &range) const noexcept;

    /// All windows whose range equals `range`, oldest first, appended to `found`.
    void
    equal(const nixlBasicDesc &range, std::vector<std::shared_ptr<Window>> &found) const;

    size_t
    size() const noexcept {
        return tree_ ? tree_->size : 0;
    }

    bool
    empty() const noexcept {
        return !tree_;
    }

    /// Leaves, and entries of one: what Positions count.
    size_t
    leafCount() const noexcept {
        return slots().size();
    }

    size_t
    leafSize(uint32_t leaf) const noexcept {
        return tree_->slots[leaf].leaf->entries.size();
    }

    /// Calls visit(entry) in order.
    template<class Visit>
    void
    forEach(Visit visit) const {
        for (const auto &slot : slots()) {
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
        nixlBasicDesc first = {}; ///< range of the leaf's first entry
        bool carried = false;
        Position carry = {}; ///< if carried
    };

    struct Tree {
        std::vector<Slot> slots;
        size_t size = 0;
    };

    static constexpr size_t kLeafEntries = 128;

    explicit RangeIndex(std::vector<Slot> slots);

    static std::vector<Slot>
    slotsOf(std::vector<Entry> sorted);
    static void
    carryOver(std::vector<Slot> &slots);

    const std::vector<Slot> &
    slots() const noexcept {
        static const std::vector<Slot> none;
        return tree_ ? tree_->slots : none;
    }

    std::shared_ptr<const Tree> tree_; ///< null: empty
};

/// Looks up one range after the other. What follows the window found last in the index' order costs no search, anything
/// else two binary searches. Owned by one caller; the index outlives it.
class RangeIndex::Cursor {
public:
    explicit Cursor(const RangeIndex &index) noexcept : slots_(index.slots()) {}

    /// As RangeIndex::covering.
    const Entry *
    covering(const nixlBasicDesc &range) noexcept;

    /// Of the windows of `device` that start at or before `address`, the one that ends last; null if there is none.
    /// It covers [address, address + length) if any single window does.
    const Entry *
    reachingFurthest(uint64_t device, uint64_t address) noexcept;

    /// Of what was found last.
    Position
    position() const noexcept {
        return at_;
    }

    /// How often an answer took a search.
    uint64_t
    searches() const noexcept {
        return searches_;
    }

private:
    const std::vector<Slot> &slots_;
    Position at_;
    uint64_t searches_ = 0;
};

} // namespace nx::memory
