// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: what a peer sends arrives once, whole and in order; what has no place waits; a peer that breaks the rules is
// told of and brings nothing more; nothing is lost for lack of memory.
// Method: an inlet and its inbox, and a ring that the test fills as an honest or a hostile peer.
#include "shm/inlet.h"

#include <atomic>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kit/credits.h"
#include "shm/outbox.h"
#include "support/eventually.h"
#include "support/no_memory.h"
#include "wire/limits.h"

namespace nx::shm {
namespace {

using test::NoMemory;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr size_t kRecordMax = RingWriter::kMessageBytesMax;
constexpr kit::CreditReceiver::Question kQuestion = 7;

struct alignas(64) Memory {
    std::byte bytes[kRingBytes] = {};
};

std::string
sizeOf(uint64_t size) {
    return {reinterpret_cast<const char *>(&size), sizeof size};
}

class InletTest : public testing::Test {
protected:
    InletTest() {
        renew();
    }

    /// A new peer.
    void
    renew() {
        *memory = {};
        inbox = std::make_unique<kit::Inbox>("test");
        inlet = std::make_unique<Inlet>(memory.get(), *inbox, "B", kQuestion);
        writer = std::make_unique<RingWriter>(memory.get());
    }

    void
    put(Record record, std::string_view body = {}, std::string_view head = {}) {
        ASSERT_LE(writer->put(static_cast<uint8_t>(record), head, body), RingWriter::Put::kDoneWake);
    }

    /// What is in the inbox, taken, without its sender's name, which is checked.
    std::vector<std::string>
    messages() {
        notif_list_t arrived;
        questions = inbox->takeAll(arrived);
        std::vector<std::string> texts;
        for (auto &[sender, text] : arrived) {
            EXPECT_EQ(sender, "B");
            texts.push_back(std::move(text));
        }
        return texts;
    }

    /// Leaves no place in B's share of the inbox.
    void
    fillInbox() const {
        const size_t most = kit::kShareBytes - 2 * kit::messageCost("B", "");
        ASSERT_TRUE(inbox->put("B", std::string(most, 'f')));
    }

