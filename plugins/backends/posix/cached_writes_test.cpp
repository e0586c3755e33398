// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "posix/cached_writes.h"

#include <array>
#include <cerrno>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <map>
#include <poll.h>
#include <string>

#include "posix/thread_queue.h"
#include "support/temp_dir.h"

namespace nx::posix {
namespace {

constexpr unsigned kDepth = 16;

class CachedWritesTest : public testing::Test {
protected:
    CachedWritesTest() {
        for (size_t i = 0; i < files.size(); ++i) {
            files[i] = Fd(::open((folder / ("file" + std::to_string(i))).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
        }
        auto threads = ThreadQueue::create(kDepth);
        EXPECT_TRUE(threads.ok()) << threads.message();
        auto made = CachedWrites::create(*std::move(threads));
        EXPECT_TRUE(made.ok()) << made.message();
        queue = *std::move(made);
    }

    /// Waits for all that is in flight, asleep; results by tag.
    std::map<uint64_t, int64_t>
    finish(size_t in_flight) {
        std::map<uint64_t, int64_t> results;
        while (results.size() < in_flight) {
            std::array<Completion, 3> completions;
            const size_t count = queue->reap(completions);
            for (size_t i = 0; i < count; ++i) {
                EXPECT_TRUE(results.emplace(completions[i].tag, completions[i].result).second) << "reaped twice";
            }
            if (count > 0 || !queue->arm()) continue;
            pollfd fd{queue->descriptor(), POLLIN, 0};
            if (::poll(&fd, 1, 10'000) != 1) {
                ADD_FAILURE() << "nothing has woken who waits for " << in_flight - results.size();
                break;
            }
        }
        return results;
    }

    Operation
    write(size_t number, int fd) {
        vectors[number] = {texts[number].data(), texts[number].size()};
        return {.kind = Operation::Kind::kWrite,
                .fd = fd,
                .cached = true,
                .vectors = &vectors[number],
                .vector_count = 1,
                .offset = number * texts[number].size(),
                .tag = number};
    }

    test::TempDir folder;
    std::array<Fd, 5> files; // more than lanes
    std::array<std::string, kDepth> texts;
    std::array<iovec, kDepth> vectors;
    std::unique_ptr<Queue> queue;
};

TEST_F(CachedWritesTest, EachEndsOnceWithItsOwnResultAmongOperationsOfTheOtherQueue) {
    for (int round = 0; round < 200; ++round) {
        std::array<Operation, kDepth> operations;
        for (size_t i = 0; i < kDepth; ++i) {
            texts[i] = std::string(8, static_cast<char>('a' + (i + static_cast<size_t>(round)) % 26));
            operations[i] = write(i, files[i % files.size()].get());
        }
        operations[3].fd = -1;
        operations[7].cached = false; // direct, as far as the queue knows
        operations[9].kind = Operation::Kind::kSync;
        ASSERT_EQ(queue->submit(operations), kDepth);
        const auto results = finish(kDepth);
        for (size_t i = 0; i < kDepth; ++i) {
            ASSERT_EQ(results.at(i), i == 3 ? -EBADF : i == 9 ? 0 : 8) << i;
            if (i == 3 || i == 9) continue;
            std::string found(8, '\0');
            ASSERT_EQ(::pread(operations[i].fd, found.data(), 8, static_cast<off_t>(operations[i].offset)), 8);
            ASSERT_EQ(found, texts[i]) << i;
        }
    }
}

TEST_F(CachedWritesTest, WhatIsInFlightIsDoneWhenItEnds) {
    std::array<Operation, kDepth> operations;
    for (size_t i = 0; i < kDepth; ++i) {
        texts[i] = std::string(1 << 20, static_cast<char>('a' + i));
        operations[i] = write(i, files[0].get());
    }
    ASSERT_EQ(queue->submit(operations), kDepth);
    queue.reset();
    for (size_t i = 0; i < kDepth; ++i) {
        std::string found(texts[i].size(), '\0');
        ASSERT_EQ(::pread(files[0].get(), found.data(), found.size(), static_cast<off_t>(operations[i].offset)),
                  static_cast<ssize_t>(found.size()));
        EXPECT_TRUE(found == texts[i]) << i;
    }
}

} // namespace
} // namespace nx::posix
