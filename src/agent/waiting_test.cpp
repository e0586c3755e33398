// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Waiting without polling, over the public API: nobody sleeps through what he waits for, whatever other threads do.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <ctime>
#include <fcntl.h>
#include <poll.h>
#include <random>
#include <set>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nixl.h"
#include "support/agent_pair.h"
#include "support/buffer.h"
#include "support/gated_backend.h"

namespace nx::test {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::steady_clock;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr milliseconds kShort{20};

std::chrono::nanoseconds
processorTime() {
    timespec now{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

bool
isReadable(int fd, milliseconds timeout = milliseconds(0)) {
    pollfd each{fd, POLLIN, 0};
    return poll(&each, 1, static_cast<int>(timeout.count())) == 1;
}

/// With and without a progress thread.
class Waiting : public ::testing::TestWithParam<bool> {
protected:
    Waiting() : x(64 << 10), y(64 << 10) {
        gated().reset();
        start("GATED");
    }
    ~Waiting() override {
        pair.reset();
        gated().reset();
    }

    void
    start(const std::string &backend) {
        pair.reset();
        PairOptions options;
        options.backend = backend;
        options.progress_thread = GetParam();
        pair = std::make_unique<AgentPair>(options);
        request = pair->request(NIXL_WRITE, x, y);
    }

    nixlAgent &
    agent() const {
        return *pair->a.agent;
    }

    nixlXferReqH *
    another() const {
        nixlXferReqH *made = nullptr;
        require(agent().createXferReq(NIXL_WRITE, listOf({x.desc()}), listOf({y.desc()}), "B", made), "create");
        return made;
    }

    void
    postHeld(nixlXferReqH *each) const {
        gated().holdTransfers();
        ASSERT_EQ(agent().postXferReq(each), NIXL_IN_PROG);
    }

    /// True once `count` threads can have gone to sleep: each has asked at least once.
    bool
    asked(uint64_t count) const {
        return eventually([&] { return gated().count(EngineCall::kCheck) >= count; });
    }

    Buffer x, y;
    std::unique_ptr<AgentPair> pair;
    nixlXferReqH *request = nullptr;
};

INSTANTIATE_TEST_SUITE_P(, Waiting, ::testing::Values(true, false), [](const auto &info) {
    return info.param ? "ProgressThread" : "Polled";
});

TEST_P(Waiting, EndsWithTheStatusOfTheRequest) {
    EXPECT_EQ(agent().waitXfer(request), NIXL_ERR_NOT_POSTED);
    postHeld(request);
    EXPECT_EQ(agent().waitXfer(request, milliseconds(0)), NIXL_IN_PROG);
    for (const int64_t past : {int64_t{-1}, INT64_MIN / 600, INT64_MIN}) {
        EXPECT_EQ(agent().waitXfer(request, microseconds(past)), NIXL_IN_PROG) << past;
    }
    std::thread other([&] {
        asked(3);
        gated().finish(0);
    });
    EXPECT_EQ(agent().waitXfer(request, microseconds::max()), NIXL_SUCCESS);
    other.join();
    EXPECT_EQ(agent().waitXfer(request), NIXL_SUCCESS) << "also of one that has ended";

    ASSERT_EQ(agent().postXferReq(request), NIXL_IN_PROG);
    gated().abort(1, NIXL_ERR_BACKEND);
    EXPECT_EQ(agent().waitXfer(request), NIXL_ERR_BACKEND);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("waitXfer"));
}

TEST_P(Waiting, TheEndOfItsTimeIsInProgressAndNeverEarly) {
    postHeld(request);
    std::vector<size_t> which{7};
    nixl_notifs_t notifs;
    nixlXferReqH *const all[] = {request};
    for (int wait = 0; wait < 3; ++wait) {
        const auto start = steady_clock::now();
        const auto status = wait == 0 ? agent().waitXfer(request, kShort)
            : wait == 1               ? agent().waitAny(all, kShort, which)
                                      : agent().waitNotifs(notifs, kShort);
        EXPECT_EQ(status, NIXL_IN_PROG) << wait;
        EXPECT_GE(steady_clock::now() - start, kShort) << wait;
    }
    EXPECT_THAT(which, ElementsAre(7)) << "written on success only";
    EXPECT_TRUE(notifs.empty());
}

TEST_P(Waiting, AnySaysAllThatDoNotRun) {
    nixlXferReqH *second = another(), *third = another(), *never_posted = another();
    for (nixlXferReqH *each : {request, second, third}) postHeld(each);
    nixlXferReqH *const running[] = {request, second, third};
    std::vector<size_t> which;
    std::thread other([&] {
        asked(3);
        gated().finish(1);
    });
    ASSERT_EQ(agent().waitAny(running, std::nullopt, which), NIXL_SUCCESS);
    other.join();
    EXPECT_THAT(which, ElementsAre(1));
    gated().abort(2, NIXL_ERR_BACKEND);
    nixlXferReqH *const all[] = {request, second, third, never_posted};
    ASSERT_EQ(agent().waitAny(all, std::nullopt, which), NIXL_SUCCESS);
    EXPECT_THAT(which, ElementsAre(1, 2, 3)) << "how they ended is for getXferStatus to say";
    EXPECT_EQ(agent().getXferStatus(third), NIXL_ERR_BACKEND);
}

TEST_P(Waiting, WhatIsNoRequestIsSaid) {
    std::vector<size_t> which;
    auto *const nothing = reinterpret_cast<nixlXferReqH *>(0x1234);
    EXPECT_EQ(agent().waitXfer(nothing), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(agent().waitAny({}, std::nullopt, which), NIXL_ERR_INVALID_PARAM);
    nixlXferReqH *const second_is_none[] = {request, nothing};
    EXPECT_EQ(agent().waitAny(second_is_none, std::nullopt, which), NIXL_ERR_INVALID_PARAM);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("request 1 of 2"));
    EXPECT_EQ(pair->b->waitXfer(request), NIXL_ERR_INVALID_PARAM) << "of another agent";
}

TEST_P(Waiting, CancellingReleasingAndDroppingEndEveryWait) {
    const auto cancel = [&](nixlXferReqH *each) { return agent().cancelXferReq(each); };
    const auto release = [&](nixlXferReqH *each) { return agent().releaseXferReq(each); };
    const auto drop = [&](nixlXferReqH *each) { return agent().dropXferReq(each); };
    for (const std::function<nixl_status_t(nixlXferReqH *)> &end :
         std::initializer_list<std::function<nixl_status_t(nixlXferReqH *)>>{cancel, release, drop}) {
        nixlXferReqH *each = another();
        postHeld(each);
        const uint64_t before = gated().count(EngineCall::kCheck);
        std::vector<std::thread> waiters;
        for (int i = 0; i < 4; ++i) {
            waiters.emplace_back([&, i] {
                std::vector<size_t> which;
                const auto status = i % 2 ? agent().waitXfer(each) : agent().waitAny({&each, 1}, std::nullopt, which);
                EXPECT_THAT(status, ::testing::AnyOf(NIXL_SUCCESS, NIXL_ERR_CANCELED, NIXL_ERR_INVALID_PARAM));
                EXPECT_TRUE(status != NIXL_SUCCESS || i % 2 == 0);
            });
        }
        asked(before + 4);
        EXPECT_EQ(end(each), NIXL_SUCCESS);
        for (auto &waiter : waiters) waiter.join();
    }
}

TEST_P(Waiting, RemovedMemoryAndPeersEndTheWait) {
    const auto memory = [&] { EXPECT_EQ(agent().deregisterMem(registrationOf({x.desc()})), NIXL_SUCCESS); };
    const auto peer = [&] {
        EXPECT_EQ(agent().invalidateRemoteMD("B"), NIXL_SUCCESS);
        gated().abort(0, NIXL_ERR_CANCELED); // as a backend does with what was on its way to the peer
    };
    const auto lost_peer = [&] { gated().abort(0, NIXL_ERR_REMOTE_DISCONNECT); };
    struct Case {
        std::function<void()> remove;
        nixl_status_t expected;
    };
    for (const auto &[remove, expected] : {Case{memory, NIXL_ERR_CANCELED}, Case{peer, NIXL_ERR_NOT_FOUND},
                                           Case{lost_peer, NIXL_ERR_REMOTE_DISCONNECT}}) {
        pair.reset();
        gated().reset();
        start("GATED");
        postHeld(request);
        std::vector<std::thread> waiters;
        for (int i = 0; i < 3; ++i) {
            waiters.emplace_back([&] { EXPECT_EQ(agent().waitXfer(request), expected) << nixlx::lastError(); });
        }
        asked(waiters.size());
        remove();
        for (auto &waiter : waiters) waiter.join();
    }
}

TEST_P(Waiting, AllWhoWaitForTheSameRequestAreWoken) {
    constexpr int kRounds = 20, kWaiters = 8;
    for (uint64_t round = 0; round < kRounds; ++round) {
        const uint64_t before = gated().count(EngineCall::kCheck);
        postHeld(request);
        std::vector<std::thread> waiters;
        for (int i = 0; i < kWaiters; ++i) {
            waiters.emplace_back([&, i] {
                std::vector<size_t> which;
                EXPECT_EQ(i % 2 ? agent().waitXfer(request) : agent().waitAny({&request, 1}, std::nullopt, which),
                          NIXL_SUCCESS);
            });
        }
        if (round % 2) asked(before + kWaiters); // else on their way to sleep
        gated().finish(round);
        for (auto &waiter : waiters) waiter.join();
    }
}

TEST_P(Waiting, OfThoseWhoWaitForNotificationsOneGetsEach) {
    constexpr size_t kMessages = 500, kWaiters = 3;
    start("GATED");
    std::atomic<size_t> received{0}, ended{0};
    std::vector<nixl_notifs_t> got(kWaiters);
    std::vector<std::thread> waiters;
    for (auto &mine : got) {
        waiters.emplace_back([&] {
            while (received < kMessages) {
                nixl_notifs_t notifs;
                EXPECT_EQ(agent().waitNotifs(notifs), NIXL_SUCCESS);
                for (auto &message : notifs["B"]) {
                    received += message != "end";
                    mine["B"].push_back(std::move(message));
                }
            }
            ++ended;
        });
    }
    for (size_t i = 0; i < kMessages; ++i) {
        EXPECT_EQ(pair->b->genNotif("A", std::to_string(i)), NIXL_SUCCESS);
        if (i % 3 == 0) std::this_thread::yield();
    }
    EXPECT_TRUE(eventually([&] { return received == kMessages; })) << received;
    EXPECT_TRUE(eventually([&] {
        EXPECT_EQ(pair->b->genNotif("A", "end"), NIXL_SUCCESS);
        return ended == kWaiters;
    }));
    for (auto &waiter : waiters) waiter.join();
    std::multiset<std::string> all;
    for (auto &mine : got) all.insert(mine["B"].begin(), mine["B"].end());
    all.erase("end");
    EXPECT_EQ(all.size(), kMessages);
    for (size_t i = 0; i < kMessages; ++i) EXPECT_EQ(all.count(std::to_string(i)), 1u) << i;
}

TEST_P(Waiting, LimitsAreKeptMeanwhile) {
    ASSERT_EQ(agent().setXferLimits(request, {.deadline = kShort}), NIXL_SUCCESS);
    postHeld(request);
    EXPECT_EQ(agent().waitXfer(request), NIXL_ERR_TIMEOUT);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("deadline of 20 ms"));
    ASSERT_EQ(agent().setXferLimits(request, {.deadline = nixlx::Limits::kNone, .stall = kShort}), NIXL_SUCCESS);
    postHeld(request);
    std::vector<size_t> which;
    EXPECT_EQ(agent().waitAny({&request, 1}, std::nullopt, which), NIXL_SUCCESS);
    EXPECT_EQ(agent().getXferStatus(request), NIXL_ERR_TIMEOUT);
}

TEST_P(Waiting, ALimitOfAnotherRequestIsKeptWhileOneWaitsForNotifications) {
    ASSERT_EQ(agent().setXferLimits(request, {.deadline = kShort}), NIXL_SUCCESS);
    postHeld(request);
    std::atomic<bool> got{false};
    std::thread waiter([&] {
        nixl_notifs_t notifs;
        EXPECT_EQ(agent().waitNotifs(notifs), NIXL_SUCCESS);
        got = true;
    });
    EXPECT_TRUE(eventually([&] {
        nixlx::Report report;
        EXPECT_EQ(agent().getXferReport(request, report), NIXL_SUCCESS);
        return report.status == NIXL_ERR_TIMEOUT;
    })) << "the report asks no engine";
    EXPECT_EQ(pair->b->genNotif("A", "done"), NIXL_SUCCESS);
    waiter.join();
    EXPECT_TRUE(got);
}

TEST_P(Waiting, NotificationsWakeWhoeverWaitsForThem) {
    for (const char *backend : {"GATED", "LEGACY"}) {
        start(backend);
        constexpr int kMessages = 50;
        std::thread sender([&] {
            for (int i = 0; i < kMessages; ++i) {
                EXPECT_EQ(pair->b->genNotif("A", std::to_string(i)), NIXL_SUCCESS);
                if (i % 5 == 0) std::this_thread::yield();
            }
        });
        nixl_notifs_t notifs;
        while (notifs["B"].size() < kMessages) ASSERT_EQ(agent().waitNotifs(notifs), NIXL_SUCCESS) << backend;
        sender.join();
        EXPECT_EQ(notifs["B"].front(), "0");
        EXPECT_EQ(notifs["B"].back(), std::to_string(kMessages - 1));
    }
}

TEST_P(Waiting, TransfersOfEveryKindOfBackendAreWaitedFor) {
    for (const char *backend : {"GATED", "LEGACY"}) {
        Buffer from(16 << 20), to(16 << 20);
        start(backend);
        request = pair->request(NIXL_WRITE, from, to);
        from.fill(1);
        auto status = agent().postXferReq(request);
        if (status == NIXL_IN_PROG) status = agent().waitXfer(request);
        EXPECT_EQ(status, NIXL_SUCCESS) << backend;
        EXPECT_TRUE(to.holds(1)) << backend;
        pair.reset();
    }
}

// The lost wake-up: completions race with arming, from many threads at once, each of which waits for its own.
TEST_P(Waiting, NoWakeUpIsLost) {
    constexpr int kThreads = 8, kRounds = 200;
    start("GATED");
    const auto work = [&](int number) {
        std::minstd_rand random(static_cast<unsigned>(number) + 1);
        Buffer from((3 << 20) + 4096), to((3 << 20) + 4096);
        require(agent().registerMem(registrationOf({from.desc()})), "register");
        require(pair->b->registerMem(registrationOf({to.desc()})), "register");
        pair->a.load(pair->b.metadata());
        nixlXferReqH *mine = nullptr;
        require(agent().createXferReq(NIXL_WRITE, listOf({from.desc()}), listOf({to.desc()}), "B", mine), "create");
        for (int round = 0; round < kRounds; ++round) {
            auto status = agent().postXferReq(mine);
            ASSERT_GE(status, 0);
            for (auto turns = random() % 4; turns > 0; --turns) std::this_thread::yield();
            if (round % 16 == 15) {
                EXPECT_EQ(agent().cancelXferReq(mine), NIXL_SUCCESS);
            }
            std::vector<size_t> which;
            status = round % 2 ? agent().waitXfer(mine, std::chrono::seconds(60))
                               : agent().waitAny({&mine, 1}, std::chrono::seconds(60), which);
            ASSERT_TRUE(status == NIXL_SUCCESS || status == NIXL_ERR_CANCELED) << status << " in round " << round;
        }
        EXPECT_EQ(agent().releaseXferReq(mine), NIXL_SUCCESS);
    };
    std::atomic<bool> stop{false};
    std::thread listener([&] {
        nixl_notifs_t notifs;
        while (!stop) (void)pair->b->waitNotifs(notifs, std::chrono::seconds(60));
    });
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) threads.emplace_back(work, i);
    for (auto &thread : threads) thread.join();
    stop = true;
    EXPECT_EQ(agent().genNotif("B", "the end"), NIXL_SUCCESS);
    listener.join();
}

