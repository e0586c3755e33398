// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: a session over a socket moves every byte, never blocks, and ends whatever its peer does. Method: links of this
// process on one loop, and peers that say what they should not, stand still, close or are killed.
#include "kit/peer/socket_link.h"

#include <csignal>
#include <cstring>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/thread.h"
#include "kit/local_socket.h"
#include "kit/peer/socket.h"
#include "support/eventually.h"

namespace nx::kit {
namespace {

using State = Session::State;
using test::eventually;
using testing::HasSubstr;

constexpr WindowKey kKey{1, 0};

SessionOptions
optionsOf(const std::string &name) {
    SessionOptions options;
    options.hello.name = name;
    options.stream_count = 1;
    options.ping_after = 10'000;
    options.dead_after = 30'000;
    return options;
}

/// Two connected, non-blocking sockets.
std::array<Fd, 2>
socketPair() {
    int sockets[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sockets), 0);
    return {Fd(sockets[0]), Fd(sockets[1])};
}

/// One side: a link and what happened to it.
struct End {
    End(Loop &loop, Fd socket, SessionOptions options)
        : link(SocketLink::start(loop,
                                 std::move(socket),
                                 std::move(options),
                                 inbox,
                                 {[this](Request &) { ++requests_ended; }, [this] { over = true; }})) {}

    bool
    isOver() const {
        return over;
    }

    Status
    reason() {
        const auto session = link->look();
        return {session->reason().code(), session->reason().message()};
    }

    Inbox inbox{"test"};
    std::atomic<int> requests_ended{0};
    std::atomic<bool> over{false};
    std::shared_ptr<SocketLink> link;
};

class LinkOverSocket : public testing::Test {
protected:
    LinkOverSocket() : loop(*Loop::create()), local(kBytes, 'a'), remote(kBytes, 'b') {
        auto [first, second] = socketPair();
        here = std::make_unique<End>(*loop, std::move(first), optionsOf("A"));
        other = std::move(second);
        thread = Thread("test-loop", [this] { loop->run(); });
    }
    ~LinkOverSocket() override {
        for (End *end : {here.get(), there.get()}) {
            if (end) end->link->use()->linkLost("the test has ended");
        }
        loop->stop();
        thread.join();
    }

    /// The other side is a link as well, with a window of all of `remote`.
    void
    meet() {
        there = std::make_unique<End>(*loop, std::move(other), optionsOf("B"));
        const Window window{.key = kKey,
                            .rights = kMayRead | kMayWrite,
                            .address = reinterpret_cast<uint64_t>(remote.data()),
                            .length = remote.size()};
        const Status told = there->link->use()->announce(window);
        ASSERT_TRUE(told.ok()) << told.message();
    }

    void
    fill(Request &request, nixl_xfer_op_t operation, size_t block = kBytes) {
        request.operation = operation;
        const uint64_t count = kBytes / block;
        request.local.add({reinterpret_cast<uint64_t>(local.data()), block, block, count});
        // Backwards, so that no two blocks are one.
        request.remote.add(
            {reinterpret_cast<uint64_t>(remote.data()) + (count - 1) * block, block, -block, count, kKey});
    }

