// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/editions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nx::agent {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMinute = 60'000;

wire::Metadata
of(uint8_t start, uint64_t epoch, bool whole = true, uint64_t started_ms = 100 * kMinute) {
    wire::Metadata metadata;
    metadata.agent = "B";
    metadata.trailer.emplace().incarnation = {start};
    metadata.trailer->edition = {epoch, started_ms, whole};
    return metadata;
}

class EditionsOfAPeer : public ::testing::Test {
protected:
    void
    load(const wire::Metadata &metadata) {
        ASSERT_TRUE(editions.judge(metadata).ok());
        editions.note(metadata);
    }

    /// Why it is refused; empty if it is not.
    std::string
    refusal(const wire::Metadata &metadata) const {
        const auto status = editions.judge(metadata);
        EXPECT_TRUE(status.ok() || status.code() == NIXL_ERR_NOT_ALLOWED);
        return status.message();
    }

    Editions editions;
};

TEST_F(EditionsOfAPeer, ALowerEpochIsOld) {
    load(of(1, 5));
    EXPECT_THAT(refusal(of(1, 4)), HasSubstr("its epoch is 4, and 5 was loaded"));
    EXPECT_EQ(refusal(of(1, 5)), "") << "the same once more";
    load(of(1, 6));
    EXPECT_THAT(refusal(of(1, 5)), HasSubstr("old"));
}

TEST_F(EditionsOfAPeer, PartsComeInAnyOrderUntilAWholeHasWhatIsInThem) {
    load(of(1, 5, false));
    EXPECT_EQ(refusal(of(1, 3, false)), "");
    EXPECT_EQ(refusal(of(1, 4)), "") << "it has what that part does not";
    load(of(1, 6));
    EXPECT_THAT(refusal(of(1, 5, false)), HasSubstr("old"));
    EXPECT_EQ(refusal(of(1, 7, false)), "");
}

TEST_F(EditionsOfAPeer, AReplacedStartIsOldForEver) {
    load(of(1, 9));
    load(of(2, 1));
    EXPECT_THAT(refusal(of(1, 10)), HasSubstr("a later one has replaced"));
    EXPECT_EQ(refusal(of(2, 1)), "");
    load(of(3, 1));
    EXPECT_THAT(refusal(of(1, 11)), HasSubstr("replaced"));
    EXPECT_THAT(refusal(of(2, 11)), HasSubstr("replaced"));
}

TEST_F(EditionsOfAPeer, AStartThatWasNeverSeenIsOldByItsClock) {
    load(of(1, 1));
    EXPECT_THAT(refusal(of(2, 1, true, 40 * kMinute)), HasSubstr("began 3600 s before"));
    EXPECT_EQ(refusal(of(2, 1, true, 95 * kMinute)), "") << "clocks may differ by that";
    EXPECT_EQ(refusal(of(2, 1, true, 200 * kMinute)), "");
}

TEST_F(EditionsOfAPeer, WhatDoesNotSayItsAgeIsRefused) {
    auto metadata = of(1, 1);
    metadata.trailer->edition.reset();
    EXPECT_EQ(editions.judge(metadata).code(), NIXL_ERR_MISMATCH);
    metadata.trailer.reset();
    EXPECT_EQ(editions.judge(metadata).code(), NIXL_ERR_MISMATCH);
}

TEST_F(EditionsOfAPeer, WhatIsKeptOfNamesAndStartsIsBounded) {
    load(of(1, 5));
    auto other = of(1, 1);
    for (size_t i = 0; i < Editions::kNamesMax; ++i) {
        other.agent = "other " + std::to_string(i);
        load(other);
    }
    EXPECT_EQ(refusal(of(1, 4)), "") << "the oldest was forgotten";
    EXPECT_EQ(editions.judge(other).code(), NIXL_SUCCESS);
    for (size_t i = 1; i < 200; ++i) load(of(static_cast<uint8_t>(i), 1));
    EXPECT_THAT(refusal(of(198, 1)), HasSubstr("replaced"));
    EXPECT_EQ(refusal(of(1, 1)), "");
}

} // namespace
} // namespace nx::agent