    const std::unique_ptr<Memory> memory = std::make_unique<Memory>();
    std::unique_ptr<kit::Inbox> inbox;
    std::unique_ptr<Inlet> inlet;
    std::unique_ptr<RingWriter> writer;
    std::vector<kit::CreditReceiver::Question> questions;
};

TEST_F(InletTest, DeliversInOrder) {
    EXPECT_TRUE(inlet->empty());
    Inlet::Taken taken = inlet->take();
    EXPECT_FALSE(taken.arrived || taken.answer || taken.answered || taken.stalled || taken.more || taken.broken);
    put(Record::kNote, "one");
    put(Record::kNote, "");
    put(Record::kNote, "three");
    EXPECT_FALSE(inlet->empty());
    taken = inlet->take();
    EXPECT_TRUE(taken.arrived);
    EXPECT_FALSE(taken.stalled || taken.more || taken.broken);
    EXPECT_THAT(messages(), ElementsAre("one", "", "three"));
    EXPECT_TRUE(inlet->empty());
}

TEST_F(InletTest, JoinsPartsAndForgetsThoseThatAreDropped) {
    const std::string part(kRecordMax - 8, 'p');
    put(Record::kFirst, part, sizeOf(part.size() + 6));
    put(Record::kMore, "abc");
    EXPECT_FALSE(inlet->take().arrived);
    EXPECT_THAT(messages(), IsEmpty());
    put(Record::kLast, "def");
    EXPECT_TRUE(inlet->take().arrived);
    EXPECT_THAT(messages(), ElementsAre(part + "abcdef"));
    put(Record::kFirst, part, sizeOf(part.size() + 6));
    put(Record::kDrop);
    put(Record::kDrop); // nothing
    put(Record::kNote, "behind it");
    put(Record::kFirst, part, sizeOf(part.size() + 1));
    put(Record::kLast, "x");
    EXPECT_FALSE(inlet->take().broken);
    EXPECT_THAT(messages(), ElementsAre("behind it", part + "x"));
}

TEST_F(InletTest, SaysThatThereIsMoreThanItTakesAtOnce) {
    for (int i = 0; i < 300; ++i) put(Record::kNote, std::to_string(i));
    EXPECT_TRUE(inlet->take().more);
    const size_t first = messages().size();
    EXPECT_GT(first, 0u);
    EXPECT_LT(first, 300u);
    EXPECT_FALSE(inlet->arm()) << "something is there";
    EXPECT_FALSE(inlet->take().more);
    EXPECT_EQ(first + messages().size(), 300u);
    EXPECT_TRUE(inlet->arm());
}

TEST_F(InletTest, WhatHasNoPlaceWaitsInTheRing) {
    fillInbox();
    put(Record::kNote, std::string(kRecordMax, 'w'));
    put(Record::kNote, "behind it");
    for (int i = 0; i < 3; ++i) {
        const auto taken = inlet->take();
        EXPECT_TRUE(taken.stalled);
        EXPECT_FALSE(taken.arrived || taken.more || taken.broken);
    }
    EXPECT_FALSE(inlet->empty());
    messages();
    EXPECT_FALSE(inlet->take().stalled);
    EXPECT_THAT(messages(), ElementsAre(std::string(kRecordMax, 'w'), "behind it"));
}

TEST_F(InletTest, AMessageInPartsThatHasNoPlaceIsWholeLater) {
    fillInbox();
    const std::string part(kRecordMax - 8, 'p');
    put(Record::kFirst, part, sizeOf(part.size() + 3));
    put(Record::kLast, "end");
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(inlet->take().stalled);
    messages();
    EXPECT_TRUE(inlet->take().arrived);
    EXPECT_THAT(messages(), ElementsAre(part + "end"));
    put(Record::kNote, "next");
    EXPECT_TRUE(inlet->take().arrived);
    EXPECT_THAT(messages(), ElementsAre("next"));
}

TEST_F(InletTest, AQuestionIsAnsweredOnceAllBeforeItIsFetched) {
    put(Record::kAsk);
    EXPECT_TRUE(inlet->take().answer) << "nothing waits to be fetched";
    put(Record::kNote, "x");
    put(Record::kAsk);
    EXPECT_FALSE(inlet->take().answer);
    EXPECT_THAT(messages(), ElementsAre("x"));
    EXPECT_THAT(questions, ElementsAre(kQuestion));
    put(Record::kAnswer);
    EXPECT_TRUE(inlet->take().answered);
}

TEST_F(InletTest, RingsOnlyWhenItIsArmed) {
    EXPECT_TRUE(inlet->arm());
    EXPECT_EQ(writer->put(1, {}, "x"), RingWriter::Put::kDoneWake);
    inlet->take();
    EXPECT_TRUE(inlet->arm());
    inlet->disarm();
    EXPECT_EQ(writer->put(1, {}, "x"), RingWriter::Put::kDone);
}

// ---- Hostile peers -------------------------------------------------------------------------------------------------

struct Written {
    Record record;
    std::string body;
};

TEST_F(InletTest, RefusesWhatNoOutboxSends) {
    const std::string text(100, 't');
    const auto first = [&](uint64_t size) { return Written{Record::kFirst, sizeOf(size) + text}; };
    const std::vector<std::pair<const char *, std::vector<Written>>> hostile = {
        {"a part of nothing", {{Record::kMore, text}}},
        {"the last part of nothing", {{Record::kLast, text}}},
        {"a first part without a size", {{Record::kFirst, ""}}},
        {"with half a size", {{Record::kFirst, "1234567"}}},
        {"without a part", {{Record::kFirst, sizeOf(8)}}},
        {"smaller than its part", {first(99)}},
        {"as large as its part", {first(100)}},
        {"larger than any message", {first(wire::kNotificationBytesMax + 1)}},
        {"of a size that wraps", {first(~uint64_t{0})}},
        {"a first part within a message", {first(1000), first(1000)}},
        {"a note within a message", {first(1000), {Record::kNote, text}}},
        {"a question within a message", {first(1000), {Record::kAsk, ""}}},
        {"an empty part", {first(1000), {Record::kMore, ""}}},
        {"an empty last part", {first(1000), {Record::kLast, ""}}},
        {"a part too large", {first(150), {Record::kMore, text}}},
        {"a last part too large", {first(150), {Record::kLast, text}}},
        {"a part that is the last", {first(200), {Record::kMore, text}}},
        {"a last part before the end", {first(300), {Record::kLast, text}}},
        {"record 0", {{Record{0}, ""}}},
        {"record 8", {{Record{8}, text}}},
        {"record 255", {{Record{255}, text}}},
    };
    for (const auto &[what, records] : hostile) {
        SCOPED_TRACE(what);
        renew();
        for (const auto &[record, body] : records) put(record, body);
        put(Record::kNote, "what it says then");
        for (int i = 0; i < 3; ++i) {
            const auto taken = inlet->take();
            EXPECT_TRUE(taken.broken);
            EXPECT_FALSE(taken.arrived || taken.more || taken.stalled);
        }
        EXPECT_THAT(messages(), IsEmpty());
    }
}

TEST_F(InletTest, WhatCameBeforeItBrokeTheRulesIsDelivered) {
    put(Record::kNote, "honest");
    put(Record::kMore, "x");
    const auto taken = inlet->take();
    EXPECT_TRUE(taken.arrived);
    EXPECT_TRUE(taken.broken);
    EXPECT_THAT(messages(), ElementsAre("honest"));
}

TEST_F(InletTest, RefusesALengthThatNoWriterUses) {
    RingMemory fields(memory.get());
    fields.head(0) = (uint32_t{kRecordMax} + 1) << 8 | 1;
    fields.word(0) = 1;
    EXPECT_TRUE(inlet->take().broken);
    EXPECT_TRUE(inlet->take().broken) << "and stays so";
    EXPECT_THAT(messages(), IsEmpty());
}

TEST_F(InletTest, AMessageThatNeverEndsTakesNoMoreThanItSaid) {
    put(Record::kFirst, "x", sizeOf(wire::kNotificationBytesMax));
    const std::string part(kRecordMax, 'p');
    uint64_t sent = 1;
    Inlet::Taken taken = inlet->take();
    while (!taken.broken && sent < 2 * wire::kNotificationBytesMax) {
        put(Record::kMore, part);
        sent += part.size();
        taken = inlet->take();
    }
    EXPECT_TRUE(taken.broken);
    EXPECT_LE(sent, wire::kNotificationBytesMax + part.size());
}

// ---- Threads, and no memory ----------------------------------------------------------------------------------------

TEST_F(InletTest, SeveralWhoTakeGetEachMessageOnce) {
    constexpr int kMessages = 20'000;
    std::atomic<bool> stop{false};
    std::vector<std::jthread> takers;
    for (int i = 0; i < 3; ++i) {
        takers.emplace_back([&] {
            while (!stop) {
                if (inlet->take().broken) stop = true;
                std::this_thread::yield();
            }
        });
    }
    std::vector<std::string> all;
    const auto fetch = [&] {
        for (std::string &text : messages()) all.push_back(std::move(text));
    };
    for (int i = 0; i < kMessages; ++i) {
        while (writer->put(1, {}, std::to_string(i)) == RingWriter::Put::kFull) {
            fetch();
            std::this_thread::yield();
        }
    }
    EXPECT_TRUE(test::eventually([&] {
        fetch();
        return all.size() >= kMessages;
    }));
    stop = true;
    takers.clear();
    ASSERT_EQ(all.size(), size_t{kMessages});
    for (int i = 0; i < kMessages; ++i) ASSERT_EQ(all[static_cast<size_t>(i)], std::to_string(i));
}

/// Takes with the n-th allocation failing, for every n, until one take needs no more than it gets. What all brought.
Inlet::Taken
takeWithFailures(Inlet &inlet, size_t &failures) {
    Inlet::Taken all;
    for (uint64_t spared = 0;; ++spared) {
        try {
            const NoMemory none(spared);
            const auto taken = inlet.take();
            all.arrived |= taken.arrived;
            all.answer |= taken.answer;
            all.answered |= taken.answered;
            if (!taken.more) return all;
        }
        catch (const std::bad_alloc &) {
        }
        ++failures;
    }
}

TEST_F(InletTest, WithoutMemoryNothingIsLost) {
    const std::string note(200, 'n'), part(kRecordMax - 8, 'p'), more(kRecordMax, 'm');
    size_t failures = 0;
    for (int round = 0; round < 3; ++round) {
        put(Record::kAnswer);
        put(Record::kNote, note);
        put(Record::kFirst, part, sizeOf(part.size() + more.size() + 3));
        put(Record::kMore, more);
        put(Record::kLast, "end");
        put(Record::kNote, note);
        const auto taken = takeWithFailures(*inlet, failures);
        EXPECT_TRUE(taken.answered) << "or the peer's places are never free again";
        EXPECT_TRUE(taken.arrived) << "or nobody who waits is woken";
        EXPECT_THAT(messages(), ElementsAre(note, part + more + "end", note));
    }
    EXPECT_GT(failures, 5u);
}

TEST_F(InletTest, WithoutMemoryAQuestionIsNotForgotten) {
    size_t failures = 0;
    put(Record::kAsk);
    put(Record::kNote, std::string(200, 'n'));
    EXPECT_TRUE(takeWithFailures(*inlet, failures).answer) << "or the peer waits for it for ever";
    EXPECT_GT(failures, 0u);
}

} // namespace
} // namespace nx::shm