TEST_P(Waiting, CostsNothingWhileNothingHappens) {
    start("GATED");
    nixl_notifs_t notifs;
    const auto before = processorTime();
    EXPECT_EQ(agent().waitNotifs(notifs, milliseconds(500)), NIXL_IN_PROG);
    EXPECT_LT(processorTime() - before, milliseconds(50)) << "a spinning wait takes all of the 500 ms";
}

TEST_P(Waiting, AChildOfForkIsToldSo) {
    const pid_t child = fork();
    if (child == 0) {
        nixl_notifs_t notifs;
        std::vector<size_t> which;
        int fd = -1;
        const bool refused = agent().waitXfer(request) == NIXL_ERR_FORKED &&
            agent().waitNotifs(notifs) == NIXL_ERR_FORKED &&
            agent().waitAny({&request, 1}, std::nullopt, which) == NIXL_ERR_FORKED &&
            agent().eventFd(fd) == NIXL_ERR_FORKED && fd == -1;
        _exit(refused ? 0 : 1);
    }
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

// ---- The descriptor ----

TEST_P(Waiting, TheDescriptorTellsOfChangesUntilItIsServed) {
    start("GATED");
    int fd = -1, again = -1;
    ASSERT_EQ(agent().eventFd(fd), NIXL_SUCCESS);
    EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    EXPECT_TRUE(isReadable(fd)) << "what happened before has been told to nobody";
    nixl_notifs_t notifs;
    const auto serve = [&] {
        EXPECT_EQ(agent().getNotifs(notifs), NIXL_SUCCESS);
        EXPECT_EQ(agent().eventFd(again), NIXL_SUCCESS);
        EXPECT_EQ(again, fd);
    };
    const auto calm = [&] {
        return eventually([&] {
            serve();
            return !isReadable(fd);
        });
    };
    ASSERT_TRUE(calm());
    EXPECT_EQ(pair->b->genNotif("A", "one"), NIXL_SUCCESS);
    EXPECT_TRUE(isReadable(fd, kPatience));
    EXPECT_TRUE(isReadable(fd)) << "level-triggered";
    ASSERT_TRUE(calm());
    EXPECT_EQ(notifs["B"].size(), 1u);
    EXPECT_EQ(agent().dropXferReq(another()), NIXL_SUCCESS);
    EXPECT_TRUE(isReadable(fd, kPatience)) << "calls of other threads may change what the loop waits for";
}

TEST_P(Waiting, ALoopWithTheDescriptorMissesNothingThoughThreadsWaitToo) {
    start("GATED");
    constexpr size_t kMessages = 3000;
    const int loop = epoll_create1(EPOLL_CLOEXEC);
    int fd = -1;
    ASSERT_EQ(agent().eventFd(fd), NIXL_SUCCESS);
    epoll_event event{.events = EPOLLIN, .data = {}};
    ASSERT_EQ(epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event), 0);

    std::atomic<size_t> received{0};
    std::thread sender([&] {
        for (size_t i = 1; i <= kMessages; ++i) {
            EXPECT_EQ(pair->b->genNotif("A", "m"), NIXL_SUCCESS);
            // In step now and then, so that the loop sleeps, or is about to.
            while (i % 5 == 0 && received < i) std::this_thread::yield();
        }
    });
    std::atomic<bool> stop{false};
    std::thread beside([&] { // arms the same engine
        gated().holdTransfers();
        while (!stop) {
            std::vector<size_t> which;
            nixlXferReqH *mine = request;
            (void)agent().postXferReq(mine);
            (void)agent().waitXfer(mine, microseconds(100));
        }
    });
    bool missed = false;
    while (received < kMessages && !missed) {
        missed = epoll_wait(loop, &event, 1, static_cast<int>(milliseconds(kPatience).count())) != 1;
        nixl_notifs_t notifs;
        EXPECT_EQ(agent().getNotifs(notifs), NIXL_SUCCESS);
        received += notifs["B"].size();
        EXPECT_EQ(agent().eventFd(fd), NIXL_SUCCESS);
    }
    EXPECT_FALSE(missed) << received;
    received = kMessages;
    stop = true;
    sender.join();
    beside.join();
    close(loop);
}

