// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Loading a peer: what is judged before anything changes, and that a load which fails at any step leaves nothing.
#include <array>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agent/agent_state.h"
#include "agent/undo_list.h"
#include "support/gated_backend.h"
#include "support/no_memory.h"
#include "support/recording_backend.h"

namespace nx::agent {
namespace {

using test::EngineCall;
using test::gated;
using ::testing::HasSubstr;

std::shared_ptr<Backend>
backendOf(const std::string &type, size_t order) {
    auto plugin = plugin::Manager::instance().load(type);
    if (!plugin.ok()) throw std::runtime_error(plugin.message());
    nixl_b_params_t params;
    nixlBackendInitParams init;
    init.localAgent = "A";
    init.type = type;
    init.customParams = &params;
    auto backend = Backend::create(*plugin, init, params);
    backend->order = order;
    return backend;
}

nixlBlobDesc
range(uintptr_t address, const std::string &key) {
    return {address, 64, 0, key};
}

/// The judge alone. Its backends are asked for nothing but who they are.
class LoadJudge : public ::testing::Test {
protected:
    LoadJudge() {
        gated().reset();
        metadata.agent = "B";
        metadata.trailer.emplace().incarnation = {1};
        metadata.trailer->peer_info = {{"GATED", "more"}};
        metadata.connections = {{"GATED", "here"}, {"NOT_HERE", "there"}};
        metadata.sections = {{"GATED", DRAM_SEG, {range(4096, "k1"), range(8192, "k2")}},
                             {"NOT_HERE", DRAM_SEG, {range(4096, "k3")}}};
    }

    Result<LoadPlan>
    judge() const {
        return judgeLoad(metadata, backends, {peer, peer ? 1u : 0u, peer ? peer->held.bytes : 0}, limits);
    }

    /// Makes the peer known as a load of the metadata would.
    void
    load() {
        const auto plan = judge();
        ASSERT_TRUE(plan.ok()) << plan.message();
        peer = std::make_shared<Peer>("B", some_lost);
        peer->incarnation = metadata.trailer->incarnation;
        peer->held = plan->held();
        Connections connections;
        for (const auto &connection : plan->connections) connections[connection.backend->type] = *connection.info;
        peer->connections.set(std::move(connections));
        Sections sections;
        for (const auto &[key, ranges] : plan->ranges) {
            std::vector<std::shared_ptr<memory::Window>> windows;
            for (const auto *range : ranges) {
                windows.push_back(std::make_shared<memory::Window>(
                    *range, memory::ownMapping(nullptr, nullptr, range->metaInfo, [](auto *, auto *) {})));
            }
            sections[key] = memory::RangeIndex().with(std::move(windows));
        }
        peer->sections.set(std::move(sections));
    }

    void
    expectRefusal(nixl_status_t status, const std::string &sentence) const {
        const auto plan = judge();
        EXPECT_EQ(plan.code(), status);
        EXPECT_THAT(plan.message(), HasSubstr(sentence));
        EXPECT_EQ(gated().count(EngineCall::kLoadPeer) + gated().count(EngineCall::kValidatePeer) +
                      gated().count(EngineCall::kLoadRemote),
                  0u);
    }

