// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "metadata/ledger.h"

#include <gtest/gtest.h>
#include <thread>

namespace nx::metadata {
namespace {

using Clock = std::chrono::steady_clock;

Status
failure(const std::string &text) {
    return {NIXL_ERR_BACKEND, text};
}

TEST(Ledger, NothingOpenIsSuccess) {
    Ledger ledger;
    EXPECT_TRUE(ledger.wait({}, Clock::now()).ok());
    EXPECT_TRUE(ledger.wait("a", Clock::now()).ok());
}

TEST(Ledger, WaitsForTheAddressAskedForAndNoOther) {
    Ledger ledger;
    ASSERT_TRUE(ledger.open("a", 8));
    EXPECT_TRUE(ledger.wait("b", Clock::now()).ok());
    EXPECT_EQ(ledger.wait("a", Clock::now()).code(), NIXL_IN_PROG);
    EXPECT_EQ(ledger.wait({}, Clock::now()).code(), NIXL_IN_PROG);
    std::thread closer([&] { ledger.close("a", {}); });
    EXPECT_TRUE(ledger.wait("a", Clock::now() + std::chrono::minutes(1)).ok());
    closer.join();
}

TEST(Ledger, TellsEachAddressFirstFailureOnceTheEarliestFirst) {
    Ledger ledger;
    for (const char *address : {"b", "a", "b"}) ASSERT_TRUE(ledger.open(address, 8));
    ledger.close("b", failure("first"));
    ledger.close("a", failure("second"));
    ledger.close("b", failure("not told: b has failed before"));
    EXPECT_EQ(ledger.wait({}, Clock::now()).message(), "first");
    EXPECT_EQ(ledger.wait("a", Clock::now()).message(), "second");
    EXPECT_TRUE(ledger.wait({}, Clock::now()).ok());
}

TEST(Ledger, OpensNoMoreThanItMay) {
    Ledger ledger;
    EXPECT_TRUE(ledger.open("a", 2));
    EXPECT_TRUE(ledger.open("a", 2));
    EXPECT_FALSE(ledger.open("a", 2));
    EXPECT_TRUE(ledger.open("b", 2));
    ledger.close("a", {});
    EXPECT_TRUE(ledger.open("a", 2));
}

TEST(Ledger, ForgetsTheOldestFailuresNobodyAsksFor) {
    Ledger ledger;
    for (int i = 0; i < 10'000; ++i) {
        const auto address = std::to_string(i);
        ASSERT_TRUE(ledger.open(address, 1));
        ledger.close(address, failure(address));
    }
    EXPECT_TRUE(ledger.wait("0", Clock::now()).ok());
    EXPECT_EQ(ledger.wait("9999", Clock::now()).message(), "9999");
    int told = 0;
    while (!ledger.wait({}, Clock::now()).ok()) ++told;
    EXPECT_LE(told, 4096);
}

} // namespace
} // namespace nx::metadata