    static constexpr size_t kBytes = size_t{8} << 20;
    std::unique_ptr<Loop> loop;
    std::string local, remote;
    std::unique_ptr<End> here, there;
    Fd other; ///< the other side by hand
    Thread thread;
};

TEST_F(LinkOverSocket, MovesEveryByteBothWays) {
    meet();
    for (size_t i = 0; i < kBytes; ++i) local[i] = static_cast<char>(i * 2654435761u >> 13);
    const std::string sent = local;
    Request write, read;
    fill(write, NIXL_WRITE, 64);
    fill(read, NIXL_READ, 64);
    ASSERT_TRUE(here->link->use()->post(write, "written").ok());
    ASSERT_TRUE(eventually([&] { return here->requests_ended == 1; }));
    EXPECT_TRUE(write.outcome.ok()) << write.outcome.message();
    notif_list_t notes;
    there->inbox.takeAll(notes);
    EXPECT_THAT(notes, testing::ElementsAre(std::pair<std::string, std::string>("A", "written")));
    local.assign(kBytes, '.');
    ASSERT_TRUE(here->link->use()->post(read).ok());
    ASSERT_TRUE(eventually([&] { return here->requests_ended == 2; }));
    EXPECT_TRUE(read.outcome.ok()) << read.outcome.message();
    EXPECT_TRUE(local == sent);
}

TEST_F(LinkOverSocket, EndsInOrderAndTakesWhatWasSaidBefore) {
    meet();
    ASSERT_TRUE(here->link->use()->sendNote("last words").ok());
    here->link->use()->close();
    ASSERT_TRUE(eventually([&] { return here->isOver() && there->isOver(); }));
    notif_list_t notes;
    there->inbox.takeAll(notes);
    EXPECT_THAT(notes, testing::ElementsAre(std::pair<std::string, std::string>("A", "last words")));
    EXPECT_EQ(there->reason().code(), NIXL_ERR_REMOTE_DISCONNECT);
    Request request;
    fill(request, NIXL_READ);
    EXPECT_EQ(here->link->use()->post(request).code(), NIXL_ERR_REMOTE_DISCONNECT);
}

TEST_F(LinkOverSocket, WhatARevokedWindowHoldsStaysAsItIs) {
    meet();
    Request request;
    fill(request, NIXL_WRITE);
    ASSERT_TRUE(here->link->use()->post(request).ok());
    {
        const auto session = there->link->use();
        ASSERT_TRUE(session->revoke(kKey).ok());
        EXPECT_EQ(session->nextQuiet(), kKey) << "at once";
        std::memset(remote.data(), 'z', kBytes);
    }
    ASSERT_TRUE(eventually([&] { return here->requests_ended == 1; }));
    EXPECT_EQ(request.outcome.code(), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(remote.find_first_not_of('z'), std::string::npos);
}

TEST_F(LinkOverSocket, CallersComeInWhileMuchIsMoved) {
    meet();
    remote.assign(size_t{512} << 20, 'b');
    local.assign(remote.size(), 'a');
    const Window all{.key = {2, 0},
                     .rights = kMayWrite,
                     .address = reinterpret_cast<uint64_t>(remote.data()),
                     .length = remote.size()};
    ASSERT_TRUE(there->link->use()->announce(all).ok());
    Request request;
    request.operation = NIXL_WRITE;
    request.local.add({.address = reinterpret_cast<uint64_t>(local.data()), .length = local.size()});
    request.remote.add({.address = all.address, .length = all.length, .window = all.key});
    ASSERT_TRUE(here->link->use()->post(request).ok());
    uint64_t before = 0;
    for (int calls = 0; calls < 20; ++calls) {
        const auto session = here->link->look();
        EXPECT_GE(request.moved, before);
        EXPECT_LT(request.moved, local.size()) << "everything was moved before call " << calls << " came in";
        before = request.moved;
    }
    ASSERT_TRUE(eventually([&] { return here->requests_ended == 1; }));
    EXPECT_TRUE(local == remote);
}

// ---- Peers that are not as they should be --------------------------------------------------------------------------

TEST_F(LinkOverSocket, HangsUpOnAPeerThatTalksNonsense) {
    Request request;
    fill(request, NIXL_READ);
    ASSERT_TRUE(here->link->use()->post(request).ok());
    ASSERT_EQ(::send(other.get(), "GET / HTTP/1.1\r\n\r\n", 18, 0), 18);
    ASSERT_TRUE(eventually([&] { return here->isOver(); }));
    EXPECT_EQ(here->requests_ended, 1);
    EXPECT_EQ(request.outcome.code(), NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_EQ(here->reason().code(), NIXL_ERR_MISMATCH);
    EXPECT_TRUE(isClosed(other));
}

TEST_F(LinkOverSocket, EndsWithAPeerThatClosesInTheMiddleOfAFrame) {
    Request request;
    fill(request, NIXL_WRITE);
    std::string greeting;
    encodeHello(greeting, {.name = "B"});
    ASSERT_EQ(::send(other.get(), greeting.data(), greeting.size() - 1, 0), static_cast<ssize_t>(greeting.size()) - 1);
    ASSERT_TRUE(here->link->use()->post(request).ok()); // more than the socket takes
    other.reset();
    ASSERT_TRUE(eventually([&] { return here->isOver(); }));
    EXPECT_EQ(here->requests_ended, 1);
    EXPECT_EQ(request.outcome.code(), NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_THAT(request.outcome.message(), HasSubstr("is lost"));
}

TEST_F(LinkOverSocket, WhatAPeerSaidBeforeItClosedArrivesAlthoughNothingReachesItAnyMore) {
    // The peer's side by hand: a greeting, a message larger than a turn, and the end.
    std::string bytes;
    encodeHello(bytes, {.name = "B"});
    const std::string part(kNotePartBytesMax, 'n');
    encodeNote(bytes, {0, 2 * part.size(), part});
    encodeNote(bytes, {0, 2 * part.size(), part});
    ASSERT_EQ(::send(other.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    other.reset();
    Request request;
    fill(request, NIXL_WRITE);
    static_cast<void>(here->link->use()->post(request)); // EPIPE
    ASSERT_TRUE(eventually([&] { return here->isOver(); }));
    EXPECT_EQ(here->inbox.count(), 1u);
}

TEST_F(LinkOverSocket, APeerThatStandsStillBlocksNobodyAndItsRequestsCanBeEnded) {
    Request request;
    fill(request, NIXL_WRITE);
    ASSERT_TRUE(here->link->use()->post(request).ok());
    here->link->use()->cancel(request);
    EXPECT_EQ(here->requests_ended, 0) << "the peer has not said that it is";
    here->link->use()->linkLost("it stands still");
    EXPECT_EQ(here->requests_ended, 1);
    EXPECT_EQ(request.outcome.code(), NIXL_ERR_REMOTE_DISCONNECT);
    ASSERT_TRUE(eventually([&] { return here->isOver(); }));
    EXPECT_TRUE(isClosed(other));
}

TEST_F(LinkOverSocket, SilenceEndsIt) {
    auto [first, second] = socketPair();
    SessionOptions impatient = optionsOf("A");
    impatient.ping_after = 10;
    impatient.dead_after = 100;
    End silent(*loop, std::move(first), impatient);
    ASSERT_TRUE(eventually([&] { return silent.isOver(); }));
    EXPECT_THAT(silent.reason().message(), HasSubstr("silent"));
    EXPECT_FALSE(here->isOver()) << "the other one is patient";
}

TEST_F(LinkOverSocket, TwoThatSayNothingStayConnected) {
    auto [first, second] = socketPair();
    SessionOptions options = optionsOf("A");
    options.ping_after = 20;
    options.dead_after = 20'000;
    End left(*loop, std::move(first), options);
    options.dead_after = 300; // so much later, without pings
    End right(*loop, std::move(second), options);
    EXPECT_FALSE(eventually([&] { return left.isOver() || right.isOver(); }, std::chrono::milliseconds(900)));
    left.link->use()->close();
    EXPECT_TRUE(eventually([&] { return left.isOver() && right.isOver(); }));
}

TEST_F(LinkOverSocket, EndsWithTheProcessOfThePeerAlthoughAChildOfItHoldsTheSocket) {
    constexpr LocalSocketKind kKind{"nixl-test-", SOCK_STREAM};
    auto listener = LocalListener::create(kKind);
    ASSERT_TRUE(listener.ok()) << listener.message();
    int gate[2], born[2];
    ASSERT_EQ(pipe(gate), 0);
    ASSERT_EQ(pipe(born), 0);
    const pid_t peer = fork();
    if (peer == 0) {
        close(gate[1]);
        const auto socket = connectLocal(kKind, listener->name());
        if (fork() != 0) pause(); // until it is killed
        char byte = 0;
        static_cast<void>(!write(born[1], &byte, 1));
        _exit(static_cast<int>(read(gate[0], &byte, 1)));
    }
    Fd socket;
    ASSERT_TRUE(eventually([&] {
        auto accepted = listener->accept();
        if (accepted.ok()) socket = *std::move(accepted);
        return static_cast<bool>(socket);
    }));
    if (!processOf(socket.get())) GTEST_SKIP() << "this system has no pidfd_open";
    End end(*loop, std::move(socket), optionsOf("A"));
    Request request;
    fill(request, NIXL_READ);
    ASSERT_TRUE(end.link->use()->post(request).ok());
    EXPECT_FALSE(end.isOver());
    char byte;
    ASSERT_EQ(read(born[0], &byte, 1), 1);
    kill(peer, SIGKILL);
    ASSERT_TRUE(eventually([&] { return end.isOver(); }));
    EXPECT_EQ(end.requests_ended, 1);
    EXPECT_THAT(request.outcome.message(), HasSubstr("process has ended"));
    waitpid(peer, nullptr, 0);
    for (const int fd : {gate[0], gate[1], born[0], born[1]}) close(fd);
}

TEST_F(LinkOverSocket, AFloodingPeerDoesNotKeepTheOthersWaiting) {
    // It sends messages without end, of which none has a place, over a socket that is always full.
    std::string bytes;
    encodeHello(bytes, {.name = "B"});
    ASSERT_EQ(::send(other.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    bytes.clear();
    while (bytes.size() < (size_t{1} << 20)) encodeEmpty(bytes, FrameType::kPing);
    std::atomic<bool> stop{false};
    Thread flood("test-flood", [&] {
        while (!stop) static_cast<void>(::send(other.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL));
    });
    auto [first, second] = socketPair();
    End left(*loop, std::move(first), optionsOf("left")), right(*loop, std::move(second), optionsOf("right"));
    ASSERT_TRUE(left.link->use()->sendNote("here I am").ok());
    EXPECT_TRUE(eventually([&] { return right.inbox.count() == 1; }));
    left.link->use()->close();
    EXPECT_TRUE(eventually([&] { return left.isOver() && right.isOver(); }));
    here->link->use()->close();
    stop = true;
    flood.join();
}

} // namespace
} // namespace nx::kit
