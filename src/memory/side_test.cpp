// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "memory/side.h"

#include <gtest/gtest.h>
#include <random>

namespace nx::memory {
namespace {

std::shared_ptr<Window>
window(uint64_t address, uint64_t length, uint64_t device = 0) {
    auto owner = std::make_shared<MappingOwner>(
        std::make_shared<Mapping>(nullptr, nullptr, "", [](nixlBackendMD *, nixlBackendMD *) {}));
    return std::make_shared<Window>(nixlBasicDesc(address, length, device), std::move(owner));
}

Result<Side>
resolve(const RangeIndex &index, const std::vector<nixlBasicDesc> &elements) {
    return Side::resolve(index, std::span<const nixlBasicDesc>(elements));
}

// What the side says element `i` is, as single ranges.
std::vector<nixlBasicDesc>
elementOf(const Side &side, uint64_t i) {
    size_t hint = 0;
    const auto &run = side.runOf(i, hint);
    std::vector<nixlBasicDesc> out;
    if (run.window == Side::kCut) {
        for (const auto &piece : side.pieces(run)) {
            out.emplace_back(piece.address, piece.length, side.windows()[piece.window]->range.devId);
        }
    } else {
        out.emplace_back(run.address + (i - run.first) * run.stride, run.length,
                         side.windows()[run.window]->range.devId);
    }
    return out;
}

TEST(Side, ARegularListOfAMillionIsOneRun) {
    const auto index = RangeIndex().with({window(0, uint64_t{1} << 40)});
    std::vector<nixlBasicDesc> elements;
    for (uint64_t i = 0; i < 1'000'000; ++i) elements.emplace_back(i * 8192, 4096, 0);
    const auto side = resolve(index, elements);
    ASSERT_TRUE(side.ok()) << side.message();
    EXPECT_EQ(side->runs().size(), 1u);
    EXPECT_LE(side->memoryBytes(), 64u * 1024);
    EXPECT_EQ(elementOf(*side, 999'999), (std::vector<nixlBasicDesc>{{999'999 * uint64_t{8192}, 4096, 0}}));
}

TEST(Side, StridedInputOfAnyCountIsOneRun) {
    const auto index = RangeIndex().with({window(0, uint64_t{1} << 50)});
    const std::vector<nixlStrideDesc> elements{{64, 32, 0, 128, 2'000'000'000}};
    const auto side = Side::resolve(index, std::span<const nixlStrideDesc>(elements));
    ASSERT_TRUE(side.ok()) << side.message();
    EXPECT_EQ(side->runs().size(), 1u);
    EXPECT_EQ(side->size(), 2'000'000'000u);
    EXPECT_EQ(elementOf(*side, 1'999'999'999)[0].addr, 64 + uint64_t{1'999'999'999} * 128);
}

TEST(Side, StridedInputAcrossWindowsIsResolvedBlockByBlock) {
    const auto index = RangeIndex().with({window(0, 1000), window(2000, 1000)});
    const std::vector<nixlStrideDesc> elements{{0, 100, 0, 500, 2}, {2000, 100, 0, 500, 2}};
    ASSERT_TRUE(Side::resolve(index, std::span<const nixlStrideDesc>(elements)).ok());
    const std::vector<nixlStrideDesc> spans{{0, 100, 0, 2000, 2}};
    const auto side = Side::resolve(index, std::span<const nixlStrideDesc>(spans));
    ASSERT_TRUE(side.ok()) << side.message();
    EXPECT_EQ(elementOf(*side, 1)[0].addr, 2000u);
    const std::vector<nixlStrideDesc> gap{{0, 100, 0, 1000, 2}};
    EXPECT_EQ(Side::resolve(index, std::span<const nixlStrideDesc>(gap)).code(), NIXL_ERR_NOT_FOUND);
}

TEST(Side, StridedInputThatWrapsIsInvalid) {
    const auto index = RangeIndex().with({window(0, 1000)});
    for (const auto &bad : {nixlStrideDesc(0, 8, 0, SIZE_MAX, 3), nixlStrideDesc(16, 8, 0, SIZE_MAX / 2, 3),
                            nixlStrideDesc(0, 0, 0, 0, SIZE_MAX)}) {
        const std::vector elements{bad};
        EXPECT_EQ(Side::resolve(index, std::span<const nixlStrideDesc>(elements)).code(), NIXL_ERR_INVALID_PARAM);
    }
}

TEST(Side, AnElementMaySpanAdjacentWindows) {
    const auto index = RangeIndex().with({window(0, 100), window(100, 50), window(150, 100)});
    const auto side = resolve(index, {{10, 20, 0}, {90, 100, 0}});
    ASSERT_TRUE(side.ok()) << side.message();
    EXPECT_EQ(elementOf(*side, 1), (std::vector<nixlBasicDesc>{{90, 10, 0}, {100, 50, 0}, {150, 40, 0}}));
}

TEST(Side, AGapIsNotFoundAndTheSentenceNamesTheElement) {
    const auto index = RangeIndex().with({window(0, 100), window(101, 50)});
    const auto side = resolve(index, {{0, 10, 0}, {90, 20, 0}});
    EXPECT_EQ(side.code(), NIXL_ERR_NOT_FOUND);
    EXPECT_NE(side.message().find("element 1"), std::string::npos) << side.message();
    EXPECT_NE(side.message().find("first 10 bytes"), std::string::npos) << side.message();
}

TEST(Side, ARangeThatWrapsIsInvalid) {
    const auto index = RangeIndex().with({window(0, 100)});
    EXPECT_EQ(resolve(index, {{16, UINT64_MAX, 0}}).code(), NIXL_ERR_INVALID_PARAM);
}

TEST(Side, IsStaleOnceAWindowIsRevoked) {
    auto w = window(0, 100);
    const auto index = RangeIndex().with({w, window(200, 10)});
    const auto side = resolve(index, {{0, 10, 0}});
    ASSERT_TRUE(side.ok());
    EXPECT_FALSE(side->stale());
    w->revoke();
    EXPECT_TRUE(side->stale());
}

// Property: compression loses nothing.
TEST(Side, EveryElementReadsBackAsItWasGiven) {
    for (unsigned seed = 1; seed <= 30; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        std::mt19937 random(seed);
        std::vector<std::shared_ptr<Window>> windows;
        for (uint64_t d = 0; d < 2; ++d) {
            for (uint64_t at = 0; at < 4096; at += 512) windows.push_back(window(at, 512, d));
            windows.push_back(window(1024, 1024, d));
        }
        const auto index = RangeIndex().with(windows);
        std::vector<nixlBasicDesc> elements;
        for (int i = 0; i < 500; ++i) {
            if (random() % 2 || elements.empty()) {
                elements.emplace_back(random() % 3000, random() % 4 ? 16 : random() % 900, random() % 2);
            } else {
                auto next = elements.back();
                next.addr = (next.addr + 16) % 3000;
                elements.push_back(next);
            }
        }
        const auto side = resolve(index, elements);
        ASSERT_TRUE(side.ok()) << side.message();
        ASSERT_EQ(side->size(), elements.size());
        for (size_t i = 0; i < elements.size(); ++i) {
            uint64_t at = elements[i].addr, total = 0;
            for (const auto &piece : elementOf(*side, i)) {
                ASSERT_EQ(piece.addr, at);
                ASSERT_EQ(piece.devId, elements[i].devId);
                at += piece.len;
                total += piece.len;
            }
            ASSERT_EQ(total, elements[i].len);
        }
    }
}

} // namespace
} // namespace nx::memory
