// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What one thread reads stays whole while another changes it: registrations, backends, peers. The loops are for the
// sanitizers (./check runs them under both); what the gates of GATED make certain fails without them, too.
#include <gmock/gmock.h>
#include <array>
#include <atomic>
#include <gtest/gtest.h>
#include <set>
#include <thread>

#include "nixl.h"
#include "support/agent_pair.h"
#include "support/buffer.h"
#include "support/gated_backend.h"

namespace nx::test {
namespace {

using ::testing::HasSubstr;

/// Repeats a call in a thread of its own, until it goes.
class Repeatedly {
public:
    template<class Body>
    explicit Repeatedly(Body body)
        : thread_([this, body] {
              while (!stop_) {
                  body();
                  rounds_.fetch_add(1);
              }
          }) {}

    ~Repeatedly() {
        stop_ = true;
        thread_.join();
    }

    /// Waits until it has gone round `count` more times.
    void
    wait(uint64_t count) {
        const uint64_t before = rounds_;
        ASSERT_TRUE(eventually([&] { return rounds_ >= before + count; }));
    }

private:
    std::atomic<bool> stop_{false};
    std::atomic<uint64_t> rounds_{0};
    std::thread thread_;
};

class Races : public ::testing::Test {
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
    gatedPair(bool listen = false) {
        PairOptions options;
        options.backend = "GATED";
        options.listen = listen;
        return options;
    }
};

TEST_F(Races, MetadataIsWholeWhileMemoryComesAndGoes) {
    AgentPair pair(gatedPair());
    Buffer kept(64), moved(64);
    ASSERT_EQ(pair.a->registerMem(registrationOf({kept.desc()})), NIXL_SUCCESS);
    Repeatedly changes([&] {
        EXPECT_EQ(pair.a->registerMem(registrationOf({moved.desc()})), NIXL_SUCCESS);
        EXPECT_EQ(pair.a->deregisterMem(registrationOf({moved.desc()})), NIXL_SUCCESS);
    });
    for (int i = 0; i < 5000; ++i) {
        nixl_blob_t blob;
        ASSERT_EQ(pair.a->getLocalMD(blob), NIXL_SUCCESS) << nixlx::lastError();
        ASSERT_EQ(pair.a->checkRemoteMD("A", nixl_xfer_dlist_t(DRAM_SEG)), NIXL_SUCCESS);
    }
    changes.wait(1);
}

TEST_F(Races, AListenerAnswersWhileMemoryComesAndGoes) {
    AgentPair pair(gatedPair(true));
    Buffer kept(64), moved(64);
    ASSERT_EQ(pair.a->registerMem(registrationOf({kept.desc()})), NIXL_SUCCESS);
    Repeatedly changes([&] {
        EXPECT_EQ(pair.a->registerMem(registrationOf({moved.desc()})), NIXL_SUCCESS);
        EXPECT_EQ(pair.a->deregisterMem(registrationOf({moved.desc()})), NIXL_SUCCESS);
    });
    const nixl_opt_args_t address = pair.a.address();
    for (int i = 0; i < 50; ++i) {
        ASSERT_EQ(pair.b->fetchRemoteMD("A", &address), NIXL_SUCCESS) << nixlx::lastError();
        ASSERT_EQ(pair.b->waitMetadata(kPatience), NIXL_SUCCESS) << nixlx::lastError();
        ASSERT_EQ(pair.b->checkRemoteMD("A", listOf({kept.desc()})), NIXL_SUCCESS);
        ASSERT_EQ(pair.b->invalidateRemoteMD("A"), NIXL_SUCCESS) << nixlx::lastError();
    }
}

TEST_F(Races, APeerIsLookedAtWhilePartsOfItsMetadataArrive) {
    AgentPair pair(gatedPair());
    constexpr size_t kParts = 64;
    Buffer memory(64 * kParts), other(64);
    std::vector<nixl_blob_t> parts;
    nixl_opt_args_t args;
    args.includeConnInfo = true;
    for (size_t i = 0; i < kParts; ++i) {
        const auto part = registrationOf({memory.desc(64 * i, 64)});
        ASSERT_EQ(pair.b->registerMem(part), NIXL_SUCCESS);
        ASSERT_EQ(pair.b->getLocalPartialMD(part, parts.emplace_back(), &args), NIXL_SUCCESS) << nixlx::lastError();
    }
    Repeatedly looks([&] {
        (void)pair.a->checkRemoteMD("B", listOf({other.desc()}));
        (void)pair.a->checkRemoteMD("B", listOf({memory.desc()}));
    });
    for (int round = 0; round < 10; ++round) {
        for (const auto &part : parts) pair.a.load(part);
        EXPECT_EQ(pair.a->checkRemoteMD("B", listOf({memory.desc()})), NIXL_SUCCESS);
        ASSERT_EQ(pair.a->invalidateRemoteMD("B"), NIXL_SUCCESS);
    }
    looks.wait(1);
}

TEST_F(Races, ABackendComesWhileAPeerIsForgotten) {
    AgentPair pair(gatedPair());
    pair.exchange();
    gated().close(EngineCall::kDisconnect);
    std::thread forget([&] { EXPECT_EQ(pair.a->invalidateRemoteMD("B"), NIXL_SUCCESS) << nixlx::lastError(); });
    ASSERT_TRUE(eventually([] { return gated().waiting(EngineCall::kDisconnect) == 1; }));
    nixlBackendH *second = nullptr;
    EXPECT_EQ(pair.a->createBackend("RECORDING", {}, second), NIXL_SUCCESS) << nixlx::lastError();
    gated().open(EngineCall::kDisconnect);
    forget.join();
}

TEST_F(Races, MetadataHasNoSectionOfABackendThatCameMeanwhile) {
    AgentPair pair(gatedPair());
    Buffer x(64);
    ASSERT_EQ(pair.a->registerMem(registrationOf({x.desc()})), NIXL_SUCCESS);
    gated().close(EngineCall::kConnectionInfo);
    nixl_blob_t blob;
    std::thread publish([&] { EXPECT_EQ(pair.a->getLocalMD(blob), NIXL_SUCCESS) << nixlx::lastError(); });
    ASSERT_TRUE(eventually([] { return gated().waiting(EngineCall::kConnectionInfo) == 1; }));
    nixlBackendH *second = nullptr;
    EXPECT_EQ(pair.a->createBackend("RECORDING", {}, second), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(pair.a->registerMem(registrationOf({x.desc()})), NIXL_SUCCESS);
    gated().open(EngineCall::kConnectionInfo);
    publish.join();
    EXPECT_THAT(blob, Not(HasSubstr("RECORDING")));
    pair.b.load(blob);
}

TEST_F(Races, BackendsComeWhileMetadataIsAskedFor) {
    Buffer x(64);
    for (int round = 0; round < 20; ++round) {
        nixlAgent agent("solo", nixlAgentConfig());
        nixlBackendH *backend = nullptr;
        ASSERT_EQ(agent.createBackend("GATED", {}, backend), NIXL_SUCCESS);
        Repeatedly asks([&] {
            nixl_blob_t blob;
            EXPECT_EQ(agent.getLocalMD(blob), NIXL_SUCCESS) << nixlx::lastError();
            (void)agent.checkRemoteMD("solo", nixl_xfer_dlist_t(DRAM_SEG));
        });
        for (const char *type : {"RECORDING", "LEGACY"}) {
            ASSERT_EQ(agent.createBackend(type, {}, backend), NIXL_SUCCESS);
            ASSERT_EQ(agent.registerMem(registrationOf({x.desc()})), NIXL_SUCCESS);
            asks.wait(1);
        }
    }
}

TEST_F(Races, ARequestMadeWhileItsMemoryIsDeregisteredIsRefused) {
    nixlAgent agent("solo", nixlAgentConfig());
    nixlBackendH *backend = nullptr;
    // Two backends: then the agent asks for predictions, between resolving the lists and making the request.
    ASSERT_EQ(agent.createBackend("GATED", {}, backend), NIXL_SUCCESS);
    ASSERT_EQ(agent.createBackend("RECORDING", {}, backend), NIXL_SUCCESS);
    Buffer x(128), y(64);
    const auto first = x.desc(0, 64), second = x.desc(64, 64);
    // Both halves share a mapping, which stays for the other one.
    ASSERT_EQ(agent.registerMem(registrationOf({first, second})), NIXL_SUCCESS);
    ASSERT_EQ(agent.registerMem(registrationOf({y.desc()})), NIXL_SUCCESS);
    gated().setPrediction(0); // the cheapest
    gated().close(EngineCall::kPredict);
    nixlXferReqH *request = nullptr;
    nixl_status_t made = NIXL_IN_PROG;
    std::thread make(
        [&] { made = agent.createXferReq(NIXL_WRITE, listOf({second}), listOf({y.desc()}), "solo", request); });
    ASSERT_TRUE(eventually([] { return gated().waiting(EngineCall::kPredict) == 1; }));
    EXPECT_EQ(agent.deregisterMem(registrationOf({second})), NIXL_SUCCESS) << nixlx::lastError();
    gated().open(EngineCall::kPredict);
    make.join();
    if (made == NIXL_SUCCESS) {
        EXPECT_EQ(agent.postXferReq(request), NIXL_ERR_NOT_FOUND);
        EXPECT_THAT(nixlx::lastError(), HasSubstr("deregistered"));
    } else {
        EXPECT_EQ(made, NIXL_ERR_NOT_FOUND);
    }
}

TEST_F(Races, NoRequestWritesIntoMemoryThatWasDeregistered) {
    AgentPair pair(gatedPair());
    Buffer source(64), target(64 * 8);
    ASSERT_EQ(pair.a->registerMem(registrationOf({source.desc()})), NIXL_SUCCESS);
    for (int round = 0; round < 300; ++round) {
        const auto half = target.desc(64, 64);
        ASSERT_EQ(pair.a->registerMem(registrationOf({target.desc(0, 64), half})), NIXL_SUCCESS);
        std::atomic<nixlXferReqH *> last{nullptr};
        std::thread make([&] {
            nixlXferReqH *made = nullptr;
            while (pair.a->createXferReq(NIXL_WRITE, listOf({source.desc()}), listOf({half}), "A", made) ==
                   NIXL_SUCCESS) {
                if (auto *before = last.exchange(made)) {
                    EXPECT_EQ(pair.a->releaseXferReq(before), NIXL_SUCCESS);
                }
            }
        });
        EXPECT_TRUE(eventually([&] { return last != nullptr; }));
        EXPECT_EQ(pair.a->deregisterMem(registrationOf({half})), NIXL_SUCCESS) << nixlx::lastError();
        make.join();
        ASSERT_EQ(pair.a->postXferReq(last), NIXL_ERR_NOT_FOUND) << "round " << round;
        ASSERT_EQ(pair.a->releaseXferReq(last), NIXL_SUCCESS);
        ASSERT_EQ(pair.a->deregisterMem(registrationOf({target.desc(0, 64)})), NIXL_SUCCESS);
    }
}

TEST_F(Races, OneOfTwoThreadsReleasesARequestAndTheOtherIsToldThatItIsNone) {
    AgentPair pair(gatedPair());
    Buffer x(64);
    ASSERT_EQ(pair.a->registerMem(registrationOf({x.desc()})), NIXL_SUCCESS);
    constexpr int kRounds = 3000;
    std::atomic<nixlXferReqH *> request{nullptr};
    std::atomic<int> round{0}, done{0};
    std::array<nixl_status_t, 2> outcomes{};
    const auto releaseEach = [&](size_t thread) {
        for (int at = 1; at <= kRounds; ++at) {
            while (round.load() != at) std::this_thread::yield();
            outcomes[thread] = pair.a->releaseXferReq(request);
            done.fetch_add(1);
        }
    };
    std::thread first(releaseEach, 0), second(releaseEach, 1);
    for (int at = 1; at <= kRounds; ++at) {
        nixlXferReqH *made = nullptr;
        EXPECT_EQ(pair.a->createXferReq(NIXL_WRITE, listOf({x.desc()}), listOf({x.desc()}), "A", made), NIXL_SUCCESS);
        request = made;
        round = at;
        while (done.load() != 2 * at) std::this_thread::yield();
        const bool right = std::set{outcomes[0], outcomes[1]} == std::set{NIXL_SUCCESS, NIXL_ERR_INVALID_PARAM};
        EXPECT_TRUE(right) << "round " << at << ": " << outcomes[0] << " and " << outcomes[1];
    }
    first.join();
    second.join();
}

TEST_F(Races, ARequestDoesNotJoinAPeersOldRangesWithItsNewConnection) {
    AgentPair pair(gatedPair());
    Buffer x(64), y(64);
    ASSERT_EQ(pair.a->registerMem(registrationOf({x.desc()})), NIXL_SUCCESS);
    ASSERT_EQ(pair.b->registerMem(registrationOf({y.desc()})), NIXL_SUCCESS);
    const auto blob = pair.b.metadata();
    pair.a.load(blob);
    gated().close(EngineCall::kPrepare);
    nixlXferReqH *request = nullptr;
    std::thread make([&] {
        EXPECT_EQ(pair.a->createXferReq(NIXL_WRITE, listOf({x.desc()}), listOf({y.desc()}), "B", request),
                  NIXL_ERR_NOT_FOUND);
        EXPECT_THAT(nixlx::lastError(), HasSubstr("was removed while the request was being made"));
    });
    ASSERT_TRUE(eventually([] { return gated().waiting(EngineCall::kPrepare) == 1; }));
    ASSERT_EQ(pair.a->invalidateRemoteMD("B"), NIXL_SUCCESS);
    pair.a.load(blob);
    gated().open(EngineCall::kPrepare);
    make.join();
    EXPECT_EQ(request, nullptr);
}

} // namespace
} // namespace nx::test
