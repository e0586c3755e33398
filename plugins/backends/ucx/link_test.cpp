// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: engines of one host meet, and learn of each other's end in whatever way it comes. Method: both sides in this
// process, the end also while a forked child holds copies of the sockets.
#include "ucx/link.h"

#include <csignal>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "support/eventually.h"
#include "ucx/peer_info.h"

namespace nx::ucx {
namespace {

using std::chrono::milliseconds;

const std::vector<std::string> kOffer{std::string("\x20", 1) + "12345678\xff"};

class Link : public testing::Test {
protected:
    Link() : listener(LinkListener::create()) {
        auto connected = connectLink((*listener).name());
        EXPECT_TRUE(connected.ok()) << connected.message();
        here = *std::move(connected);
        auto accepted = (*listener).accept();
        EXPECT_TRUE(accepted.ok()) << accepted.message();
        there = *std::move(accepted);
    }

    Result<LinkListener> listener;
    Fd here, there;
};

TEST_F(Link, BringsAnOffer) {
    ASSERT_TRUE(sendOffer(there, kOffer).ok());
    const auto received = receiveOffer(here, milliseconds(0));
    ASSERT_TRUE(received.ok()) << received.message();
    EXPECT_EQ(*received, kOffer);
    EXPECT_FALSE(hasEnded(here));
    EXPECT_FALSE(hasEnded(there));
}

TEST_F(Link, SaysWhyThereIsNoOffer) {
    EXPECT_EQ(receiveOffer(here, milliseconds(1)).code(), NIXL_ERR_NOT_FOUND);
    ASSERT_EQ(::send(there.get(), "garbage", 7, 0), 7);
    EXPECT_EQ(receiveOffer(here, milliseconds(0)).code(), NIXL_ERR_MISMATCH);
    there.reset();
    EXPECT_EQ(receiveOffer(here, milliseconds(0)).code(), NIXL_ERR_NOT_FOUND);
    EXPECT_FALSE(sendOffer(here, kOffer).ok());
}

TEST_F(Link, WaitsOnWhenASignalComesIn) {
    struct sigaction handler = {}, before = {};
    handler.sa_handler = [](int) {};
    ASSERT_EQ(sigaction(SIGALRM, &handler, &before), 0);
    const itimerval often{{0, 1000}, {0, 1000}}, never{};
    setitimer(ITIMER_REAL, &often, nullptr);
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_EQ(receiveOffer(here, milliseconds(100)).code(), NIXL_ERR_NOT_FOUND);
    EXPECT_GE(std::chrono::steady_clock::now() - begin, milliseconds(100));
    setitimer(ITIMER_REAL, &never, nullptr);
    sigaction(SIGALRM, &before, nullptr);
}

TEST_F(Link, EndsOneWayOrAltogether) {
    ::shutdown(here.get(), SHUT_WR);
    EXPECT_TRUE(hasEnded(there));
    EXPECT_FALSE(isClosed(there)) << "it may still be answered";
    EXPECT_FALSE(isClosed(here));
    there.reset();
    EXPECT_TRUE(isClosed(here));
}

TEST_F(Link, EndsAlthoughAForkedChildHoldsIt) {
    int gate[2];
    ASSERT_EQ(pipe(gate), 0);
    const pid_t child = fork();
    if (child == 0) {
        close(gate[1]);
        char byte;
        _exit(static_cast<int>(read(gate[0], &byte, 1)));
    }
    endLink(there);
    there.reset();
    EXPECT_TRUE(hasEnded(here));
    EXPECT_TRUE(isClosed(here));
    close(gate[1]);
    waitpid(child, nullptr, 0);
    close(gate[0]);
}

TEST(LinkProcess, IsSeenToEndAlthoughAChildOfItHoldsTheLink) {
    auto listener = LinkListener::create();
    ASSERT_TRUE(listener.ok()) << listener.message();
    int gate[2];
    ASSERT_EQ(pipe(gate), 0);
    const pid_t other = fork();
    if (other == 0) {
        close(gate[1]);
        const auto link = connectLink(listener->name());
        if (fork() != 0) pause(); // until it is killed
        char byte;
        _exit(static_cast<int>(read(gate[0], &byte, 1)));
    }
    Fd link;
    ASSERT_TRUE(test::eventually([&] {
        auto accepted = listener->accept();
        if (accepted.ok()) link = *std::move(accepted);
        return static_cast<bool>(link);
    }));
    const Fd process = processOf(link.get());
    if (!process) GTEST_SKIP() << "this system has no pidfd_open";
    pollfd ended{process.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&ended, 1, 0), 0);
    kill(other, SIGKILL);
    EXPECT_EQ(::poll(&ended, 1, 20'000), 1);
    waitpid(other, nullptr, 0);
    close(gate[0]);
    close(gate[1]);
}

TEST(LinkNames, OfNoListenerAreRefused) {
    EXPECT_EQ(connectLink("").code(), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(connectLink("nixl-ucx-").code(), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(connectLink("nixl-ucx-0123456789abcdef0123456789abcdeX").code(), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(connectLink("/tmp/.X11-unix/X0").code(), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(connectLink("nixl-ucx-0123456789abcdef0123456789abcdef").code(), NIXL_ERR_REMOTE_DISCONNECT);
}

} // namespace
} // namespace nx::ucx
