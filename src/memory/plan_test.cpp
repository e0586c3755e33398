// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "memory/plan.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <numeric>
#include <random>

namespace nx::memory {
namespace {

std::shared_ptr<Window>
window(uint64_t address, uint64_t length) {
    auto owner = std::make_shared<MappingOwner>(
        std::make_shared<Mapping>(nullptr, nullptr, "", [](nixlBackendMD *, nixlBackendMD *) {}));
    return std::make_shared<Window>(nixlBasicDesc(address, length, 0), std::move(owner));
}

std::shared_ptr<const Side>
side(const RangeIndex &index, const std::vector<nixlBasicDesc> &elements) {
    auto resolved = Side::resolve(index, std::span<const nixlBasicDesc>(elements));
    EXPECT_TRUE(resolved.ok()) << resolved.message();
    return std::make_shared<const Side>(*std::move(resolved));
}

const RangeIndex kEverything = RangeIndex().with({window(0, uint64_t{1} << 40)});

// The plan as a map: which remote byte each local byte goes with.
std::vector<std::pair<uint64_t, uint64_t>>
bytesOf(const nixlx::Plan &plan) {
    std::vector<std::pair<uint64_t, uint64_t>> bytes;
    for (const auto &run : plan.runs) {
        for (uint64_t i = 0; i < run.count; ++i) {
            for (uint64_t b = 0; b < run.length; ++b) {
                bytes.emplace_back(run.local + i * run.local_stride + b, run.remote + i * run.remote_stride + b);
            }
        }
    }
    std::sort(bytes.begin(), bytes.end());
    return bytes;
}

TEST(Plan, DenseElementsOnBothSidesBecomeOneBlock) {
    std::vector<nixlBasicDesc> local, remote;
    for (uint64_t i = 0; i < 256; ++i) {
        local.emplace_back(i * 4096, 4096, 0);
        remote.emplace_back((i + 1000) * 4096, 4096, 0);
    }
    const auto plan = planAll({}, side(kEverything, local), side(kEverything, remote));
    ASSERT_TRUE(plan.ok());
    EXPECT_EQ((*plan)->plan.block_count, 1u);
    EXPECT_EQ((*plan)->plan.total_bytes, 256u * 4096);
}

TEST(Plan, WithoutMergingEveryElementStaysABlock) {
    std::vector<nixlBasicDesc> local;
    for (uint64_t i = 0; i < 256; ++i) local.emplace_back(i * 4096, 4096, 0);
    PlanRequest request;
    request.merge = false;
    const auto plan = planAll(request, side(kEverything, local), side(kEverything, local));
    ASSERT_TRUE(plan.ok());
    EXPECT_EQ((*plan)->plan.block_count, 256u);
    EXPECT_EQ((*plan)->runs.size(), 1u) << "still one strided run";
}

TEST(Plan, StridedAgainstDenseIsOneRun) {
    std::vector<nixlBasicDesc> local, remote;
    for (uint64_t i = 0; i < 1000; ++i) {
        local.emplace_back(i * 8192, 4096, 0);
        remote.emplace_back(i * 4096, 4096, 0);
    }
    const auto plan = planAll({}, side(kEverything, local), side(kEverything, remote));
    ASSERT_TRUE(plan.ok());
    EXPECT_EQ((*plan)->runs.size(), 1u);
    EXPECT_EQ((*plan)->plan.block_count, 1000u);
}

TEST(Plan, ConsecutiveIndicesMerge) {
    std::vector<nixlBasicDesc> elements;
    for (uint64_t i = 0; i < 4096; ++i) elements.emplace_back(i * 4096, 4096, 0);
    const auto s = side(kEverything, elements);
    std::vector<int> indices(256);
    std::iota(indices.begin(), indices.end(), 100);
    const auto plan = planIndexed({}, s, indices, s, indices);
    ASSERT_TRUE(plan.ok());
    EXPECT_EQ((*plan)->plan.block_count, 1u);
    const std::vector<int> mixed_local{7, 9, 10, 11, 50}, mixed_remote{3, 20, 21, 22, 60};
    const auto mixed = planIndexed({}, s, mixed_local, s, mixed_remote);
    ASSERT_TRUE(mixed.ok());
    EXPECT_EQ((*mixed)->plan.block_count, 3u) << "9..11 with 20..22 are one block";
}

TEST(Plan, RefusesCountsIndicesAndLengthsThatDoNotFit) {
    const auto three = side(kEverything, {{0, 10, 0}, {10, 10, 0}, {20, 5, 0}});
    const auto two = side(kEverything, {{0, 10, 0}, {10, 10, 0}});
    EXPECT_EQ(planAll({}, three, two).code(), NIXL_ERR_INVALID_PARAM);
    const auto expect = [&](std::vector<int> l, std::vector<int> r, const std::string &part) {
        const auto plan = planIndexed({}, three, l, two, r);
        EXPECT_EQ(plan.code(), NIXL_ERR_INVALID_PARAM);
        EXPECT_NE(plan.message().find(part), std::string::npos) << plan.message();
    };
    expect({}, {}, "not zero");
    expect({0}, {0, 1}, "counts");
    expect({3}, {0}, "local index 3");
    expect({0}, {-1}, "remote index -1");
    expect({0, 2}, {0, 1}, "pair 1");
    std::vector<int> many(100, 0), with_one_beyond(100, 0), with_another_length(100, 0);
    with_one_beyond[90] = 3;
    with_another_length[70] = 2;
    expect(with_one_beyond, many, "local index 3 at position 90");
    expect(with_another_length, many, "pair 70");
}

TEST(Plan, CutElementsMeetPieceByPiece) {
    const auto cut = RangeIndex().with({window(0, 100), window(100, 100), window(200, 100)});
    const auto local = side(cut, {{50, 200, 0}});
    const auto remote = side(RangeIndex().with({window(1000, 70), window(1070, 500)}), {{1000, 200, 0}});
    const auto plan = planAll({}, local, remote);
    ASSERT_TRUE(plan.ok());
    const auto bytes = bytesOf((*plan)->plan);
    ASSERT_EQ(bytes.size(), 200u);
    for (uint64_t i = 0; i < 200; ++i) {
        EXPECT_EQ(bytes[i], (std::pair<uint64_t, uint64_t>(50 + i, 1000 + i)));
    }
    for (const auto &run : (*plan)->plan.runs) {
        const auto &lw = (*plan)->local->windows()[run.local_segment]->range;
        const auto &rw = (*plan)->remote->windows()[run.remote_segment]->range;
        EXPECT_TRUE(lw.covers({run.local, run.length, 0}));
        EXPECT_TRUE(rw.covers({run.remote, run.length, 0}));
    }
}

TEST(Plan, CopiesNothingOfWhatWasPrepared) {
    std::vector<std::shared_ptr<Window>> windows;
    std::vector<nixlBasicDesc> elements;
    for (uint64_t i = 0; i < 10'000; ++i) {
        windows.push_back(window(i * 100, 50));
        elements.emplace_back(i * 100, 50, 0);
    }
    const auto s = side(RangeIndex().with(windows), elements);
    const auto holders = windows[7].use_count();
    const std::vector<int> indices{7, 9000, 3};
    const auto plan = planIndexed({}, s, indices, s, indices);
    ASSERT_TRUE(plan.ok());
    EXPECT_EQ((*plan)->plan.remote_segments.data(), s->segments().data());
    EXPECT_EQ((*plan)->plan.local_segments.data(), s->segments().data());
    EXPECT_EQ(windows[7].use_count(), holders);
    EXPECT_EQ((*plan)->runs.size(), 3u);
    for (size_t i = 0; i < indices.size(); ++i) {
        EXPECT_EQ(s->windows()[(*plan)->runs[i].remote_segment], windows[indices[i]].get());
    }
}

// A shuffled side is a table, the other one a run; the third and fourth pairs are cut.
TEST(Plan, TablesRunsAndCutElementsMeet) {
    const auto windows = RangeIndex().with({window(0, 500), window(500, 100'000)});
    std::vector<nixlBasicDesc> shuffled, regular, cut;
    for (uint64_t i = 0; i < 40; ++i) {
        shuffled.emplace_back(1000 + i * 17 % 40 * 8, 8, 0);
        regular.emplace_back(50'000 + i * 16, 8, 0);
        cut.emplace_back(i % 20 == 2 || i % 20 == 3 ? 496 : 600 + i * 32, 8, 0);
    }
    const auto expected = [](const auto &local, const auto &remote) {
        std::vector<std::pair<uint64_t, uint64_t>> bytes;
        for (size_t i = 0; i < local.size(); ++i) {
            for (uint64_t b = 0; b < 8; ++b) bytes.emplace_back(local[i].addr + b, remote[i].addr + b);
        }
        std::sort(bytes.begin(), bytes.end());
        return bytes;
    };
    for (const auto *local : {&shuffled, &regular, &cut}) {
        for (const auto *remote : {&shuffled, &regular, &cut}) {
            const auto l = side(windows, *local), r = side(windows, *remote);
            const auto all = planAll({}, l, r);
            ASSERT_TRUE(all.ok()) << all.message();
            EXPECT_EQ(bytesOf((*all)->plan), expected(*local, *remote));
            std::vector<int> indices(40);
            std::iota(indices.begin(), indices.end(), 0);
            std::reverse(indices.begin(), indices.end());
            const auto indexed = planIndexed({}, l, indices, r, indices);
            ASSERT_TRUE(indexed.ok()) << indexed.message();
            EXPECT_EQ(bytesOf((*indexed)->plan), expected(*local, *remote));
            std::vector<int> beyond = indices;
            beyond.back() = 40;
            EXPECT_EQ(planIndexed({}, l, beyond, r, indices).code(), NIXL_ERR_INVALID_PARAM);
            EXPECT_EQ(planIndexed({}, l, indices, r, beyond).code(), NIXL_ERR_INVALID_PARAM);
        }
    }
    auto shorter = shuffled;
    shorter[39].len = 7;
    EXPECT_EQ(planAll({}, side(windows, shorter), side(windows, regular)).code(), NIXL_ERR_INVALID_PARAM);
}

// Property: whatever is merged and strided, exactly the asked-for bytes move.
TEST(Plan, MovesExactlyTheBytesAskedFor) {
    for (unsigned seed = 1; seed <= 60; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        std::mt19937 random(seed);
        std::vector<nixlBasicDesc> local, remote;
        const uint64_t block = 4;
        constexpr int kCount = 200; // more than are looked up at once
        for (uint64_t i = 0; i < kCount; ++i) {
            local.emplace_back(i * block * (seed % 3 ? 1 : 2), block, 0);
            remote.emplace_back(100000 + i * block, block, 0);
        }
        const auto l = side(kEverything, local), r = side(kEverything, remote);
        std::vector<int> li, ri;
        std::vector<std::pair<uint64_t, uint64_t>> expected;
        std::vector<int> order(kCount);
        std::iota(order.begin(), order.end(), 0);
        std::shuffle(order.begin(), order.end(), random);
        for (int i = 0; i < kCount;) {
            int length = std::min<int>(kCount - i, 1 + static_cast<int>(random() % 5));
            for (int k = 0; k < length; ++k, ++i) {
                li.push_back(i);
                ri.push_back(random() % 2 ? i : order[i]);
            }
        }
        for (size_t i = 0; i < li.size(); ++i) {
            for (uint64_t b = 0; b < block; ++b) {
                expected.emplace_back(local[li[i]].addr + b, remote[ri[i]].addr + b);
            }
        }
        std::sort(expected.begin(), expected.end());
        PlanRequest request;
        request.merge = seed % 2;
        const auto plan = planIndexed(request, l, li, r, ri);
        ASSERT_TRUE(plan.ok()) << plan.message();
        EXPECT_EQ(bytesOf((*plan)->plan), expected);
        EXPECT_EQ((*plan)->plan.total_bytes, expected.size());

        std::vector<nixlBasicDesc> picked_local, picked_remote;
        for (size_t i = 0; i < li.size(); ++i) {
            picked_local.push_back(local[li[i]]);
            picked_remote.push_back(remote[ri[i]]);
        }
        const auto all = planAll(request, side(kEverything, picked_local), side(kEverything, picked_remote));
        ASSERT_TRUE(all.ok());
        EXPECT_EQ(bytesOf((*all)->plan), expected);
    }
}

} // namespace
} // namespace nx::memory
