// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: an offer arrives whole and checked, or it is said why there is none. Method: both sides in this process.
#include "ucx/link.h"

#include <csignal>
#include <sys/socket.h>
#include <sys/time.h>

#include <gtest/gtest.h>

#include "ucx/peer_info.h"

namespace nx::ucx {
namespace {

using std::chrono::milliseconds;

const std::vector<std::string> kOffer{std::string("\x20", 1) + "12345678\xff"};

class Link : public testing::Test {
protected:
    Link() {
        int sockets[2];
        EXPECT_EQ(::socketpair(AF_UNIX, kLinks.type | SOCK_NONBLOCK, 0, sockets), 0);
        here = Fd(sockets[0]);
        there = Fd(sockets[1]);
    }

    Fd here, there;
};

TEST_F(Link, BringsAnOffer) {
    ASSERT_TRUE(sendOffer(there, kOffer).ok());
    const auto received = receiveOffer(here, milliseconds(0));
    ASSERT_TRUE(received.ok()) << received.message();
    EXPECT_EQ(*received, kOffer);
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

} // namespace
} // namespace nx::ucx
