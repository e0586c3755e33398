// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What the agent itself promises, whatever the backend: handles, life cycle, choice, settlement, transactions. Drives
// the public API over the test backends, whose gates make every order of events reproducible.
#include <array>
#include <atomic>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <thread>
#include <tuple>
#include <unistd.h>

#include "nixl.h"
#include "support/agent_pair.h"
#include "support/buffer.h"
#include "support/gated_backend.h"

namespace nx::test {
namespace {

using ::testing::HasSubstr;

class Agent : public ::testing::Test {
protected:
    void
    SetUp() override {
        gated().reset();
    }
    void
    TearDown() override {
        gated().reset();
    }

    static PairOptions
    gatedPair() {
        PairOptions options;
        options.backend = "GATED";
        return options;
    }
};

TEST_F(Agent, RefusesAnEmptyName) {
    EXPECT_THROW(nixlAgent("", nixlAgentConfig()), std::invalid_argument);
    EXPECT_THROW(nixlAgent(std::string(5000, 'x'), nixlAgentConfig()), std::invalid_argument);
}

TEST_F(Agent, CreatesABackendOnce) {
    nixlAgent agent("solo", nixlAgentConfig());
    nixlBackendH *first = nullptr, *second = nullptr;
    ASSERT_EQ(agent.createBackend("GATED", {}, first), NIXL_SUCCESS);
    EXPECT_EQ(agent.createBackend("GATED", {}, second), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(second, nullptr);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("exists already"));
    nixl_backend_t type;
    ASSERT_EQ(agent.getBackendType(first, type), NIXL_SUCCESS);
    EXPECT_EQ(type, "GATED");
}

TEST_F(Agent, AnUnknownBackendIsNotFoundAndTheSentenceNamesIt) {
    nixlAgent agent("solo", nixlAgentConfig());
    nixlBackendH *backend = nullptr;
    EXPECT_EQ(agent.createBackend("NOSUCH", {}, backend), NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("NOSUCH"));
}

TEST_F(Agent, AFailedCreationCanBeRepeated) {
    nixlAgent agent("solo", nixlAgentConfig());
    nixlBackendH *backend = nullptr;
    gated().fail(EngineCall::kCreate, NIXL_ERR_BACKEND);
    EXPECT_EQ(agent.createBackend("GATED", {}, backend), NIXL_ERR_BACKEND);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("backend initialization error for 'GATED'"));
    EXPECT_EQ(agent.createBackend("GATED", {}, backend), NIXL_SUCCESS);
}

TEST_F(Agent, ACreationWaitsForOneOfTheSameTypeThatMayFail) {
    nixlAgent agent("solo", nixlAgentConfig());
    gated().fail(EngineCall::kCreate, NIXL_ERR_BACKEND);
    gated().close(EngineCall::kCreate);
    std::array<nixl_status_t, 2> statuses{};
    std::atomic<int> ended{0};
    const auto create = [&](size_t number) {
        nixlBackendH *backend = nullptr;
        statuses[number] = agent.createBackend("GATED", {}, backend);
        ++ended;
    };
    std::thread first(create, 0);
    EXPECT_TRUE(eventually([] { return gated().waiting(EngineCall::kCreate) == 1; }));
    std::thread second(create, 1);
    EXPECT_FALSE(eventually([&] { return ended > 0; }, std::chrono::milliseconds(50))) << "what could it know yet?";
    gated().open(EngineCall::kCreate);
    first.join();
    second.join();
    EXPECT_EQ(statuses[0], NIXL_ERR_BACKEND);
    EXPECT_EQ(statuses[1], NIXL_SUCCESS) << nixlEnumStrings::statusStr(statuses[1]);
}

TEST_F(Agent, AHandleOfAnAgentThatHasEndedIsNoneOfAnyLaterOne) {
    constexpr int kAgents = 4096;
    Buffer memory(4096);
    const auto prepare = [&](const PairedAgent &solo) {
        require(solo->registerMem(registrationOf({memory.desc()})), "register");
        nixlDlistH *list = nullptr;
        require(solo->prepXferDlist(listOf({memory.desc()}), list), "prepare");
        return list;
    };
    nixlDlistH *old = nullptr;
    {
        const PairedAgent first("first", gatedPair());
        old = prepare(first);
    }
    for (int i = 1; i < kAgents; ++i) nixlAgent("between", nixlAgentConfig());
    const PairedAgent last("last", gatedPair());
    nixlDlistH *const young = prepare(last);
    EXPECT_NE(young, old);
    EXPECT_EQ(last->releasedDlistH(old), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(last->releasedDlistH(young), NIXL_SUCCESS);
}

TEST_F(Agent, ForeignStaleAndDoubledHandlesAreErrors) {
    AgentPair pair(gatedPair());
    Buffer x(64), y(64);
    auto *request = pair.request(NIXL_WRITE, x, y);
    EXPECT_EQ(pair.b->getXferStatus(request), NIXL_ERR_INVALID_PARAM) << "another agent's";
    EXPECT_EQ(pair.a->releaseXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(pair.a->releaseXferReq(request), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(pair.a->postXferReq(request), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(pair.a->dropXferReq(request), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(pair.a->getXferStatus(nullptr), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(pair.a->getXferStatus(reinterpret_cast<nixlXferReqH *>(pair.a.backend)), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(pair.a->releasedDlistH(reinterpret_cast<nixlDlistH *>(request)), NIXL_ERR_INVALID_PARAM);
}

TEST_F(Agent, RegistrationIsAllOrNothingPerBackend) {
    AgentPair pair(gatedPair());
    Buffer x(64), y(64);
    gated().fail(EngineCall::kRegister, NIXL_ERR_BACKEND, 1, 1);
    const auto both = registrationOf({x.desc(), y.desc(0, 32)}); // apart, whatever their places
    const auto registered_before = gated().count(EngineCall::kRegister);
    EXPECT_EQ(pair.a->registerMem(both), NIXL_ERR_BACKEND);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("registerMem: registration failed"));
    EXPECT_EQ(gated().count(EngineCall::kRegister) - registered_before, 2u);
    EXPECT_EQ(pair.a->deregisterMem(registrationOf({x.desc()})), NIXL_ERR_NOT_FOUND) << "the first was undone";
    EXPECT_EQ(pair.a->registerMem(both), NIXL_SUCCESS);
}

TEST_F(Agent, AFailedRegistrationLeavesNothingInTheMetadata) {
    AgentPair pair(gatedPair());
    Buffer x(64);
    gated().fail(EngineCall::kRegister, NIXL_ERR_BACKEND);
    EXPECT_EQ(pair.a->registerMem(registrationOf({x.desc()})), NIXL_ERR_BACKEND);
    EXPECT_EQ(pair.a->registerMem(nixl_reg_dlist_t(DRAM_SEG)), NIXL_SUCCESS) << "an empty list";
    pair.exchange();
}

TEST_F(Agent, DeregisteringTheSameEntryTwiceInOneCallNeedsTwoRegistrations) {
    AgentPair pair(gatedPair());
    Buffer x(64);
    const auto once = registrationOf({x.desc()}), twice = registrationOf({x.desc(), x.desc()});
    ASSERT_EQ(pair.a->registerMem(once), NIXL_SUCCESS);
    EXPECT_EQ(pair.a->deregisterMem(twice), NIXL_ERR_NOT_FOUND);
    ASSERT_EQ(pair.a->registerMem(once), NIXL_SUCCESS);
    EXPECT_EQ(pair.a->deregisterMem(twice), NIXL_SUCCESS);
    EXPECT_EQ(pair.a->deregisterMem(once), NIXL_ERR_NOT_FOUND);
}

TEST_F(Agent, RangesThatWrapAreRefused) {
    AgentPair pair(gatedPair());
    EXPECT_EQ(pair.a->registerMem(registrationOf({{4096, SIZE_MAX - 3, 0}})), NIXL_ERR_INVALID_PARAM);
}

TEST_F(Agent, ReleaseOfAnEngineThatDoesNotSettleKeepsTheHandle) {
    AgentPair pair(gatedPair());
    Buffer x(64), y(64);
    auto *request = pair.request(NIXL_READ, x, y);
    gated().holdTransfers();
    gated().holdCancelled();
    ASSERT_EQ(pair.a->postXferReq(request), NIXL_IN_PROG);
    EXPECT_EQ(pair.a->releaseXferReq(request), NIXL_ERR_REPOST_ACTIVE);
    nixlx::Report report;
    ASSERT_EQ(pair.a->getXferReport(request, report), NIXL_SUCCESS);
    EXPECT_TRUE(report.settling);
    EXPECT_EQ(pair.a->getXferStatus(request), NIXL_IN_PROG);
    gated().settleCancelled();
    EXPECT_EQ(pair.a->releaseXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(pair.a->getXferStatus(request), NIXL_ERR_INVALID_PARAM);
}

TEST_F(Agent, DeregistrationEndsTheTransfersThatRunOnTheMemory) {
    AgentPair pair(gatedPair());
    Buffer x(64), y(64);
    auto *request = pair.request(NIXL_WRITE, x, y);
    gated().holdTransfers();
    ASSERT_EQ(pair.a->postXferReq(request), NIXL_IN_PROG);
    const auto before = gated().count(EngineCall::kDeregister);
    EXPECT_EQ(pair.a->deregisterMem(registrationOf({x.desc()})), NIXL_SUCCESS);
    EXPECT_EQ(gated().count(EngineCall::kDeregister), before + 1);
    EXPECT_EQ(pair.a->getXferStatus(request), NIXL_ERR_CANCELED);
    EXPECT_EQ(pair.a->postXferReq(request), NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("deregistered"));
}

TEST_F(Agent, DeregisteredMemoryStaysWithTheBackendWhileATransferIsNotQuiet) {
    AgentPair pair(gatedPair());
    Buffer x(64), y(64);
    auto *request = pair.request(NIXL_WRITE, x, y);
    gated().holdTransfers();
    gated().holdCancelled();
    ASSERT_EQ(pair.a->postXferReq(request), NIXL_IN_PROG);
    const auto before = gated().count(EngineCall::kDeregister);
    EXPECT_EQ(pair.a->deregisterMem(registrationOf({x.desc()})), NIXL_ERR_REPOST_ACTIVE);
    EXPECT_EQ(gated().count(EngineCall::kDeregister), before);
    gated().settleCancelled();
    EXPECT_EQ(pair.finish(request, NIXL_IN_PROG), NIXL_ERR_CANCELED);
    EXPECT_EQ(gated().count(EngineCall::kDeregister), before + 1);
}

/// A list and a request of A, made before a deregistration that fails.
struct MadeBefore {
    explicit MadeBefore(AgentPair &pair, const Buffer &x, const Buffer &y) : request(pair.request(NIXL_WRITE, x, y)) {
        require(pair.a->prepXferDlist(listOf({x.desc()}), local), "prepare");
        require(pair.a->prepXferDlist("B", listOf({y.desc()}), remote), "prepare");
    }

    void
    expectToWork(AgentPair &pair) const {
        EXPECT_EQ(pair.run(request), NIXL_SUCCESS) << nixlx::lastError();
        nixlXferReqH *another = nullptr;
        ASSERT_EQ(pair.a->makeXferReq(NIXL_WRITE, local, {0}, remote, {0}, another), NIXL_SUCCESS)
            << nixlx::lastError();
        EXPECT_EQ(pair.run(another), NIXL_SUCCESS) << nixlx::lastError();
        EXPECT_EQ(pair.a->releaseXferReq(another), NIXL_SUCCESS);
    }

    nixlXferReqH *request;
    nixlDlistH *local = nullptr, *remote = nullptr;
};

TEST_F(Agent, MemoryThatAPeerIsAtStaysRegisteredAndWorks) {
    AgentPair pair(gatedPair());
    Buffer x(64), y(64), z(64);
    ASSERT_EQ(pair.a->registerMem(registrationOf({z.desc()})), NIXL_SUCCESS);
    const MadeBefore before(pair, x, y);
    const auto both = registrationOf({x.desc(), z.desc()});
    const auto deregistered = gated().count(EngineCall::kDeregister);
    gated().fail(EngineCall::kShutOut, NIXL_ERR_REPOST_ACTIVE, 2);
    for (int i = 0; i < 2; ++i) {
        EXPECT_EQ(pair.a->deregisterMem(both), NIXL_ERR_REPOST_ACTIVE);
        EXPECT_THAT(nixlx::lastError(), HasSubstr("deregisterMem: backend GATED: the test ordered this failure"));
        before.expectToWork(pair);
    }
    EXPECT_EQ(gated().count(EngineCall::kDeregister), deregistered);
    pair.exchange(); // it is in the metadata
    nixlXferReqH *request = nullptr;
    ASSERT_EQ(pair.b->createXferReq(NIXL_READ, listOf({y.desc()}), listOf({x.desc()}), "A", request), NIXL_SUCCESS);
    EXPECT_EQ(pair.a->deregisterMem(both), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(gated().count(EngineCall::kDeregister), deregistered + 2);
    EXPECT_EQ(pair.a->deregisterMem(both), NIXL_ERR_NOT_FOUND);
}

TEST_F(Agent, MemoryThatAPeerIsAtStaysRegisteredThoughATransferIsNotQuiet) {
    AgentPair pair(gatedPair());
    Buffer x(64), y(64);
    const MadeBefore before(pair, x, y);
    gated().holdTransfers();
    gated().holdCancelled();
    ASSERT_EQ(pair.a->postXferReq(before.request), NIXL_IN_PROG);
    const auto deregistered = gated().count(EngineCall::kDeregister);
    gated().fail(EngineCall::kShutOut, NIXL_ERR_REPOST_ACTIVE);
    EXPECT_EQ(pair.a->deregisterMem(registrationOf({x.desc()})), NIXL_ERR_REPOST_ACTIVE);
    gated().settleCancelled();
    EXPECT_EQ(pair.finish(before.request, NIXL_IN_PROG), NIXL_ERR_CANCELED);
    gated().finishAll();
    EXPECT_EQ(gated().count(EngineCall::kDeregister), deregistered) << "not with that transfer either";
    before.expectToWork(pair);
    EXPECT_EQ(pair.a->deregisterMem(registrationOf({x.desc()})), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(gated().count(EngineCall::kDeregister), deregistered + 1);
}

TEST_F(Agent, PeersAreShutOutOfWhatNoOtherRangeNeeds) {
    AgentPair pair(gatedPair());
    Buffer x(64);
    const auto low = registrationOf({x.desc(0, 32)}), high = registrationOf({x.desc(32, 32)});
    ASSERT_EQ(pair.a->registerMem(registrationOf({x.desc(0, 32), x.desc(32, 32)})), NIXL_SUCCESS)
        << "one for the backend";
    EXPECT_EQ(pair.a->deregisterMem(low), NIXL_SUCCESS);
    EXPECT_EQ(gated().count(EngineCall::kShutOut), 0u);
    gated().raise(EngineCall::kShutOut, Thrown::kBadAlloc);
    EXPECT_EQ(pair.a->deregisterMem(high), NIXL_ERR_NO_MEMORY);
    EXPECT_EQ(pair.a->deregisterMem(high), NIXL_SUCCESS) << "nothing had changed";
    EXPECT_EQ(gated().count(EngineCall::kShutOut), 2u);
}

TEST_F(Agent, APreparedListOfDeregisteredMemoryIsRefused) {
    AgentPair pair(gatedPair());
    Buffer x(64), y(64);
    (void)pair.request(NIXL_WRITE, x, y);
    nixlDlistH *local = nullptr, *remote = nullptr;
    ASSERT_EQ(pair.a->prepXferDlist(listOf({x.desc()}), local), NIXL_SUCCESS);
    ASSERT_EQ(pair.a->prepXferDlist("B", listOf({y.desc()}), remote), NIXL_SUCCESS);
    ASSERT_EQ(pair.a->deregisterMem(registrationOf({x.desc()})), NIXL_SUCCESS);
    ASSERT_EQ(pair.a->registerMem(registrationOf({x.desc()})), NIXL_SUCCESS);
    nixlXferReqH *request = nullptr;
    EXPECT_EQ(pair.a->makeXferReq(NIXL_WRITE, local, {0}, remote, {0}, request), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(request, nullptr);
}

TEST_F(Agent, ADroppedRequestIsInvalidAtOnceAndFreedWhenQuiet) {
    AgentPair pair(gatedPair());
    Buffer x(64), y(64);
    auto *request = pair.request(NIXL_READ, x, y);
    gated().holdTransfers();
    gated().holdCancelled();
    ASSERT_EQ(pair.a->postXferReq(request), NIXL_IN_PROG);
    const auto released = gated().count(EngineCall::kRelease);
    EXPECT_EQ(pair.a->dropXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(pair.a->getXferStatus(request), NIXL_ERR_INVALID_PARAM);
    pair.progress();
    EXPECT_EQ(gated().count(EngineCall::kRelease), released);
    gated().settleCancelled();
    pair.progress();
    EXPECT_EQ(gated().count(EngineCall::kRelease), released + 1);
}

TEST_F(Agent, AFailureIsFinalHasASentenceAndCanBePostedAgain) {
    AgentPair pair(gatedPair());
    Buffer x(64), y(64);
    auto *request = pair.request(NIXL_WRITE, x, y);
    gated().holdTransfers();
    ASSERT_EQ(pair.a->postXferReq(request), NIXL_IN_PROG);
    gated().abort(0, NIXL_ERR_BACKEND);
    EXPECT_EQ(pair.finish(request, NIXL_IN_PROG), NIXL_ERR_BACKEND);
    EXPECT_EQ(pair.a->getXferStatus(request), NIXL_ERR_BACKEND) << "terminal statuses are sticky";
    nixlx::Report report;
    ASSERT_EQ(pair.a->getXferReport(request, report), NIXL_SUCCESS);
    EXPECT_FALSE(report.error.empty());
    gated().finishAll();
    EXPECT_EQ(pair.run(request), NIXL_SUCCESS);
    ASSERT_EQ(pair.a->getXferReport(request, report), NIXL_SUCCESS);
    EXPECT_EQ(report.attempts, 2u);
    EXPECT_TRUE(report.error.empty());
}

TEST_F(Agent, ALostPeerIsForgottenAndCanBeLoadedAgain) {
    AgentPair pair(gatedPair());
    Buffer x(64), y(64);
    auto *first = pair.request(NIXL_WRITE, x, y);
    nixlXferReqH *second = nullptr;
    ASSERT_EQ(pair.a->createXferReq(NIXL_WRITE, listOf({x.desc()}), listOf({y.desc()}), "B", second), NIXL_SUCCESS);
    gated().holdTransfers();
    ASSERT_EQ(pair.a->postXferReq(first), NIXL_IN_PROG);
    ASSERT_EQ(pair.a->postXferReq(second), NIXL_IN_PROG);
    gated().abort(0, NIXL_ERR_REMOTE_DISCONNECT);
    gated().abort(1, NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_EQ(pair.finish(first, NIXL_IN_PROG), NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_EQ(pair.finish(second, NIXL_IN_PROG), NIXL_ERR_REMOTE_DISCONNECT) << "not NOT_FOUND: it was in flight";
    EXPECT_EQ(pair.a->checkRemoteMD("B", {DRAM_SEG}), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(pair.a->postXferReq(first), NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("remote agent 'B' was disconnected after transfer request creation"));
    gated().finishAll();
    pair.a.load(pair.b.metadata());
    EXPECT_EQ(pair.a->postXferReq(first), NIXL_ERR_NOT_FOUND) << "made for another start of the peer";
    nixlXferReqH *third = nullptr;
    ASSERT_EQ(pair.a->createXferReq(NIXL_WRITE, listOf({x.desc()}), listOf({y.desc()}), "B", third), NIXL_SUCCESS);
    EXPECT_EQ(pair.run(third), NIXL_SUCCESS);
}

TEST_F(Agent, InvalidatingAPeerEndsItsTransfersAsNotFound) {
    AgentPair pair(gatedPair());
    Buffer x(64), y(64);
    auto *request = pair.request(NIXL_WRITE, x, y);
    gated().holdTransfers();
    ASSERT_EQ(pair.a->postXferReq(request), NIXL_IN_PROG);
    ASSERT_EQ(pair.a->invalidateRemoteMD("B"), NIXL_SUCCESS);
    gated().abort(0, NIXL_ERR_CANCELED);
    EXPECT_EQ(pair.finish(request, NIXL_IN_PROG), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(pair.a->invalidateRemoteMD("B"), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(pair.a->invalidateRemoteMD("A"), NIXL_ERR_INVALID_PARAM);
}

// W6: a blob that fails half-way leaves the agent and the backend as they were.
TEST_F(Agent, ALoadThatFailsAnywhereChangesNothingAndCanBeRepeated) {
    for (const auto call : {EngineCall::kLoadPeer, EngineCall::kLoadRemote}) {
        for (uint64_t skipped : {0, 1}) {
            gated().reset();
            AgentPair pair(gatedPair());
            Buffer x(64), y(64);
            ASSERT_EQ(pair.b->registerMem(registrationOf({x.desc()})), NIXL_SUCCESS);
            ASSERT_EQ(pair.b->registerMem(registrationOf({y.desc()}, VRAM_SEG)), NIXL_SUCCESS);
            const auto blob = pair.b.metadata();
            gated().fail(call, NIXL_ERR_BACKEND, 1, skipped);
            std::string name = "untouched";
            const auto status = pair.a->loadRemoteMD(blob, name);
            if (status == NIXL_SUCCESS) continue; // the call happens once only
            EXPECT_EQ(status, NIXL_ERR_BACKEND);
            EXPECT_EQ(name, "untouched");
            EXPECT_EQ(pair.a->checkRemoteMD("B", {DRAM_SEG}), NIXL_ERR_NOT_FOUND);
            EXPECT_EQ(pair.a->loadRemoteMD(blob, name), NIXL_SUCCESS) << nixlx::lastError();
            EXPECT_EQ(pair.a->checkRemoteMD("B", listOf({x.desc()})), NIXL_SUCCESS);
        }
    }
}

TEST_F(Agent, ABackendThatDoesNotReachAPeerIsLeftOutWhenAnotherDoes) {
    AgentPair pair(gatedPair());
    Buffer x(64);
    nixlBackendH *legacy = nullptr;
    ASSERT_EQ(pair.a->createBackend("LEGACY", {}, legacy), NIXL_SUCCESS);
    ASSERT_EQ(pair.b->createBackend("LEGACY", {}, legacy), NIXL_SUCCESS);
    ASSERT_EQ(pair.b->registerMem(registrationOf({x.desc()})), NIXL_SUCCESS);
    gated().fail(EngineCall::kLoadPeer, NIXL_ERR_NOT_SUPPORTED);
    pair.a.load(pair.b.metadata());
    EXPECT_EQ(pair.a->checkRemoteMD("B", listOf({x.desc()})), NIXL_SUCCESS);
    EXPECT_EQ(pair.a->makeConnection("B", &pair.a.with_backend), NIXL_ERR_BACKEND) << "GATED is not connected";
}

TEST_F(Agent, AMessageDoesNotWaitWhileAnotherThreadLoadsAPeer) {
    AgentPair pair(gatedPair());
    pair.exchange();
    PairedAgent third("C", gatedPair());
    const auto metadata = third.metadata();
    gated().close(EngineCall::kLoadPeer);
    std::thread loader([&] { pair.a.load(metadata); });
    const bool loading = eventually([] { return gated().waiting(EngineCall::kLoadPeer) == 1; });
    EXPECT_TRUE(loading);
    if (loading) {
        EXPECT_EQ(pair.a->genNotif("B", "on time"), NIXL_SUCCESS) << nixlx::lastError();
        EXPECT_EQ(pair.a->genNotif("C", "too early"), NIXL_ERR_NOT_FOUND);
        EXPECT_EQ(pair.receive(pair.b, "A", 1), std::vector<nixl_blob_t>{"on time"});
        EXPECT_EQ(gated().waiting(EngineCall::kLoadPeer), 1u) << "the load is over, which shows nothing";
    }
    gated().open(EngineCall::kLoadPeer);
    loader.join();
    EXPECT_EQ(pair.a->genNotif("C", "now"), NIXL_SUCCESS) << nixlx::lastError();
}

TEST_F(Agent, AFailedGrowthOfAPeerKeepsWhatWasLoaded) {
    AgentPair pair(gatedPair());
    Buffer x(64), y(64);
    ASSERT_EQ(pair.b->registerMem(registrationOf({x.desc()})), NIXL_SUCCESS);
    pair.a.load(pair.b.metadata());
    ASSERT_EQ(pair.b->registerMem(registrationOf({y.desc()})), NIXL_SUCCESS);
    gated().fail(EngineCall::kLoadRemote, NIXL_ERR_BACKEND);
    std::string name;
    EXPECT_EQ(pair.a->loadRemoteMD(pair.b.metadata(), name), NIXL_ERR_BACKEND);
    EXPECT_EQ(pair.a->checkRemoteMD("B", listOf({x.desc()})), NIXL_SUCCESS);
    EXPECT_EQ(pair.a->checkRemoteMD("B", listOf({y.desc()})), NIXL_ERR_NOT_FOUND);
    pair.a.load(pair.b.metadata());
    EXPECT_EQ(pair.a->checkRemoteMD("B", listOf({y.desc()})), NIXL_SUCCESS);
}

TEST_F(Agent, ANewStartOfAPeerReplacesTheOldOne) {
    AgentPair pair(gatedPair());
    Buffer x(64), y(64);
    auto *old_request = pair.request(NIXL_WRITE, x, y);
    PairedAgent reborn("B", gatedPair());
    ASSERT_EQ(reborn->registerMem(registrationOf({y.desc()})), NIXL_SUCCESS);
    pair.a.load(reborn.metadata());
    EXPECT_EQ(pair.a->postXferReq(old_request), NIXL_ERR_NOT_FOUND);
    nixlXferReqH *request = nullptr;
    EXPECT_EQ(pair.a->createXferReq(NIXL_WRITE, listOf({x.desc()}), listOf({y.desc()}), "B", request), NIXL_SUCCESS);
}

TEST_F(Agent, BadBlobsChangeNothing) {
    AgentPair pair(gatedPair());
    Buffer x(64);
    ASSERT_EQ(pair.b->registerMem(registrationOf({x.desc()})), NIXL_SUCCESS);
    const auto blob = pair.b.metadata();
    std::string name = "untouched";
    for (size_t length = 0; length < blob.size() - 200; length += 7) {
        EXPECT_NE(pair.a->loadRemoteMD(blob.substr(0, length), name), NIXL_SUCCESS) << length;
    }
    EXPECT_EQ(pair.a->loadRemoteMD("garbage", name), NIXL_ERR_MISMATCH);
    EXPECT_EQ(pair.b->loadRemoteMD(blob, name), NIXL_ERR_INVALID_PARAM) << "its own";
    EXPECT_EQ(name, "untouched");
    EXPECT_EQ(pair.a->checkRemoteMD("B", {DRAM_SEG}), NIXL_ERR_NOT_FOUND);
}

TEST_F(Agent, TheCheapestPredictionIsChosenAndTheReasonsAreKept) {
    nixlAgent agent("solo", nixlAgentConfig());
    nixlBackendH *legacy = nullptr, *gated_backend = nullptr;
    ASSERT_EQ(agent.createBackend("LEGACY", {}, legacy), NIXL_SUCCESS);
    ASSERT_EQ(agent.createBackend("GATED", {}, gated_backend), NIXL_SUCCESS);
    Buffer x(64), y(64);
    ASSERT_EQ(agent.registerMem(registrationOf({x.desc(), y.desc()})), NIXL_SUCCESS);
    gated().setPrediction(5);
    nixlXferReqH *request = nullptr;
    ASSERT_EQ(agent.createXferReq(NIXL_WRITE, listOf({x.desc()}), listOf({y.desc()}), "solo", request), NIXL_SUCCESS);
    nixlx::Report report;
    ASSERT_EQ(agent.getXferReport(request, report), NIXL_SUCCESS);
    EXPECT_EQ(report.backend, "GATED");
    ASSERT_EQ(report.candidates.size(), 2u);
    EXPECT_EQ(report.candidates[0].backend, "LEGACY");
    EXPECT_FALSE(report.candidates[0].chosen);
    EXPECT_FALSE(report.candidates[0].reason.empty());
    EXPECT_TRUE(report.candidates[1].chosen);
    EXPECT_EQ(report.candidates[1].predicted_us, 5);

    nixl_opt_args_t hints;
    hints.backends = {legacy, gated_backend};
    ASSERT_EQ(agent.createXferReq(NIXL_WRITE, listOf({x.desc()}), listOf({y.desc()}), "solo", request, &hints),
              NIXL_SUCCESS);
    nixlBackendH *used = nullptr;
    ASSERT_EQ(agent.queryXferBackend(request, used), NIXL_SUCCESS);
    EXPECT_EQ(used, legacy) << "the first hint wins";
}

TEST_F(Agent, APluginOf14ServesPlansToo) {
    PairOptions options;
    options.backend = "LEGACY";
    AgentPair pair(options);
    Buffer x(64 * 1024), y(64 * 1024);
    x.fill(1);
    y.fill(2);
    ASSERT_EQ(pair.a->registerMem(registrationOf({x.desc()})), NIXL_SUCCESS);
    ASSERT_EQ(pair.b->registerMem(registrationOf({y.desc()})), NIXL_SUCCESS);
    pair.exchange();
    nixl_xfer_dlist_t local(DRAM_SEG), remote(DRAM_SEG);
    for (size_t i = 0; i < 16; ++i) {
        local.addDesc({x.desc().addr + i * 4096, 1024, 0});
        remote.addDesc({y.desc().addr + (15 - i) * 4096, 1024, 0});
    }
    nixlXferReqH *request = nullptr;
    nixl_opt_args_t args;
    args.notif = std::string("done\0!", 6);
    ASSERT_EQ(pair.a->createXferReq(NIXL_WRITE, local, remote, "B", request, &args), NIXL_SUCCESS);
    EXPECT_EQ(pair.run(request), NIXL_SUCCESS);
    EXPECT_EQ(pair.receive(pair.b, "A", 1), std::vector<nixl_blob_t>{*args.notif});
    for (size_t i = 0; i < 16; ++i) {
        EXPECT_EQ(memcmp(reinterpret_cast<void *>(local[i].addr), reinterpret_cast<void *>(remote[i].addr), 1024), 0);
    }
    EXPECT_EQ(pair.run(request), NIXL_SUCCESS) << "repost";
}

TEST_F(Agent, TelemetryOfAFinishedTransferIsThereWhenAskedForAndOnlyThen) {
    nixlAgentConfig config;
    config.captureTelemetry = true;
    nixlAgent agent("solo", config);
    nixlBackendH *backend = nullptr;
    ASSERT_EQ(agent.createBackend("GATED", {}, backend), NIXL_SUCCESS);
    Buffer x(64), y(64);
    ASSERT_EQ(agent.registerMem(registrationOf({x.desc(), y.desc()})), NIXL_SUCCESS);
    nixlXferReqH *request = nullptr;
    ASSERT_EQ(agent.createXferReq(NIXL_WRITE, listOf({x.desc()}), listOf({y.desc()}), "solo", request), NIXL_SUCCESS);
    nixl_xfer_telem_t telemetry;
    EXPECT_EQ(agent.getXferTelemetry(request, telemetry), NIXL_ERR_NOT_POSTED);
    gated().holdTransfers();
    ASSERT_EQ(agent.postXferReq(request), NIXL_IN_PROG);
    EXPECT_EQ(agent.getXferTelemetry(request, telemetry), NIXL_IN_PROG);
    gated().finishAll();
    eventually([&] { return agent.getXferStatus(request) == NIXL_SUCCESS; });
    ASSERT_EQ(agent.getXferTelemetry(request, telemetry), NIXL_SUCCESS);
    EXPECT_EQ(telemetry.totalBytes, 64u);
    EXPECT_EQ(telemetry.descCount, 1u);

    AgentPair silent(gatedPair());
    auto *other = silent.request(NIXL_WRITE, x, y);
    EXPECT_EQ(silent.a->getXferTelemetry(other, telemetry), NIXL_ERR_NO_TELEMETRY);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("cannot return values when telemetry is not enabled"));
}

TEST_F(Agent, PostKeepsReplacesOrClearsTheNotification) {
    AgentPair pair(gatedPair());
    Buffer x(64), y(64);
    auto *request = pair.request(NIXL_WRITE, x, y);
    nixl_opt_args_t with;
    with.hasNotif = true;
    with.notifMsg = "old form";
    EXPECT_EQ(pair.run(request, &with), NIXL_SUCCESS);
    EXPECT_EQ(pair.receive(pair.b, "A", 1), std::vector<nixl_blob_t>{"old form"});
    EXPECT_EQ(pair.run(request), NIXL_SUCCESS);
    EXPECT_EQ(pair.receive(pair.b, "A", 1), std::vector<nixl_blob_t>{"old form"}) << "kept without arguments";
    const nixl_opt_args_t without;
    EXPECT_EQ(pair.run(request, &without), NIXL_SUCCESS);
    EXPECT_EQ(pair.run(request), NIXL_SUCCESS);
    ASSERT_EQ(pair.a->genNotif("B", "marker"), NIXL_SUCCESS);
    EXPECT_EQ(pair.receive(pair.b, "A", 1), std::vector<nixl_blob_t>{"marker"}) << "cleared by empty arguments";
}

TEST_F(Agent, AForkedChildIsToldAndLeavesTheParentAlone) {
    AgentPair pair(gatedPair());
    Buffer x(64), y(64);
    auto *request = pair.request(NIXL_WRITE, x, y);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        const bool told = pair.a->postXferReq(request) == NIXL_ERR_FORKED &&
            pair.a->registerMem(registrationOf({x.desc()})) == NIXL_ERR_FORKED;
        pair.a.agent.reset();
        _exit(told ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    EXPECT_EQ(pair.run(request), NIXL_SUCCESS);
}

TEST_F(Agent, MemoryViewsAreNotSupportedByBackendsWithoutADevice) {
    AgentPair pair(gatedPair());
    Buffer x(64), y(64);
    (void)pair.request(NIXL_WRITE, x, y);
    nixlMemViewH view = nullptr;
    EXPECT_EQ(pair.a->prepMemView(listOf({x.desc()}), view), NIXL_ERR_NOT_SUPPORTED);
    nixl_remote_dlist_t remote(DRAM_SEG);
    remote.addDesc(nixlRemoteDesc(y.desc(), "B"));
    EXPECT_EQ(pair.a->prepMemView(remote, view), NIXL_ERR_NOT_SUPPORTED);
    nixl_remote_dlist_t holes(DRAM_SEG);
    holes.addDesc(nixlRemoteDesc(y.desc(), nixl_null_agent));
    EXPECT_EQ(pair.a->prepMemView(holes, view), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(view, nullptr);
}

TEST_F(Agent, DestructionWithATransferThatNeverSettlesEndsInTime) {
    Buffer x(64), y(64);
    {
        AgentPair pair(gatedPair());
        auto *request = pair.request(NIXL_WRITE, x, y);
        gated().holdTransfers();
        gated().holdCancelled();
        ASSERT_EQ(pair.a->postXferReq(request), NIXL_IN_PROG);
    }
    SUCCEED() << "the suite's time limit is the bound";
}

TEST_F(Agent, ThousandsOfViewsOfOneBufferCostOneRegistration) {
    AgentPair pair(gatedPair());
    Buffer x(1 << 20);
    nixl_reg_dlist_t views(DRAM_SEG);
    for (size_t at = 0; at < (1 << 20); at += 256) views.addDesc({x.desc().addr + at, 256, 0, ""});
    const auto before = gated().count(EngineCall::kRegister);
    ASSERT_EQ(pair.b->registerMem(views), NIXL_SUCCESS);
    EXPECT_EQ(gated().count(EngineCall::kRegister), before + 1);
    pair.a.load(pair.b.metadata());
    EXPECT_EQ(gated().count(EngineCall::kLoadRemote), 1u);
    EXPECT_EQ(pair.a->checkRemoteMD("B", listOf({x.desc()})), NIXL_SUCCESS);
    EXPECT_EQ(pair.b->deregisterMem(views), NIXL_SUCCESS);
    EXPECT_EQ(gated().count(EngineCall::kDeregister), 1u);
}

// ---- What plugins throw

TEST_F(Agent, WhatAPluginThrowsIsAStatus) {
    AgentPair pair(gatedPair());
    Buffer x(64), y(64);
    const auto raise = [](EngineCall call) { gated().raise(call, Thrown::kForeign); };
    const auto said = [](const char *method) {
        return HasSubstr(std::string(method) + " threw something that is not a std::exception");
    };
    raise(EngineCall::kRegister);
    EXPECT_EQ(pair.a->registerMem(registrationOf({x.desc()})), NIXL_ERR_BACKEND);
    EXPECT_THAT(nixlx::lastError(), said("registerMem"));
    raise(EngineCall::kPublicData);
    EXPECT_EQ(pair.a->registerMem(registrationOf({x.desc()})), NIXL_ERR_BACKEND);
    EXPECT_EQ(gated().count(EngineCall::kDeregister), 1u) << "what was registered is given back";
    raise(EngineCall::kConnectionInfo);
    nixl_blob_t blob;
    EXPECT_EQ(pair.b->getLocalMD(blob), NIXL_ERR_BACKEND);
    EXPECT_THAT(nixlx::lastError(), said("getConnInfo"));

    ASSERT_EQ(pair.b->registerMem(registrationOf({y.desc()})), NIXL_SUCCESS);
    blob = pair.b.metadata();
    std::string loaded;
    for (const auto call : {EngineCall::kLoadPeer, EngineCall::kLoadRemote}) {
        raise(call);
        EXPECT_EQ(pair.a->loadRemoteMD(blob, loaded), NIXL_ERR_BACKEND);
    }
    pair.a.load(blob); // nothing was left of the failed ones
    raise(EngineCall::kNotify);
    EXPECT_EQ(pair.a->genNotif("B", "message"), NIXL_ERR_BACKEND);
    raise(EngineCall::kFetchNotifications);
    EXPECT_EQ(pair.a->getNotifs(pair.a.inbox), NIXL_ERR_BACKEND);
    raise(EngineCall::kUnload);
    EXPECT_EQ(pair.a->invalidateRemoteMD("B"), NIXL_SUCCESS);
    raise(EngineCall::kDeregister);
    EXPECT_EQ(pair.b->deregisterMem(registrationOf({y.desc()})), NIXL_SUCCESS);
    raise(EngineCall::kCreate);
    nixlAgent other("other", nixlAgentConfig());
    nixlBackendH *backend = nullptr;
    EXPECT_EQ(other.createBackend("GATED", {}, backend), NIXL_ERR_BACKEND);
}

TEST_F(Agent, ARequestIsNotStuckWhenItsEngineThrows) {
    AgentPair pair(gatedPair());
    Buffer x(64), y(64);
    auto *request = pair.request(NIXL_WRITE, x, y);
    for (const auto thrown : {Thrown::kBadAlloc, Thrown::kForeign}) {
        const auto expected = thrown == Thrown::kBadAlloc ? NIXL_ERR_NO_MEMORY : NIXL_ERR_BACKEND;
        gated().raise(EngineCall::kPost, thrown);
        EXPECT_EQ(pair.a->postXferReq(request), expected);
        EXPECT_EQ(pair.a->getXferStatus(request), expected);
        gated().holdTransfers();
        ASSERT_EQ(pair.a->postXferReq(request), NIXL_IN_PROG);
        gated().raise(EngineCall::kCheck, thrown);
        EXPECT_EQ(pair.a->getXferStatus(request), expected);
        gated().finishAll();
        EXPECT_EQ(pair.run(request), NIXL_SUCCESS) << "it can be posted again";
    }
    EXPECT_EQ(pair.a->releaseXferReq(request), NIXL_SUCCESS);
    gated().raise(EngineCall::kPrepare, Thrown::kBadAlloc);
    EXPECT_EQ(pair.a->createXferReq(NIXL_WRITE, listOf({x.desc()}), listOf({y.desc()}), "B", request),
              NIXL_ERR_NO_MEMORY);
}

// ---- All or nothing

TEST_F(Agent, DeregistrationIsAllOrNothingAcrossBackends) {
    nixlAgent agent("solo", nixlAgentConfig());
    nixlBackendH *gate = nullptr, *record = nullptr;
    ASSERT_EQ(agent.createBackend("GATED", {}, gate), NIXL_SUCCESS);
    ASSERT_EQ(agent.createBackend("RECORDING", {}, record), NIXL_SUCCESS);
    nixl_opt_args_t with_gate;
    with_gate.backends = {gate};
    Buffer x(64), y(64);
    ASSERT_EQ(agent.registerMem(registrationOf({x.desc()}), &with_gate), NIXL_SUCCESS);
    ASSERT_EQ(agent.registerMem(registrationOf({y.desc()})), NIXL_SUCCESS);

    // RECORDING has a part of the list only.
    EXPECT_EQ(agent.deregisterMem(registrationOf({y.desc(), x.desc()})), NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("RECORDING: range 1"));
    EXPECT_THAT(nixlx::lastError(), HasSubstr("nothing was deregistered"));
    nixl_opt_args_t both;
    both.backends = {gate, record};
    EXPECT_EQ(agent.deregisterMem(registrationOf({x.desc()}), &both), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(gated().count(EngineCall::kDeregister), 0u);
    EXPECT_EQ(agent.deregisterMem(registrationOf({y.desc()}), &both), NIXL_SUCCESS) << nixlx::lastError();

    // A backend that never took the memory is no reason to keep it.
    ASSERT_EQ(agent.registerMem(registrationOf({y.desc()})), NIXL_SUCCESS);
    EXPECT_EQ(agent.deregisterMem(registrationOf({x.desc()})), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(agent.deregisterMem(registrationOf({x.desc()})), NIXL_ERR_NOT_FOUND);
}

// ---- As in 1.4

TEST_F(Agent, HandlesAreNullAfterAFailure) {
    AgentPair pair(gatedPair());
    Buffer x(64);
    auto *list = reinterpret_cast<nixlDlistH *>(1);
    auto *request = reinterpret_cast<nixlXferReqH *>(1);
    EXPECT_EQ(pair.a->prepXferDlist("nobody", listOf({x.desc()}), list), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(list, nullptr);
    list = reinterpret_cast<nixlDlistH *>(1);
    nixlDescList<nixlStrideDesc> strided(DRAM_SEG);
    EXPECT_LT(pair.a->prepXferDlist(strided, list), 0);
    EXPECT_EQ(list, nullptr);
    EXPECT_LT(pair.a->createXferReq(NIXL_READ, listOf({x.desc()}), listOf({x.desc()}), "nobody", request), 0);
    EXPECT_EQ(request, nullptr);
    request = reinterpret_cast<nixlXferReqH *>(1);
    EXPECT_LT(pair.a->makeXferReq(NIXL_READ, nullptr, {0}, nullptr, {0}, request), 0);
    EXPECT_EQ(request, nullptr);
}

TEST_F(Agent, ListsThatDoNotMatchAreSaidBeforeWhatElseIsWrong) {
    AgentPair pair(gatedPair());
    Buffer here(4096), there(4096), unknown(4096);
    require(pair.a->registerMem(registrationOf({here.desc()})), "register at A");
    require(pair.b->registerMem(registrationOf({there.desc()})), "register at B");
    pair.exchange();
    const auto list = [](const Buffer &buffer, const std::vector<size_t> &lengths) {
        nixl_xfer_dlist_t made(DRAM_SEG);
        for (size_t i = 0; i < lengths.size(); ++i) made.addDesc({buffer.address() + i * 1000, lengths[i], 0});
        return made;
    };
    struct Case {
        std::vector<size_t> local, remote;
        const char *sentence;
    };
    const Case cases[] = {
        {{100, 100, 90}, {100, 80, 90}, "pair 1: the local element has 100 bytes, the remote one 80"},
        {{100, 100, 90}, {100, 100, 91}, "pair 2: the local element has 90 bytes, the remote one 91"},
        {{100, 100}, {80}, "the local list has 2 elements, the remote list 1"},
        {{}, {80}, "the local list has 0 elements, the remote list 1"},
    };
    nixlXferReqH *request = nullptr;
    for (const auto &[local, remote, sentence] : cases) {
        for (const auto &[ours, theirs, name] : {std::tuple(&here, &there, "B"),
                                                 {&here, &there, "nobody"},
                                                 {&unknown, &there, "B"},
                                                 {&here, &unknown, "B"},
                                                 {&unknown, &unknown, "A"}}) {
            EXPECT_EQ(pair.a->createXferReq(NIXL_READ, list(*ours, local), list(*theirs, remote), name, request),
                      NIXL_ERR_INVALID_PARAM);
            EXPECT_EQ(nixlx::lastError(), std::string("createXferReq: ") + sentence);
            EXPECT_EQ(request, nullptr);
        }
    }
    nixl_opt_args_t args;
    args.backends = {reinterpret_cast<nixlBackendH *>(&args)};
    EXPECT_NE(pair.a->createXferReq(NIXL_READ, list(here, {1}), list(there, {2}), "B", request, &args), NIXL_SUCCESS);
    EXPECT_THAT(nixlx::lastError(), testing::Not(HasSubstr("pair"))) << "the hint comes before the lists";
}

TEST_F(Agent, TelemetryOfACreatedRequestCountsTheCallersDescriptors) {
    auto options = gatedPair();
    options.capture_telemetry = true;
    AgentPair pair(options);
    Buffer x(128), y(128);
    ASSERT_EQ(pair.run(pair.request(NIXL_WRITE, x, y)), NIXL_SUCCESS);
    const auto descCount = [&](nixlXferReqH *request) {
        EXPECT_EQ(pair.run(request), NIXL_SUCCESS);
        nixl_xfer_telem_t telemetry;
        EXPECT_EQ(pair.a->getXferTelemetry(request, telemetry), NIXL_SUCCESS);
        return telemetry.descCount;
    };
    const auto local = listOf({x.desc(0, 64), x.desc(64, 64)}), remote = listOf({y.desc(0, 64), y.desc(64, 64)});
    nixlXferReqH *created = nullptr, *made = nullptr;
    ASSERT_EQ(pair.a->createXferReq(NIXL_WRITE, local, remote, "B", created), NIXL_SUCCESS);
    EXPECT_EQ(descCount(created), 2u) << "neighbours are two";
    nixlDlistH *locals = nullptr, *remotes = nullptr;
    ASSERT_EQ(pair.a->prepXferDlist(local, locals), NIXL_SUCCESS);
    ASSERT_EQ(pair.a->prepXferDlist("B", remote, remotes), NIXL_SUCCESS);
    ASSERT_EQ(pair.a->makeXferReq(NIXL_WRITE, locals, {0, 1}, remotes, {0, 1}, made), NIXL_SUCCESS);
    EXPECT_EQ(descCount(made), 1u) << "merged";
}

// ---- Names and blobs

TEST_F(Agent, RefusesTheNameThatMeansTheLocalSide) {
    try {
        nixlAgent agent("NIXL_INIT_AGENT", nixlAgentConfig());
        FAIL() << "accepted";
    }
    catch (const std::invalid_argument &refused) {
        EXPECT_THAT(refused.what(), HasSubstr("give it another name"));
    }
}

TEST_F(Agent, TheFarSideWithoutANameIsItsOwn) {
    AgentPair pair(gatedPair());
    const Buffer from(100), to(100);
    ASSERT_EQ(pair.a->registerMem(registrationOf({from.desc(), to.desc()})), NIXL_SUCCESS);
    from.fill(1);
    nixlXferReqH *request = nullptr;
    ASSERT_EQ(pair.a->createXferReq(NIXL_WRITE, listOf({from.desc()}), listOf({to.desc()}), "", request), NIXL_SUCCESS)
        << nixlx::lastError();
    EXPECT_EQ(pair.run(request), NIXL_SUCCESS);
    EXPECT_TRUE(to.holds(1));
    EXPECT_EQ(pair.a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_F(Agent, TellsItsOwnMetadataFromThatOfANamesake) {
    PairedAgent one("twin", gatedPair()), other("twin", gatedPair());
    std::string loaded;
    EXPECT_EQ(one->loadRemoteMD(one.metadata(), loaded), NIXL_ERR_INVALID_PARAM);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("the metadata is this agent's own"));
    EXPECT_EQ(one->loadRemoteMD(other.metadata(), loaded), NIXL_ERR_INVALID_PARAM);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("published by another agent that has this agent's name"));
}

TEST_F(Agent, WhatIsNoBlobLogsTheTwoLinesThatProgramsCount) {
    PairedAgent agent("solo", gatedPair());
    std::string loaded;
    testing::internal::CaptureStderr();
    EXPECT_EQ(agent->loadRemoteMD("invalid", loaded), NIXL_ERR_MISMATCH);
    const std::string log = testing::internal::GetCapturedStderr();
    const auto count = [&](std::string_view text) {
        int found = 0;
        for (size_t at = log.find(text); at != std::string::npos; at = log.find(text, at + 1)) ++found;
        return found;
    };
    EXPECT_EQ(count("Deserialization failed, missing nixlSerDes tag"), 1) << log;
    EXPECT_EQ(count("loadRemoteMD: failed to deserialize remote metadata"), 1) << log;
    EXPECT_EQ(count("\n"), 2) << log;
}

TEST_F(Agent, SaysAtOnceThatItsMetadataIsMoreThanPeersTake) {
    PairedAgent agent("solo", gatedPair());
    constexpr size_t kRangesMax = size_t{1} << 20;
    Buffer x(kRangesMax + 1);
    nixl_reg_dlist_t many(DRAM_SEG);
    many.reserve(kRangesMax + 1);
    for (size_t i = 0; i <= kRangesMax; ++i) many.addDesc(nixlBlobDesc(x.desc(i, 1), ""));
    ASSERT_EQ(agent->registerMem(many), NIXL_SUCCESS) << nixlx::lastError();
    nixl_blob_t blob = "as it was";
    EXPECT_EQ(agent->getLocalMD(blob), NIXL_ERR_NOT_SUPPORTED);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("1048577 ranges, and peers take at most 1048576"));
    EXPECT_EQ(blob, "as it was");
    ASSERT_EQ(agent->deregisterMem(registrationOf({x.desc(0, 1)})), NIXL_SUCCESS);
    EXPECT_EQ(agent->getLocalMD(blob), NIXL_SUCCESS) << nixlx::lastError();
}

} // namespace
} // namespace nx::test
