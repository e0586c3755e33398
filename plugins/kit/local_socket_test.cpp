// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: processes of one host meet, others do not, and either side learns of the other's end in whatever way it comes.
// Method: both sides in this process, the end also while a forked child holds copies of the sockets; another user.
#include "kit/local_socket.h"

#include <csignal>
#include <poll.h>
#include <set>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "kit/acceptor.h"
#include "support/eventually.h"

namespace nx::kit {
namespace {

constexpr LocalSocketKind kKind{"nixl-test-", SOCK_SEQPACKET};
const std::string kNobodysName = "nixl-test-0123456789abcdef0123456789abcdef";

class LocalSocket : public testing::Test {
protected:
    LocalSocket() : listener(LocalListener::create(kKind)) {
        auto connected = connectLocal(kKind, listener->name());
        EXPECT_TRUE(connected.ok()) << connected.message();
        here = *std::move(connected);
        auto accepted = listener->accept();
        EXPECT_TRUE(accepted.ok()) << accepted.message();
        there = *std::move(accepted);
    }

    Result<LocalListener> listener;
    Fd here, there;
};

/// Runs `body` in a child process; what it returns.
template<class Body>
int
inChild(Body body) {
    const pid_t child = fork();
    if (child == 0) _exit(body());
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(LocalSocket, CarriesMessagesBothWays) {
    ASSERT_EQ(::send(here.get(), "there", 5, 0), 5);
    ASSERT_EQ(::send(there.get(), "here", 4, 0), 4);
    char bytes[8];
    EXPECT_EQ(::recv(there.get(), bytes, sizeof bytes, 0), 5);
    EXPECT_EQ(::recv(here.get(), bytes, sizeof bytes, 0), 4);
    EXPECT_EQ(::recv(here.get(), bytes, sizeof bytes, 0), -1);
    EXPECT_EQ(errno, EAGAIN) << "it never blocks";
    EXPECT_FALSE(hasEnded(here));
    EXPECT_FALSE(hasEnded(there));
    EXPECT_FALSE(refusesCopies(here)) << "of its own memory";
}

TEST_F(LocalSocket, EndsOneWayOrAltogether) {
    ::shutdown(here.get(), SHUT_WR);
    EXPECT_TRUE(hasEnded(there));
    EXPECT_FALSE(isClosed(there)) << "it may still be answered";
    EXPECT_FALSE(isClosed(here));
    there.reset();
    EXPECT_TRUE(isClosed(here));
}

TEST_F(LocalSocket, EndsAlthoughAForkedChildHoldsIt) {
    int gate[2];
    ASSERT_EQ(pipe(gate), 0);
    const pid_t child = fork();
    if (child == 0) {
        close(gate[1]);
        char byte;
        _exit(static_cast<int>(read(gate[0], &byte, 1)));
    }
    endSocket(there);
    there.reset();
    EXPECT_TRUE(hasEnded(here));
    EXPECT_TRUE(isClosed(here));
    close(gate[1]);
    waitpid(child, nullptr, 0);
    close(gate[0]);
}

TEST_F(LocalSocket, OfNobodyWhoWaitsAcceptsNone) {
    const auto none = listener->accept();
    ASSERT_TRUE(none.ok()) << none.message();
    EXPECT_FALSE(*none);
}

TEST_F(LocalSocket, OfAnotherUserIsSentAwayOnBothSides) {
    if (geteuid() != 0) GTEST_SKIP() << "only root can be another user";
    constexpr uid_t kOther = 65534;
    // Another user's process connects: it is accepted by nobody and hears the end.
    const pid_t stranger = fork();
    if (stranger == 0) {
        if (setresuid(kOther, kOther, kOther) != 0) _exit(1);
        const auto refused = connectLocal(kKind, listener->name()); // it does not trust this side, either
        _exit(refused.code() == NIXL_ERR_NOT_FOUND ? 0 : 2);
    }
    pollfd waiting{listener->get(), POLLIN, 0};
    ASSERT_EQ(::poll(&waiting, 1, 20'000), 1);
    const auto accepted = listener->accept();
    ASSERT_TRUE(accepted.ok()) << accepted.message();
    EXPECT_FALSE(*accepted);
    int status = -1;
    waitpid(stranger, &status, 0);
    EXPECT_EQ(status, 0);
}

TEST(LocalSocketProcess, IsSeenToEndAlthoughAChildOfItHoldsTheSocket) {
    auto listener = LocalListener::create(kKind);
    ASSERT_TRUE(listener.ok()) << listener.message();
    int gate[2];
    ASSERT_EQ(pipe(gate), 0);
    const pid_t other = fork();
    if (other == 0) {
        close(gate[1]);
        const auto socket = connectLocal(kKind, listener->name());
        if (fork() != 0) pause(); // until it is killed
        char byte;
        _exit(static_cast<int>(read(gate[0], &byte, 1)));
    }
    Fd socket;
    ASSERT_TRUE(test::eventually([&] {
        auto accepted = listener->accept();
        if (accepted.ok()) socket = *std::move(accepted);
        return static_cast<bool>(socket);
    }));
    const Fd process = processOf(socket.get());
    if (!process) GTEST_SKIP() << "this system has no pidfd_open";
    pollfd ended{process.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&ended, 1, 0), 0);
    kill(other, SIGKILL);
    EXPECT_EQ(::poll(&ended, 1, 20'000), 1);
    waitpid(other, nullptr, 0);
    close(gate[0]);
    close(gate[1]);
}

TEST(LocalSocketNames, OfNoListenerAreRefused) {
    for (const std::string &name :
         {std::string(), std::string("nixl-test-"), std::string("/tmp/.X11-unix/X0"),
          "nixl-ucx-" + kNobodysName.substr(9), kNobodysName + "0", kNobodysName.substr(0, 41) + "X",
          kNobodysName.substr(0, 41) + std::string(1, '\0')}) {
        EXPECT_EQ(connectLocal(kKind, name).code(), NIXL_ERR_MISMATCH) << name;
    }
    EXPECT_EQ(connectLocal(kKind, kNobodysName).code(), NIXL_ERR_REMOTE_DISCONNECT);
}

TEST(LocalSocketNames, AreEachTimeOthers) {
    std::set<std::string> names;
    for (int i = 0; i < 100; ++i) names.insert(LocalListener::create(kKind)->name());
    EXPECT_EQ(names.size(), 100u);
}

TEST(HostIdentity, IsStableAndTellsUsersAndNamespacesApart) {
    const std::string own = hostIdentity();
    EXPECT_FALSE(own.empty());
    EXPECT_EQ(hostIdentity(), own);
    if (geteuid() != 0) GTEST_SKIP() << "only root can be another user";
    EXPECT_EQ(inChild([&] { return setuid(65534) != 0 || hostIdentity() == own; }), 0);
}

// ---- The accept loop -----------------------------------------------------------------------------------------------

class AcceptLoop : public testing::Test {
protected:
    AcceptLoop()
        : loop(*Loop::create()),
          acceptor(*loop, *LocalListener::create(kKind), "test", [this](Fd socket) {
              met.push_back(std::move(socket));
              if (met.size() == throws_at) throw std::bad_alloc();
              if (met.size() == wanted) loop->stop();
          }) {
        acceptor.start();
    }

    /// Runs the loop until so many have been met, for 20 s at most.
    void
    runUntil(size_t count) {
        wanted = count;
        loop->after(std::chrono::seconds(20), [this] { loop->stop(); });
        loop->run();
    }

    std::unique_ptr<Loop> loop;
    std::vector<Fd> met;
    size_t wanted = 0, throws_at = 0;
    Acceptor acceptor;
};

TEST_F(AcceptLoop, MeetsAllWhoConnect) {
    std::vector<Fd> sockets;
    for (int i = 0; i < 50; ++i) sockets.push_back(*connectLocal(kKind, acceptor.name()));
    runUntil(50);
    EXPECT_EQ(met.size(), 50u);
    for (const Fd &socket : sockets) EXPECT_FALSE(hasEnded(socket));
}

TEST_F(AcceptLoop, GoesOnAfterAFailure) {
    throws_at = 1;
    std::vector<Fd> sockets;
    for (int i = 0; i < 3; ++i) sockets.push_back(*connectLocal(kKind, acceptor.name()));
    runUntil(3);
    EXPECT_EQ(met.size(), 3u);
}

TEST_F(AcceptLoop, GoesOnWhenThereAreDescriptorsAgain) {
    const Fd socket = *connectLocal(kKind, acceptor.name());
    rlimit limit{};
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    rlimit none = limit;
    none.rlim_cur = 0; // those that are open stay
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    loop->after(std::chrono::milliseconds(50), [&] { setrlimit(RLIMIT_NOFILE, &limit); });
    runUntil(1);
    setrlimit(RLIMIT_NOFILE, &limit);
    EXPECT_EQ(met.size(), 1u);
}

TEST_F(AcceptLoop, MeetsNobodyAfterItsEnd) {
    acceptor.stop();
    const Fd socket = *connectLocal(kKind, acceptor.name());
    loop->post([this] { loop->stop(); });
    loop->run();
    EXPECT_TRUE(met.empty());
}

} // namespace
} // namespace nx::kit
