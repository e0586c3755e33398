// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/credits.h"

#include <deque>
#include <random>

#include <gtest/gtest.h>

namespace nx::kit {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

TEST(CreditSender, TakesAsMuchAsTheShareHolds) {
    CreditSender sender(1);
    EXPECT_TRUE(sender.take(0, 40 * kMiB));
    EXPECT_TRUE(sender.take(0, 24 * kMiB));
    EXPECT_FALSE(sender.take(0, 1));
    EXPECT_EQ(sender.taken(), kShareBytes);
}

TEST(CreditSender, TakesAMessageLargerThanTheShareWhileHalfOfItIsFree) {
    CreditSender sender(1);
    EXPECT_TRUE(sender.take(0, kShareBytes / 2));
    EXPECT_TRUE(sender.take(0, 128 * kMiB));
    EXPECT_FALSE(sender.take(0, 128 * kMiB));
    EXPECT_FALSE(sender.take(0, 1));
}

TEST(CreditSender, AsksFromHalfOfTheShareOnOncePerChannel) {
    CreditSender sender(2);
    ASSERT_TRUE(sender.take(0, kShareBytes / 2));
    EXPECT_FALSE(sender.shouldAsk(0));
    ASSERT_TRUE(sender.take(0, 1));
    EXPECT_TRUE(sender.shouldAsk(0));
    EXPECT_FALSE(sender.shouldAsk(1)) << "nothing went over it";
    sender.asked(0);
    EXPECT_FALSE(sender.shouldAsk(0));
    sender.unanswered(0);
    EXPECT_TRUE(sender.shouldAsk(0));
}

TEST(CreditSender, AsksForARefusedMessageHoweverLittleIsTaken) {
    CreditSender sender(1);
    ASSERT_TRUE(sender.take(0, 10 * kMiB));
    ASSERT_FALSE(sender.take(0, 60 * kMiB));
    EXPECT_TRUE(sender.shouldAsk(0));
    sender.asked(0);
    sender.answered(0);
    EXPECT_TRUE(sender.take(0, 60 * kMiB));
}

TEST(CreditSender, AnAnswerFreesWhatWasSentBeforeTheQuestion) {
    CreditSender sender(1);
    ASSERT_TRUE(sender.take(0, 40 * kMiB));
    sender.asked(0);
    ASSERT_TRUE(sender.take(0, 5 * kMiB));
    sender.answered(0);
    EXPECT_EQ(sender.taken(), 5 * kMiB);
    sender.answered(0); // nobody has asked
    EXPECT_EQ(sender.taken(), 5 * kMiB);
}

TEST(CreditSender, AnAnswerDoesNotFreeAReservedPlace) {
    CreditSender sender(1);
    ASSERT_TRUE(sender.take(0, 40 * kMiB));
    ASSERT_TRUE(sender.reserve(10 * kMiB));
    sender.asked(0);
    sender.answered(0);
    EXPECT_EQ(sender.taken(), 10 * kMiB);
    sender.sent(0, 10 * kMiB);
    EXPECT_EQ(sender.taken(), 10 * kMiB);
    ASSERT_TRUE(sender.reserve(kMiB));
    sender.release(kMiB);
    EXPECT_EQ(sender.taken(), 10 * kMiB);
}

TEST(CreditSender, WithoutCreditsCountsWhatHasNotLeft) {
    CreditSender sender(1);
    for (int i = 0; i < 1000; ++i) {
        ASSERT_TRUE(sender.take(0, 60 * kMiB));
        EXPECT_FALSE(sender.take(0, 60 * kMiB));
        sender.completed(0, 60 * kMiB);
    }
    EXPECT_EQ(sender.taken(), 0u);
}

TEST(CreditReceiver, GivesEachSenderItsOwnShare) {
    CreditReceiver receiver;
    EXPECT_TRUE(receiver.admit("loud", kShareBytes));
    EXPECT_FALSE(receiver.admit("loud", 1));
    EXPECT_TRUE(receiver.admit("quiet", kShareBytes));
    EXPECT_TRUE(receiver.fetchAll().empty());
    EXPECT_TRUE(receiver.admit("loud", kShareBytes));
}

TEST(CreditReceiver, TakesOneMessageLargerThanAShareBesideIt) {
    CreditReceiver receiver;
    EXPECT_TRUE(receiver.admit("a", 128 * kMiB));
    EXPECT_FALSE(receiver.admit("a", 65 * kMiB));
    EXPECT_TRUE(receiver.admit("a", kShareBytes / 2)) << "was sent earlier, over another channel";
    EXPECT_TRUE(receiver.admit("b", kShareBytes / 2 + 1));
    EXPECT_FALSE(receiver.admit("b", 65 * kMiB));
}

TEST(CreditReceiver, StrangersShareALimitThatKnownSendersDoNotFeel) {
    CreditReceiver receiver;
    receiver.setKnown("friend", true);
    for (uint64_t i = 0; i < kStrangersBytes / kShareBytes; ++i) {
        ASSERT_TRUE(receiver.admit("invented " + std::to_string(i), kShareBytes));
    }
    EXPECT_FALSE(receiver.admit("one more", 1));
    EXPECT_TRUE(receiver.admit("friend", kShareBytes));
    receiver.setKnown("invented 3", true); // its metadata comes after its messages
    EXPECT_TRUE(receiver.admit("one more", kShareBytes));
    receiver.setKnown("invented 3", false);
    EXPECT_FALSE(receiver.admit("and another", 1));
    receiver.fetchAll();
    EXPECT_TRUE(receiver.admit("and another", kShareBytes));
}

TEST(CreditReceiver, AnswersAtOnceOrWhenAllOfTheSenderIsFetched) {
    CreditReceiver receiver;
    EXPECT_TRUE(receiver.ask("a", 1)) << "nothing of it waits";
    ASSERT_TRUE(receiver.admit("b", 10));
    EXPECT_TRUE(receiver.ask("a", 2));
    EXPECT_FALSE(receiver.ask("b", 3));
    EXPECT_FALSE(receiver.ask("b", 4));
    EXPECT_EQ(receiver.fetchAll(), (std::vector<CreditReceiver::Question>{3, 4}));
    EXPECT_TRUE(receiver.ask("b", 5));
    EXPECT_TRUE(receiver.fetchAll().empty());
}

TEST(CreditReceiver, HoldsSoManyQuestions) {
    CreditReceiver receiver;
    ASSERT_TRUE(receiver.admit("a", 10));
    for (size_t i = 0; i < kQuestionsMax; ++i) ASSERT_FALSE(receiver.ask("a", i));
    EXPECT_TRUE(receiver.ask("a", 0));
    EXPECT_EQ(receiver.fetchAll().size(), kQuestionsMax);
}

// Several senders with several channels each, on which everything takes its time but nothing gets lost or overtaken.
class Traffic {
public:
    explicit Traffic(uint32_t seed) : random_(seed) {
        for (size_t i = 0; i < 3; ++i) nodes_.emplace_back("sender " + std::to_string(i), 1 + random_() % 3);
    }

