// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: a peer that has met this engine and then breaks the rules loses its link, with one line in the log, and nothing
// of it is left; whoever else comes is met. Method: an engine's links, and peers that the test plays by hand.
#include "shm/connection.h"

#include <fcntl.h>
#include <filesystem>
#include <sys/socket.h>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/eventually.h"

namespace nx::shm {
namespace {

using test::eventually;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr auto kPatience = std::chrono::milliseconds(test::kPatience);

size_t
openDescriptors() {
    size_t count = 0;
    for ([[maybe_unused]] const auto &entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
    return count;
}

/// What an engine consists of, as far as its peers are concerned.
class Party {
public:
    explicit Party(const std::string &agent) : board(value(Board::create())), inbox("backend SHM of agent " + agent) {
        links = value(Links::create(agent, *board, blocks, inbox, false));
    }

    /// All that has arrived, fetched.
    std::vector<std::string>
    messages() {
        links->look();
        notif_list_t arrived;
        links->emptied(inbox.takeAll(arrived));
        std::vector<std::string> texts;
        for (auto &[sender, text] : arrived) texts.push_back(sender + ": " + text);
        return texts;
    }

    const std::unique_ptr<Board> board;
    Blocks blocks;
    kit::Inbox inbox;
    std::unique_ptr<Links> links;

    template<class T>
    static T
    value(Result<T> result) {
        if (!result.ok()) throw std::runtime_error(result.message());
        return *std::move(result);
    }
};

/// A peer by hand: it has greeted, and been greeted.
class ByHand {
public:
    ByHand(const Party &to, const Party &itself)
        : socket(Party::value(kit::connectLocal(kSockets, to.links->listener()))) {
        Fd memory = Party::value(createShared("nixl-test-link", sizeof(Region)));
        mapping_ = Party::value(Mapping::map(memory, sizeof(Region), Mapping::Access::kReadWrite));
        Message hello;
        hello.type = Message::Type::kHello;
        hello.listener = itself.links->listener();
        hello.agent = "hostile";
        hello.descriptors = {std::move(memory), Fd(::fcntl(itself.board->descriptor(), F_DUPFD_CLOEXEC, 0))};
        EXPECT_TRUE(send(socket, hello));
        const auto answer = await(socket, kPatience);
        EXPECT_TRUE(answer.ok() && answer->type == Message::Type::kHello) << answer.message();
    }

    /// Its ring.
    void *
    ring() const {
        return reinterpret_cast<Region *>(mapping_.data())->rings[0];
    }

    /// The other side hangs up.
    bool
    isLeft() const {
        return eventually([&] {
            const auto said = receive(socket);
            return !said.ok() && said.code() == NIXL_ERR_REMOTE_DISCONNECT;
        });
    }

    const Fd socket;

private:
    Mapping mapping_;
};

/// What is logged while it exists.
class CapturedLog {
public:
    CapturedLog() {
        testing::internal::CaptureStderr();
    }
    ~CapturedLog() {
        if (!taken_) text();
    }

    /// Once.
    std::string
    text() {
        taken_ = true;
        return testing::internal::GetCapturedStderr();
    }

private:
    bool taken_ = false;
};

class LinksTest : public testing::Test {
protected:
    static size_t
    countOf(const std::string &text, const std::string &what) {
        size_t count = 0;
        for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
        return count;
    }

    /// It meets, is heard, and hears.
    void
    expectToWork(Party &next) {
        const auto link = next.links->meet(victim_.links->listener());
        ASSERT_TRUE(link.ok()) << link.message();
        EXPECT_TRUE(next.links->tell(**link, "hello").ok());
        std::vector<std::string> heard;
        EXPECT_TRUE(eventually([&] {
            for (std::string &text : victim_.messages()) heard.push_back(std::move(text));
            return !heard.empty();
        }));
        EXPECT_EQ(heard, std::vector<std::string>{"honest: hello"});
    }

    CapturedLog log_;
    Party victim_{"victim"}, honest_{"honest"};
    const size_t before_ = openDescriptors();
};

TEST_F(LinksTest, ARingWithWhatMustNotBeThereEndsItsLinkWithOneLine) {
    for (int i = 0; i < 3; ++i) {
        const ByHand hostile(victim_, honest_);
        RingWriter(hostile.ring()).put(static_cast<uint8_t>(Record::kMore), {}, "part of nothing");
        ASSERT_TRUE(ringBell(hostile.socket));
        EXPECT_TRUE(hostile.isLeft());
    }
    expectToWork(honest_);
    const std::string logged = log_.text();
    EXPECT_EQ(countOf(logged, "agent 'hostile' wrote into its ring what it must not"), 3u) << logged;
}

TEST_F(LinksTest, ARingThatIsSpoiltWhileCallersLookEndsItsLinkWithOneLine) {
    const ByHand hostile(victim_, honest_);
    RingWriter writer(hostile.ring());
    // Until callers look by themselves: then nobody need be woken.
    ASSERT_TRUE(eventually([&] {
        for (int i = 0; i < 100; ++i) victim_.messages();
        const auto put = writer.put(static_cast<uint8_t>(Record::kNote), {}, "x");
        if (put == RingWriter::Put::kDoneWake) ringBell(hostile.socket);
        return put == RingWriter::Put::kDone;
    }));
    writer.put(0, {}, {});
    EXPECT_TRUE(eventually([&] {
        victim_.messages();
        const auto said = receive(hostile.socket);
        return !said.ok();
    }));
    for (int i = 0; i < 1000; ++i) victim_.messages();
    expectToWork(honest_);
    const std::string logged = log_.text();
    EXPECT_EQ(countOf(logged, "wrote into its ring what it must not"), 1u) << logged;
}

TEST_F(LinksTest, WhatIsNoMessageEndsItsLink) {
    const std::vector<std::string> hostile = {
        std::string(1, '\0'), "X", "HHHH", "B and more", "W", "M1234567", std::string(5000, 'R'), std::string()};
    for (const std::string &bytes : hostile) {
        const ByHand peer(victim_, honest_);
        ASSERT_EQ(::send(peer.socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
                  static_cast<ssize_t>(bytes.size()));
        EXPECT_TRUE(peer.isLeft()) << bytes.substr(0, 10);
    }
    {
        const ByHand peer(victim_, honest_); // it greets again
        Message again;
        again.type = Message::Type::kHello;
        again.listener = honest_.links->listener();
        ASSERT_TRUE(send(peer.socket, again));
        EXPECT_TRUE(peer.isLeft());
    }
    expectToWork(honest_);
    EXPECT_THAT(log_.text(), Not(HasSubstr("WARN")));
}

TEST_F(LinksTest, BlocksThatNobodyHasOrAskedForAreNothing) {
    const ByHand peer(victim_, honest_);
    Message block{.type = Message::Type::kBlock, .number = 1, .bytes = 4096};
    block.descriptors[0] = Party::value(createShared("nixl-test-block", 4096));
    ASSERT_TRUE(send(peer.socket, block));
    ASSERT_TRUE(send(peer.socket, {.type = Message::Type::kNoBlock, .number = 7}));
    ASSERT_TRUE(send(peer.socket, {.type = Message::Type::kWantBlock, .number = ~uint64_t{0}}));
    const auto answer = await(peer.socket, kPatience);
    ASSERT_TRUE(answer.ok()) << answer.message();
    EXPECT_EQ(answer->type, Message::Type::kNoBlock);
    EXPECT_EQ(answer->number, ~uint64_t{0});
}

TEST_F(LinksTest, WhoSaysNothingKeepsNobodyOutAndIsSentAway) {
    std::vector<Fd> silent;
    for (int i = 0; i < 400; ++i)
        silent.push_back(Party::value(kit::connectLocal(kSockets, victim_.links->listener())));
    expectToWork(honest_);
    for (const Fd &socket : silent) EXPECT_TRUE(eventually([&] { return kit::hasEnded(socket); }));
    silent.clear();
    // Both ends of the one link are here, and what each has of the other's process.
    EXPECT_TRUE(eventually([&] { return openDescriptors() <= before_ + 4; })) << openDescriptors() - before_;
}

TEST_F(LinksTest, ALinkThatEndedLeavesNothing) {
    const auto none = [&] {
        EXPECT_TRUE(eventually([&] { return openDescriptors() == before_; })) << openDescriptors() << " " << before_;
    };
    for (int i = 0; i < 50; ++i) const ByHand peer(victim_, honest_);
    none();
    for (int i = 0; i < 5; ++i) {
        Party passing("passing");
        const auto link = victim_.links->meet(passing.links->listener());
        ASSERT_TRUE(link.ok()) << link.message();
    }
    none();
}

} // namespace
} // namespace nx::shm
