// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: a parameter is read as what it says or refused by name, never silently replaced.
#include "kit/params.h"

#include <gtest/gtest.h>

namespace nx::kit {
namespace {

TEST(ParamReader, ReadsEachType) {
    const nixl_b_params_t params{{"b", "Yes"}, {"n", "0x20"}, {"c", "peer"}, {"l", "a, b,,c "}, {"t", "x=1"}};
    ParamReader in(&params);
    EXPECT_TRUE(in.boolean("b", false));
    EXPECT_EQ(in.number("n", 1), 32u);
    EXPECT_EQ(in.choice("c", "none", {"none", "peer"}), "peer");
    EXPECT_EQ(in.list("l"), (std::vector<std::string>{"a", "b", "c"}));
    EXPECT_EQ(in.text("t"), "x=1");
    EXPECT_TRUE(in.status().ok());
}

TEST(ParamReader, GivesDefaultsWithoutParameters) {
    ParamReader in(nullptr);
    EXPECT_FALSE(in.has("n"));
    EXPECT_EQ(in.number("n", 7, {.min = 1, .max = 9}), 7u);
    EXPECT_TRUE(in.boolean("b", true));
    EXPECT_EQ(in.choice("c", "none", {"none"}), "none");
    EXPECT_TRUE(in.list("l").empty());
    EXPECT_TRUE(in.status().ok());
}

TEST(ParamReader, RefusesWhatIsNoNumber) {
    for (const char *bad : {"", " 1", "1 ", "-1", "1k", "0x", "18446744073709551616", "two"}) {
        const nixl_b_params_t params{{"num_workers", bad}};
        ParamReader in(&params);
        EXPECT_EQ(in.number("num_workers", 3), 3u);
        EXPECT_EQ(in.status().code(), NIXL_ERR_INVALID_PARAM) << bad;
        EXPECT_NE(in.status().message().find("num_workers"), std::string::npos);
    }
}

TEST(ParamReader, NamesTheRangeItExpects) {
    const nixl_b_params_t params{{"num_workers", "0"}};
    ParamReader in(&params);
    in.number("num_workers", 1, {.min = 1, .max = 64});
    EXPECT_EQ(in.status().message(), "parameter num_workers is '0', which is not a whole number from 1 to 64");
}

TEST(ParamReader, NamesTheChoices) {
    const nixl_b_params_t params{{"mode", "maybe"}};
    ParamReader in(&params);
    in.choice("mode", "none", {"none", "peer"});
    EXPECT_EQ(in.status().message(), "parameter mode is 'maybe', which is not one of none, peer");
}

TEST(ParamReader, KeepsTheFirstFailure) {
    const nixl_b_params_t params{{"a", "x"}, {"b", "y?"}};
    ParamReader in(&params);
    in.number("a", 1);
    in.boolean("b", true);
    EXPECT_NE(in.status().message().find("parameter a "), std::string::npos);
}

TEST(SplitList, RemovesBlanksAndEmptyParts) {
    EXPECT_EQ(splitList(" mlx5_0:1 ,mlx5_1, "), (std::vector<std::string>{"mlx5_0:1", "mlx5_1"}));
    EXPECT_TRUE(splitList("").empty());
    EXPECT_TRUE(splitList(" , ").empty());
}

} // namespace
} // namespace nx::kit
