// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: a peer that dies ends its own requests and nothing else, and can come back. Method: the peers are processes of
// their own, which are stopped, killed and closed while requests to them are in flight; over shared memory and over the
// network, with and without a progress thread.
#include "system/survivor.h"

#include <atomic>
#include <thread>

#include <gmock/gmock.h>

namespace nx::test {
namespace {

using std::chrono::steady_clock;
using ::testing::HasSubstr;

constexpr std::chrono::seconds kNoticeLimit{5}; // that no machine is too busy for
constexpr std::chrono::seconds kHang{20};
constexpr size_t kSize = size_t{8} << 20;
constexpr uint64_t kSeed = 7;

class PeerDeath : public Survivor {};

/// Moves bytes to and from a peer that nothing happens to, on a thread of its own, and looks at all of them.
class Bystander {
public:
    explicit Bystander(PeerDeath &test, Survivor::Met &peer)
        : thread_([&test, &peer, this] {
              for (uint64_t seed = 1; !stop_ || seed == 1; ++seed) {
                  peer.local.fill(seed);
                  wrong_ += test.run(NIXL_WRITE, peer) != NIXL_SUCCESS;
                  peer.local.clear();
                  wrong_ += test.run(NIXL_READ, peer) != NIXL_SUCCESS || !peer.local.holds(seed);
              }
          }) {}
    ~Bystander() {
        stop_ = true;
        thread_.join();
        EXPECT_EQ(wrong_, 0u) << "transfers with a peer that lives";
    }

private:
    std::atomic<bool> stop_{false};
    std::atomic<size_t> wrong_{0};
    std::thread thread_;
};

/// Requests of both kinds with messages, in flight to one peer.
class InFlight {
public:
    InFlight(Survivor &test, Survivor::Met &peer, size_t count) : test_(test), agent_(*test.a.agent) {
        for (size_t i = 0; i < count; ++i) {
            Request &request = requests_.emplace_back();
            request.sink = &test.registered(kSize);
            if (i % 2) request.sink->fill(kSeed); // what is written is what is read, by others at the same time
            nixl_opt_args_t args;
            args.notif = "request " + std::to_string(i);
            request.operation = i % 2 ? NIXL_WRITE : NIXL_READ;
            require(agent_.createXferReq(request.operation, listOf({request.sink->desc()}), listOf({peer.there}),
                                         peer.process.name, request.handle, &args),
                    "create");
        }
        for (Request &request : requests_) {
            request.status = agent_.postXferReq(request.handle);
            EXPECT_GE(request.status, 0) << nixlx::lastError();
        }
    }

    /// Polls until all are final.
    bool
    settle() {
        return eventually(
            [&] {
                size_t running = 0;
                for (Request &request : requests_) {
                    if (request.status != NIXL_IN_PROG) continue;
                    request.status = agent_.getXferStatus(request.handle);
                    running += request.status == NIXL_IN_PROG;
                    if (request.status < 0) {
                        EXPECT_THAT(nixlx::lastError(),
                                    HasSubstr("getXferStatus: backend " + Survivor::options().backend +
                                              ": peer 'B' is gone: "));
                    }
                }
                return running == 0;
            },
            kHang);
    }

    /// Polls without a pause while `going`.
    void
    pollWhile(const std::atomic<bool> &going) {
        while (going) {
            for (Request &request : requests_) {
                if (request.status == NIXL_IN_PROG) request.status = agent_.getXferStatus(request.handle);
            }
        }
    }

    /// What was not done before the end ended with a disconnect and says why; what was done is right.
    void
    expectDisconnected() {
        for (Request &request : requests_) {
            nixlx::Report report;
            require(agent_.getXferReport(request.handle, report), "report");
            EXPECT_EQ(report.status, request.status);
            if (request.status == NIXL_SUCCESS) {
                EXPECT_TRUE(request.operation == NIXL_WRITE || request.sink->holds(kSeed));
            } else {
                ++disconnected;
                EXPECT_EQ(request.status, NIXL_ERR_REMOTE_DISCONNECT) << report.error;
                EXPECT_THAT(report.error, HasSubstr("'B'"));
                EXPECT_EQ(agent_.getXferStatus(request.handle), NIXL_ERR_REMOTE_DISCONNECT) << "it stays so";
            }
        }
    }

