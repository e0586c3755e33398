// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: memory is zeroed, nobody else's, and in a file that others can map and nobody can cut; what is freed goes back.
// Method: pools with small blocks; a random program beside a model.
#include "shared/pool.h"

#include <algorithm>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <random>
#include <set>
#include <sys/mman.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/no_memory.h"
#include "support/temp_dir.h"

namespace nx::shared {
namespace {

using testing::HasSubstr;

const auto kPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));
const size_t kBlock = 16 * kPage;

uint64_t
at(const void *memory) {
    return reinterpret_cast<uint64_t>(memory);
}

class Shared : public testing::Test {
protected:
    char *
    allocate(size_t bytes) {
        auto memory = pool.allocate(bytes);
        EXPECT_TRUE(memory.ok()) << memory.message();
        return memory.ok() ? static_cast<char *>(*memory) : nullptr;
    }

    void
    free(void *memory) {
        const auto status = pool.free(memory);
        EXPECT_TRUE(status.ok()) << status.message();
    }

    uint64_t
    blockOf(const void *memory) const {
        const auto block = pool.find(at(memory), 1);
        return block ? block->id : 0;
    }

    Pool pool{kBlock, true};
};

bool
isAll(char byte, const char *memory, size_t bytes) {
    return std::all_of(memory, memory + bytes, [&](char other) { return other == byte; });
}

size_t
openDescriptors() {
    DIR *folder = opendir("/proc/self/fd");
    size_t count = 0;
    while (readdir(folder)) ++count;
    closedir(folder);
    return count;
}

int64_t
bytesInFile(int file) {
    struct stat info{};
    return fstat(file, &info) == 0 ? info.st_blocks * 512 : -1;
}

TEST_F(Shared, IsZeroedPagesThatNobodyElseHas) {
    std::vector<std::pair<char *, size_t>> all;
    for (const size_t bytes : {size_t{0}, size_t{1}, kPage, kPage + 1, kBlock, 3 * kBlock + 5}) {
        char *memory = allocate(bytes);
        const size_t size = std::max(bytes, size_t{1});
        EXPECT_EQ(at(memory) % kPage, 0u);
        EXPECT_TRUE(isAll(0, memory, size)) << bytes;
        std::memset(memory, static_cast<int>(all.size()) + 1, size);
        all.emplace_back(memory, size);
    }
    for (size_t i = 0; i < all.size(); ++i) EXPECT_TRUE(isAll(static_cast<char>(i + 1), all[i].first, all[i].second));
    for (const auto &[memory, size] : all) free(memory);
}

TEST_F(Shared, BlockIsShownToTheWholeAllocationAndNoFurther) {
    char *memory = allocate(2 * kPage);
    const auto block = pool.find(at(memory), 2 * kPage);
    ASSERT_TRUE(block);
    EXPECT_NE(block->id, 0u);
    EXPECT_EQ(block->bytes, kBlock);
    EXPECT_LE(block->base, at(memory));
    EXPECT_TRUE(pool.find(block->base, block->bytes));
    EXPECT_TRUE(pool.find(block->base + block->bytes - 1, 1));
    EXPECT_FALSE(pool.find(block->base, block->bytes + 1));
    EXPECT_FALSE(pool.find(block->base - 1, 2));
    EXPECT_FALSE(pool.find(block->base + block->bytes, 0));
    EXPECT_FALSE(pool.find(block->base + kPage, UINT64_MAX));
    EXPECT_FALSE(pool.find(UINT64_MAX, UINT64_MAX));
    EXPECT_FALSE(pool.find(0, 1));
    const int on_stack = 0;
    EXPECT_FALSE(pool.find(at(&on_stack), sizeof on_stack));
    free(memory);
}

TEST_F(Shared, SmallAllocationsHaveABlockInCommonAndLargeOnesTheirOwn) {
    char *one = allocate(1), *two = allocate(kPage), *large = allocate(2 * kBlock);
    EXPECT_EQ(blockOf(one), blockOf(two));
    EXPECT_NE(blockOf(one), blockOf(large));
    EXPECT_EQ(pool.find(at(large), 1)->bytes, 2 * kBlock);
    for (char *memory : {one, two, large}) free(memory);
}

