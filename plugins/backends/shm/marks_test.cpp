// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: whoever closes a window and then waits for the marks knows that nobody copies any more; a table that the other
// side spoils holds up nobody for ever.
// Method: both sides in one process, over many rounds with threads that begin at once; tables full of odd bytes.
#include "shm/marks.h"

#include <atomic>
#include <memory>
#include <new>
#include <optional>
#include <random>
#include <set>
#include <thread>
#include <unistd.h>
#include <vector>

#include <gtest/gtest.h>

#include "shm/board.h"
#include "support/eventually.h"

namespace nx::shm {
namespace {

class Marks : public testing::Test {
protected:
    std::unique_ptr<MarkTable> table = std::make_unique<MarkTable>();
    Marker marker{table.get()};
    MarkWatch watch{table.get()};
};

TEST_F(Marks, OneThatIsEnteredIsWaitedFor) {
    auto before = watch.snapshot();
    EXPECT_TRUE(watch.quiet(before)) << "nobody was ever there";
    const int mark = marker.enter();
    EXPECT_TRUE(watch.quiet(before)) << "it was entered afterwards";
    auto now = watch.snapshot();
    EXPECT_FALSE(watch.quiet(now));
    EXPECT_FALSE(watch.quiet(now));
    marker.leave(mark);
    EXPECT_TRUE(watch.quiet(now));
    EXPECT_TRUE(watch.quiet(now)) << "and so it stays";
    auto after = watch.snapshot();
    EXPECT_TRUE(watch.quiet(after));
}

TEST_F(Marks, OneThatIsEnteredAgainWasLeft) {
    const int mark = marker.enter();
    auto now = watch.snapshot();
    marker.leave(mark);
    ASSERT_EQ(marker.enter(), mark);
    EXPECT_TRUE(watch.quiet(now));
}

TEST_F(Marks, EachOfThemIsWaitedFor) {
    std::vector<int> marks;
    for (size_t i = 0; i < MarkTable::kMarks; ++i) marks.push_back(marker.enter());
    EXPECT_EQ(std::set<int>(marks.begin(), marks.end()).size(), MarkTable::kMarks);
    for (const int last : marks) {
        for (const int mark : marks) {
            if (mark != last) marker.leave(mark);
        }
        auto now = watch.snapshot();
        ASSERT_FALSE(watch.quiet(now)) << last;
        marker.leave(last);
        ASSERT_TRUE(watch.quiet(now)) << last;
        for (int &mark : marks) mark = marker.enter();
    }
}

TEST_F(Marks, AThreadBeyondTheLastGetsTheNextThatIsLeft) {
    for (size_t i = 0; i < MarkTable::kMarks; ++i) (void)marker.enter();
    std::atomic<int> got{-1};
    std::jthread waiting([&] { got = marker.enter(); });
    marker.leave(17);
    EXPECT_TRUE(test::eventually([&] { return got == 17; }));
}

// A thread that relies on what another one is about to write is not seen for that long.
TEST_F(Marks, AreSeenAsSoonAsTheyAreEntered) {
    constexpr uint64_t kRounds = 20000;
    std::optional<Marker> fresh;
    std::atomic<uint64_t> begun{0}, entered{0}, left{0}, missed{0};
    const auto reach = [](std::atomic<uint64_t> &counter, uint64_t count) {
        for (int spins = 0; counter.load(std::memory_order_acquire) < count;) {
            if (++spins % 1000 == 0) std::this_thread::yield();
        }
    };
    const auto take_part = [&](uint64_t round) {
        const int mark = fresh->enter();
        auto now = watch.snapshot();
        missed += watch.quiet(now);
        ++entered;
        reach(entered, 2 * round);
        fresh->leave(mark);
        ++left;
        reach(left, 2 * round);
    };
    std::jthread other([&] {
        for (uint64_t round = 1; round <= kRounds; ++round) {
            reach(begun, round);
            take_part(round);
        }
    });
    for (uint64_t round = 1; round <= kRounds; ++round) {
        ::new (table.get()) MarkTable{};
        fresh.emplace(table.get());
        begun = round;
        take_part(round);
    }
    other.join();
    EXPECT_EQ(missed, 0u);
}

TEST_F(Marks, NobodyCopiesAfterTheGracePeriod) {
    constexpr int kRounds = 500;
    auto board = Board::create();
    ASSERT_TRUE(board.ok()) << board.message();
    auto peer = PeerBoard::map(Fd(::dup((*board)->descriptor())));
    ASSERT_TRUE(peer.ok()) << peer.message();
    std::atomic<uint64_t> key{0}; // of the window that is open, or was
    std::atomic<bool> freed{true}, stop{false};
    std::atomic<uint64_t> copies{0}, late{0};
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < 2; ++thread) {
        threads.emplace_back([&] {
            while (!stop) {
                const uint64_t now = key;
                const int mark = marker.enter();
                if ((*peer)->allows({static_cast<uint32_t>(now >> 32), static_cast<uint32_t>(now)}, 4096, 10)) {
                    for (int i = 0; i < 20; ++i) late += freed;
                    ++copies;
                }
                marker.leave(mark);
                std::this_thread::yield();
            }
        });
    }
    bool quiet = true;
    for (int round = 0; (round < kRounds || copies == 0) && quiet; ++round) {
        // Another window each time, so that no key comes again.
        freed = false;
        const auto opened = (*board)->open({.address = 4096, .length = 10, .device = static_cast<uint64_t>(round)});
        EXPECT_TRUE(opened.ok()) << opened.message();
        key = uint64_t{opened->id} << 32 | opened->generation;
        const uint64_t before = copies;
        for (int i = 0; i < 100 && copies == before; ++i) std::this_thread::yield();
        EXPECT_TRUE((*board)->close(*opened));
        auto now = watch.snapshot();
        quiet = test::eventually([&] { return watch.quiet(now); });
        freed = true;
    }
    stop = true;
    threads.clear();
    EXPECT_TRUE(quiet);
    EXPECT_EQ(late, 0u);
    EXPECT_GT(copies, 0u);
}

TEST_F(Marks, OfAHostileSideHoldNobodyUpWhoDoesNotWait) {
    std::mt19937_64 random(1);
    for (int round = 0; round < 1000; ++round) {
        table->ever_used = random();
        for (auto &mark : table->marks) mark.sequence = random();
        auto now = watch.snapshot();
        (void)watch.quiet(now); // maybe never, which the caller limits
        for (auto &mark : table->marks) mark.sequence = mark.sequence + 1;
        EXPECT_TRUE(watch.quiet(now));
        // The one who copies does not look at what is there.
        const int mark = marker.enter();
        EXPECT_EQ(mark, 0);
        EXPECT_EQ(table->marks[0].sequence % 2, 1u);
        marker.leave(mark);
        EXPECT_EQ(table->marks[0].sequence % 2, 0u);
    }
}

} // namespace
} // namespace nx::shm
