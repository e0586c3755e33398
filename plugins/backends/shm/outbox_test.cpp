// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: messages go out once, whole, in the order in which they were given, and only with a place at the peer; who
// waits for one learns of its end once; nothing is lost for lack of room or memory, nothing sent after its withdrawal.
// Method: an outbox whose ring and socket the test reads as the peer would.
#include "shm/outbox.h"

#include <optional>
#include <sys/socket.h>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kit/credits.h"
#include "support/no_memory.h"

namespace nx::shm {
namespace {

using test::NoMemory;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr size_t kRecordMax = RingWriter::kMessageBytesMax;
const std::string kLong(3 * kRecordMax, 'l'); // in four parts, of which one holds the size, too

struct alignas(64) Memory {
    std::byte bytes[kRingBytes] = {};
};

class Waiting final : public Outbox::Waiter {
public:
    void
    noteOver(bool sent) noexcept override {
        ++told;
        over = sent;
    }

    int told = 0;
    std::optional<bool> over;
};

class OutboxTest : public testing::Test {
protected:
    OutboxTest() {
        int fds[2] = {-1, -1};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
        here = Fd(fds[0]);
        there = Fd(fds[1]);
        outbox.emplace(Port(memory.get(), here), "A", "B");
        reader.emplace(memory.get());
    }

    /// What is in the ring, taken: "note x", "first 16", "ask".
    std::vector<std::string>
    take() {
        static const char *const names[] = {"?", "note ", "first ", "more ", "last ", "drop", "ask", "answer"};
        std::vector<std::string> records;
        uint8_t kind = 0;
        for (std::string body; reader->next(kind, body) == RingReader::Next::kMessage; reader->pop()) {
            if (kind >= std::size(names)) return {"kind " + std::to_string(kind)};
            if (kind == 1 || kind == 4) bytes += body.size();
            const bool part = kind >= 2 && kind <= 4;
            records.push_back(names[kind] + (part ? std::to_string(body.size()) : body.substr(0, 40)));
        }
        return records;
    }

    /// Puts messages of one cell into the ring until it is full.
    size_t
    fillRing() {
        size_t count = 0;
        while (outbox->trySend("x")) ++count;
        return count;
    }

    /// Uses all places, with the peer taking what comes and answering nothing. How many questions it was asked.
    size_t
    usePlaces() {
        size_t questions = 0;
        const std::string message(kRecordMax, 'm');
        Status told;
        for (size_t i = 0; i < 10'000 && told.ok(); ++i) {
            told = outbox->tell(message);
            for (const std::string &record : take()) questions += record == "ask";
        }
        EXPECT_EQ(told.code(), NIXL_ERR_REPOST_ACTIVE);
        EXPECT_THAT(told.message(), HasSubstr("64 MiB of notifications wait at agent 'B' to be fetched"));
        return questions;
    }

    /// How many bells the peer has heard.
    size_t
    bells() const {
        size_t count = 0;
        for (char byte = 0; ::recv(there.get(), &byte, 1, MSG_DONTWAIT) == 1; ++count) EXPECT_EQ(byte, 'B');
        return count;
    }

