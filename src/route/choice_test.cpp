// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "route/choice.h"

#include <gtest/gtest.h>

namespace nx::route {
namespace {

Option
usable(std::string name, std::optional<double> predicted = {}) {
    return {std::move(name), true, "", predicted};
}

Option
blocked(std::string name, std::string why) {
    return {std::move(name), false, std::move(why), {}};
}

TEST(Choice, NothingUsableChoosesNothingAndKeepsTheObstacles) {
    const std::vector<Option> options{blocked("A", "no registration"), blocked("B", "peer unknown")};
    const auto choice = choose(options, false);
    EXPECT_FALSE(choice.chosen);
    ASSERT_EQ(choice.candidates.size(), 2u);
    EXPECT_EQ(choice.candidates[1].reason, "peer unknown");
}

TEST(Choice, FirstUsableHintWinsOverACheaperOne) {
    const std::vector<Option> options{blocked("A", "x"), usable("B", 10), usable("C", 1)};
    EXPECT_EQ(choose(options, true).chosen, 1u);
}

TEST(Choice, CheapestPredictionWinsWithoutHints) {
    const std::vector<Option> options{usable("A", 10), usable("B", 3), usable("C", 7)};
    const auto choice = choose(options, false);
    EXPECT_EQ(choice.chosen, 1u);
    EXPECT_TRUE(choice.candidates[1].chosen);
    EXPECT_EQ(choice.candidates[1].predicted_us, 3);
    EXPECT_FALSE(choice.candidates[0].chosen);
}

TEST(Choice, CreationOrderBreaksTies) {
    const std::vector<Option> equal{usable("A", 5), usable("B", 5)};
    EXPECT_EQ(choose(equal, false).chosen, 0u);
    const std::vector<Option> silent{usable("A"), usable("B")};
    EXPECT_EQ(choose(silent, false).chosen, 0u);
}

TEST(Choice, APredictionBeatsSilence) {
    const std::vector<Option> options{usable("A"), usable("B", 100)};
    EXPECT_EQ(choose(options, false).chosen, 1u);
}

TEST(Choice, AStagedWayServesWhereNoSingleBackendDoes) {
    std::vector<Option> options{blocked("A", "x"), blocked("B", "y"), usable("A+B")};
    options.back().staged = true;
    const auto choice = choose(options, false);
    EXPECT_EQ(choice.chosen, 2u);
    EXPECT_NE(choice.candidates[2].reason.find("through host memory"), std::string::npos);
}

TEST(Choice, EveryCandidateHasAReason) {
    const std::vector<Option> options{usable("A"), usable("B", 2), blocked("C", "why"), usable("D", 1)};
    for (bool hinted : {false, true}) {
        for (const auto &candidate : choose(options, hinted).candidates) EXPECT_FALSE(candidate.reason.empty());
    }
}

} // namespace
} // namespace nx::route
