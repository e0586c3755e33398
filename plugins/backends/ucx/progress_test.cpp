// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Claim: the progress thread leaves the workers to callers who come often, and to nobody else; whoever waits for a
// worker gets it although others poll. Method: visits at made-up times; two threads and a mutex.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "support/eventually.h"
#include "ucx/handover_mutex.h"
#include "ucx/progress.h"

namespace nx::ucx {
namespace {

using std::chrono::microseconds;
using test::eventually;

TEST(Attendance, SaysNothingBeforeItHasLookedLongEnough) {
    const Attendance::Time start{};
    Attendance attendance(0, start);
    EXPECT_FALSE(attendance.look(1000, start + microseconds(19)));
    EXPECT_TRUE(attendance.look(1000, start + microseconds(20)));
}

TEST(Attendance, TellsThoseWhoSpinFromThoseWhoNap) {
    const Attendance::Time start{};
    Attendance spinning(7, start);
    EXPECT_EQ(spinning.look(27, start + microseconds(20)), true); // every microsecond
    EXPECT_EQ(spinning.look(127, start + microseconds(420)), true);
    // Four requests are looked at, then the caller naps: hardly driven, however long that goes on.
    Attendance napping(0, start);
    uint64_t visits = 0;
    for (int round = 1; round <= 10; ++round) {
        visits += 4;
        EXPECT_EQ(napping.look(visits, start + round * microseconds(250)), false) << round;
    }
    Attendance nobody(3, start);
    EXPECT_EQ(nobody.look(3, start + microseconds(20)), false);
}

TEST(Attendance, SeesASingleVisit) {
    const Attendance::Time start{};
    Attendance attendance(3, start);
    EXPECT_TRUE(attendance.none(3));
    EXPECT_FALSE(attendance.none(4));
    ASSERT_TRUE(attendance.look(4, start + microseconds(60)));
    EXPECT_TRUE(attendance.none(4));
}

TEST(HandoverMutex, PassesFromThePollingThreadToTheOneThatWaits) {
    for (int round = 0; round < 100; ++round) {
        HandoverMutex mutex;
        std::atomic<bool> had_it{false};
        mutex.lock();
        std::thread waiting([&] {
            const std::lock_guard lock(mutex);
            had_it = true;
        });
        ASSERT_TRUE(eventually([&] { return mutex.contended(); }));
        mutex.unlock();
        while (!mutex.try_lock()) {}
        EXPECT_TRUE(had_it) << "the polling thread took it again before the waiting one, round " << round;
        mutex.unlock();
        waiting.join();
    }
}

} // namespace
} // namespace nx::ucx
