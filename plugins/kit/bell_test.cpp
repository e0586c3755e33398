// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/bell.h"

#include <atomic>
#include <poll.h>
#include <thread>

#include <gtest/gtest.h>

namespace nx::kit {
namespace {

bool
isReadable(const Bell &bell, int timeout_ms = 0) {
    pollfd fd{bell.descriptor(), POLLIN, 0};
    return poll(&fd, 1, timeout_ms) == 1;
}

TEST(Bell, WhatRangBeforeArmingIsToldByArming) {
    Bell bell;
    EXPECT_TRUE(bell.arm());
    bell.ring();
    EXPECT_FALSE(bell.arm());
    EXPECT_TRUE(bell.arm());
    EXPECT_FALSE(isReadable(bell)) << "what was told once is not told again";
}

TEST(Bell, NobodyPaysForAWakeUpWhileNobodySleeps) {
    Bell bell;
    for (int i = 0; i < 3; ++i) bell.ring();
    EXPECT_FALSE(isReadable(bell));
}

TEST(Bell, RingingMakesAnArmedOneReadableUntilItIsArmedAgain) {
    Bell bell;
    ASSERT_TRUE(bell.arm());
    EXPECT_FALSE(isReadable(bell));
    bell.ring();
    bell.ring();
    EXPECT_TRUE(isReadable(bell));
    EXPECT_TRUE(isReadable(bell)) << "it stays readable";
    EXPECT_FALSE(bell.arm());
    EXPECT_TRUE(bell.arm());
    EXPECT_FALSE(isReadable(bell));
}

TEST(Bell, NoRingIsMissedByWhoArmsMeanwhile) {
    constexpr int kRings = 20000;
    constexpr int kPatienceMs = 120'000;
    Bell bell;
    std::atomic<int> rung{0}, seen{0};
    std::thread ringer([&] {
        for (int i = 1; i <= kRings; ++i) {
            rung = i;
            bell.ring();
            // In step now and then, so that the other one has gone to sleep, or is just about to.
            while (i % 7 == 0 && seen < i) std::this_thread::yield();
        }
    });
    bool missed = false;
    while (seen < kRings && !missed) {
        const int before = rung;
        if (before != seen) {
            seen = before;
        } else if (bell.arm()) {
            missed = !isReadable(bell, kPatienceMs);
        }
    }
    EXPECT_FALSE(missed);
    seen = kRings;
    ringer.join();
}

} // namespace
} // namespace nx::kit
