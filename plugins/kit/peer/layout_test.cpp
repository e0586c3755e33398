// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/peer/layout.h"

#include <gtest/gtest.h>

#include <array>

namespace nx::kit {
namespace {

constexpr uint64_t kTop = ~uint64_t{0};

Blocks
blocks(uint64_t address, uint64_t length, uint64_t stride = 0, uint64_t count = 1) {
    return {.address = address, .length = length, .stride = stride, .count = count};
}

std::vector<std::pair<uint64_t, size_t>>
piecesOf(const Layout &layout, uint64_t offset, uint64_t bytes, size_t at_most = 16) {
    std::vector<Piece> out(at_most);
    out.resize(layout.pieces(offset, bytes, out));
    std::vector<std::pair<uint64_t, size_t>> found;
    for (const Piece &piece : out) found.emplace_back(reinterpret_cast<uint64_t>(piece.address), piece.bytes);
    return found;
}

TEST(Layout, CutsBlocksIntoPiecesFromAnyByteOn) {
    Layout layout;
    ASSERT_TRUE(layout.add(blocks(1000, 10, 100, 3)));
    ASSERT_TRUE(layout.add(blocks(5000, 7)));
    EXPECT_EQ(layout.totalBytes(), 37u);
    using Found = std::vector<std::pair<uint64_t, size_t>>;
    EXPECT_EQ(piecesOf(layout, 0, 37), (Found{{1000, 10}, {1100, 10}, {1200, 10}, {5000, 7}}));
    EXPECT_EQ(piecesOf(layout, 15, 18), (Found{{1105, 5}, {1200, 10}, {5000, 3}}));
    EXPECT_EQ(piecesOf(layout, 36, 1), (Found{{5006, 1}}));
    EXPECT_EQ(piecesOf(layout, 0, 37, 2), (Found{{1000, 10}, {1100, 10}}));
}

TEST(Layout, MakesOnePieceOfBlocksThatTouch) {
    Layout layout;
    ASSERT_TRUE(layout.add(blocks(1000, 16, 16, 8)));
    EXPECT_EQ(piecesOf(layout, 8, 100), (std::vector<std::pair<uint64_t, size_t>>{{1008, 100}}));
}

TEST(Layout, StepsBackwards) {
    Layout layout;
    ASSERT_TRUE(layout.add(blocks(1000, 4, uint64_t{0} - 100, 3)));
    EXPECT_EQ(piecesOf(layout, 2, 8), (std::vector<std::pair<uint64_t, size_t>>{{1002, 2}, {900, 4}, {800, 2}}));
}

TEST(Layout, RefusesNothingAndTooMuch) {
    Layout layout;
    EXPECT_FALSE(layout.add(blocks(0, 0)));
    EXPECT_FALSE(layout.add(blocks(0, 1, 1, 0)));
    EXPECT_FALSE(layout.add(blocks(0, kTop)));
    EXPECT_FALSE(layout.add(blocks(0, uint64_t{1} << 33, 0, uint64_t{1} << 33)));
    ASSERT_TRUE(layout.add(blocks(0, uint64_t{1} << 62)));
    EXPECT_FALSE(layout.add(blocks(0, (uint64_t{1} << 62) + 1)));
    EXPECT_EQ(layout.totalBytes(), uint64_t{1} << 62);
}

TEST(CheckAccess, AllowsWhatLiesInsideAndNothingElse) {
    const Window window{.key = {1, 1}, .rights = kMayRead | kMayWrite, .address = 1000, .length = 100};
    const auto inside = [&](const Blocks &asked) { return checkAccess(window, asked, kMayRead).ok(); };
    EXPECT_TRUE(inside(blocks(1000, 100)));
    EXPECT_TRUE(inside(blocks(1099, 1)));
    EXPECT_TRUE(inside(blocks(1000, 10, 45, 3)));
    EXPECT_TRUE(inside(blocks(1090, 10, uint64_t{0} - 45, 3)));
    EXPECT_TRUE(inside(blocks(1000, 10, 0, kTop / 16)));
    EXPECT_FALSE(inside(blocks(999, 1)));
    EXPECT_FALSE(inside(blocks(1000, 101)));
    EXPECT_FALSE(inside(blocks(1100, 1)));
    EXPECT_FALSE(inside(blocks(1000, 10, 46, 3)));
    EXPECT_FALSE(inside(blocks(1089, 10, uint64_t{0} - 45, 3)));
    // Whatever wraps is outside.
    EXPECT_FALSE(inside(blocks(1000, kTop)));
    EXPECT_FALSE(inside(blocks(1000, kTop - 999)));
    EXPECT_FALSE(inside(blocks(1000, 1, uint64_t{1} << 63, 3)));
    EXPECT_FALSE(inside(blocks(1000, 1, uint64_t{1} << 32, (uint64_t{1} << 32) + 1)));
    EXPECT_FALSE(inside(blocks(1000, 1, kTop, 1002)));
    EXPECT_FALSE(inside(blocks(1000, 1, 1, kTop)));
}

TEST(CheckAccess, HoldsAtTheEndOfMemory) {
    const Window window{.key = {1, 1}, .rights = kMayRead, .address = kTop - 99, .length = 99};
    EXPECT_TRUE(checkAccess(window, blocks(kTop - 99, 99), kMayRead).ok());
    EXPECT_FALSE(checkAccess(window, blocks(kTop - 99, 100), kMayRead).ok());
    EXPECT_FALSE(checkAccess(window, blocks(kTop, 1, 1, 2), kMayRead).ok());
}

TEST(CheckAccess, NamesTheRightThatIsMissing) {
    const Window window{.key = {7, 1}, .rights = kMayRead, .address = 1000, .length = 100};
    const Status refused = checkAccess(window, blocks(1000, 1), kMayWrite);
    EXPECT_EQ(refused.code(), NIXL_ERR_NOT_ALLOWED);
    EXPECT_EQ(refused.message(), "window 7 may not be written");
    EXPECT_EQ(checkAccess(window, blocks(1000, 1), kMayRead | kMayCopy).message(),
              "window 7 may not be copied by the peer itself");
    EXPECT_EQ(checkAccess(window, blocks(0, 1), kMayRead).code(), NIXL_ERR_NOT_FOUND);
}

} // namespace
} // namespace nx::kit