    wire::Metadata metadata;
    BackendList backends{backendOf("LEGACY", 0), backendOf("GATED", 1)};
    std::atomic<bool> some_lost{false};
    std::shared_ptr<Peer> peer;
    PeerLimits limits;
};

TEST_F(LoadJudge, ANewPeerBringsWhatIsInCommon) {
    const auto plan = judge();
    ASSERT_TRUE(plan.ok()) << plan.message();
    EXPECT_FALSE(plan->known);
    EXPECT_FALSE(plan->replaced);
    ASSERT_EQ(plan->connections.size(), 1u);
    EXPECT_EQ(plan->connections[0].backend, backends[1]);
    EXPECT_EQ(*plan->connections[0].info, "here");
    EXPECT_EQ(*plan->connections[0].peer_info, "more");
    ASSERT_EQ(plan->ranges.size(), 1u);
    EXPECT_EQ(plan->ranges.begin()->first, SectionKey(DRAM_SEG, 1));
    EXPECT_EQ(plan->ranges.begin()->second.size(), 2u);
    EXPECT_EQ(plan->held().windows, 2u);
    EXPECT_EQ(plan->held().bytes, 4 + 4 + 2 * (sizeof(nixlBasicDesc) + 2));
}

TEST_F(LoadJudge, WhatIsKnownIsNotLoadedAgain) {
    load();
    metadata.sections[0].descs.push_back(range(16384, "k4"));
    const auto plan = judge();
    ASSERT_TRUE(plan.ok()) << plan.message();
    EXPECT_EQ(plan->known, peer);
    EXPECT_TRUE(plan->connections.empty());
    ASSERT_EQ(plan->ranges.size(), 1u);
    ASSERT_EQ(plan->ranges.begin()->second.size(), 1u);
    EXPECT_EQ(plan->ranges.begin()->second[0]->metaInfo, "k4");
    EXPECT_EQ(plan->held().windows, 3u);
}

TEST_F(LoadJudge, AnotherStartReplacesTheKnownOne) {
    load();
    metadata.trailer->incarnation = {2};
    metadata.connections[0].info = "elsewhere";
    metadata.sections[0].descs[0].metaInfo = "another key";
    const auto plan = judge();
    ASSERT_TRUE(plan.ok()) << plan.message();
    EXPECT_FALSE(plan->known);
    EXPECT_EQ(plan->replaced, peer);
    EXPECT_EQ(plan->connections.size(), 1u);
    EXPECT_EQ(plan->held().windows, 2u);
}

TEST_F(LoadJudge, ABackendLeftOutTakesItsRangesWithIt) {
    auto plan = judge();
    ASSERT_TRUE(plan.ok()) << plan.message();
    plan->leaveOut(*backends[1]);
    EXPECT_TRUE(plan->connections.empty());
    EXPECT_TRUE(plan->ranges.empty());
    EXPECT_EQ(plan->held().bytes, 0u);
}

TEST_F(LoadJudge, RefusesAnAgentWithoutACommonBackend) {
    backends.pop_back();
    expectRefusal(NIXL_ERR_BACKEND,
                  "no common backend found: agent 'B' offers 'GATED', 'NOT_HERE'; create one of them");
    EXPECT_FALSE(sharesBackend(metadata, backends));
}

TEST_F(LoadJudge, RefusesSectionsOfAnAgentThatIsNotKnown) {
    metadata.connections.clear();
    expectRefusal(NIXL_ERR_NOT_FOUND, "load a blob with connection info first");
    EXPECT_TRUE(sharesBackend(metadata, backends)) << "it offers no connection";
}

TEST_F(LoadJudge, RefusesWhatContradictsTheKnownPeer) {
    load();
    const auto good = metadata;
    metadata.connections[0].info = "elsewhere";
    expectRefusal(NIXL_ERR_NOT_ALLOWED, "error loading connection info for backend 'GATED' with status");
    metadata = good;
    metadata.sections[0].descs[1].metaInfo = "another key";
    expectRefusal(NIXL_ERR_NOT_ALLOWED, "a range that is loaded already comes with another key");
    metadata = good;
    metadata.connections.clear();
    metadata.trailer->incarnation = {2};
    expectRefusal(NIXL_ERR_NOT_ALLOWED, "the metadata is of another start of agent 'B'");
}

TEST_F(LoadJudge, RefusesWhatIsMoreThanTheLimitsAllow) {
    limits.windows = 1;
    expectRefusal(NIXL_ERR_NO_MEMORY, "the metadata of agent 'B' is refused: the peer would have 2 ranges");
}

TEST(UndoList, TakesBackInReverseWhatIsNotKept) {
    std::vector<int> undone;
    {
        UndoList undo;
        for (int step : {1, 2, 3}) undo.push([&undone, step] { undone.push_back(step); });
        EXPECT_FALSE(undo.empty());
    }
    EXPECT_EQ(undone, (std::vector<int>{3, 2, 1}));
    UndoList undo;
    undo.push([&] { undone.clear(); });
    undo.keep();
    EXPECT_TRUE(undo.empty());
    EXPECT_EQ(undone.size(), 3u);
}

TEST(UndoList, TakesBackAtOnceWhatItCannotRemember) {
    bool undone = false;
    UndoList undo;
    const auto push = [&] {
        const test::NoMemory none;
        undo.push([&undone] { undone = true; });
    };
    EXPECT_THROW(push(), std::bad_alloc);
    EXPECT_TRUE(undone);
    EXPECT_TRUE(undo.empty());
}

/// Loads of B into A over two backends, RECORDING being connected first. B has memory of two kinds.
class Loading : public ::testing::Test {
protected:
    Loading() {
        gated().reset();
        for (const auto *type : {"RECORDING", "GATED"}) {
            nixlBackendH *handle = nullptr;
            if (!a.backends.create(type, {}, false, handle).ok() || !b.backends.create(type, {}, false, handle).ok()) {
                throw std::runtime_error(type);
            }
        }
        for (const auto memory : {DRAM_SEG, VRAM_SEG}) {
            nixl_reg_dlist_t list(memory);
            list.addDesc({reinterpret_cast<uintptr_t>(bytes.data()), bytes.size(), 0, ""});
            if (!b.registrations.add(list, nullptr).ok()) throw std::runtime_error("register");
        }
        metadata = *wire::decodeMetadata(*b.local_metadata.whole());
        test::recording().reset();
    }