    void
    step() {
        Node &node = nodes_[random_() % nodes_.size()];
        const size_t channel = random_() % node.channels.size();
        const unsigned what = random_() % 100;
        if (what < 45) {
            send(node, channel);
        } else if (what < 85) {
            arrive(node, channel);
        } else if (what < 97) {
            takeAnswer(node, channel);
        } else {
            fetch();
        }
    }

    /// Everything arrives, is fetched and answered; what waits is sent.
    void
    settle() {
        for (int round = 0; round < 50; ++round) {
            for (Node &node : nodes_) {
                for (size_t channel = 0; channel < node.channels.size(); ++channel) {
                    while (!node.channels[channel].empty()) arrive(node, channel);
                    while (node.answers[channel] > 0) takeAnswer(node, channel);
                    ask(node, channel);
                }
                if (node.waiting) send(node, node.waiting_channel);
            }
            fetch();
        }
    }

    void
    expectAtRest() const {
        for (const Node &node : nodes_) {
            EXPECT_EQ(node.waiting, 0u) << node.name << " waits for ever";
            EXPECT_LE(node.credits.taken(), kShareBytes / 2 + node.last_sent);
        }
        EXPECT_EQ(refused_, 0u) << "was sent without a place";
        EXPECT_GT(delivered_, 0u);
    }

private:
    struct Node {
        Node(std::string name, size_t count) : name(std::move(name)), credits(count), channels(count), answers(count) {}

        std::string name;
        CreditSender credits;
        std::vector<std::deque<uint64_t>> channels; ///< costs on their way; 0: a question
        std::vector<int> answers;                   ///< on their way back, per channel
        uint64_t waiting = 0;                       ///< a message that found no place
        size_t waiting_channel = 0;
        uint64_t last_sent = 0;
    };

    void
    send(Node &node, size_t channel) {
        static constexpr uint64_t kSizes[] = {200, 4096, kMiB, 20 * kMiB, 60 * kMiB, 65 * kMiB, 128 * kMiB};
        const bool again = node.waiting > 0;
        const uint64_t cost = again ? node.waiting : kSizes[random_() % std::size(kSizes)] + random_() % 100;
        if (again) channel = node.waiting_channel;
        if (node.credits.take(channel, cost)) {
            node.channels[channel].push_back(cost);
            node.waiting = 0;
            node.last_sent = cost;
        } else {
            node.waiting = cost;
            node.waiting_channel = channel;
        }
        for (size_t i = 0; i < node.channels.size(); ++i) ask(node, i);
    }

    static void
    ask(Node &node, size_t channel) {
        if (!node.credits.shouldAsk(channel)) return;
        node.credits.asked(channel);
        node.channels[channel].push_back(0);
    }

    void
    arrive(Node &node, size_t channel) {
        auto &path = node.channels[channel];
        if (path.empty()) return;
        const uint64_t cost = path.front();
        path.pop_front();
        const uint64_t question = static_cast<uint64_t>(&node - nodes_.data()) << 8 | channel;
        if (cost == 0) {
            if (receiver_.ask(node.name, question)) ++node.answers[channel];
        } else if (receiver_.admit(node.name, cost)) {
            ++delivered_;
        } else {
            ++refused_;
        }
    }

    void
    takeAnswer(Node &node, size_t channel) {
        if (node.answers[channel] == 0) return;
        --node.answers[channel];
        node.credits.answered(channel);
    }

    void
    fetch() {
        for (const auto question : receiver_.fetchAll()) ++nodes_[question >> 8].answers[question & 0xff];
    }

    std::mt19937 random_;
    std::vector<Node> nodes_;
    CreditReceiver receiver_;
    uint64_t delivered_ = 0, refused_ = 0;
};

TEST(Credits, NothingIsSentWithoutAPlaceAndNobodyWaitsForEver) {
    for (uint32_t seed = 0; seed < 200; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        Traffic traffic(seed);
        for (int i = 0; i < 2000; ++i) traffic.step();
        traffic.settle();
        traffic.expectAtRest();
        if (testing::Test::HasFailure()) break;
    }
}

} // namespace
} // namespace nx::kit
