// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The engine by itself: what tests/contract cannot see or cannot provoke through an agent,
// namely slices, cancellation between them, the target's checks, stores and hostile connection information.
#include "loopback/engine.h"

#include <cstring>
#include <numeric>
#include <poll.h>
#include <vector>

#include <gtest/gtest.h>

#include "support/eventually.h"
#include "wire/limits.h"

namespace nx::loopback {
namespace {

using test::eventually;

/// An engine whose only service is to end in the right order.
struct Agent {
    explicit Agent(const std::string &name, bool progress_thread = false) {
        nixlBackendInitParams params;
        params.localAgent = name;
        params.type = "LOOPBACK";
        params.enableProgTh = progress_thread;
        engine = std::make_unique<Engine>(&params);
    }

    std::unique_ptr<Engine> engine;
};

/// A registration, by its owner and by the one who loads it.
struct Registered {
    nixlBackendMD *local = nullptr;
    nixlBackendMD *remote = nullptr;
};

/// Engine "A" that moves data to and from the memory of engine "B".
class EngineTest : public testing::TestWithParam<bool> {
protected:
    void
    SetUp() override {
        std::string info;
        ASSERT_EQ(b.engine->getConnInfo(info), NIXL_SUCCESS);
        ASSERT_EQ(a.engine->loadPeer("B", info, nullptr), NIXL_SUCCESS);
        ASSERT_EQ(a.engine->connect("B"), NIXL_SUCCESS);
    }

    void
    TearDown() override {
        for (nixlBackendReqH *request : requests) a.engine->release(request);
        for (nixlBackendMD *memory : at_a) a.engine->deregisterMem(memory);
        for (nixlBackendMD *memory : loaded) a.engine->unloadMD(memory);
        for (nixlBackendMD *memory : at_b) b.engine->deregisterMem(memory);
    }

    nixlBackendMD *
    local(void *address, size_t length, nixl_mem_t memory = DRAM_SEG) {
        nixlBackendMD *md = nullptr;
        EXPECT_EQ(a.engine->registerMem(describe(address, length), memory, md), NIXL_SUCCESS);
        at_a.push_back(md);
        return md;
    }

    Registered
    remote(const nixlBlobDesc &desc, nixl_mem_t memory = DRAM_SEG) {
        Registered md;
        std::string key;
        EXPECT_EQ(b.engine->registerMem(desc, memory, md.local), NIXL_SUCCESS);
        EXPECT_EQ(b.engine->getPublicData(md.local, key), NIXL_SUCCESS);
        EXPECT_EQ(a.engine->loadRemoteMD(nixlBlobDesc(desc, key), memory, "B", md.remote), NIXL_SUCCESS);
        at_b.push_back(md.local);
        loaded.push_back(md.remote);
        return md;
    }

    Registered
    remote(void *address, size_t length) {
        return remote(describe(address, length));
    }

    void
    deregisterAtTarget(Registered &memory) {
        std::erase(at_b, memory.local);
        ASSERT_EQ(b.engine->deregisterMem(memory.local), NIXL_SUCCESS);
    }

    static nixlBlobDesc
    describe(void *address, size_t length) {
        return {reinterpret_cast<uintptr_t>(address), length, 0};
    }

    /// The plan must outlive the request: it is kept in `plans`.
    nixlBackendReqH *
    prepare(nixl_xfer_op_t operation,
            nixlBackendMD *local_md,
            nixlBackendMD *remote_md,
            nixlx::Run run,
            nixl_mem_t remote_memory = DRAM_SEG) {
        auto &kept = *plans.emplace_back(std::make_unique<KeptPlan>());
        kept.local = {local_md, 0};
        kept.remote = {remote_md, 0};
        kept.run = run;
        kept.plan = {operation,         DRAM_SEG,       remote_memory,          "B",      {&kept.local, 1},
                     {&kept.remote, 1}, {&kept.run, 1}, run.length * run.count, run.count};
        nixlBackendReqH *request = nullptr;
        EXPECT_EQ(a.engine->prepare(kept.plan, nullptr, request), NIXL_SUCCESS);
        requests.push_back(request);
        return request;
    }

