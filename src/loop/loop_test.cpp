// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The loop over real descriptors, on a thread of its own; tests wait for what it does, never for time.
#include "loop/loop.h"

#include <array>
#include <ctime>
#include <future>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/thread.h"
#include "support/eventually.h"

namespace nx {
namespace {

struct SocketPair {
    SocketPair() {
        std::array<int, 2> fds{};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds.data()), 0);
        ours = Fd(fds[0]);
        theirs = Fd(fds[1]);
    }
    Fd ours, theirs;
};

class LoopTest : public ::testing::Test {
protected:
    LoopTest() : loop(*Loop::create()), thread("loop-test", [this] { loop->run(); }) {}
    ~LoopTest() override {
        loop->stop();
    }

    /// Runs `body` on the loop and waits for it.
    void
    onLoop(std::function<void()> body) {
        std::promise<void> done;
        loop->post([&] {
            body();
            done.set_value();
        });
        done.get_future().wait();
    }

    std::unique_ptr<Loop> loop;
    Thread thread;
};

TEST_F(LoopTest, RunsPostedTasksInTheirOrder) {
    std::vector<int> order;
    for (int i = 0; i < 100; ++i) loop->post([&order, i] { order.push_back(i); });
    onLoop([] {});
    ASSERT_EQ(order.size(), 100u);
    for (int i = 0; i < 100; ++i) EXPECT_EQ(order[i], i);
}

TEST_F(LoopTest, WhatWasPostedBeforeTheStopIsDone) {
    std::atomic<bool> inner{false};
    loop->post([&] { loop->post([&] { inner = true; }); });
    loop->stop();
    thread.join();
    EXPECT_TRUE(inner);
}

TEST_F(LoopTest, TellsOfReadableDescriptorsAndOfTheirEnd) {
    SocketPair pair;
    std::atomic<int> reads{0};
    std::atomic<bool> ended{false};
    onLoop([&] {
        ASSERT_TRUE(loop->watch(pair.ours.get(), EPOLLIN,
                                [&](uint32_t) {
                                    char byte;
                                    const auto count = ::read(pair.ours.get(), &byte, 1);
                                    if (count == 1) ++reads;
                                    if (count == 0) {
                                        loop->unwatch(pair.ours.get());
                                        ended = true;
                                    }
                                })
                        .ok());
    });
    ASSERT_EQ(::write(pair.theirs.get(), "ab", 2), 2);
    EXPECT_TRUE(test::eventually([&] { return reads == 2; }));
    pair.theirs.reset();
    EXPECT_TRUE(test::eventually([&] { return ended.load(); }));
}

TEST_F(LoopTest, AnUnwatchedDescriptorIsNotHeardOfAgainEvenInTheSameRound) {
    SocketPair a, b;
    std::atomic<int> calls{0};
    onLoop([&] {
        const auto both = [&](uint32_t) {
            ++calls;
            loop->unwatch(a.ours.get());
            loop->unwatch(b.ours.get());
        };
        ASSERT_TRUE(loop->watch(a.ours.get(), EPOLLIN, both).ok());
        ASSERT_TRUE(loop->watch(b.ours.get(), EPOLLIN, both).ok());
        ASSERT_EQ(::write(a.theirs.get(), "a", 1), 1);
        ASSERT_EQ(::write(b.theirs.get(), "b", 1), 1);
    });
    EXPECT_TRUE(test::eventually([&] { return calls > 0; }));
    onLoop([] {});
    EXPECT_EQ(calls, 1);
}

TEST_F(LoopTest, ANewDescriptorWithAnOldNumberGetsOnlyItsOwnEvents) {
    std::atomic<int> fresh{0};
    SocketPair a;
    SocketPair b;
    onLoop([&] {
        ASSERT_TRUE(loop->watch(a.ours.get(), EPOLLIN,
                                [&](uint32_t) {
                                    const int number = a.ours.get();
                                    loop->unwatch(number);
                                    a.ours.reset();
                                    ASSERT_EQ(::dup2(b.ours.get(), number), number); // the same number, another socket
                                    ASSERT_TRUE(loop->watch(number, EPOLLIN,
                                                            [&, number](uint32_t) {
                                                                ++fresh;
                                                                loop->unwatch(number);
                                                                ::close(number);
                                                            })
                                                    .ok());
                                })
                        .ok());
        ASSERT_EQ(::write(a.theirs.get(), "a", 1), 1);
    });
    onLoop([] {});
    EXPECT_EQ(fresh, 0);
    ASSERT_EQ(::write(b.theirs.get(), "b", 1), 1);
    EXPECT_TRUE(test::eventually([&] { return fresh == 1; }));
}

TEST_F(LoopTest, TimersRunInTheOrderOfTheirTimesAndOnce) {
    std::vector<int> order;
    std::atomic<bool> done{false};
    onLoop([&] {
        loop->after(std::chrono::milliseconds(20), [&] {
            order.push_back(2);
            done = true;
        });
        loop->after(std::chrono::milliseconds(1), [&] { order.push_back(1); });
        loop->after(std::chrono::milliseconds(0), [&] { order.push_back(0); });
    });
    EXPECT_TRUE(test::eventually([&] { return done.load(); }));
    onLoop([] {});
    EXPECT_EQ(order, (std::vector<int>{0, 1, 2}));
}

TEST_F(LoopTest, ACancelledTimerDoesNotRun) {
    std::atomic<bool> cancelled_ran{false}, later_ran{false};
    onLoop([&] {
        const auto timer = loop->after(std::chrono::milliseconds(1), [&] { cancelled_ran = true; });
        loop->after(std::chrono::milliseconds(5), [&] { later_ran = true; });
        loop->cancel(timer);
        loop->cancel(timer);
        loop->cancel(0);
    });
    EXPECT_TRUE(test::eventually([&] { return later_ran.load(); }));
    EXPECT_FALSE(cancelled_ran);
}

TEST_F(LoopTest, WatchingNonsenseIsAnError) {
    onLoop([&] {
        const auto status = loop->watch(-1, EPOLLIN, [](uint32_t) {});
        EXPECT_FALSE(status.ok());
        EXPECT_NE(status.message().find("epoll_ctl"), std::string::npos);
    });
}

TEST_F(LoopTest, AnIdleLoopUsesNoProcessor) {
    SocketPair pair;
    std::atomic<bool> due{false};
    timespec before{}, after{};
    onLoop([&] {
        ASSERT_TRUE(loop->watch(pair.ours.get(), EPOLLIN, [](uint32_t) {}).ok());
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
        loop->after(std::chrono::milliseconds(300), [&] {
            clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
            due = true;
        });
    });
    ASSERT_TRUE(test::eventually([&] { return due.load(); }));
    const double used_ms = (after.tv_sec - before.tv_sec) * 1e3 + (after.tv_nsec - before.tv_nsec) / 1e6;
    EXPECT_LT(used_ms, 100) << "of 300 ms: it spins";
}

} // namespace
} // namespace nx
