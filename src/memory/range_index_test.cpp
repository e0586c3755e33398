// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The index against a list of ranges searched one by one, on random and on awkward inputs.
#include "memory/range_index.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <random>

namespace nx::memory {
namespace {

std::shared_ptr<Window>
window(uint64_t address, uint64_t length, uint64_t device = 0) {
    auto owner = std::make_shared<MappingOwner>(
        std::make_shared<Mapping>(nullptr, nullptr, "", [](nixlBackendMD *, nixlBackendMD *) {}));
    return std::make_shared<Window>(nixlBasicDesc(address, length, device), std::move(owner));
}

RangeIndex
indexOf(std::vector<std::shared_ptr<Window>> windows) {
    return RangeIndex().with(std::move(windows));
}

TEST(RangeIndex, AnEmptyIndexCoversNothing) {
    EXPECT_EQ(RangeIndex().covering({0, 0, 0}), nullptr);
    const RangeIndex empty;
    EXPECT_EQ(RangeIndex::Cursor(empty).reachingFurthest(0, 1), nullptr);
}

TEST(RangeIndex, CoversExactInnerAndEmptyRangesButNothingBeyond) {
    const auto index = indexOf({window(0x1000, 0x100)});
    EXPECT_NE(index.covering({0x1000, 0x100, 0}), nullptr);
    EXPECT_NE(index.covering({0x1010, 0x10, 0}), nullptr);
    EXPECT_NE(index.covering({0x1100, 0, 0}), nullptr) << "an empty range at the end";
    EXPECT_EQ(index.covering({0x1000, 0x101, 0}), nullptr);
    EXPECT_EQ(index.covering({0xfff, 1, 0}), nullptr);
    EXPECT_EQ(index.covering({0x1100, 1, 0}), nullptr);
    EXPECT_EQ(index.covering({0x1000, 1, 1}), nullptr) << "another device";
}

TEST(RangeIndex, ALengthThatWrapsIsNeverCovered) {
    const auto index = indexOf({window(0x1000, 0x100)});
    EXPECT_EQ(index.covering({0x1010, UINT64_MAX - 3, 0}), nullptr);
}

TEST(RangeIndex, FindsTheCoveringRangeFarLeftOfManyNestedOnes) {
    std::vector<std::shared_ptr<Window>> windows{window(0, 1 << 20)};
    for (uint64_t i = 0; i < 5000; ++i) windows.push_back(window(i * 64, 64));
    const auto index = indexOf(windows);
    const auto *entry = index.covering({64 * 4000 + 32, 64, 0});
    ASSERT_NE(entry, nullptr);
    EXPECT_EQ(entry->range.len, 1u << 20);
}

TEST(RangeIndex, UnboundedRangesReachTheTopOfTheAddressSpace) {
    const auto index = indexOf({window(100, SIZE_MAX, 7)});
    EXPECT_NE(index.covering({UINT64_MAX - 10, 5, 7}), nullptr);
    EXPECT_EQ(index.covering({50, 5, 7}), nullptr);
}

TEST(RangeIndex, RepeatedRangesAreAllFoundAndRemovedOneByOne) {
    auto a = window(0, 10), b = window(0, 10);
    auto index = indexOf({a, b});
    std::vector<std::shared_ptr<Window>> found;
    index.equal({0, 10, 0}, found);
    EXPECT_EQ(found.size(), 2u);
    index = index.without(std::vector{a});
    found.clear();
    index.equal({0, 10, 0}, found);
    EXPECT_EQ(found, std::vector{b});
    EXPECT_NE(index.covering({0, 10, 0}), nullptr);
    EXPECT_TRUE(index.without(std::vector{b}).empty());
}

TEST(RangeIndex, AChangedIndexLeavesTheOldOneAsItWas) {
    const auto before = indexOf({window(0, 10)});
    const auto after = before.with({window(100, 10)});
    EXPECT_EQ(before.size(), 1u);
    EXPECT_EQ(before.covering({100, 1, 0}), nullptr);
    EXPECT_NE(after.covering({100, 1, 0}), nullptr);
}

TEST(RangeIndex, ThousandsOfEqualRangesSurviveSplitsAndRemovals) {
    RangeIndex index;
    std::vector<std::shared_ptr<Window>> all;
    for (int i = 0; i < 2000; ++i) {
        all.push_back(window(8, 8));
        index = index.with({all.back()});
    }
    std::vector<std::shared_ptr<Window>> found;
    index.equal({8, 8, 0}, found);
    EXPECT_EQ(found.size(), 2000u);
    while (!all.empty()) {
        index = index.without(std::vector{all.back()});
        all.pop_back();
        ASSERT_EQ(index.size(), all.size());
    }
}

TEST(RangeIndex, WhatFollowsInOrderIsFoundWithoutASearch) {
    std::vector<std::shared_ptr<Window>> windows;
    for (uint64_t i = 0; i < 100'000; ++i) windows.push_back(window(i * 8192, 4096));
    const auto index = indexOf(windows);
    RangeIndex::Cursor cursor(index);
    for (uint64_t i = 0; i < 100'000; ++i) {
        const auto *entry = cursor.covering({i * 8192, 4096, 0});
        ASSERT_NE(entry, nullptr);
        ASSERT_EQ(entry->window, windows[i]);
    }
    EXPECT_LE(cursor.searches(), 1u);
}

TEST(RangeIndex, ACopySharesEverything) {
    std::vector<std::shared_ptr<Window>> windows;
    for (uint64_t i = 0; i < 1000; ++i) windows.push_back(window(i * 16, 8));
    const auto index = indexOf(std::move(windows));
    const auto copy = index; // NOLINT(performance-unnecessary-copy-initialization)
    EXPECT_EQ(index.covering({160, 8, 0}), copy.covering({160, 8, 0}));
}

TEST(RangeIndex, ThousandsAreRemovedAtOnce) {
    std::vector<std::shared_ptr<Window>> windows, gone, left;
    for (uint64_t i = 0; i < 20'000; ++i) {
        windows.push_back(window(i / 4 * 16, 8)); // each range four times
        (i % 3 ? gone : left).push_back(windows.back());
    }
    std::shuffle(gone.begin(), gone.end(), std::mt19937(1));
    const auto index = indexOf(windows).without(gone);
    std::vector<std::shared_ptr<Window>> found;
    index.forEach([&](const RangeIndex::Entry &entry) { found.push_back(entry.window); });
    EXPECT_EQ(found, left);
}

// Property: after any series of additions and removals the index answers like a linear search.
TEST(RangeIndex, AnswersLikeALinearSearchAfterRandomChanges) {
    for (unsigned seed = 1; seed <= 20; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        std::mt19937 random(seed);
        const auto pick = [&](uint64_t limit) { return random() % limit; };
        RangeIndex index;
        std::vector<std::shared_ptr<Window>> all;
        for (int step = 0; step < 200; ++step) {
            if (all.empty() || pick(3)) {
                std::vector<std::shared_ptr<Window>> batch;
                for (uint64_t n = 1 + pick(pick(10) ? 4 : 400); n > 0; --n) {
                    batch.push_back(window(pick(2000), pick(pick(20) ? 60 : 2000), pick(3)));
                }
                all.insert(all.end(), batch.begin(), batch.end());
                index = index.with(batch);
            } else {
                std::shuffle(all.begin(), all.end(), random);
                const std::vector gone(all.begin(), all.begin() + static_cast<ptrdiff_t>(1 + pick(all.size())));
                all.erase(all.begin(), all.begin() + static_cast<ptrdiff_t>(gone.size()));
                index = index.without(gone);
            }
            ASSERT_EQ(index.size(), all.size());
            // Mostly a little further on than the query before, as lists are.
            RangeIndex::Cursor cursor(index);
            uint64_t at = 0, device = 0;
            for (int q = 0; q < 50; ++q) {
                at = pick(4) ? at + pick(40) : pick(2100);
                device = pick(4) ? device : pick(3);
                const nixlBasicDesc query(at, pick(100), device);
                const bool expected =
                    std::any_of(all.begin(), all.end(), [&](const auto &w) { return w->range.covers(query); });
                const auto *entry = index.covering(query);
                ASSERT_EQ(entry != nullptr, expected);
                if (entry) {
                    ASSERT_TRUE(entry->window->range.covers(query));
                }
                const auto *next = cursor.covering(query);
                ASSERT_EQ(next != nullptr, expected);
                if (next) {
                    ASSERT_TRUE(next->window->range.covers(query));
                    ASSERT_LT(cursor.position().entry, index.leafSize(cursor.position().leaf));
                }
            }
        }
        size_t count = 0;
        nixlBasicDesc last(0, 0, 0);
        index.forEach([&](const RangeIndex::Entry &entry) {
            EXPECT_FALSE(entry.range < last);
            last = entry.range;
            ++count;
        });
        EXPECT_EQ(count, all.size());
    }
}

} // namespace
} // namespace nx::memory
