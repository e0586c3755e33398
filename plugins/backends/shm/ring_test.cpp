// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: every message arrives once, whole, and in its thread's order; a sleeping reader is always woken; whatever the
// other side writes into the ring, calls return and stay inside it.
// Method: both ends in one process, with threads and seeded lengths; over a memfd with a forked child; a hostile other
// side that writes the fields itself.
#include "shm/ring.h"

#include <csignal>
#include <cstring>
#include <memory>
#include <random>
#include <semaphore>
#include <set>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include <gtest/gtest.h>

#include "shm/mapping.h"
#include "support/eventually.h"

namespace nx::shm {
namespace {

using Put = RingWriter::Put;
using Next = RingReader::Next;

struct alignas(64) Memory {
    std::byte bytes[kRingBytes] = {};
};

class Ring : public testing::Test {
protected:
    const std::unique_ptr<Memory> memory = std::make_unique<Memory>();
    RingMemory fields{memory.get()};
    RingWriter writer{memory.get()};
    RingReader reader{memory.get()};
    uint8_t kind = 0;
    std::string message;

    Put
    put(std::string_view body) {
        return writer.put(1, {}, body);
    }

    /// The first message, taken.
    std::string
    take() {
        if (reader.next(kind, message) != Next::kMessage) return "none";
        reader.pop();
        return message;
    }
};

/// Bytes that say whether any of them is another message's.
std::string
patterned(size_t length, uint64_t seed) {
    std::minstd_rand random(static_cast<uint32_t>(seed));
    std::string text(length, 0);
    for (char &byte : text) byte = static_cast<char>(random());
    return text;
}

TEST_F(Ring, CarriesKindHeadAndBody) {
    EXPECT_EQ(writer.put(7, "head", "body"), Put::kDone);
    ASSERT_EQ(reader.next(kind, message), Next::kMessage);
    EXPECT_EQ(kind, 7);
    EXPECT_EQ(message, "headbody");
    ASSERT_EQ(reader.next(kind, message), Next::kMessage) << "it stays until pop()";
    EXPECT_EQ(message, "headbody");
    EXPECT_FALSE(reader.empty());
    reader.pop();
    EXPECT_TRUE(reader.empty());
    EXPECT_EQ(reader.next(kind, message), Next::kNone);
    reader.pop();
    EXPECT_EQ(put("after a pop of nothing"), Put::kDone);
    EXPECT_EQ(take(), "after a pop of nothing");
}

TEST_F(Ring, CarriesEveryLength) {
    for (size_t length = 0; length <= 300; ++length) {
        for (const size_t head : {size_t{0}, length / 2, length}) {
            const std::string text = patterned(length, length);
            ASSERT_NE(writer.put(255, std::string_view(text).substr(0, head), std::string_view(text).substr(head)),
                      Put::kFull);
            ASSERT_EQ(take(), text) << length;
            ASSERT_EQ(kind, 255);
        }
    }
    const std::string longest = patterned(RingWriter::kMessageBytesMax, 1);
    ASSERT_EQ(put(longest), Put::kDone);
    ASSERT_EQ(take(), longest);
}

TEST_F(Ring, WrapsAroundAtEveryOffset) {
    for (const size_t length : {size_t{52}, size_t{53}, size_t{200}, RingWriter::kMessageBytesMax}) {
        std::set<uint64_t> offsets;
        std::string text = patterned(length, length);
        for (size_t i = 0; i < kCells; ++i) {
            offsets.insert(fields.position() % kCells);
            text[i % length] = static_cast<char>(i);
            ASSERT_NE(put(text), Put::kFull);
            ASSERT_EQ(take(), text);
            // So that the next one begins one cell further.
            while (fields.position() % kCells != (i + 1) % kCells) {
                ASSERT_NE(put("x"), Put::kFull);
                ASSERT_EQ(take(), "x");
            }
        }
        EXPECT_EQ(offsets.size(), kCells);
    }
}

TEST_F(Ring, TakesNoMoreThanItHolds) {
    for (size_t i = 0; i < kCells; ++i) ASSERT_NE(put(std::to_string(i)), Put::kFull) << i;
    ASSERT_EQ(put("one too many"), Put::kFull);
    EXPECT_EQ(take(), "0");
    ASSERT_EQ(put(std::string(100, 'x')), Put::kFull) << "two cells";
    EXPECT_EQ(put("one"), Put::kDone);
    ASSERT_EQ(put("one too many"), Put::kFull);
    for (size_t i = 1; i < kCells; ++i) ASSERT_EQ(take(), std::to_string(i));
    EXPECT_EQ(take(), "one");
    EXPECT_EQ(take(), "none");
}

TEST_F(Ring, WakesOnceWhenItBecomesHalfFull) {
    for (int round = 0; round < 3; ++round) {
        std::vector<size_t> woken;
        for (size_t i = 1; i <= kCells; ++i) {
            if (put("x") == Put::kDoneWake) woken.push_back(i);
        }
        EXPECT_EQ(woken, std::vector<size_t>{kCells / 2 + 1});
        while (take() != "none") {}
    }
}

TEST_F(Ring, WakesAnArmedReaderOnce) {
    EXPECT_TRUE(reader.arm());
    EXPECT_EQ(put("1"), Put::kDoneWake);
    EXPECT_EQ(put("2"), Put::kDone);
    EXPECT_FALSE(reader.arm()) << "something is there";
    EXPECT_EQ(put("3"), Put::kDone);
    while (take() != "none") {}
    EXPECT_TRUE(reader.arm());
    reader.disarm();
    EXPECT_EQ(put("4"), Put::kDone);
}

TEST_F(Ring, ANewReaderContinues) {
    ASSERT_EQ(put("1"), Put::kDone);
    ASSERT_EQ(put("2"), Put::kDone);
    EXPECT_EQ(take(), "1");
    ASSERT_EQ(reader.next(kind, message), Next::kMessage);
    RingReader next(memory.get());
    ASSERT_EQ(next.next(kind, message), Next::kMessage);
    EXPECT_EQ(message, "2");
}

// ---- Threads -------------------------------------------------------------------------------------------------------

TEST_F(Ring, KeepsEachThreadsOrderAndBytes) {
    constexpr size_t kThreads = 4;
    constexpr uint32_t kMessages = 20000;
    const auto lengthOf = [](uint32_t thread, uint32_t number) {
        std::minstd_rand random(thread * 1000003 + number + 1);
        random.discard(2);
        return random() % 16 ? random() % 120 : random() % (RingWriter::kMessageBytesMax - 8);
    };
    std::vector<std::jthread> threads;
    for (uint32_t thread = 0; thread < kThreads; ++thread) {
        threads.emplace_back([&, thread] {
            for (uint32_t number = 0; number < kMessages; ++number) {
                const uint32_t head[2] = {thread, number};
                const std::string body(lengthOf(thread, number), static_cast<char>(thread + number));
                const std::string_view first(reinterpret_cast<const char *>(head), sizeof head);
                while (writer.put(static_cast<uint8_t>(thread), first, body) == Put::kFull) std::this_thread::yield();
            }
        });
    }
    uint32_t next[kThreads] = {};
    size_t wrong = 0;
    for (size_t got = 0; got < kThreads * kMessages;) {
        const Next answer = reader.next(kind, message);
        ASSERT_NE(answer, Next::kBroken);
        if (answer == Next::kNone) {
            std::this_thread::yield();
            continue;
        }
        uint32_t head[2];
        ASSERT_GE(message.size(), sizeof head);
        std::memcpy(head, message.data(), sizeof head);
        ASSERT_LT(head[0], kThreads);
        wrong += kind != head[0] || head[1] != next[head[0]];
        wrong += message.size() != sizeof head + lengthOf(head[0], head[1]);
        wrong += message.find_first_not_of(static_cast<char>(head[0] + head[1]), sizeof head) != std::string::npos;
        ASSERT_EQ(wrong, 0) << "thread " << head[0] << ", message " << head[1];
        ++next[head[0]];
        ++got;
        reader.pop();
    }
    EXPECT_TRUE(reader.empty());
}

TEST_F(Ring, NoWakingIsLost) {
    constexpr uint64_t kRounds = 2000;
    std::counting_semaphore<> bell(0);
    std::atomic<uint64_t> taken{0};
    std::atomic<bool> given_up{false};
    std::jthread sender([&] {
        std::minstd_rand random(1);
        for (uint64_t round = 0; round < kRounds; ++round) {
            while (taken.load(std::memory_order_acquire) < round) {
                if (given_up) return;
                std::this_thread::yield();
            }
            for (size_t pause = random() % 200; pause > 0; --pause) std::atomic_signal_fence(std::memory_order_seq_cst);
            if (writer.put(1, {}, "x") == Put::kDoneWake) bell.release();
        }
    });
    uint64_t slept = 0;
    bool lost = false;
    for (uint64_t round = 0; round < kRounds && !lost; ++round) {
        // The bell may also ring for what was there already.
        while (reader.arm() && !lost) {
            ++slept;
            lost = !bell.try_acquire_for(test::kPatience);
        }
        EXPECT_FALSE(lost) << round;
        if (!lost) {
            EXPECT_EQ(take(), "x") << round;
        }
        taken.store(round + 1, std::memory_order_release);
    }
    given_up = true;
    EXPECT_GT(slept, 0u);
}

// ---- Processes -----------------------------------------------------------------------------------------------------

TEST(RingProcesses, AChildAnswersOverItsOwnMapping) {
    constexpr int kMessages = 3000;
    auto region = createShared("nixl-test-ring", 2 * kRingBytes);
    ASSERT_TRUE(region.ok()) << region.message();
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    const auto mapped = Mapping::map(*region, 2 * kRingBytes, Mapping::Access::kReadWrite);
    if (!mapped.ok()) ::_exit(2);
    RingWriter writer(mapped->data() + (child ? 0 : kRingBytes));
    RingReader reader(mapped->data() + (child ? kRingBytes : 0));
    uint8_t kind = 0;
    std::string message;
    const auto take = [&] { return reader.next(kind, message) == Next::kMessage; };
    if (child == 0) {
        for (int i = 0; i < kMessages; ++i) {
            if (!test::eventually(take)) ::_exit(3);
            if (writer.put(static_cast<uint8_t>(kind + 1), "re: ", message) == Put::kFull) ::_exit(4);
            reader.pop();
        }
        ::_exit(0);
    }
    for (int i = 0; i < kMessages; ++i) {
        const std::string text = patterned(static_cast<size_t>(i) % 3000, 1);
        ASSERT_NE(writer.put(static_cast<uint8_t>(i), {}, text), Put::kFull);
        ASSERT_TRUE(test::eventually(take)) << i;
        ASSERT_EQ(kind, static_cast<uint8_t>(i + 1));
        ASSERT_EQ(message, "re: " + text);
        reader.pop();
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

TEST(RingProcesses, AReaderThatDiesLeavesItsMessageToTheNext) {
    auto region = createShared("nixl-test-ring", kRingBytes);
    ASSERT_TRUE(region.ok()) << region.message();
    const auto mapped = Mapping::map(*region, kRingBytes, Mapping::Access::kReadWrite);
    ASSERT_TRUE(mapped.ok()) << mapped.message();
    RingWriter writer(mapped->data());
    for (int i = 0; i < 3; ++i) ASSERT_EQ(writer.put(1, {}, std::to_string(i)), Put::kDone);
    uint8_t kind = 0;
    std::string message;
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        RingReader reader(mapped->data());
        if (reader.next(kind, message) != Next::kMessage) ::_exit(1);
        reader.pop();
        if (reader.next(kind, message) != Next::kMessage) ::_exit(1);
        ::kill(::getpid(), SIGKILL);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << status;
    RingReader reader(mapped->data());
    ASSERT_EQ(reader.next(kind, message), Next::kMessage);
    EXPECT_EQ(message, "1");
}

// ---- A hostile other side ------------------------------------------------------------------------------------------

TEST_F(Ring, RefusesALengthThatNoWriterUses) {
    for (const uint32_t length : {uint32_t{RingWriter::kMessageBytesMax} + 1, uint32_t{0xffffff}}) {
        fields.head(0) = length << 8;
        fields.word(0) = 1;
        EXPECT_EQ(reader.next(kind, message), Next::kBroken) << length;
        EXPECT_EQ(reader.next(kind, message), Next::kBroken) << length;
        EXPECT_EQ(fields.position(), 0u);
    }
}

TEST_F(Ring, TakesAMessageOnlyAtItsOwnPosition) {
    for (const uint64_t word : {uint64_t{0}, uint64_t{2}, uint64_t{kCells} + 1, ~uint64_t{0}}) {
        fields.word(0) = word;
        EXPECT_EQ(reader.next(kind, message), Next::kNone) << word;
        EXPECT_TRUE(reader.empty());
    }
}

TEST_F(Ring, PayloadIsNeverTakenForAMessage) {
    std::string text;
    for (uint64_t i = 0; text.size() < 2000; ++i) {
        const uint64_t word = i / 7 + 1; // what the word of each cell would be, in every place
        text.append(reinterpret_cast<const char *>(&word), sizeof word);
    }
    ASSERT_EQ(put(text), Put::kDone);
    for (uint64_t cell = 1; cell < 36; ++cell) ASSERT_EQ(fields.word(cell), 0u);
    EXPECT_EQ(take(), text);
    EXPECT_EQ(take(), "none");
}

TEST_F(Ring, AWriterStopsAtAPositionThatCannotBe) {
    for (const uint64_t position : {uint64_t{kCells}, uint64_t{99}, uint64_t{700}, ~uint64_t{0}, uint64_t{1} << 63}) {
        RingWriter fresh(memory.get());
        *memory = {};
        // It learns that the reader was at 100.
        for (size_t i = 0; i < kCells / 2; ++i) ASSERT_EQ(fresh.put(1, {}, "x"), Put::kDone);
        fields.position() = 100;
        for (size_t i = 0; i < 88; ++i) ASSERT_EQ(fresh.put(1, {}, "x"), Put::kDone) << i;
        fields.position() = position;
        Put answer = Put::kDone;
        for (size_t i = 0; i < kCells && answer == Put::kDone; ++i) answer = fresh.put(1, {}, "x");
        EXPECT_EQ(answer, Put::kBroken) << position;
        fields.position() = 100;
        EXPECT_EQ(fresh.put(1, {}, "x"), Put::kBroken) << "and so it stays";
    }
}

TEST_F(Ring, CallsReturnWhileTheOtherSideWritesEverywhere) {
    std::atomic<bool> stop{false};
    std::jthread stranger([&] {
        std::minstd_rand random(1);
        while (!stop.load(std::memory_order_relaxed)) {
            const uint64_t near = fields.position().load(std::memory_order_relaxed);
            fields.position().store(near + random() % 3, std::memory_order_relaxed);
            fields.armed().store(static_cast<uint32_t>(random()), std::memory_order_relaxed);
            fields.word(near + random() % 2).store(near + random() % 2, std::memory_order_relaxed);
            fields.head(near + random() % 2).store(static_cast<uint32_t>(random()), std::memory_order_relaxed);
        }
    });
    for (int round = 0; round < 200; ++round) {
        RingWriter fresh(memory.get());
        RingReader taker(memory.get());
        bool broken = false;
        for (int i = 0; i < 1000; ++i) {
            const Put answer = fresh.put(1, {}, "some text");
            ASSERT_TRUE(!broken || answer == Put::kBroken);
            broken = answer == Put::kBroken;
            if (taker.next(kind, message) == Next::kMessage) {
                ASSERT_LE(message.size(), size_t{RingWriter::kMessageBytesMax});
                taker.pop();
            }
            (void)taker.arm();
        }
    }
    stop = true;
}

} // namespace
} // namespace nx::shm
