// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The test doubles do what their headers say, through an agent. What they are for is tested elsewhere with them.
#include <algorithm>
#include <atomic>
#include <thread>

#include <gtest/gtest.h>

#include "support/agent_pair.h"
#include "support/gated_backend.h"
#include "support/recording_backend.h"
#include "support/temp_dir.h"

namespace nx::test {
namespace {

class Gated : public testing::Test {
protected:
    void
    SetUp() override {
        gated().reset();
        pair = std::make_unique<AgentPair>(PairOptions{"GATED", {}, false});
    }

    void
    TearDown() override {
        gated().reset();
    }

    Buffer at_a{4096}, at_b{4096};
    std::unique_ptr<AgentPair> pair;
};

TEST_F(Gated, MovesDataWhenNothingIsOrdered) {
    at_a.fill(1);
    EXPECT_EQ(pair->run(pair->request(NIXL_WRITE, at_a, at_b)), NIXL_SUCCESS);
    EXPECT_TRUE(at_b.holds(1));
    EXPECT_EQ(gated().count(EngineCall::kRegister), 2u);
    EXPECT_EQ(gated().count(EngineCall::kPost), 1u);
}

TEST_F(Gated, FailsTheCallThatWasOrderedTo) {
    gated().fail(EngineCall::kPost, NIXL_ERR_BACKEND, 2, 1);
    nixlXferReqH *request = pair->request(NIXL_WRITE, at_a, at_b);
    EXPECT_EQ(pair->a->postXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->postXferReq(request), NIXL_ERR_BACKEND);
    EXPECT_NE(nixlx::lastError().find("the test ordered this failure"), std::string::npos) << nixlx::lastError();
    EXPECT_EQ(pair->a->postXferReq(request), NIXL_ERR_BACKEND);
    EXPECT_EQ(pair->a->postXferReq(request), NIXL_SUCCESS);
}

TEST_F(Gated, RefusesToBeCreated) {
    gated().fail(EngineCall::kCreate, NIXL_ERR_BACKEND);
    EXPECT_THROW(AgentPair(PairOptions{"GATED", {}, false}), std::runtime_error);
}

TEST_F(Gated, HoldsACallAtAClosedGate) {
    gated().close(EngineCall::kRegister);
    std::atomic<bool> returned{false};
    std::thread caller([&] {
        EXPECT_EQ(pair->a->registerMem(registrationOf({at_a.desc()})), NIXL_SUCCESS);
        returned = true;
    });
    EXPECT_TRUE(eventually([] { return gated().waiting(EngineCall::kRegister) == 1; }));
    EXPECT_FALSE(returned);
    gated().open(EngineCall::kRegister);
    caller.join();
    EXPECT_EQ(gated().waiting(EngineCall::kRegister), 0u);
}

TEST_F(Gated, HoldsTransfersUntilTheyMayFinish) {
    at_a.fill(1);
    nixlXferReqH *first = pair->request(NIXL_WRITE, at_a, at_b), *second = nullptr;
    require(pair->a->createXferReq(NIXL_WRITE, listOf({at_a.desc()}), listOf({at_b.desc()}), "B", second), "create");
    gated().holdTransfers();
    nixl_opt_args_t args;
    args.notif = "finished";
    EXPECT_EQ(pair->a->postXferReq(first, &args), NIXL_IN_PROG);
    EXPECT_EQ(pair->a->postXferReq(second), NIXL_IN_PROG);
    EXPECT_EQ(pair->a->getXferStatus(first), NIXL_IN_PROG);
    EXPECT_TRUE(at_b.isZero());
    gated().abort(1, NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_EQ(pair->a->getXferStatus(first), NIXL_IN_PROG);
    gated().finish(0);
    EXPECT_EQ(pair->a->getXferStatus(first), NIXL_SUCCESS);
    EXPECT_TRUE(at_b.holds(1));
    EXPECT_EQ(pair->receive(pair->b, "A", 1), std::vector<nixl_blob_t>{"finished"});
    EXPECT_EQ(pair->a->getXferStatus(second), NIXL_ERR_REMOTE_DISCONNECT);
}

TEST_F(Gated, HoldsCancelledTransfers) {
    nixlXferReqH *request = pair->request(NIXL_WRITE, at_a, at_b);
    gated().holdTransfers();
    gated().holdCancelled();
    EXPECT_EQ(pair->a->postXferReq(request), NIXL_IN_PROG);
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_ERR_REPOST_ACTIVE);
    EXPECT_EQ(pair->a->getXferStatus(request), NIXL_IN_PROG) << "the handle stays valid";
    gated().settleCancelled();
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
    EXPECT_TRUE(at_b.isZero());
}

TEST(Recording, WritesDownEveryCallInOrder) {
    recording().reset();
    Buffer at_a(4096), at_b(4096);
    {
        AgentPair pair({"RECORDING", {}, false});
        nixlXferReqH *request = pair.request(NIXL_WRITE, at_a, at_b);
        nixl_opt_args_t args;
        args.notif = "note";
        EXPECT_EQ(pair.run(request, &args), NIXL_SUCCESS);
        EXPECT_EQ(pair.a->releaseXferReq(request), NIXL_SUCCESS);
    }
    const auto prepared = recordedCalls("prepare");
    ASSERT_EQ(prepared.size(), 1u);
    EXPECT_EQ(prepared[0].agent, "A");
    EXPECT_EQ(prepared[0].arguments, "WRITE DRAM_SEG DRAM_SEG B 4096 bytes 1 blocks");
    ASSERT_EQ(prepared[0].runs.size(), 1u);
    EXPECT_EQ(prepared[0].runs[0].local, at_a.address());
    const auto registered = recordedCalls("registerMem");
    ASSERT_EQ(registered.size(), 2u);
    EXPECT_EQ(registered[1].arguments, "DRAM_SEG " + std::to_string(at_b.address()) + "+4096 device 0");
    const auto posted = recordedCalls("post");
    ASSERT_EQ(posted.size(), 1u);
    EXPECT_EQ(posted[0].arguments, "'note'");

    std::vector<std::string> order;
    for (const RecordedCall &call : recording().calls()) {
        if (call.agent == "A" && (order.empty() || order.back() != call.function)) order.push_back(call.function);
    }
    const auto at = [&](const char *function) { return std::find(order.begin(), order.end(), function); };
    EXPECT_LT(at("registerMem"), at("loadPeer"));
    EXPECT_LT(at("loadPeer"), at("loadRemoteMD"));
    EXPECT_LT(at("loadRemoteMD"), at("prepare"));
    EXPECT_LT(at("prepare"), at("post"));
    EXPECT_LT(at("post"), at("release"));
    EXPECT_LT(at("release"), at("deregisterMem"));
    EXPECT_LT(at("deregisterMem"), at("destroy"));
    EXPECT_EQ(order.back(), "destroy");
}

TEST(Legacy, IsAPluginWithoutADescriptor) {
    AgentPair pair({"LEGACY", {}, false});
    Buffer at_a(4096), at_b(4096);
    at_a.fill(1);
    EXPECT_EQ(pair.run(pair.request(NIXL_WRITE, at_a, at_b)), NIXL_SUCCESS);
    EXPECT_TRUE(at_b.holds(1));
}

TEST(TempDir, IsGoneAfterwards) {
    std::filesystem::path path;
    {
        TempDir folder;
        path = folder.path();
        std::ifstream file(folder.write("name", "contents"));
        std::string contents;
        file >> contents;
        EXPECT_EQ(contents, "contents");
    }
    EXPECT_FALSE(std::filesystem::exists(path));
}

} // namespace
} // namespace nx::test
