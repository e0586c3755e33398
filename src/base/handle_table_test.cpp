// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "base/handle_table.h"

#include <algorithm>
#include <atomic>
#include <gtest/gtest.h>
#include <random>
#include <set>
#include <thread>
#include <vector>

namespace nx {
namespace {

/// Counts the objects that exist, and is recognisable while it does.
struct Object {
    static constexpr uint64_t kAlive = 0x600d;
    static inline std::atomic<int> count = 0;

    explicit Object(uint64_t value) : value(value) {
        ++count;
    }
    ~Object() {
        alive = 0;
        --count;
    }
    uint64_t alive = kAlive;
    uint64_t value;
};

using Table = HandleTable<Object>;
constexpr uint64_t kSlot = (uint64_t{1} << 36) - 1; ///< of a token: its index

std::unique_ptr<Object>
make(uint64_t value) {
    return std::make_unique<Object>(value);
}

TEST(HandleTable, FindsWhatWasInserted) {
    Table table(1);
    const auto one = table.insert(make(1));
    const auto two = table.insert(make(2));
    EXPECT_NE(one, two);
    EXPECT_NE(one, 0u);
    const auto first = table.find(one), second = table.find(two);
    ASSERT_TRUE(first);
    EXPECT_EQ(first->value, 1u);
    EXPECT_EQ((*second).value, 2u);
}

TEST(HandleTable, ATokenIsNoUserSpaceAddress) {
    Table table(1);
    EXPECT_GE(table.insert(make(0)), uint64_t{1} << 60);
}

TEST(HandleTable, FindsNothingForAStaleHandle) {
    Table table(1);
    const auto old = table.insert(make(1));
    EXPECT_TRUE(table.remove(old));
    EXPECT_FALSE(table.find(old));
    const auto young = table.insert(make(2)); // takes the same slot
    EXPECT_EQ(young & kSlot, old & kSlot);
    EXPECT_FALSE(table.find(old));
    EXPECT_FALSE(table.remove(old));
    const auto found = table.find(young);
    EXPECT_EQ(found->value, 2u);
}

TEST(HandleTable, AStaleHandleStaysStaleHoweverManyTookItsSlotAfterIt) {
    constexpr uint32_t kUses = 1 << 23; // of a slot
    Table table(1);
    const auto old = table.insert(make(0));
    EXPECT_TRUE(table.remove(old));
    std::vector<uint64_t> later;
    for (uint32_t i = 0; i <= kUses; ++i) {
        later.push_back(table.insert(make(1)));
        ASSERT_FALSE(table.find(old)) << "after " << i << " others";
        ASSERT_TRUE(table.remove(later.back()));
    }
    std::sort(later.begin(), later.end());
    EXPECT_EQ(std::adjacent_find(later.begin(), later.end()), later.end()) << "a handle is given out once";
}

TEST(HandleTable, NoTableFindsAHandleOfOneBeforeIt) {
    std::set<uint64_t> given;
    const auto take = [&](Table &table) {
        const auto token = table.insert(make(1));
        const bool is_new = given.insert(token).second;
        EXPECT_TRUE(is_new) << "a handle is given out once";
        return token;
    };
    for (int round = 0; round < 5000; ++round) {
        Table table(1);
        for (const uint64_t token : given) ASSERT_FALSE(table.find(token));
        table.remove(take(table));
        take(table); // goes with the table
        if (given.size() > 100) given.erase(given.begin());
    }
    EXPECT_EQ(Object::count, 0);
}

TEST(HandleTable, FindsNothingForAForeignHandle) {
    Table table(1), other(1), other_kind(2);
    const auto token = table.insert(make(1));
    other.insert(make(2));
    other_kind.insert(make(3));
    EXPECT_FALSE(other.find(token));
    EXPECT_FALSE(other_kind.find(token));
    EXPECT_FALSE(other.remove(token));
    EXPECT_FALSE(table.find(0));
    EXPECT_FALSE(table.find(~uint64_t{0}));
    EXPECT_FALSE(table.find(token + 1));
    EXPECT_FALSE(table.find(reinterpret_cast<uintptr_t>(&table)));
    EXPECT_TRUE(table.find(token));
}

TEST(HandleTable, RemovesOnce) {
    Table table(1);
    const auto token = table.insert(make(1));
    EXPECT_TRUE(table.remove(token));
    EXPECT_FALSE(table.remove(token));
    EXPECT_EQ(Object::count, 0);
}

TEST(HandleTable, APinKeepsARemovedObjectAlive) {
    Table table(1);
    const auto token = table.insert(make(5));
    auto pin = table.find(token);
    EXPECT_TRUE(table.remove(token));
    EXPECT_FALSE(table.find(token));
    EXPECT_EQ(pin->alive, Object::kAlive);
    EXPECT_EQ(Object::count, 1);
    auto moved = std::move(pin);
    EXPECT_FALSE(pin);
    EXPECT_EQ(moved->value, 5u);
    const auto next = table.insert(make(6));
    EXPECT_NE(next & kSlot, token & kSlot) << "the slot is taken until the last pin goes";
    moved = Table::Pin();
    EXPECT_EQ(Object::count, 1);
    EXPECT_EQ(table.insert(make(7)) & kSlot, token & kSlot);
}

TEST(HandleTable, DestroysWhatIsLeft) {
    {
        Table table(1);
        for (uint64_t i = 0; i < 3000; ++i) table.insert(make(i));
        EXPECT_EQ(Object::count, 3000);
    }
    EXPECT_EQ(Object::count, 0);
}

TEST(HandleTable, VisitsExactlyWhatExists) {
    Table table(1);
    std::set<uint64_t> expected;
    for (uint64_t i = 0; i < 2500; ++i) {
        const auto token = table.insert(make(i));
        if (i % 3) {
            expected.insert(token);
        } else {
            table.remove(token);
        }
    }
    std::set<uint64_t> visited;
    table.forEach([&](uint64_t token) { visited.insert(token); });
    EXPECT_EQ(visited, expected);
}

TEST(HandleTable, ThreadsFindOnlyLiveObjectsUnderContention) {
    Table table(1);
    constexpr size_t kShared = 64;
    std::vector<std::atomic<uint64_t>> shared(kShared);
    std::atomic<uint64_t> wrong = 0, inserted = 0, removed = 0, found = 0;
    std::vector<std::thread> threads;
    for (unsigned seed = 0; seed < 8; ++seed) {
        threads.emplace_back([&, seed] {
            std::mt19937 random(seed);
            for (int round = 0; round < 20000; ++round) {
                auto &place = shared[random() % kShared];
                switch (random() % 4) {
                case 0: {
                    const auto token = table.insert(make(seed));
                    ++inserted;
                    // Whoever takes a token out of its place is one of several that may remove it.
                    if (table.remove(place.exchange(token))) ++removed;
                    break;
                }
                case 1:
                    if (table.remove(place.load())) ++removed;
                    break;
                default:
                    if (auto pin = table.find(place.load())) {
                        ++found;
                        if (pin->alive != Object::kAlive) ++wrong;
                    }
                }
            }
        });
    }
    for (auto &thread : threads) thread.join();
    EXPECT_EQ(wrong, 0u);
    EXPECT_GT(found, 0u);
    uint64_t left = 0;
    table.forEach([&](uint64_t token) {
        ++left;
        EXPECT_TRUE(table.remove(token));
    });
    EXPECT_EQ(inserted, removed + left) << "each object is removed exactly once";
    EXPECT_EQ(Object::count, 0);
}

} // namespace
} // namespace nx