    /// What RECORDING and GATED were given and did not give back.
    static int64_t
    leftOver() {
        int64_t left = 0;
        for (const auto &call : test::recording().calls()) {
            if (call.status != NIXL_SUCCESS || call.agent != "A") continue;
            left += call.function == "loadPeer" || call.function == "loadRemoteMD";
            left -= call.function == "disconnect" || call.function == "unloadMD";
        }
        return left;
    }

    void
    expectUnknown(const std::string &what) {
        EXPECT_EQ(a.peers.find("B"), nullptr) << what;
        EXPECT_EQ(leftOver(), 0) << what;
        EXPECT_EQ(a.peers.bytes(), 0u) << what;
    }

    std::vector<uint8_t> bytes = std::vector<uint8_t>(4096);
    nixlAgentData a{"A", nixlAgentConfig()};
    nixlAgentData b{"B", nixlAgentConfig()};
    wire::Metadata metadata;
};

TEST_F(Loading, AFailureAtAnyStepLeavesNothing) {
    for (const auto call : {EngineCall::kLoadPeer, EngineCall::kLoadRemote}) {
        for (const uint64_t step : {0, 1}) {
            if (call == EngineCall::kLoadPeer && step == 1) continue; // happens once
            gated().reset();
            const std::string what = "call " + std::to_string(static_cast<int>(call)) + " " + std::to_string(step);
            gated().fail(call, NIXL_ERR_BACKEND, 1, step);
            EXPECT_EQ(a.peers.load(metadata).code(), NIXL_ERR_BACKEND) << what;
            expectUnknown(what);
            EXPECT_EQ(gated().count(EngineCall::kDisconnect), call == EngineCall::kLoadPeer ? 0u : 1u) << what;
            EXPECT_EQ(gated().count(EngineCall::kUnload), step) << what;
        }
    }
    EXPECT_TRUE(a.peers.load(metadata).ok());
}

TEST_F(Loading, AnExceptionAtAnyStepLeavesNothing) {
    for (const auto call : {EngineCall::kLoadPeer, EngineCall::kLoadRemote}) {
        for (const auto thrown : {test::Thrown::kBadAlloc, test::Thrown::kForeign}) {
            gated().reset();
            gated().raise(call, thrown);
            EXPECT_FALSE(a.peers.load(metadata).ok());
            expectUnknown("call " + std::to_string(static_cast<int>(call)));
            EXPECT_EQ(gated().count(EngineCall::kDisconnect), call == EngineCall::kLoadPeer ? 0u : 1u);
        }
    }
    EXPECT_TRUE(a.peers.load(metadata).ok());
}

TEST_F(Loading, WithoutMemoryAtAnyPointItLeavesNothing) {
    bool loaded = false;
    for (uint64_t spared = 0; !loaded; ++spared) {
        ASSERT_LT(spared, 10'000u);
        test::recording().reset();
        try {
            const test::NoMemory none(spared);
            loaded = a.peers.load(metadata).ok();
        }
        catch (const std::bad_alloc &) {
        }
        if (!loaded) expectUnknown(std::to_string(spared) + " allocations");
    }
    EXPECT_EQ(leftOver(), 3) << "a connection and two ranges";
}

TEST(ApiCall, WithoutMemoryIsAStatus) {
    nixlAgent agent("A", nixlAgentConfig());
    nixlBackendH *backend = nullptr;
    ASSERT_EQ(agent.createBackend("GATED", {}, backend), NIXL_SUCCESS);
    const std::string peer = "a peer of whom nothing is known";
    const nixl_xfer_dlist_t list(DRAM_SEG);
    std::string blob;
    nixlXferReqH *request = nullptr;
    const auto calls = [&] {
        const test::NoMemory none;
        return std::array{agent.getLocalMD(blob), agent.createXferReq(NIXL_READ, list, list, peer, request),
                          agent.genNotif(peer, peer)};
    };
    for (const auto status : calls()) EXPECT_EQ(status, NIXL_ERR_NO_MEMORY);
}

} // namespace
} // namespace nx::agent
