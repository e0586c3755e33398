// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Notifications: after their data, exactly once, byte for byte.
#include "contract/contract.h"

namespace nx::test {
namespace {

using Messages = std::vector<nixl_blob_t>;

/// `rounds` transfers of `size` bytes, each with its data before its message.
void
expectDataFirst(AgentPair &pair, Buffer &at_a, Buffer &at_b, uint64_t rounds) {
    const size_t size = at_a.size();
    nixlXferReqH *request = pair.request(NIXL_WRITE, at_a, at_b);
    nixl_opt_args_t args;
    for (uint64_t round = 1; round <= rounds; ++round) {
        at_a.fill(round);
        args.notif = "round " + std::to_string(round);
        const nixl_status_t posted = pair.a->postXferReq(request, &args);
        ASSERT_GE(posted, 0) << nixlx::lastError();
        // Looks at the data as soon as the message is there, whatever the initiator knows.
        nixl_notifs_t arrived;
        nixl_status_t status = posted;
        ASSERT_TRUE(eventually([&] {
            EXPECT_EQ(pair.b->getNotifs(arrived), NIXL_SUCCESS);
            if (arrived.empty() && status == NIXL_IN_PROG) status = pair.a->getXferStatus(request);
            return !arrived.empty();
        }));
        ASSERT_EQ(at_b.firstDifference(round), size) << "round " << round;
        ASSERT_EQ(arrived, (nixl_notifs_t{{"A", {*args.notif}}}));
        ASSERT_EQ(pair.finish(request, status), NIXL_SUCCESS);
    }
    EXPECT_EQ(pair.a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Remote, ANotificationComesAfterItsData) {
    expectDataFirst(*pair, buffer(200000), buffer(200000), 100);
}

TEST_P(Remote, ANotificationComesAfterDataThatTakesManyCalls) {
    constexpr size_t kSize = size_t{16} << 20;
    expectDataFirst(*pair, buffer(kSize), buffer(kSize), 3);
}

TEST_P(Remote, ANotificationOfAReadTellsTheOwnerThatItIsDone) {
    Buffer &at_a = buffer(100000), &at_b = buffer(100000);
    at_b.fill(1);
    nixlXferReqH *request = pair->request(NIXL_READ, at_a, at_b);
    nixl_opt_args_t args;
    args.notif = "read";
    nixl_status_t status = pair->a->postXferReq(request, &args);
    ASSERT_TRUE(eventually([&] {
        if (status == NIXL_IN_PROG) status = pair->a->getXferStatus(request);
        pair->progress();
        return !pair->b.inbox["A"].empty();
    }));
    EXPECT_TRUE(at_a.holds(1));
    EXPECT_EQ(pair->b.inbox["A"], Messages{"read"});
    EXPECT_EQ(pair->finish(request, status), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Remote, NotificationsCarryAnyBytes) {
    Buffer &at_a = buffer(16), &at_b = buffer(16);
    nixlXferReqH *request = pair->request(NIXL_WRITE, at_a, at_b);
    std::string all_bytes;
    for (int byte = 0; byte < 256; ++byte) all_bytes += static_cast<char>(byte);
    for (const std::string &message :
         {std::string(), std::string("\0", 1), all_bytes, std::string("a\0b", 3), std::string(60000, '\xff')}) {
        nixl_opt_args_t args;
        args.notif = message;
        EXPECT_EQ(pair->run(request, &args), NIXL_SUCCESS);
        EXPECT_EQ(pair->receive(pair->b, "A", 1), Messages{message}) << message.size() << " bytes";
        nixl_opt_args_t older;
        older.hasNotif = true;
        older.notifMsg = message;
        EXPECT_EQ(pair->run(request, &older), NIXL_SUCCESS);
        EXPECT_EQ(pair->receive(pair->b, "A", 1), Messages{message}) << "in the older form";
        EXPECT_EQ(pair->a->genNotif("B", message), NIXL_SUCCESS);
        EXPECT_EQ(pair->receive(pair->b, "A", 1), Messages{message}) << "without a transfer";
    }
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Remote, ARepostKeepsReplacesOrClearsTheNotification) {
    Buffer &at_a = buffer(16), &at_b = buffer(16);
    registerAt(pair->a, {at_a.desc()});
    registerAt(pair->b, {at_b.desc()});
    pair->exchange();
    nixl_opt_args_t first, second;
    const nixl_opt_args_t none;
    first.notif = "first";
    second.notif = "second";
    nixlXferReqH *request = makeRequest(NIXL_WRITE, listOf({at_a.desc()}), listOf({at_b.desc()}), &first);
    // What a post says, and what arrives. A message that must not come is shown by the one that comes next.
    const std::vector<std::pair<const nixl_opt_args_t *, const char *>> posts{
        {nullptr, "first"}, {nullptr, "first"}, {&second, "second"}, {nullptr, "second"},
        {&none, nullptr},   {nullptr, nullptr}, {&first, "first"}};
    Messages expected;
    for (const auto &[args, message] : posts) {
        EXPECT_EQ(pair->run(request, args), NIXL_SUCCESS);
        if (message) expected.emplace_back(message);
        pair->progress();
    }
    EXPECT_EQ(pair->receive(pair->b, "A", expected.size()), expected);
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Remote, NotificationsGoBothWays) {
    pair->exchange();
    for (int i = 0; i < 10; ++i) {
        EXPECT_EQ(pair->a->genNotif("B", "ping"), NIXL_SUCCESS);
        EXPECT_EQ(pair->receive(pair->b, "A", 1), Messages{"ping"});
        EXPECT_EQ(pair->b->genNotif("A", "pong"), NIXL_SUCCESS);
        EXPECT_EQ(pair->receive(pair->a, "B", 1), Messages{"pong"});
    }
    EXPECT_EQ(pair->a->genNotif("nobody", "hello"), NIXL_ERR_NOT_FOUND);
}

TEST_P(Remote, ATransferOfNothingDeliversItsNotification) {
    Buffer &at_a = buffer(100), &at_b = buffer(100);
    registerAt(pair->a, {at_a.desc()});
    registerAt(pair->b, {at_b.desc()});
    pair->exchange();
    nixl_opt_args_t args;
    args.notif = "nothing was moved";
    nixlXferReqH *request = makeRequest(NIXL_WRITE, listOf({at_a.desc(10, 0)}), listOf({at_b.desc(20, 0)}), &args);
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
    EXPECT_EQ(pair->receive(pair->b, "A", 1), Messages{"nothing was moved"});
    EXPECT_TRUE(at_b.isZero());
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Remote, MovesDataWithinTheAgent) {
    Buffer &from = buffer(100000), &to = buffer(100000);
    PairedAgent &a = pair->a;
    registerAt(a, {from.desc(), to.desc()});
    from.fill(1);
    nixlXferReqH *request = nullptr;
    nixl_opt_args_t args;
    args.notif = "to myself";
    require(a->createXferReq(NIXL_WRITE, listOf({from.desc()}), listOf({to.desc()}), "A", request, &args), "create");
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
    EXPECT_TRUE(to.holds(1));
    EXPECT_EQ(pair->receive(a, "A", 1), std::vector<nixl_blob_t>{"to myself"});
    EXPECT_EQ(a->releaseXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(a->genNotif("A", "hello"), NIXL_SUCCESS);
    EXPECT_EQ(pair->receive(a, "A", 1), std::vector<nixl_blob_t>{"hello"});
}

TEST_P(Remote, NotificationsOfAStrangerArrive) {
    // B has not loaded A's metadata.
    pair->a.load(pair->b.metadata());
    EXPECT_EQ(pair->a->genNotif("B", "hello"), NIXL_SUCCESS);
    EXPECT_EQ(pair->receive(pair->b, "A", 1), Messages{"hello"});
}

TEST_P(Remote, EveryNotificationArrivesOnce) {
    constexpr size_t kCount = 2000;
    Buffer &at_a = buffer(64), &at_b = buffer(64);
    nixlXferReqH *request = pair->request(NIXL_WRITE, at_a, at_b);
    for (size_t i = 0; i < kCount; ++i) {
        nixl_opt_args_t args;
        args.notif = std::to_string(i);
        if (i % 2) {
            ASSERT_EQ(pair->a->genNotif("B", *args.notif), NIXL_SUCCESS);
        } else {
            ASSERT_EQ(pair->run(request, &args), NIXL_SUCCESS);
        }
    }
    Messages arrived = pair->receive(pair->b, "A", kCount);
    ASSERT_EQ(arrived.size(), kCount);
    std::vector<bool> seen(kCount);
    for (const std::string &message : arrived) seen.at(std::stoul(message)) = true;
    EXPECT_EQ(std::count(seen.begin(), seen.end(), true), static_cast<ptrdiff_t>(kCount));
    pair->progress();
    EXPECT_TRUE(pair->b.inbox["A"].empty());
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Remote, TheProgressThreadDeliversWithoutTheInitiator) {
    if (!GetParam().progress_thread) GTEST_SKIP() << "without a progress thread the initiator polls";
    constexpr size_t kSize = size_t{16} << 20;
    Buffer &at_a = buffer(kSize), &at_b = buffer(kSize);
    at_a.fill(1);
    nixlXferReqH *request = pair->request(NIXL_WRITE, at_a, at_b);
    nixl_opt_args_t args;
    args.notif = "done";
    ASSERT_GE(pair->a->postXferReq(request, &args), 0);
    nixl_notifs_t arrived;
    ASSERT_TRUE(eventually([&] {
        EXPECT_EQ(pair->b->getNotifs(arrived), NIXL_SUCCESS);
        return !arrived.empty();
    }));
    EXPECT_EQ(at_b.firstDifference(1), kSize);
    EXPECT_EQ(pair->finish(request, NIXL_IN_PROG), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

// ---- Messages that nobody fetches ----------------------------------------------------------------------------------

/// Sends until the target has no place left; how many it took.
size_t
fill(PairedAgent &from, const std::string &to, const std::string &message) {
    size_t count = 0;
    nixl_status_t status = NIXL_SUCCESS;
    for (; count < 1'000'000; ++count) {
        status = from->genNotif(to, message);
        if (status != NIXL_SUCCESS) break;
    }
    EXPECT_EQ(status, NIXL_ERR_REPOST_ACTIVE);
    EXPECT_NE(nixlx::lastError().find("64 MiB of notifications"), std::string::npos) << nixlx::lastError();
    return count;
}

TEST_P(Remote, AHundredThousandMessagesArriveThatNobodyFetchedMeanwhile) {
    constexpr size_t kCount = 100'000;
    pair->exchange();
    for (size_t i = 0; i < kCount; ++i) ASSERT_EQ(pair->a->genNotif("B", std::to_string(i)), NIXL_SUCCESS) << i;
    const Messages arrived = pair->receive(pair->b, "A", kCount);
    ASSERT_EQ(arrived.size(), kCount);
    for (size_t i = 0; i < kCount; ++i) ASSERT_EQ(arrived[i], std::to_string(i));
}

TEST_P(Remote, SeventyThousandTransfersEndAndTheirMessagesArriveThatNobodyFetchedMeanwhile) {
    if (targetMustCall()) GTEST_SKIP() << "without a progress thread no data moves before the target calls";
    constexpr size_t kCount = 70'000;
    Buffer &at_a = buffer(64), &at_b = buffer(64);
    nixlXferReqH *request = pair->request(NIXL_WRITE, at_a, at_b);
    nixl_opt_args_t args;
    for (size_t i = 0; i < kCount; ++i) {
        args.notif = std::to_string(i);
        nixl_status_t status = pair->a->postXferReq(request, &args);
        eventually([&] {
            for (int polls = 0; polls < 1000 && status == NIXL_IN_PROG; ++polls)
                status = pair->a->getXferStatus(request);
            return status != NIXL_IN_PROG;
        });
        ASSERT_EQ(status, NIXL_SUCCESS) << i << ": " << nixlx::lastError();
    }
    const Messages arrived = pair->receive(pair->b, "A", kCount);
    ASSERT_EQ(arrived.size(), kCount);
    for (size_t i = 0; i < kCount; ++i) ASSERT_EQ(arrived[i], std::to_string(i));
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Remote, MessagesWithoutAPlaceAreHeldBackAndNoneIsLost) {
    pair->exchange();
    const std::string message(1 << 20, 'm');
    size_t sent = fill(pair->a, "B", message);
    EXPECT_EQ(sent, 63u) << "64 MiB with the names and overhead";
    for (int round = 0; round < 3; ++round) {
        EXPECT_EQ(pair->receive(pair->b, "A", sent).size(), sent);
        ASSERT_TRUE(eventually([&] { // as soon as the sender has heard of it
            pair->progress();
            return pair->a->genNotif("B", message) == NIXL_SUCCESS;
        }));
        sent = 1 + fill(pair->a, "B", message);
    }
    EXPECT_EQ(pair->receive(pair->b, "A", sent).size(), sent);
    for (int i = 0; i < 10; ++i) pair->progress();
    EXPECT_TRUE(pair->b.inbox["A"].empty());
}

TEST_P(Remote, AFloodLeavesTheOthersTheirPlaces) {
    PairedAgent c("C", options());
    pair->exchange();
    c.load(pair->b.metadata());
    const std::string message(1 << 20, 'm');
    const size_t flood = fill(pair->a, "B", message);
    ASSERT_EQ(c->genNotif("B", message), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_TRUE(eventually([&] {
        (void)c->getNotifs(c.inbox); // progress
        pair->progress();
        return pair->b.inbox["C"].size() == 1 && pair->b.inbox["A"].size() == flood;
    }));
}

TEST_P(Remote, ATransferEndsWhenItsMessageHasAPlace) {
    Buffer &at_a = buffer(4096), &at_b = buffer(4096);
    at_a.fill(1);
    nixlXferReqH *request = pair->request(NIXL_WRITE, at_a, at_b);
    fill(pair->a, "B", std::string(1 << 20, 'm'));
    const size_t sent = 63;
    nixl_opt_args_t args;
    args.notif = std::string(1 << 20, 'n');
    ASSERT_EQ(pair->a->postXferReq(request, &args), NIXL_IN_PROG);
    for (int i = 0; i < 1000; ++i) ASSERT_EQ(pair->a->getXferStatus(request), NIXL_IN_PROG);
    EXPECT_EQ(pair->finish(request, NIXL_IN_PROG), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(at_b.holds(1));
    const Messages arrived = pair->receive(pair->b, "A", sent + 1);
    ASSERT_EQ(arrived.size(), sent + 1);
    EXPECT_EQ(arrived.back(), *args.notif);
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Remote, ATransferWhoseMessageHasNoPlaceCanBeCancelled) {
    Buffer &at_a = buffer(4096), &at_b = buffer(4096);
    nixlXferReqH *request = pair->request(NIXL_WRITE, at_a, at_b);
    fill(pair->a, "B", std::string(1 << 20, 'm'));
    nixl_opt_args_t args;
    args.notif = std::string(1 << 20, 'n');
    ASSERT_EQ(pair->a->postXferReq(request, &args), NIXL_IN_PROG);
    for (int i = 0; i < 1000; ++i) ASSERT_EQ(pair->a->getXferStatus(request), NIXL_IN_PROG);
    ASSERT_EQ(pair->a->cancelXferReq(request), NIXL_SUCCESS);
    nixl_status_t status = NIXL_IN_PROG;
    eventually([&] {
        status = pair->a->getXferStatus(request);
        if (targetMustCall()) pair->progress();
        return status != NIXL_IN_PROG;
    });
    EXPECT_EQ(status, NIXL_ERR_CANCELED);
    EXPECT_EQ(pair->receive(pair->b, "A", 63).size(), 63u);
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Remote, AMessageOf100MillionBytesArrives) {
    pair->exchange();
    ASSERT_EQ(pair->a->genNotif("B", "before it"), NIXL_SUCCESS);
    ASSERT_EQ(pair->receive(pair->b, "A", 1), Messages{"before it"});
    std::string message(100'000'000, 'l');
    message.back() = 'e';
    ASSERT_EQ(pair->a->genNotif("B", message), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(pair->a->genNotif("B", message), NIXL_ERR_REPOST_ACTIVE);
    const Messages arrived = pair->receive(pair->b, "A", 1);
    ASSERT_EQ(arrived.size(), 1u);
    EXPECT_TRUE(arrived[0] == message);
}

TEST_P(Remote, AMessageThatIsTooLongIsRefusedAtTheCall) {
    Buffer &at_a = buffer(16), &at_b = buffer(16);
    nixlXferReqH *request = pair->request(NIXL_WRITE, at_a, at_b), *none = nullptr;
    nixlDlistH *here = prepare(NIXL_INIT_AGENT, listOf({at_a.desc()})), *there = prepare("B", listOf({at_b.desc()}));
    nixl_opt_args_t args;
    args.notif = std::string((128 << 20) + 1, 'x');
    const auto expectRefusal = [&](nixl_status_t status) {
        EXPECT_EQ(status, NIXL_ERR_INVALID_PARAM);
        EXPECT_NE(nixlx::lastError().find("134217729 bytes is too long"), std::string::npos) << nixlx::lastError();
    };
    expectRefusal(pair->a->genNotif("B", *args.notif));
    expectRefusal(pair->a->postXferReq(request, &args));
    expectRefusal(pair->a->createXferReq(NIXL_WRITE, listOf({at_a.desc()}), listOf({at_b.desc()}), "B", none, &args));
    expectRefusal(pair->a->makeXferReq(NIXL_WRITE, here, {0}, there, {0}, none, &args));
    EXPECT_EQ(none, nullptr);
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS) << "what was refused changed nothing";
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->releasedDlistH(here), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->releasedDlistH(there), NIXL_SUCCESS);
}

} // namespace
} // namespace nx::test