TEST_P(Waiting, TheDescriptorServesBackendsThatCannotBeSleptOn) {
    start("LEGACY");
    int fd = -1;
    ASSERT_EQ(agent().eventFd(fd), NIXL_SUCCESS);
    EXPECT_EQ(pair->b->genNotif("A", "one"), NIXL_SUCCESS);
    nixl_notifs_t notifs;
    EXPECT_TRUE(eventually([&] {
        EXPECT_TRUE(isReadable(fd, kPatience));
        EXPECT_EQ(agent().getNotifs(notifs), NIXL_SUCCESS);
        EXPECT_EQ(agent().eventFd(fd), NIXL_SUCCESS);
        return !notifs.empty();
    }));
}

TEST_P(Waiting, TheDescriptorAsksToLookAfterLimits) {
    int fd = -1;
    ASSERT_EQ(agent().setXferLimits(request, {.deadline = kShort}), NIXL_SUCCESS);
    postHeld(request);
    EXPECT_TRUE(eventually([&] {
        EXPECT_EQ(agent().eventFd(fd), NIXL_SUCCESS);
        EXPECT_TRUE(isReadable(fd, kPatience));
        return agent().getXferStatus(request) == NIXL_ERR_TIMEOUT;
    }));
}

} // namespace
} // namespace nx::test
