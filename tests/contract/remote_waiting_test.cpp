// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Waiting: whoever sleeps is woken by what he waits for, whether the backend can be slept on or is looked at.
#include <atomic>
#include <ctime>
#include <functional>
#include <thread>

#include "contract/contract.h"

namespace nx::test {
namespace {

using namespace std::chrono_literals;

constexpr auto kForever = 20s; ///< a wait that takes so long hangs

TEST_P(Remote, NotificationsWakeWhoeverWaitsForThem) {
    constexpr size_t kRounds = 200;
    pair->exchange();
    std::atomic<size_t> arrived{0}, wrong{0};
    std::thread waiter([&] {
        for (size_t seen = 0; seen < kRounds; arrived = seen) {
            nixl_notifs_t notifs;
            const nixl_status_t status = pair->b->waitNotifs(notifs, kForever);
            wrong += status != NIXL_SUCCESS || notifs["A"].empty();
            if (status != NIXL_SUCCESS) return;
            seen += notifs["A"].size();
        }
    });
    // One after the other, so that each finds the waiter on its way to sleep or asleep.
    for (size_t i = 0; i < kRounds && wrong == 0; ++i) {
        EXPECT_EQ(pair->a->genNotif("B", std::to_string(i)), NIXL_SUCCESS) << nixlx::lastError();
        EXPECT_TRUE(eventually([&] {
            EXPECT_EQ(pair->a->getNotifs(pair->a.inbox), NIXL_SUCCESS); // progress
            return arrived > i || wrong > 0;
        }));
    }
    waiter.join();
    EXPECT_EQ(wrong, 0u);
    EXPECT_EQ(arrived, kRounds);
}

TEST_P(Remote, TheEndOfATransferWakesWhoeverWaitsForIt) {
    constexpr size_t kSize = size_t{8} << 20, kRounds = 10;
    Buffer &at_a = buffer(kSize), &at_b = buffer(kSize);
    nixlXferReqH *request = pair->request(NIXL_WRITE, at_a, at_b);
    std::atomic<bool> over{false};
    std::thread target([&] {
        while (!over) EXPECT_GE(pair->b->waitNotifs(pair->b.inbox, 10ms), 0); // drives what needs the target
    });
    nixl_opt_args_t args;
    for (size_t round = 1; round <= kRounds; ++round) {
        at_a.fill(round);
        args.notif = std::to_string(round);
        EXPECT_GE(pair->a->postXferReq(request, &args), 0) << nixlx::lastError();
        EXPECT_EQ(pair->a->waitXfer(request, kForever), NIXL_SUCCESS) << nixlx::lastError();
        EXPECT_EQ(at_b.firstDifference(round), kSize);
    }
    over = true;
    target.join();
    EXPECT_EQ(pair->receive(pair->b, "A", kRounds).size(), kRounds);
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Remote, TheEndOfAPeerWakesWhoeverWaitsForItsTransfer) {
    Buffer &at_a = buffer(4096), &at_b = buffer(4096);
    nixlXferReqH *request = pair->request(NIXL_WRITE, at_a, at_b);
    // A message without a place holds the transfer, as long as the peer fetches nothing.
    while (pair->a->genNotif("B", std::string(1 << 20, 'm')) == NIXL_SUCCESS) {}
    nixl_opt_args_t args;
    args.notif = std::string(1 << 20, 'n');
    ASSERT_EQ(pair->a->postXferReq(request, &args), NIXL_IN_PROG) << nixlx::lastError();
    std::atomic<nixl_status_t> status{NIXL_IN_PROG};
    std::thread waiter([&] { status = pair->a->waitXfer(request, kForever); });
    pair->b.agent.reset();
    waiter.join();
    // What is on its way to a peer that ends may still count as delivered: nobody can tell that from a peer that
    // ended a moment later. And its memory may be seen to go before itself.
    EXPECT_TRUE(status == NIXL_ERR_REMOTE_DISCONNECT || status == NIXL_SUCCESS || status == NIXL_ERR_NOT_FOUND)
        << status;
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Remote, WaitingForAPlaceAtAPeerThatFetchesNothingTakesLittleAndEndsWhenItDoes) {
    Buffer &at_a = buffer(4096), &at_b = buffer(4096);
    nixlXferReqH *request = pair->request(NIXL_WRITE, at_a, at_b);
    size_t sent = 1;
    while (pair->a->genNotif("B", std::string(1 << 20, 'm')) == NIXL_SUCCESS) ++sent;
    nixl_opt_args_t args;
    args.notif = std::string(1 << 20, 'n');
    ASSERT_EQ(pair->a->postXferReq(request, &args), NIXL_IN_PROG) << nixlx::lastError();
    double used_ms = 0;
    EXPECT_TRUE(eventually([&] { // once what was sent before has gone where it can
        const std::clock_t before = std::clock();
        EXPECT_EQ(pair->a->waitXfer(request, 200ms), NIXL_IN_PROG) << nixlx::lastError();
        used_ms = 1e3 * static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
        return used_ms < 40;
    })) << used_ms
        << " ms of 200: it polls";
    RecordProperty("used_us", static_cast<int>(1e3 * used_ms));
    std::atomic<nixl_status_t> status{NIXL_IN_PROG};
    std::thread waiter([&] { status = pair->a->waitXfer(request, kForever); });
    EXPECT_TRUE(eventually([&] {
        EXPECT_EQ(pair->b->getNotifs(pair->b.inbox), NIXL_SUCCESS);
        return status != NIXL_IN_PROG && pair->b.inbox["A"].size() == sent;
    }));
    waiter.join();
    EXPECT_EQ(status, NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Remote, RemovingTheMemoryOrThePeerEndsTheWait) {
    const auto memory = [&](Buffer &at_a) {
        // The peer makes no progress here: the request may not be quiet in time, and the memory is deregistered yet.
        const nixl_status_t status = pair->a->deregisterMem(registrationOf({at_a.desc()}));
        EXPECT_TRUE(status == NIXL_SUCCESS || status == NIXL_ERR_REPOST_ACTIVE) << nixlx::lastError();
    };
    const auto peer = [&](Buffer &) { EXPECT_EQ(pair->a->invalidateRemoteMD("B"), NIXL_SUCCESS); };
    for (const std::function<void(Buffer &)> &remove : {std::function<void(Buffer &)>(memory), {peer}}) {
        pair = std::make_unique<AgentPair>(options());
        Buffer &at_a = buffer(4096), &at_b = buffer(4096);
        nixlXferReqH *request = pair->request(NIXL_WRITE, at_a, at_b);
        while (pair->a->genNotif("B", std::string(1 << 20, 'm')) == NIXL_SUCCESS) {}
        nixl_opt_args_t args;
        args.notif = std::string(1 << 20, 'n');
        ASSERT_EQ(pair->a->postXferReq(request, &args), NIXL_IN_PROG) << nixlx::lastError();
        std::atomic<nixl_status_t> status{NIXL_IN_PROG};
        std::thread waiter([&] { status = pair->a->waitXfer(request, kForever); });
        remove(at_a);
        EXPECT_TRUE(eventually([&] {
            EXPECT_EQ(pair->b->getNotifs(pair->b.inbox), NIXL_SUCCESS); // what is out already may need a place
            return status != NIXL_IN_PROG;
        }));
        waiter.join();
        EXPECT_TRUE(status == NIXL_SUCCESS || status == NIXL_ERR_CANCELED || status == NIXL_ERR_NOT_FOUND) << status;
    }
}

TEST_P(Remote, WaitingWhileNothingHappensTakesLittle) {
    pair->exchange();
    nixl_notifs_t none;
    ASSERT_EQ(pair->a->waitNotifs(none, 0us), NIXL_IN_PROG); // what is made once
    const std::clock_t before = std::clock();
    EXPECT_EQ(pair->a->waitNotifs(none, 500ms), NIXL_IN_PROG);
    const double used_ms = 1e3 * static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
    EXPECT_LT(used_ms, 250) << "of 500: it polls";
    EXPECT_TRUE(none.empty());
}

} // namespace
} // namespace nx::test
