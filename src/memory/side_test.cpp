// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "memory/side.h"

#include <algorithm>
#include <array>
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
        const auto element = side.element(run, i);
        out.emplace_back(element.address, element.length, side.windows()[element.window]->range.devId);
    }
    return out;
}

// Each element must read back as one range, inside the window that it names.
void
expectWhole(const Side &side, const std::vector<nixlBasicDesc> &elements) {
    ASSERT_EQ(side.size(), elements.size());
    size_t hint = 0;
    for (size_t i = 0; i < elements.size(); ++i) {
        SCOPED_TRACE("element " + std::to_string(i));
        ASSERT_EQ(elementOf(side, i), (std::vector{elements[i]}));
        const auto element = side.element(side.runOf(i, hint), i);
        ASSERT_TRUE(side.windows()[element.window]->range.covers(elements[i]));
    }
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

TEST(Side, AShuffledListIsOneTableOfSixteenBytesAnElement) {
    const auto index = RangeIndex().with({window(0, uint64_t{1} << 40)});
    std::vector<nixlBasicDesc> elements;
    for (uint64_t i = 0; i < 10'000; ++i) elements.emplace_back(i * 8192, 4096, 0);
    std::shuffle(elements.begin(), elements.end(), std::mt19937(1));
    const auto side = resolve(index, elements);
    ASSERT_TRUE(side.ok()) << side.message();
    EXPECT_EQ(side->runs().size(), 1u);
    EXPECT_LE(side->memoryBytes(), 10'000 * 16u + 1024);
    expectWhole(*side, elements);
}

TEST(Side, CountsTheBytesOfElementsAsOftenAsTheyArePicked) {
    const auto index = RangeIndex().with({window(0, 4096), window(4096, 4096)});
    const auto side = resolve(index, {{0, 64, 0}, {128, 64, 0}, {1000, 7, 0}, {4000, 200, 0}});
    ASSERT_TRUE(side.ok()) << side.message();
    EXPECT_EQ(side->bytesOf(std::array{0, 1, 2, 3}), 64u + 64 + 7 + 200) << "the last one spans two windows";
    EXPECT_EQ(side->bytesOf(std::array{2, 2, 2}), 21u);
    EXPECT_EQ(side->bytesOf(std::array{-1, 4, 0}), 64u) << "the others are none";
}

TEST(Side, ARunEndsATableAndATableEndsARun) {
    const auto index = RangeIndex().with({window(0, 1 << 20)});
    std::vector<nixlBasicDesc> elements{{7, 3, 0}, {5, 3, 0}, {100, 4, 0}};
    for (uint64_t i = 0; i < 100; ++i) elements.emplace_back(1000 + i * 16, 8, 0);
    elements.emplace_back(3, 8, 0);
    for (uint64_t i = 100; i > 0; --i) elements.emplace_back(1000 + i * 16, 8, 0); // downwards
    for (uint64_t i = 0; i < 100; ++i) elements.emplace_back(64, 8, 0);            // in place
    const auto side = resolve(index, elements);
    ASSERT_TRUE(side.ok()) << side.message();
    EXPECT_EQ(side->runs().size(), 5u) << "table, run, table, run, run";
    expectWhole(*side, elements);
}

TEST(Side, ElementsOfFourGigabytesAndMoreReadBack) {
    const auto index = RangeIndex().with({window(0, uint64_t{1} << 50)});
    const uint64_t limit = uint64_t{1} << 32;
    const std::vector<nixlBasicDesc> elements{{0, limit - 1, 0}, {9, limit, 0},     {9, limit, 0}, {5, limit + 7, 0},
                                              {1, 1, 0},         {2, limit * 8, 0}, {3, 1, 0}};
    const auto side = resolve(index, elements);
    ASSERT_TRUE(side.ok()) << side.message();
    expectWhole(*side, elements);
}

TEST(Side, ElementsInTurnFromManyWindowsReadBack) {
    std::vector<std::shared_ptr<Window>> windows;
    const uint64_t count = 3000; // more than are found without the index
    for (uint64_t i = 0; i < count; ++i) windows.push_back(window(i * 1000, 700, i % 3));
    const auto index = RangeIndex().with(windows);
    std::vector<nixlBasicDesc> elements;
    for (uint64_t round = 0; round < 3; ++round) {
        for (uint64_t i = 0; i < count; ++i) {
            const uint64_t at = i * 1571 % count;
            elements.emplace_back(at * 1000 + round * 100, 100, at % 3);
        }
    }
    const auto side = resolve(index, elements);
    ASSERT_TRUE(side.ok()) << side.message();
    EXPECT_EQ(side->windows().size(), count) << "each once";
    expectWhole(*side, elements);
}

TEST(Side, KeepsItsWindowsThoughNobodyElseDoes) {
    auto w = window(0, 100);
    const std::weak_ptr<Window> seen = w;
    Result<Side> side = [&] {
        const auto index = RangeIndex().with({std::move(w)});
        return resolve(index, {{0, 10, 0}});
    }();
    ASSERT_TRUE(side.ok());
    EXPECT_FALSE(seen.expired());
    EXPECT_FALSE(side->stale());
    side = resolve(RangeIndex().with({window(0, 100)}), {{0, 10, 0}});
    EXPECT_TRUE(seen.expired());
}

TEST(Side, ShowsTheFaceThatIsAskedFor) {
    auto *const own = reinterpret_cast<nixlBackendMD *>(16), *const to_self = reinterpret_cast<nixlBackendMD *>(32);
    auto owner = std::make_shared<MappingOwner>(
        std::make_shared<Mapping>(own, to_self, "", [](nixlBackendMD *, nixlBackendMD *) {}));
    const auto index = RangeIndex().with({std::make_shared<Window>(nixlBasicDesc(0, 100, 7), std::move(owner))});
    const std::vector<nixlBasicDesc> elements{{0, 10, 7}};
    const auto usual = Side::resolve(index, std::span<const nixlBasicDesc>(elements));
    const auto self = Side::resolve(index, std::span<const nixlBasicDesc>(elements), Side::Face::kToSelf);
    ASSERT_TRUE(usual.ok() && self.ok());
    ASSERT_EQ(usual->segments().size(), 1u);
    EXPECT_EQ(usual->segments()[0].metadata, own);
    EXPECT_EQ(usual->segments()[0].device_id, 7u);
    EXPECT_EQ(self->segments()[0].metadata, to_self);
}

TEST(Side, KnowingAWindowDoesNotStretchIt) {
    // The first elements make the windows known; the ones after them begin at, end at or pass a boundary.
    const auto index =
        RangeIndex().with({window(0, 100), window(200, 100), window(200, 50), window(300, 10, 1), window(250, 100)});
    const std::vector<nixlBasicDesc> fine{{0, 10, 0},   {200, 50, 0},  {260, 10, 0}, {90, 10, 0},
                                          {100, 0, 0},  {200, 100, 0}, {340, 10, 0}, {350, 0, 0},
                                          {300, 10, 1}, {0, 100, 0},   {250, 50, 0}, {249, 51, 0}};
    const auto side = resolve(index, fine);
    ASSERT_TRUE(side.ok()) << side.message();
    expectWhole(*side, fine);
    for (const auto &bad :
         {nixlBasicDesc(95, 6, 0), nixlBasicDesc(101, 0, 0), nixlBasicDesc(199, 2, 0), nixlBasicDesc(345, 6, 0),
          nixlBasicDesc(0, 10, 1), nixlBasicDesc(299, 2, 1), nixlBasicDesc(305, 6, 1), nixlBasicDesc(0, 10, 2)}) {
        auto elements = fine;
        elements.push_back(bad);
        const auto refused = resolve(index, elements);
        EXPECT_EQ(refused.code(), NIXL_ERR_NOT_FOUND);
        EXPECT_NE(refused.message().find("element 12 "), std::string::npos) << refused.message();
    }
    auto cut = fine;
    cut.emplace_back(240, 110, 0);
    const auto spans = resolve(index, cut);
    ASSERT_TRUE(spans.ok()) << spans.message();
    EXPECT_EQ(elementOf(*spans, 12), (std::vector<nixlBasicDesc>{{240, 60, 0}, {300, 50, 0}}));
}

TEST(Side, FindsTheRunOfAnyElementAmongThousands) {
    const auto index = RangeIndex().with({window(0, uint64_t{1} << 50)});
    for (const bool uneven : {false, true}) {
        SCOPED_TRACE(uneven ? "runs of many lengths" : "runs of one length");
        std::vector<nixlBasicDesc> elements;
        for (uint64_t run = 0; run < 1000; ++run) {
            const uint64_t count = uneven ? (run % 100 == 7 ? 2000 : 1 + run % 13) : 11;
            for (uint64_t i = 0; i < count; ++i) elements.emplace_back((run << 30) + (i << 10), 1 + run, 0);
        }
        const auto side = resolve(index, elements);
        ASSERT_TRUE(side.ok()) << side.message();
        EXPECT_GT(side->runs().size(), 500u);
        expectWhole(*side, elements);
        std::mt19937 random(1);
        size_t hint = 0;
        for (int i = 0; i < 5000; ++i) {
            const uint64_t at = random() % elements.size();
            const auto element = side->element(side->runOf(at, hint), at);
            ASSERT_EQ(element.address, elements[at].addr) << "element " << at;
            ASSERT_EQ(element.length, elements[at].len) << "element " << at;
        }
    }
}

TEST(Side, StridedInputOfFewBlocksEachIsATable) {
    const auto index = RangeIndex().with({window(0, 1 << 20)});
    std::vector<nixlStrideDesc> elements;
    std::vector<nixlBasicDesc> single;
    for (uint64_t i = 0; i < 1000; ++i) {
        const uint64_t address = i * 7919 % 5000, count = i % 4;
        elements.emplace_back(address, 16, 0, 64, count);
        for (uint64_t k = 0; k < count; ++k) single.emplace_back(address + k * 64, 16, 0);
    }
    const auto side = Side::resolve(index, std::span<const nixlStrideDesc>(elements));
    ASSERT_TRUE(side.ok()) << side.message();
    EXPECT_LE(side->memoryBytes(), single.size() * 32);
    expectWhole(*side, single);
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
        for (const auto &elements : {std::vector{bad}, std::vector{nixlStrideDesc(0, 8, 0, 16, 1), bad}}) {
            EXPECT_EQ(Side::resolve(index, std::span<const nixlStrideDesc>(elements)).code(), NIXL_ERR_INVALID_PARAM);
        }
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
    RemovedWindows({w});
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
            if (random() % 16 == 0 || elements.empty() || (seed % 2 && random() % 2)) {
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