TEST_F(Shared, FileIsTheMemoryAndNobodyCanCutIt) {
    char *memory = allocate(kPage);
    const auto block = pool.find(at(memory), kPage);
    ASSERT_TRUE(block);
    auto *peers =
        static_cast<char *>(mmap(nullptr, block->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, block->descriptor, 0));
    ASSERT_NE(peers, MAP_FAILED);
    std::strcpy(memory, "written here");
    EXPECT_STREQ(peers + (at(memory) - block->base), "written here");
    std::strcpy(peers + (at(memory) - block->base), "written there");
    EXPECT_STREQ(memory, "written there");

    for (const off_t size : {off_t{0}, static_cast<off_t>(2 * kBlock)}) {
        EXPECT_EQ(ftruncate(block->descriptor, size), -1);
        EXPECT_EQ(errno, EPERM);
    }
    EXPECT_EQ(fcntl(block->descriptor, F_ADD_SEALS, F_SEAL_WRITE), -1);
    EXPECT_EQ(fcntl(block->descriptor, F_GETFD), FD_CLOEXEC);
    free(memory);
    EXPECT_EQ(peers[0], 0) << "a peer that has mapped a block keeps the pages of what was freed";
    munmap(peers, block->bytes);
}

TEST_F(Shared, FreedPagesGoBackAndAreZerosWhenHandedOutAgain) {
    char *stays = allocate(kPage), *goes = allocate(8 * kPage);
    std::memset(goes, 0x5a, 8 * kPage);
    const int file = pool.find(at(goes), 1)->descriptor;
    EXPECT_EQ(bytesInFile(file), static_cast<int64_t>(8 * kPage));
    free(goes);
    EXPECT_EQ(bytesInFile(file), 0);
    char *again = allocate(8 * kPage);
    EXPECT_EQ(again, goes);
    EXPECT_TRUE(isAll(0, again, 8 * kPage));
    free(again);
    free(stays);
}

TEST_F(Shared, BlockGoesWithItsLastAllocation) {
    const size_t before = openDescriptors();
    char *one = allocate(kPage), *two = allocate(kPage);
    const uint64_t id = blockOf(one);
    EXPECT_EQ(openDescriptors(), before + 1);
    free(one);
    EXPECT_EQ(blockOf(two), id);
    free(two);
    EXPECT_EQ(openDescriptors(), before);
    EXPECT_FALSE(pool.find(at(two), 1));
    char *next = allocate(kPage);
    EXPECT_NE(blockOf(next), id) << "an id came back";
    free(next);
}

TEST_F(Shared, FreeNeighboursBecomeOnePieceInWhateverOrderTheyAreFreed) {
    std::vector<size_t> order(15);
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::mt19937 random(20261128);
    for (int round = 0; round < 50; ++round) {
        std::vector<char *> pages;
        for (size_t i = 0; i < 15; ++i) pages.push_back(allocate(kPage));
        char *stays = allocate(kPage);
        ASSERT_EQ(blockOf(pages.front()), blockOf(stays));
        std::shuffle(order.begin(), order.end(), random);
        for (const size_t i : order) free(pages[i]);
        char *all = allocate(15 * kPage);
        EXPECT_EQ(blockOf(all), blockOf(stays));
        free(all);
        free(stays);
    }
}

TEST_F(Shared, WhatItDidNotGiveIsRefusedAndChangesNothing) {
    char *one = allocate(2 * kPage), *two = allocate(kPage);
    int foreign = 0;
    free(one);
    for (void *wrong : {static_cast<void *>(one), static_cast<void *>(one + kPage), static_cast<void *>(two + 1),
                        static_cast<void *>(two + kPage), static_cast<void *>(&foreign)}) {
        const auto status = pool.free(wrong);
        EXPECT_EQ(status.code(), NIXL_ERR_INVALID_PARAM);
        EXPECT_THAT(status.message(), HasSubstr("there is no allocation at this address"));
    }
    std::memset(two, 1, kPage);
    free(two);
}

TEST_F(Shared, MoreThanThereIsEndsWithASentence) {
    for (const size_t bytes : {SIZE_MAX, SIZE_MAX - kPage, SIZE_MAX / 2, size_t{1} << 62, size_t{1} << 50}) {
        const auto memory = pool.allocate(bytes);
        EXPECT_EQ(memory.code(), NIXL_ERR_NO_MEMORY) << bytes;
        EXPECT_THAT(memory.message(), HasSubstr(std::to_string(bytes).substr(0, 10)));
    }
    free(allocate(1));
}