    const std::unique_ptr<Memory> memory = std::make_unique<Memory>();
    Fd here, there;
    std::optional<Outbox> outbox;
    std::optional<RingReader> reader;
    size_t bytes = 0; ///< of notes and last parts that were taken
};

TEST_F(OutboxTest, SendsInTheOrderInWhichItWasGiven) {
    Waiting second, third;
    EXPECT_TRUE(outbox->trySend("first"));
    const size_t filled = fillRing();
    EXPECT_GT(filled, 0u);
    outbox->enqueue("second", second);
    outbox->enqueue("third", third);
    EXPECT_TRUE(outbox->tell("fourth").ok());
    EXPECT_FALSE(outbox->trySend("overtakes"));
    EXPECT_FALSE(outbox->empty());
    auto records = take();
    ASSERT_EQ(records.size(), 1 + filled);
    EXPECT_EQ(records.front(), "note first");
    EXPECT_FALSE(outbox->trySend("overtakes, with room")) << "others wait";
    const auto pumped = outbox->pump();
    EXPECT_TRUE(pumped.ended);
    EXPECT_FALSE(pumped.waits);
    EXPECT_THAT(take(), ElementsAre("note second", "note third", "note fourth"));
    EXPECT_EQ(second.over, true);
    EXPECT_EQ(third.over, true);
    EXPECT_EQ(second.told + third.told, 2);
    EXPECT_TRUE(outbox->empty());
    EXPECT_FALSE(outbox->pump().ended);
}

TEST_F(OutboxTest, SendsLongMessagesInPartsAsRoomComes) {
    Waiting waiting;
    EXPECT_FALSE(outbox->trySend(kLong));
    const size_t filled = fillRing();
    outbox->enqueue(kLong, waiting);
    ASSERT_TRUE(outbox->tell("behind it").ok());
    const auto first = outbox->pump();
    EXPECT_FALSE(first.ended);
    EXPECT_TRUE(first.waits);
    EXPECT_EQ(take().size(), filled);
    std::vector<std::string> records;
    for (int i = 0; i < 100 && !outbox->empty(); ++i) {
        outbox->pump();
        for (std::string &record : take()) records.push_back(std::move(record));
    }
    const std::string whole = std::to_string(kRecordMax);
    EXPECT_THAT(records, ElementsAre("first " + whole, "more " + whole, "more " + whole, "last 8", "note behind it"));
    EXPECT_EQ(waiting.told, 1);
    EXPECT_EQ(waiting.over, true);
}

TEST_F(OutboxTest, AFullRingCostsNoPlace) {
    fillRing();
    const std::string message(kRecordMax, 'm');
    for (int i = 0; i < 10'000; ++i) ASSERT_FALSE(outbox->trySend(message)) << i; // twice the places there are
    take();
    EXPECT_TRUE(outbox->tell(message).ok());
}

TEST_F(OutboxTest, AsksFromHalfOfThePlacesOnAndGoesOnWhenAnswered) {
    EXPECT_EQ(usePlaces(), 1u) << "one at a time";
    Waiting waiting;
    outbox->enqueue(std::string(kRecordMax, 'w'), waiting);
    const auto pumped = outbox->pump();
    EXPECT_FALSE(pumped.ended);
    EXPECT_FALSE(pumped.waits) << "the answer comes by itself";
    EXPECT_THAT(take(), IsEmpty());
    EXPECT_EQ(outbox->tell("x").code(), NIXL_ERR_REPOST_ACTIVE) << "others wait for a place";
    outbox->answered();
    EXPECT_TRUE(outbox->pump().ended);
    EXPECT_EQ(take().front(), "note " + std::string(40, 'w'));
    EXPECT_EQ(waiting.over, true);
    outbox->answered(); // to nothing
    for (int i = 0; i < 3; ++i) {
        usePlaces();
        outbox->answered();
    }
}

TEST_F(OutboxTest, AMessageLargerThanAllPlacesGoesWhileHalfAreFree) {
    const std::string huge(kit::kShareBytes + 1, 'h');
    Waiting waiting, next;
    outbox->enqueue(huge, waiting);
    outbox->enqueue("next", next);
    for (int i = 0; i < 100'000 && !waiting.told; ++i) {
        outbox->pump();
        take();
    }
    EXPECT_EQ(waiting.over, true);
    outbox->pump();
    for (const std::string &record : take()) EXPECT_EQ(record, "ask");
    EXPECT_FALSE(next.told) << "it waits for its place";
    outbox->answered();
    outbox->pump();
    EXPECT_EQ(next.over, true);
}

// ---- Withdrawal ----------------------------------------------------------------------------------------------------

TEST_F(OutboxTest, WhatWasWithdrawnIsNotSentAndNeedsNoPlace) {
    Waiting waiting, other;
    fillRing();
    for (int i = 0; i < 200; ++i) { // more than there are places for
        outbox->enqueue(std::string(size_t{1} << 20, 'w'), waiting);
        ASSERT_TRUE(outbox->withdraw(waiting));
        ASSERT_FALSE(outbox->withdraw(waiting)) << "it is not known any more";
    }
    outbox->enqueue("other", other);
    EXPECT_FALSE(outbox->withdraw(waiting));
    take();
    outbox->pump();
    EXPECT_THAT(take(), ElementsAre("note other"));
    EXPECT_FALSE(waiting.told);
    EXPECT_FALSE(outbox->withdraw(other)) << "it is out";
}

TEST_F(OutboxTest, ThePartsOfWhatWasWithdrawnAreDropped) {
    Waiting waiting;
    const std::string longer(10 * kRecordMax, 'l');
    outbox->enqueue(longer, waiting);
    outbox->pump(); // what the ring holds
    const auto parts = take();
    ASSERT_THAT(parts, testing::SizeIs(testing::AllOf(testing::Ge(1u), testing::Lt(10u))));
    ASSERT_TRUE(outbox->withdraw(waiting));
    ASSERT_TRUE(outbox->tell("behind it").ok());
    outbox->pump();
    EXPECT_THAT(take(), ElementsAre("drop", "note behind it"));
    EXPECT_FALSE(waiting.told);
    EXPECT_TRUE(outbox->empty());
}

TEST_F(OutboxTest, WithdrawalFreesWhoWaitsBehindItForAPlace) {
    usePlaces();
    Waiting first, second;
    outbox->enqueue(std::string(kRecordMax, '1'), first);
    outbox->enqueue(std::string(kRecordMax, '2'), second);
    outbox->pump();
    EXPECT_FALSE(first.told || second.told);
    ASSERT_TRUE(outbox->withdraw(first));
    outbox->answered();
    outbox->pump();
    EXPECT_EQ(take().front(), "note " + std::string(40, '2'));
    EXPECT_EQ(second.over, true);
}

// ---- Questions of the peer -----------------------------------------------------------------------------------------

TEST_F(OutboxTest, OwesAnAnswerUntilThereIsRoomForIt) {
    outbox->answer();
    EXPECT_THAT(take(), ElementsAre("answer"));
    fillRing();
    outbox->answer();
    EXPECT_FALSE(outbox->empty());
    EXPECT_TRUE(outbox->pump().waits);
    take();
    EXPECT_FALSE(outbox->pump().waits);
    EXPECT_THAT(take(), ElementsAre("answer"));
    EXPECT_TRUE(outbox->empty());
}

TEST_F(OutboxTest, PutsNoQuestionBetweenTheParts) {
    const std::string message(kit::kShareBytes / 2 + 1, 'l'); // from its first part on it is time to ask
    Waiting waiting;
    outbox->enqueue(message, waiting);
    bool last = false;
    for (int i = 0; i < 100'000 && !waiting.told; ++i) {
        outbox->pump();
        for (const std::string &record : take()) {
            EXPECT_TRUE(record != "ask" || last);
            last |= record.starts_with("last");
        }
    }
    outbox->pump();
    take();
    EXPECT_TRUE(last);
}

// ---- The peer's end ------------------------------------------------------------------------------------------------

TEST_F(OutboxTest, TheEndIsToldToAllThatWaitAndToWhoComesLater) {
    Waiting queued, partly, later;
    outbox->enqueue(std::string(10 * kRecordMax, 'l'), partly);
    outbox->pump();
    outbox->enqueue("queued", queued);
    outbox->end();
    outbox->end();
    for (const Waiting *each : {&queued, &partly}) {
        EXPECT_EQ(each->told, 1);
        EXPECT_EQ(each->over, false);
    }
    outbox->enqueue("later", later);
    EXPECT_EQ(later.told, 1);
    EXPECT_EQ(later.over, false);
    EXPECT_FALSE(outbox->withdraw(queued));
    EXPECT_FALSE(outbox->trySend("x"));
    const Status told = outbox->tell("x");
    EXPECT_EQ(told.code(), NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_THAT(told.message(), HasSubstr("peer 'B' is gone"));
    const auto pumped = outbox->pump();
    EXPECT_FALSE(pumped.ended || pumped.waits);
    EXPECT_TRUE(outbox->empty());
}

TEST_F(OutboxTest, HangsUpOnAPeerThatSpoilsTheRing) {
    RingMemory fields(memory.get());
    fields.position() = uint64_t{1} << 40;
    size_t sent = 0;
    while (outbox->trySend("x")) ++sent;
    EXPECT_LE(sent, kCells / 2) << "until the position is looked at";
    bells();
    char byte = 0;
    EXPECT_EQ(::recv(there.get(), &byte, 1, MSG_DONTWAIT), 0) << "the end of the connection";
}

TEST_F(OutboxTest, RingsForAReaderThatSleepsAndNoOther) {
    ASSERT_TRUE(outbox->trySend("x"));
    EXPECT_EQ(bells(), 0u);
    take();
    ASSERT_TRUE(reader->arm());
    ASSERT_TRUE(outbox->tell("x").ok());
    ASSERT_TRUE(outbox->trySend("x"));
    EXPECT_EQ(bells(), 1u);
}

TEST_F(OutboxTest, ASocketThatTakesNoMoreBellsHoldsNothingUp) {
    for (size_t i = 0; i < 100'000; ++i) {
        take();
        ASSERT_TRUE(reader->arm());
        ASSERT_TRUE(outbox->trySend("x")) << i;
    }
    EXPECT_LT(bells(), 100'000u);
}

// ---- Without memory ------------------------------------------------------------------------------------------------

TEST_F(OutboxTest, WithoutMemoryNothingIsQueuedAndNoPlaceTaken) {
    const std::string message(size_t{1} << 20, 'm');
    Waiting refused, accepted;
    fillRing();
    size_t failures = 0;
    for (int i = 0; i < 30; ++i) {
        for (int repeated = 0; repeated < 3; ++repeated) { // if places were lost, more than there are
            for (const uint64_t spared : {0, 1}) {
                const NoMemory none(spared);
                try {
                    outbox->enqueue(message, refused);
                    ASSERT_TRUE(outbox->withdraw(refused)); // there was room in the queue
                }
                catch (const std::bad_alloc &) {
                    ++failures;
                }
            }
        }
        outbox->enqueue("m", accepted);
    }
    EXPECT_GT(failures, 90u) << "some while the queue itself grows";
    {
        const NoMemory none;
        EXPECT_THROW((void)outbox->tell(message), std::bad_alloc);
    }
    EXPECT_FALSE(refused.told);
    take();
    outbox->pump();
    EXPECT_EQ(accepted.told, 30);
    EXPECT_EQ(take(), std::vector<std::string>(30, "note m"));
    EXPECT_TRUE(outbox->tell(std::string(size_t{60} << 20, 'm')).ok()) << "all places are there";
}

TEST_F(OutboxTest, SendsWithoutMemoryWhatHasAPlaceAndRoom) {
    const NoMemory none;
    EXPECT_TRUE(outbox->trySend("note"));
    outbox->answer();
    outbox->answered();
    outbox->pump();
}

} // namespace
} // namespace nx::shm