    static nixlx::Run
    oneBlock(const void *local_address, const void *remote_address, uint64_t length) {
        return {reinterpret_cast<uint64_t>(local_address),
                reinterpret_cast<uint64_t>(remote_address),
                length,
                0,
                0,
                1,
                0,
                0};
    }

    nixl_status_t
    finish(nixlBackendReqH *request, nixl_status_t status) {
        EXPECT_TRUE(eventually([&] {
            if (status == NIXL_IN_PROG) status = a.engine->check(request);
            return status != NIXL_IN_PROG;
        }));
        return status;
    }

    notif_list_t
    notificationsOfB() {
        notif_list_t notifications;
        EXPECT_EQ(b.engine->getNotifs(notifications), NIXL_SUCCESS);
        return notifications;
    }

    struct KeptPlan {
        nixlx::Segment local, remote;
        nixlx::Run run;
        nixlx::Plan plan;
    };

    Agent b{"B"};
    Agent a{"A", GetParam()};
    std::vector<std::unique_ptr<KeptPlan>> plans;
    std::vector<nixlBackendReqH *> requests;
    std::vector<nixlBackendMD *> at_a, at_b, loaded;
};

INSTANTIATE_TEST_SUITE_P(Polled, EngineTest, testing::Values(false));
INSTANTIATE_TEST_SUITE_P(Threaded, EngineTest, testing::Values(true));

std::vector<char>
pattern(size_t size) {
    std::vector<char> bytes(size);
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 131 + (i >> 8));
    return bytes;
}

TEST_P(EngineTest, FinishesSmallTransfersInPost) {
    std::vector<char> from = pattern(4096), to(4096);
    auto *request = prepare(NIXL_WRITE, local(from.data(), 4096), remote(to.data(), 4096).remote,
                            oneBlock(from.data(), to.data(), 4096));
    const std::string note("\0 done", 6);
    EXPECT_EQ(a.engine->post(request, &note), NIXL_SUCCESS);
    EXPECT_EQ(to, from);
    EXPECT_EQ(notificationsOfB(), (notif_list_t{{"A", note}}));
    EXPECT_EQ(a.engine->check(request), NIXL_SUCCESS) << "a final state stays";
}

TEST_P(EngineTest, MovesLargeTransfersInSlices) {
    const size_t size = 5 * kSliceBytes + 1;
    std::vector<char> from = pattern(size), to(size);
    auto *request = prepare(NIXL_READ, local(to.data(), size), remote(from.data(), size).remote,
                            oneBlock(to.data(), from.data(), size));
    const std::string note = "all of it";
    const nixl_status_t first = a.engine->post(request, &note);
    EXPECT_EQ(first, NIXL_IN_PROG);
    if (!GetParam()) {
        EXPECT_EQ(std::memcmp(to.data(), from.data(), kSliceBytes), 0);
        EXPECT_EQ(std::accumulate(to.begin() + kSliceBytes, to.end(), 0), 0) << "post() does one slice";
        EXPECT_TRUE(notificationsOfB().empty()) << "the notification follows the data";
    }
    EXPECT_EQ(finish(request, first), NIXL_SUCCESS);
    EXPECT_EQ(to, from);
    EXPECT_EQ(notificationsOfB(), (notif_list_t{{"A", note}}));
}

TEST_P(EngineTest, FollowsStridesInBothDirections) {
    std::vector<char> from = pattern(1000), to(1000);
    // Blocks of 10 at 0, 20, 40 ... go to 990, 980, 970 ...
    nixlx::Run run = oneBlock(from.data(), to.data() + 990, 10);
    run.local_stride = 20;
    run.remote_stride = static_cast<uint64_t>(-10);
    run.count = 50;
    auto *request = prepare(NIXL_WRITE, local(from.data(), 1000), remote(to.data(), 1000).remote, run);
    EXPECT_EQ(a.engine->post(request, nullptr), NIXL_SUCCESS);
    for (int i = 0; i < 50; ++i) EXPECT_EQ(std::memcmp(&to[990 - 10 * i], &from[20 * i], 10), 0) << "block " << i;
}

TEST_P(EngineTest, CountsBlocksTowardsASlice) {
    const uint64_t blocks = 3 * kSliceBlocks;
    std::vector<char> from = pattern(blocks), to(blocks);
    nixlx::Run run = oneBlock(from.data(), to.data(), 1);
    run.local_stride = run.remote_stride = 1;
    run.count = blocks;
    auto *request = prepare(NIXL_WRITE, local(from.data(), blocks), remote(to.data(), blocks).remote, run);
    const nixl_status_t first = a.engine->post(request, nullptr);
    EXPECT_EQ(first, NIXL_IN_PROG);
    EXPECT_EQ(finish(request, first), NIXL_SUCCESS);
    EXPECT_EQ(to, from);
}

TEST_P(EngineTest, CancelEndsATransferBetweenSlices) {
    const size_t size = 64 * kSliceBytes;
    std::vector<char> from(size, 'x'), to(size);
    auto *request = prepare(NIXL_WRITE, local(from.data(), size), remote(to.data(), size).remote,
                            oneBlock(from.data(), to.data(), size));
    const std::string note = "never";
    nixl_status_t status = a.engine->post(request, &note);
    ASSERT_EQ(status, NIXL_IN_PROG);
    a.engine->cancel(request);
    a.engine->cancel(request);
    status = finish(request, status);
    if (GetParam() && status == NIXL_SUCCESS) GTEST_SKIP() << "the progress thread had finished first";
    EXPECT_EQ(status, NIXL_ERR_CANCELED);
    EXPECT_EQ(to.back(), 0);
    EXPECT_TRUE(notificationsOfB().empty());
    // It can be posted again.
    EXPECT_EQ(finish(request, a.engine->post(request, nullptr)), NIXL_SUCCESS);
    EXPECT_EQ(to, from);
}

TEST_P(EngineTest, TargetRefusesWhatIsNotRegistered) {
    std::vector<char> from(100, 'x'), to(100, 'o');
    auto *mine = local(from.data(), 100);
    auto theirs = remote(to.data() + 10, 80);
    for (auto [offset, length] : {std::pair{9, 10}, {85, 10}, {0, 100}, {90, 1}}) {
        auto *request = prepare(NIXL_WRITE, mine, theirs.remote, oneBlock(from.data(), to.data() + offset, length));
        EXPECT_EQ(a.engine->post(request, nullptr), NIXL_ERR_NOT_ALLOWED) << offset;
        EXPECT_NE(a.engine->describe(request).error.find("does not contain it"), std::string::npos);
    }
    EXPECT_EQ(to, std::vector<char>(100, 'o'));
}

TEST_P(EngineTest, AddressesThatWrapAroundAreRefused) {
    std::vector<char> from(100), to(100);
    auto *mine = local(from.data(), 100);
    auto theirs = remote(to.data(), 100);
    auto *request = prepare(NIXL_READ, mine, theirs.remote, oneBlock(from.data(), to.data() + 50, UINT64_MAX - 10));
    EXPECT_EQ(a.engine->post(request, nullptr), NIXL_ERR_NOT_ALLOWED);
}

TEST_P(EngineTest, DeregisteredMemoryIsRefusedUntilItIsRegisteredAgain) {
    std::vector<char> from(100, 'x'), to(100);
    auto theirs = remote(to.data(), 100);
    auto *request = prepare(NIXL_WRITE, local(from.data(), 100), theirs.remote, oneBlock(from.data(), to.data(), 100));
    deregisterAtTarget(theirs);
    EXPECT_EQ(a.engine->post(request, nullptr), NIXL_ERR_NOT_FOUND);
    EXPECT_NE(a.engine->describe(request).error.find("no registration of DRAM_SEG"), std::string::npos)
        << a.engine->describe(request).error;
    EXPECT_EQ(to, std::vector<char>(100));
    remote(to.data(), 100);
    EXPECT_EQ(a.engine->post(request, nullptr), NIXL_SUCCESS);
}

TEST_P(EngineTest, DeregisteringAtTheTargetEndsATransferInProgress) {
    const size_t size = 64 * kSliceBytes;
    std::vector<char> from(size, 'x'), to(size);
    auto theirs = remote(to.data(), size);
    auto *request =
        prepare(NIXL_WRITE, local(from.data(), size), theirs.remote, oneBlock(from.data(), to.data(), size));
    const nixl_status_t first = a.engine->post(request, nullptr);
    ASSERT_EQ(first, NIXL_IN_PROG);
    deregisterAtTarget(theirs);
    const std::vector<char> at_return = to; // a barrier: nothing changes any more
    const nixl_status_t last = finish(request, first);
    EXPECT_EQ(to, at_return);
    if (GetParam() && last == NIXL_SUCCESS) GTEST_SKIP() << "the progress thread had finished first";
    EXPECT_EQ(last, NIXL_ERR_NOT_FOUND);
    EXPECT_NE(a.engine->describe(request).error.find("has ended"), std::string::npos);
}

TEST_P(EngineTest, ARangeRegisteredTwiceNeedsTwoDeregistrations) {
    std::vector<char> from(10, 'x'), to(10);
    auto first = remote(to.data(), 10);
    auto second = remote(to.data(), 10);
    auto *request = prepare(NIXL_WRITE, local(from.data(), 10), first.remote, oneBlock(from.data(), to.data(), 10));
    deregisterAtTarget(first);
    EXPECT_EQ(a.engine->post(request, nullptr), NIXL_SUCCESS);
    deregisterAtTarget(second);
    EXPECT_EQ(a.engine->post(request, nullptr), NIXL_ERR_NOT_FOUND);
}

TEST_P(EngineTest, PeerThatIsGoneIsADisconnect) {
    std::vector<char> from(10), to(10);
    auto theirs = remote(to.data(), 10);
    auto *request = prepare(NIXL_WRITE, local(from.data(), 10), theirs.remote, oneBlock(from.data(), to.data(), 10));
    deregisterAtTarget(theirs);
    b.engine.reset();
    EXPECT_EQ(a.engine->post(request, nullptr), NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_EQ(a.engine->genNotif("B", "hello"), NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_EQ(a.engine->connect("B"), NIXL_ERR_REMOTE_DISCONNECT);
}

TEST_P(EngineTest, FullInboxHoldsTransfersBackAndLosesNothing) {
    std::vector<char> from(10, 'x'), to(10);
    ASSERT_EQ(a.engine->genNotif("B", std::string(kit::kShareBytes - 200, 'n')), NIXL_SUCCESS);
    EXPECT_EQ(a.engine->genNotif("B", "more"), NIXL_ERR_REPOST_ACTIVE);
    auto *request =
        prepare(NIXL_WRITE, local(from.data(), 10), remote(to.data(), 10).remote, oneBlock(from.data(), to.data(), 10));
    const std::string note = "late";
    const nixl_status_t first = a.engine->post(request, &note);
    EXPECT_EQ(first, NIXL_IN_PROG);
    EXPECT_EQ(a.engine->check(request), NIXL_IN_PROG);
    EXPECT_EQ(notificationsOfB().size(), 1u);
    EXPECT_EQ(finish(request, first), NIXL_SUCCESS);
    EXPECT_EQ(notificationsOfB(), (notif_list_t{{"A", note}}));
}

TEST_P(EngineTest, WhoSleepsUntilAFullInboxHasRoomIsWokenAndTurnsNoWheelMeanwhile) {
    std::vector<char> from(10, 'x'), to(10);
    const std::string large(kit::kShareBytes - 200, 'n'), note = "late";
    auto *request =
        prepare(NIXL_WRITE, local(from.data(), 10), remote(to.data(), 10).remote, oneBlock(from.data(), to.data(), 10));
    const auto sleeps = [&] {
        EXPECT_EQ(a.engine->check(request), NIXL_IN_PROG);
        return a.engine->arm();
    };
    const auto isAwake = [&](int timeout_ms) {
        pollfd each{a.engine->descriptor(), POLLIN, 0};
        return poll(&each, 1, timeout_ms) == 1;
    };
    for (int round = 0; round < 3; ++round) {
        ASSERT_EQ(a.engine->genNotif("B", large), NIXL_SUCCESS);
        ASSERT_EQ(a.engine->post(request, &note), NIXL_IN_PROG);
        ASSERT_TRUE(eventually(sleeps)) << round;
        EXPECT_FALSE(isAwake(0));
        EXPECT_EQ(notificationsOfB().size(), 1u);
        EXPECT_TRUE(isAwake(20'000)) << round;
        EXPECT_EQ(finish(request, NIXL_IN_PROG), NIXL_SUCCESS);
        EXPECT_EQ(notificationsOfB(), (notif_list_t{{"A", note}}));
    }
    // The end of the peer, and a cancellation, come through as well.
    ASSERT_EQ(a.engine->genNotif("B", large), NIXL_SUCCESS);
    ASSERT_EQ(a.engine->post(request, &note), NIXL_IN_PROG);
    a.engine->cancel(request);
    EXPECT_EQ(finish(request, NIXL_IN_PROG), NIXL_ERR_CANCELED);
    ASSERT_EQ(a.engine->post(request, &note), NIXL_IN_PROG);
    ASSERT_TRUE(eventually(sleeps));
    for (nixlBackendMD *memory : std::exchange(at_b, {})) b.engine->deregisterMem(memory);
    b.engine.reset();
    EXPECT_TRUE(isAwake(20'000));
    EXPECT_NE(finish(request, NIXL_IN_PROG), NIXL_IN_PROG);
}

TEST_P(EngineTest, NotificationBeyondTheLimitIsRefusedBeforeDataMoves) {
    std::vector<char> from(10, 'x'), to(10);
    const std::string note(wire::kNotificationBytesMax + 1, 'n');
    auto *request =
        prepare(NIXL_WRITE, local(from.data(), 10), remote(to.data(), 10).remote, oneBlock(from.data(), to.data(), 10));
    EXPECT_EQ(a.engine->post(request, &note), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(to, std::vector<char>(10));
    EXPECT_EQ(a.engine->genNotif("B", note), NIXL_ERR_INVALID_PARAM);
}

TEST_P(EngineTest, StoresKeepWhatWasWrittenAndGrow) {
    std::vector<char> data = pattern(300000), back(300000);
    for (nixl_mem_t memory : {FILE_SEG, OBJ_SEG, BLK_SEG}) {
        auto theirs = remote(nixlBlobDesc(0, 0, 7, "some/key"), memory);
        const auto at = reinterpret_cast<const void *>(uintptr_t{1000000});
        auto *write = prepare(NIXL_WRITE, local(data.data(), data.size()), theirs.remote,
                              oneBlock(data.data(), at, data.size()), memory);
        EXPECT_EQ(a.engine->post(write, nullptr), NIXL_SUCCESS) << a.engine->describe(write).error;
        auto *read = prepare(NIXL_READ, local(back.data(), back.size()), theirs.remote,
                             oneBlock(back.data(), at, back.size()), memory);
        std::fill(back.begin(), back.end(), 0);
        EXPECT_EQ(a.engine->post(read, nullptr), NIXL_SUCCESS) << a.engine->describe(read).error;
        EXPECT_EQ(back, data);

        nixl_reg_dlist_t query(memory);
        query.addDesc(nixlBlobDesc(0, 0, 7, "some/key"));
        query.addDesc(nixlBlobDesc(0, 0, 7, "no/such/key"));
        std::vector<nixl_query_resp_t> response;
        EXPECT_EQ(a.engine->queryMem(query, response), NIXL_SUCCESS);
        EXPECT_EQ(response, (std::vector<nixl_query_resp_t>{nixl_b_params_t{{"size", "1300000"}}, std::nullopt}));
    }
}

TEST_P(EngineTest, ReadingBehindTheEndOfAFileFails) {
    std::vector<char> data(100, 'x');
    auto file = remote(nixlBlobDesc(0, 0, 1, "short"), FILE_SEG);
    auto *mine = local(data.data(), data.size());
    auto *write = prepare(NIXL_WRITE, mine, file.remote, oneBlock(data.data(), nullptr, 50), FILE_SEG);
    EXPECT_EQ(a.engine->post(write, nullptr), NIXL_SUCCESS);
    auto *read = prepare(NIXL_READ, mine, file.remote, oneBlock(data.data(), nullptr, 51), FILE_SEG);
    EXPECT_EQ(a.engine->post(read, nullptr), NIXL_ERR_BACKEND);
    EXPECT_NE(a.engine->describe(read).error.find("holds 50 bytes"), std::string::npos);
    auto device = remote(nixlBlobDesc(0, 100, 1), BLK_SEG);
    auto *holes = prepare(NIXL_READ, mine, device.remote, oneBlock(data.data(), nullptr, 100), BLK_SEG);
    EXPECT_EQ(a.engine->post(holes, nullptr), NIXL_SUCCESS);
    EXPECT_EQ(data, std::vector<char>(100));
}

TEST(Connection, RefusesForeignAndMalformedAddresses) {
    Agent a{"A"}, b{"B"};
    std::string info;
    ASSERT_EQ(b.engine->getConnInfo(info), NIXL_SUCCESS);
    for (const std::string &wrong :
         {std::string(), std::string("tcp:1"), std::string("loopback:"), std::string("loopback:1:2:3"), info + "x",
          info + '\0', info.substr(0, info.size() - 1), info + "99999999999999999999", info + "999"}) {
        EXPECT_LT(a.engine->loadPeer("B", wrong, nullptr), 0) << wrong;
        EXPECT_EQ(a.engine->connect("B"), NIXL_ERR_NOT_FOUND);
    }
    EXPECT_EQ(a.engine->loadPeer("B", "loopback:1:2:3", nullptr), NIXL_ERR_NOT_SUPPORTED);
    EXPECT_EQ(a.engine->loadPeer("B", info, nullptr), NIXL_SUCCESS);
    EXPECT_EQ(a.engine->loadPeer("B", info, nullptr), NIXL_SUCCESS) << "the same again is fine";
    std::string own;
    ASSERT_EQ(a.engine->getConnInfo(own), NIXL_SUCCESS);
    EXPECT_EQ(a.engine->loadPeer("B", own, nullptr), NIXL_ERR_NOT_ALLOWED);
    EXPECT_EQ(a.engine->disconnect("B"), NIXL_SUCCESS);
    EXPECT_EQ(a.engine->loadPeer("B", own, nullptr), NIXL_SUCCESS);
}

TEST(Connection, AddressOfAnEngineThatIsGoneIsNotFound) {
    Agent a{"A"};
    std::string info;
    {
        Agent b{"B"};
        ASSERT_EQ(b.engine->getConnInfo(info), NIXL_SUCCESS);
    }
    EXPECT_EQ(a.engine->loadPeer("B", info, nullptr), NIXL_ERR_NOT_FOUND);
}

} // namespace
} // namespace nx::loopback