    void
    expectRefusedAndRelease() {
        for (Request &request : requests_) {
            EXPECT_EQ(agent_.postXferReq(request.handle), NIXL_ERR_NOT_FOUND);
            EXPECT_THAT(nixlx::lastError(),
                        HasSubstr("postXferReq: remote agent 'B' was disconnected after transfer request creation"));
            EXPECT_EQ(agent_.releaseXferReq(request.handle), NIXL_SUCCESS) << nixlx::lastError();
        }
        requests_.clear();
    }

    size_t disconnected = 0;

private:
    struct Request {
        nixl_xfer_op_t operation = NIXL_READ;
        Buffer *sink = nullptr;
        nixlXferReqH *handle = nullptr;
        nixl_status_t status = NIXL_ERR_NOT_POSTED;
    };

    Survivor &test_;
    nixlAgent &agent_;
    std::vector<Request> requests_;
};

INSTANTIATE_TEST_SUITE_P(Ucx, PeerDeath, allSetups(), nameOf);
INSTANTIATE_TEST_SUITE_P(Shm, PeerDeath, localSetups("SHM"), nameOf);

/// How the peer ends.
enum class End { kKilledWhileStopped, kKilled, kClosed };

void
endWithRequestsInFlight(PeerDeath &test, End end, size_t count) {
    auto &bystander = test.start("C", kSize, 1);
    auto &victim = test.start("B", kSize, kSeed);
    ASSERT_EQ(test.run(NIXL_READ, victim), NIXL_SUCCESS);
    ASSERT_TRUE(victim.local.holds(kSeed));
    const Bystander other(test, bystander);

    if (end == End::kKilledWhileStopped) victim.process.signal(SIGSTOP);
    InFlight requests(test, victim, count);
    for (int i = 0; i < 100; ++i) ASSERT_EQ(test.a->genNotif("B", "message"), NIXL_SUCCESS) << nixlx::lastError();
    steady_clock::time_point gone;
    std::thread ending([&] {
        if (end == End::kClosed) {
            EXPECT_EQ(victim.process.quit(), 0);
        } else {
            victim.process.kill();
        }
        gone = steady_clock::now();
    });
    EXPECT_TRUE(requests.settle());
    const auto last = steady_clock::now();
    ending.join();
    EXPECT_LE(last, gone + kNoticeLimit);
    requests.expectDisconnected();
    EXPECT_TRUE(requests.disconnected > 0 || end != End::kKilledWhileStopped || !test.needsItsPeer());

    // Over the network a closed connection may not have been looked at yet.
    EXPECT_TRUE(eventually([&] { return test.a->genNotif("B", "x") < 0; }));
    EXPECT_THAT(nixlx::lastError(), HasSubstr("genNotif: "));
    EXPECT_THAT(nixlx::lastError(), HasSubstr("'B'"));
    EXPECT_EQ(test.a->genNotif("B", "x"), NIXL_ERR_NOT_FOUND);
    requests.expectRefusedAndRelease();

    auto &next = test.start("B", kSize, kSeed + 1);
    EXPECT_EQ(test.run(NIXL_READ, next), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(next.local.holds(kSeed + 1));
    EXPECT_EQ(test.run(NIXL_WRITE, next, "hello"), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(eventually([&] { return next.process.ask("received") == "1"; }));
}

TEST_P(PeerDeath, KilledWhileStoppedEndsOneRequest) {
    endWithRequestsInFlight(*this, End::kKilledWhileStopped, 1);
}

TEST_P(PeerDeath, KilledWhileStoppedEndsManyRequests) {
    endWithRequestsInFlight(*this, End::kKilledWhileStopped, 16);
}

TEST_P(PeerDeath, KilledEndsOneRequest) {
    endWithRequestsInFlight(*this, End::kKilled, 1);
}

TEST_P(PeerDeath, KilledEndsManyRequests) {
    endWithRequestsInFlight(*this, End::kKilled, 16);
}

TEST_P(PeerDeath, ClosedEndsOneRequest) {
    endWithRequestsInFlight(*this, End::kClosed, 1);
}

TEST_P(PeerDeath, ClosedEndsManyRequests) {
    endWithRequestsInFlight(*this, End::kClosed, 16);
}

TEST_P(PeerDeath, BeforeItIsLoadedIsSaidByTheLoad) {
    for (const bool orderly : {false, true}) {
        SCOPED_TRACE(orderly ? "closed" : "killed");
        PeerProcess victim("B", options());
        victim.offer(kSize, kSeed);
        const nixl_blob_t blob = shown(victim.metadata());
        if (orderly) {
            EXPECT_EQ(victim.quit(), 0);
        } else {
            victim.kill();
        }
        const auto begin = steady_clock::now();
        std::string loaded;
        EXPECT_EQ(a->loadRemoteMD(blob, loaded), NIXL_ERR_BACKEND);
        EXPECT_LE(steady_clock::now() - begin, kNoticeLimit);
        EXPECT_THAT(nixlx::lastError(), HasSubstr("peer 'B': its process has ended"));
        EXPECT_EQ(loaded, "");
        EXPECT_EQ(a->checkRemoteMD("B", listOf({})), NIXL_ERR_NOT_FOUND) << "nothing was loaded";
    }
    auto &next = start("B", kSize, kSeed + 1);
    EXPECT_EQ(run(NIXL_READ, next), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(next.local.holds(kSeed + 1));
}

TEST_P(PeerDeath, AfterItIsLoadedIsSaidByTheFirstPost) {
    auto &victim = start("B", kSize, kSeed); // nothing was moved yet
    victim.process.kill();
    nixlXferReqH *request = nullptr;
    // Whether this engine has noticed or not.
    for (int i = 0; i < 100; ++i) {
        if (i > 0) {
            ASSERT_EQ(a->releaseXferReq(request), NIXL_SUCCESS);
        }
        ASSERT_EQ(a->createXferReq(NIXL_READ, listOf({victim.local.desc()}), listOf({victim.there}), "B", request),
                  NIXL_SUCCESS)
            << nixlx::lastError();
        ASSERT_EQ(a->getNotifs(a.inbox), NIXL_SUCCESS) << nixlx::lastError();
    }
    EXPECT_EQ(finish(request, a->postXferReq(request)), NIXL_ERR_REMOTE_DISCONNECT) << nixlx::lastError();
    EXPECT_THAT(nixlx::lastError(), HasSubstr("peer 'B' is gone: "));
    EXPECT_EQ(a->releaseXferReq(request), NIXL_SUCCESS) << nixlx::lastError();
    auto &next = start("B", kSize, kSeed + 1);
    EXPECT_EQ(run(NIXL_READ, next), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(next.local.holds(kSeed + 1));
}

TEST_P(PeerDeath, UnnoticedIsFoundByTheNextPost) {
    auto &victim = start("B", kSize, kSeed);
    nixlXferReqH *request = nullptr;
    ASSERT_EQ(a->createXferReq(NIXL_READ, listOf({victim.local.desc()}), listOf({victim.there}), "B", request),
              NIXL_SUCCESS);
    ASSERT_EQ(finish(request, a->postXferReq(request)), NIXL_SUCCESS);
    victim.process.kill();
    const auto killed = steady_clock::now();
    nixl_status_t status = NIXL_SUCCESS;
    EXPECT_TRUE(eventually([&] {
        status = status == NIXL_IN_PROG ? a->getXferStatus(request) : a->postXferReq(request);
        return status < 0;
    }));
    EXPECT_EQ(status, NIXL_ERR_REMOTE_DISCONNECT) << nixlx::lastError();
    EXPECT_LE(steady_clock::now() - killed, kNoticeLimit);
    EXPECT_EQ(a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(PeerDeath, UnnoticedIsReplacedByTheNextStart) {
    if (GetParam().way == Way::kTcp) GTEST_SKIP() << "peers of NIXL 1.4 do not say which start they are";
    auto &victim = start("B", kSize, kSeed);
    victim.process.signal(SIGSTOP);
    InFlight requests(*this, victim, 4);
    victim.process.kill();
    auto &next = start("B", kSize, kSeed + 1); // nobody has polled
    const auto loaded = steady_clock::now();
    EXPECT_EQ(run(NIXL_READ, next), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(next.local.holds(kSeed + 1));
    EXPECT_TRUE(requests.settle());
    EXPECT_LE(steady_clock::now() - loaded, kNoticeLimit);
    requests.expectDisconnected();
    EXPECT_TRUE(requests.disconnected == 4 || !needsItsPeer());
    requests.expectRefusedAndRelease();
    EXPECT_EQ(run(NIXL_READ, next), NIXL_SUCCESS) << "the end of the old requests is not the new peer's";
}

/// The user removes a peer with requests in flight, which is stopped and dies before or after that.
void
removeWithRequestsInFlight(PeerDeath &test, bool dies_first) {
    auto &victim = test.start("B", kSize, kSeed);
    ASSERT_EQ(test.run(NIXL_READ, victim), NIXL_SUCCESS);
    victim.process.signal(SIGSTOP);
    auto &sink = test.registered(kSize);
    nixlXferReqH *request = nullptr;
    ASSERT_EQ(test.a->createXferReq(NIXL_READ, listOf({sink.desc()}), listOf({victim.there}), "B", request),
              NIXL_SUCCESS);
    ASSERT_GE(test.a->postXferReq(request), 0);
    if (dies_first) victim.process.kill();
    ASSERT_EQ(test.a->invalidateRemoteMD("B"), NIXL_SUCCESS);
    if (!dies_first) victim.process.kill();
    const auto gone = steady_clock::now();
    const nixl_status_t status = test.finish(request, NIXL_IN_PROG);
    EXPECT_LE(steady_clock::now() - gone, kNoticeLimit);
    EXPECT_TRUE(status == NIXL_ERR_NOT_FOUND || (status == NIXL_SUCCESS && sink.holds(kSeed)))
        << status << " " << nixlx::lastError();
    EXPECT_EQ(test.a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(PeerDeath, RemovedAfterItsDeathEndsItsRequests) {
    removeWithRequestsInFlight(*this, true);
}

TEST_P(PeerDeath, RemovedBeforeItsDeathEndsItsRequests) {
    removeWithRequestsInFlight(*this, false);
}

TEST_P(PeerDeath, RefusesWhatWasPreparedForTheDead) {
    auto &victim = start("B", kSize, kSeed);
    nixlDlistH *local = nullptr, *remote = nullptr;
    nixlXferReqH *request = nullptr, *other = nullptr;
    ASSERT_EQ(a->prepXferDlist("", listOf({victim.local.desc()}), local), NIXL_SUCCESS);
    ASSERT_EQ(a->prepXferDlist("B", listOf({victim.there}), remote), NIXL_SUCCESS);
    const auto make = [&] { return a->makeXferReq(NIXL_READ, local, {0}, remote, {0}, other); };
    ASSERT_EQ(a->makeXferReq(NIXL_READ, local, {0}, remote, {0}, request), NIXL_SUCCESS);
    ASSERT_EQ(finish(request, a->postXferReq(request)), NIXL_SUCCESS);
    victim.process.kill();
    ASSERT_TRUE(eventually([&] { return a->genNotif("B", "x") == NIXL_ERR_NOT_FOUND; }));
    const auto expectRefused = [&] {
        EXPECT_EQ(make(), NIXL_ERR_NOT_FOUND);
        EXPECT_EQ(other, nullptr);
        EXPECT_THAT(nixlx::lastError(),
                    HasSubstr("remote agent 'B' was disconnected after the list was prepared; prepare it again"));
        EXPECT_EQ(a->postXferReq(request), NIXL_ERR_NOT_FOUND);
        std::chrono::microseconds duration, margin;
        nixl_cost_t method;
        EXPECT_EQ(a->estimateXferCost(request, duration, margin, method), NIXL_ERR_NOT_FOUND);
        nixlx::Report report;
        EXPECT_EQ(a->getXferReport(request, report), NIXL_SUCCESS);
    };
    expectRefused();
    auto &next = start("B", kSize, kSeed + 1);
    expectRefused();
    EXPECT_EQ(run(NIXL_READ, next), NIXL_SUCCESS);
    EXPECT_EQ(a->releaseXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(a->releasedDlistH(remote), NIXL_SUCCESS);
    EXPECT_EQ(a->releasedDlistH(local), NIXL_SUCCESS);
}

TEST_P(PeerDeath, OfAPeerThatWasReadingAndWritingHereHarmsNobody) {
    auto &bystander = start("C", kSize, 1);
    if (GetParam().way == Way::kTcp && ucxMinor(bystander) < 18) {
        GTEST_SKIP() << "UCX before 1.18 can end the process when a peer dies that was writing to it over TCP";
    }
    auto &victim = start("B", kSize, kSeed);
    Buffer &here = registered(kSize);
    meet(victim.process); // A's new memory
    const Bystander other(*this, bystander);
    for (int i = 0; i < 8; ++i) {
        victim.process.ask(std::string("post ") + (i % 2 ? "READ" : "WRITE") + " A " + std::to_string(here.address()) +
                           " " + std::to_string(kSize));
    }
    victim.process.kill();
    EXPECT_TRUE(eventually([&] { return a->genNotif("B", "x") == NIXL_ERR_NOT_FOUND; }));
    auto &next = start("B", kSize, kSeed + 1);
    EXPECT_EQ(run(NIXL_READ, next), NIXL_SUCCESS);
    EXPECT_TRUE(next.local.holds(kSeed + 1));
}

TEST_P(PeerDeath, DoesNotDelayTheEndOfTheAgent) {
    auto &victim = start("B", kSize, kSeed);
    victim.process.signal(SIGSTOP);
    {
        const InFlight requests(*this, victim, 16);
        victim.process.kill();
        const auto begin = steady_clock::now();
        a.agent.reset();
        EXPECT_LE(steady_clock::now() - begin, 2 * kNoticeLimit) << "one for the death, one for the shutdown";
    }
}

class PeerDeathOverSharedMemory : public PeerDeath {};

INSTANTIATE_TEST_SUITE_P(Ucx, PeerDeathOverSharedMemory, localSetups("UCX"), nameOf);
INSTANTIATE_TEST_SUITE_P(Shm, PeerDeathOverSharedMemory, localSetups("SHM"), nameOf);

// A process that is killed between taking a place in a queue and filling it stops that queue for ever.
TEST_P(PeerDeathOverSharedMemory, WhileItAnswersStopsNobodysQueue) {
    constexpr int kVictims = 25;
    auto &bystander = start("C", kSize, 1);
    for (int i = 0; i < kVictims; ++i) {
        SCOPED_TRACE("victim " + std::to_string(i));
        auto &victim = start("B", kSize, kSeed);
        InFlight requests(*this, victim, 4);
        std::atomic<bool> going{true};
        std::thread killing([&] {
            victim.process.kill();
            going = false;
        });
        requests.pollWhile(going);
        killing.join();
        ASSERT_TRUE(requests.settle());
        requests.expectDisconnected();
        ASSERT_EQ(run(NIXL_READ, bystander), NIXL_SUCCESS) << nixlx::lastError();
        ASSERT_TRUE(eventually([&] { return a->genNotif("B", "x") == NIXL_ERR_NOT_FOUND; }));
        requests.expectRefusedAndRelease();
    }
}

TEST_P(PeerDeathOverSharedMemory, BeforeItIsLoadedIsSaidThoughAChildOfItLives) {
    PeerProcess victim("B", options());
    const nixl_blob_t blob = victim.metadata();
    victim.ask("fork");
    victim.kill();
    std::string loaded;
    EXPECT_EQ(a->loadRemoteMD(blob, loaded), NIXL_ERR_BACKEND);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("peer 'B': its process has ended"));
}

TEST_P(PeerDeathOverSharedMemory, IsNoticedThoughAChildOfItLives) {
    for (const bool orderly : {false, true}) {
        SCOPED_TRACE(orderly ? "closed" : "killed");
        auto &victim = start("B", kSize, kSeed);
        ASSERT_EQ(run(NIXL_READ, victim), NIXL_SUCCESS) << nixlx::lastError();
        victim.process.ask("fork");
        if (!orderly) victim.process.signal(SIGSTOP);
        InFlight requests(*this, victim, 2);
        if (orderly) {
            EXPECT_EQ(victim.process.quit(), 0);
        } else {
            victim.process.kill();
        }
        const auto gone = steady_clock::now();
        EXPECT_TRUE(requests.settle());
        EXPECT_TRUE(eventually([&] { return a->genNotif("B", "x") == NIXL_ERR_NOT_FOUND; }));
        EXPECT_LE(steady_clock::now(), gone + kNoticeLimit);
        requests.expectDisconnected();
        requests.expectRefusedAndRelease();
    }
}

} // namespace
} // namespace nx::test
