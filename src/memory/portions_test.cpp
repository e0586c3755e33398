// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "memory/portions.h"

#include <random>

#include <gtest/gtest.h>

namespace nx::memory {
namespace {

nixlx::Run
run(uint64_t local,
    uint64_t remote,
    uint64_t length,
    uint64_t count = 1,
    uint64_t local_stride = 0,
    uint64_t remote_stride = 0) {
    return {local, remote, length, local_stride, remote_stride, count, 0, 0};
}

std::vector<Portion>
cut(const std::vector<nixlx::Run> &runs, const PortionLimits &limits) {
    std::vector<Portion> all;
    Portions portions(runs, limits);
    for (Portion next = portions.next(); next.bytes > 0; next = portions.next()) all.push_back(std::move(next));
    return all;
}

TEST(Portions, SmallBlocksShareOneAndKeepTheirStrides) {
    const auto portions = cut({run(0, 1000, 10, 7, 20, 30)}, {40, 100});
    ASSERT_EQ(portions.size(), 2u);
    EXPECT_EQ(portions[0].bytes, 40u);
    ASSERT_EQ(portions[0].runs.size(), 1u);
    EXPECT_EQ(portions[0].runs[0].count, 4u);
    EXPECT_EQ(portions[0].runs[0].local_stride, 20u);
    EXPECT_EQ(portions[1].runs[0].local, 80u);
    EXPECT_EQ(portions[1].runs[0].remote, 1120u);
    EXPECT_EQ(portions[1].runs[0].count, 3u);
}

TEST(Portions, ABlockThatFitsIsNotCutByItsNeighbours) {
    const auto portions = cut({run(0, 0, 30), run(100, 100, 30), run(200, 200, 30)}, {50, 100});
    ASSERT_EQ(portions.size(), 3u);
    for (const auto &portion : portions) EXPECT_EQ(portion.bytes, 30u);
}

TEST(Portions, ALargeBlockIsCutFromItsBeginning) {
    const auto portions = cut({run(5, 7, 100)}, {40, 100});
    ASSERT_EQ(portions.size(), 3u);
    EXPECT_EQ(portions[1].runs[0].local, 45u);
    EXPECT_EQ(portions[1].runs[0].remote, 47u);
    EXPECT_EQ(portions[2].bytes, 20u);
}

TEST(Portions, SegmentsStayWholeAndSmallOnesShare) {
    std::vector<nixlx::Run> runs;
    for (uint32_t segment : {0, 1, 1, 1, 2, 3, 3}) {
        runs.push_back(run(runs.size() * 1000, 0, segment == 1 ? 30 : 10));
        runs.back().remote_segment = segment;
    }
    PortionLimits limits{40, 100, PortionLimits::Whole::kRemoteSegments, 1000};
    const auto portions = cut(runs, limits);
    ASSERT_EQ(portions.size(), 3u);
    EXPECT_EQ(portions[0].bytes, 10u);
    EXPECT_EQ(portions[1].bytes, 90u) << "all of segment 1, though it is more than a portion has";
    EXPECT_EQ(portions[1].runs.size(), 3u);
    EXPECT_EQ(portions[2].bytes, 30u) << "segments 2 and 3 together";
    limits.whole_bytes_max = 80;
    EXPECT_EQ(cut(runs, limits)[0].bytes, 40u) << "segment 1 is cut";
}

TEST(Portions, BlocksAreBounded) {
    const auto portions = cut({run(0, 0, 1, 10, 2, 2)}, {1000, 4});
    ASSERT_EQ(portions.size(), 3u);
    EXPECT_EQ(portions[0].bytes, 4u);
    EXPECT_EQ(portions[2].bytes, 2u);
}

TEST(Portions, WhatHasNoBytesIsLeftOut) {
    EXPECT_TRUE(cut({run(0, 0, 0, 3), run(0, 0, 5, 0)}, {10, 10}).empty());
    EXPECT_TRUE(cut({}, {10, 10}).empty());
    const auto portions = cut({run(0, 0, 0), run(9, 9, 5), run(0, 0, 0)}, {10, 10});
    ASSERT_EQ(portions.size(), 1u);
    EXPECT_EQ(portions[0].runs.size(), 1u);
}

TEST(Portions, CoverEveryByteOnceAndInOrder) {
    std::mt19937_64 random(20261129);
    for (int round = 0; round < 500; ++round) {
        std::vector<nixlx::Run> runs;
        uint64_t at = 0;
        for (uint64_t i = random() % 6; i > 0; --i) {
            const uint64_t length = random() % 200, count = random() % 5, stride = length + random() % 3;
            runs.push_back(run(at, at + 1'000'000, length, count, stride, stride));
            at += stride * count + 17;
        }
        std::vector<uint64_t> wanted, got;
        for (const auto &each : runs) {
            for (uint64_t b = 0; b < each.count; ++b) {
                for (uint64_t i = 0; i < each.length; ++i) wanted.push_back(each.local + b * each.local_stride + i);
            }
        }
        const PortionLimits limits{1 + random() % 150, 1 + random() % 8,
                                   random() % 2 ? PortionLimits::Whole::kLocalSegments : PortionLimits::Whole::kNothing,
                                   random() % 2000};
        for (const auto &portion : cut(runs, limits)) {
            uint64_t bytes = 0, blocks = 0;
            for (const auto &each : portion.runs) {
                blocks += each.count;
                for (uint64_t b = 0; b < each.count; ++b) {
                    EXPECT_EQ(each.remote + b * each.remote_stride, each.local + b * each.local_stride + 1'000'000);
                    for (uint64_t i = 0; i < each.length; ++i, ++bytes) {
                        got.push_back(each.local + b * each.local_stride + i);
                    }
                }
            }
            EXPECT_EQ(bytes, portion.bytes);
            if (limits.whole == PortionLimits::Whole::kNothing) {
                EXPECT_LE(blocks, limits.blocks);
                EXPECT_LE(portion.bytes, limits.bytes);
            }
        }
        ASSERT_EQ(got, wanted) << "round " << round;
    }
}

} // namespace
} // namespace nx::memory