TEST(SharedPool, DescriptorsStayFew) {
    const size_t before = openDescriptors();
    Pool pool(size_t{1} << 20, true);
    std::set<uint64_t> blocks;
    for (int i = 0; i < 8192; ++i) { // 8 GiB, of which nothing is touched
        const auto memory = pool.allocate(size_t{1} << 20);
        ASSERT_TRUE(memory.ok()) << memory.message();
        blocks.insert(pool.find(at(*memory), 1)->id);
    }
    EXPECT_LT(blocks.size(), 80u);
    EXPECT_EQ(openDescriptors(), before + blocks.size());
}

TEST(SharedPool, IsOrdinaryMemoryWhereItCannotBeShared) {
    Pool pool(kBlock, false);
    const auto one = pool.allocate(kPage), two = pool.allocate(kPage);
    ASSERT_TRUE(one.ok() && two.ok());
    std::memset(*one, 1, kPage);
    EXPECT_TRUE(isAll(0, static_cast<char *>(*two), kPage));
    EXPECT_FALSE(pool.find(at(*one), 1));
    EXPECT_TRUE(pool.free(*one).ok());
    EXPECT_FALSE(pool.free(*one).ok());
    EXPECT_TRUE(pool.free(*two).ok());
}

TEST(SharedPool, KnowsWhereMemoryIsPromised) {
    const test::TempDir folder;
    EXPECT_TRUE(memoryIsCommitted(folder.write("strict", "2\n")));
    EXPECT_FALSE(memoryIsCommitted(folder.write("guess", "0\n")));
    EXPECT_FALSE(memoryIsCommitted(folder.write("nonsense", "x\n")));
    EXPECT_FALSE(memoryIsCommitted(folder / "none"));
}

TEST_F(Shared, ALackOfMemoryForTheTablesChangesNothing) {
    char *const first = allocate(kPage);
    for (uint64_t spared = 0;; ++spared) {
        ASSERT_LT(spared, 100u);
        void *small = nullptr, *large = nullptr;
        {
            const test::NoMemory none(spared);
            try {
                small = *pool.allocate(kPage);
                large = *pool.allocate(2 * kBlock);
            }
            catch (const std::bad_alloc &) {
            }
        }
        const bool both = small && large;
        const test::NoMemory none; // and to free needs no memory
        for (void *memory : {small, large}) {
            if (memory) free(memory);
        }
        if (both) break;
    }
    const test::NoMemory none;
    free(first);
}

/// Allocates and frees at random; what it gets is zeroed, and what it wrote stays until it frees it.
void
useAtRandom(Pool &pool, unsigned seed) {
    struct Held {
        char *memory;
        size_t bytes;
        char mark;
    };
    std::mt19937 random(seed);
    std::vector<Held> held;
    for (int step = 0; step < 2000; ++step) {
        if (held.size() < 20 && random() % 2) {
            const size_t bytes = random() % 10 == 0 ? random() % (3 * kBlock) : random() % (4 * kPage);
            const auto memory = pool.allocate(bytes);
            ASSERT_TRUE(memory.ok()) << memory.message();
            auto *start = static_cast<char *>(*memory);
            ASSERT_TRUE(isAll(0, start, bytes));
            const auto mark = static_cast<char>(1 + random() % 100);
            std::memset(start, mark, bytes);
            held.push_back({start, bytes, mark});
        } else if (!held.empty()) {
            std::swap(held[random() % held.size()], held.back());
            const Held &last = held.back();
            ASSERT_TRUE(isAll(last.mark, last.memory, last.bytes));
            ASSERT_TRUE(pool.free(last.memory).ok());
            held.pop_back();
        }
    }
    for (const Held &each : held) ASSERT_TRUE(pool.free(each.memory).ok());
}

TEST_F(Shared, KeepsWhatThreadsDoAtRandomApart) {
    const size_t before = openDescriptors();
    std::vector<std::thread> threads;
    for (unsigned seed = 1; seed <= 4; ++seed) threads.emplace_back([this, seed] { useAtRandom(pool, seed); });
    for (auto &thread : threads) thread.join();
    EXPECT_EQ(openDescriptors(), before) << "a block was left behind";
}

} // namespace
} // namespace nx::shared
