// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What peers may make an agent keep: each limit is reached, with the agent's own code and limits that are small.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agent/agent_state.h"

namespace nx::agent {
namespace {

using ::testing::HasSubstr;

/// An agent that is to be full, and what another one publishes.
class PeerLimitsTest : public ::testing::Test {
protected:
    void
    SetUp() override {
        nixlBackendH *backend = nullptr;
        const auto created = publisher.backends.create("GATED", {}, false, backend);
        ASSERT_TRUE(created.ok()) << created.message();
        nixl_reg_dlist_t memory(DRAM_SEG);
        memory.addDesc({reinterpret_cast<uintptr_t>(bytes.data()), bytes.size(), 0, ""});
        ASSERT_TRUE(publisher.registrations.add(memory, nullptr).ok());
        auto blob = publisher.local_metadata.whole();
        ASSERT_TRUE(blob.ok());
        auto decoded = wire::decodeMetadata(*blob);
        ASSERT_TRUE(decoded.ok());
        published = *std::move(decoded);
        ASSERT_EQ(published.sections.size(), 1u);
    }

    std::unique_ptr<nixlAgentData>
    agent(const PeerLimits &limits) {
        auto made = std::make_unique<nixlAgentData>("full", nixlAgentConfig(), limits);
        nixlBackendH *backend = nullptr;
        EXPECT_TRUE(made->backends.create("GATED", {}, false, backend).ok());
        return made;
    }

    /// What peer `name` would publish.
    wire::Metadata
    of(const std::string &name) const {
        auto metadata = published;
        metadata.agent = name;
        return metadata;
    }

    /// Only one more range of it.
    wire::Metadata
    more(const std::string &name) const {
        auto metadata = of(name);
        metadata.connections.clear();
        auto &descs = metadata.sections[0].descs;
        descs[0] =
            nixlBlobDesc(nixlBasicDesc(descs[0].addr + descs[0].len / 2, descs[0].len / 2, 0), descs[0].metaInfo);
        return metadata;
    }

    size_t
    bytesOfOne() const {
        const auto &desc = published.sections[0].descs[0];
        size_t bytes = published.connections[0].info.size() + sizeof(nixlBasicDesc) + desc.metaInfo.size();
        for (const auto &info : published.trailer->peer_info) bytes += info.info.size();
        return bytes;
    }

    static void
    expectRefusal(const Status &status, const std::string &why) {
        EXPECT_EQ(status.code(), NIXL_ERR_NO_MEMORY) << status.message();
        EXPECT_THAT(status.message(), HasSubstr(why));
        EXPECT_THAT(status.message(), HasSubstr("nothing was changed"));
    }

    static bool
    knows(nixlAgentData &data, const std::string &name, const nixlBasicDesc &range) {
        nixl_xfer_dlist_t list(DRAM_SEG);
        list.addDesc(range);
        return data.remoteResolves(name, list);
    }

    const nixlBasicDesc &
    range() const {
        return published.sections[0].descs[0];
    }

    std::vector<uint8_t> bytes = std::vector<uint8_t>(4096);
    nixlAgentData publisher{"publisher", nixlAgentConfig()};
    wire::Metadata published;
};

TEST_F(PeerLimitsTest, OnePeerTooManyIsRefusedAndThoseKnownStayAndMayGrow) {
    PeerLimits limits;
    limits.peers = 3;
    const auto full = agent(limits);
    for (const auto *name : {"a", "b", "c"}) EXPECT_TRUE(full->peers.load(of(name)).ok());
    expectRefusal(full->peers.load(of("d")), "the metadata of agent 'd' is refused: this agent knows 3 peers already");
    EXPECT_EQ(full->peers.find("d"), nullptr);
    EXPECT_TRUE(knows(*full, "a", range()));
    EXPECT_TRUE(full->peers.load(of("a")).ok()) << "again";
    EXPECT_TRUE(full->peers.load(more("a")).ok());
    auto restarted = of("b");
    restarted.trailer->incarnation[0] ^= 1;
    EXPECT_TRUE(full->peers.load(restarted).ok()) << "another start takes the place of the one before";
    EXPECT_TRUE(full->peers.forget("c").ok());
    EXPECT_TRUE(full->peers.load(of("d")).ok());
}

TEST_F(PeerLimitsTest, RangesOfOnePeerBeyondItsLimitAreRefusedWhole) {
    PeerLimits limits;
    limits.windows = 1;
    const auto full = agent(limits);
    ASSERT_TRUE(full->peers.load(of("a")).ok());
    EXPECT_TRUE(full->peers.load(of("a")).ok()) << "what is known counts once";
    expectRefusal(full->peers.load(more("a")), "the peer would have 2 ranges, and at most 1");
    EXPECT_TRUE(knows(*full, "a", range()));
    EXPECT_TRUE(full->peers.load(of("b")).ok()) << "per peer";
}

TEST_F(PeerLimitsTest, BytesOfOnePeerBeyondItsLimitAreRefusedWhole) {
    PeerLimits limits;
    limits.bytes = bytesOfOne();
    const auto full = agent(limits);
    ASSERT_TRUE(full->peers.load(of("a")).ok());
    expectRefusal(full->peers.load(more("a")), "are kept of one peer");
    EXPECT_TRUE(knows(*full, "a", range()));
    EXPECT_TRUE(full->peers.load(of("b")).ok());
}

TEST_F(PeerLimitsTest, BytesOfAllPeersAreCountedAndGivenBack) {
    PeerLimits limits;
    limits.total_bytes = 2 * bytesOfOne();
    const auto full = agent(limits);
    for (int round = 0; round < 3; ++round) {
        ASSERT_TRUE(full->peers.load(of("a")).ok()) << round;
        ASSERT_TRUE(full->peers.load(of("b")).ok()) << round;
        expectRefusal(full->peers.load(of("c")), "of all peers");
        expectRefusal(full->peers.load(more("a")), "of all peers");
        EXPECT_TRUE(knows(*full, "a", range()));
        auto restarted = of("a");
        restarted.trailer->incarnation[0] ^= 1;
        EXPECT_TRUE(full->peers.load(restarted).ok());
        EXPECT_EQ(full->peers.bytes(), 2 * bytesOfOne());
        ASSERT_TRUE(full->peers.forget("a").ok());
        ASSERT_TRUE(full->peers.forget("b").ok());
        EXPECT_EQ(full->peers.bytes(), 0u);
    }
}

TEST(PeerLimits, AreThoseThatAreWrittenDown) {
    const PeerLimits limits;
    const auto refuses = [&](const Holding &held, size_t peers, size_t others) {
        return !admit(limits, held, peers, others).ok();
    };
    constexpr size_t kMiB = 1 << 20;
    EXPECT_FALSE(refuses({1'048'576, 64 * kMiB}, 16'383, 960 * kMiB));
    EXPECT_TRUE(refuses({1'048'577, 0}, 0, 0));
    EXPECT_TRUE(refuses({0, 64 * kMiB + 1}, 0, 0));
    EXPECT_TRUE(refuses({0, 0}, 16'384, 0));
    EXPECT_TRUE(refuses({0, 64 * kMiB}, 0, 960 * kMiB + 1));
}

TEST(Origin, IsAskedOnceASecondAndByOneAtATime) {
    Origin origin;
    EXPECT_FALSE(origin.begin()) << "nobody knows where";
    EXPECT_FALSE(origin.wait().look_again);
    std::function<void(const Status &)> finish;
    origin.learn("10.0.0.1:8888", [&](auto done) { finish = std::move(done); });
    const auto fetch = origin.begin();
    ASSERT_TRUE(fetch);
    EXPECT_FALSE(origin.begin()) << "under way";
    fetch([&](const Status &outcome) { origin.finish(outcome); });
    finish({NIXL_ERR_NOT_FOUND, "nobody listens"});
    EXPECT_FALSE(origin.begin()) << "just now";
    const auto told = origin.wait();
    EXPECT_TRUE(told.look_again);
    EXPECT_THAT(told.sentence, HasSubstr("from 10.0.0.1:8888, and that failed: nobody listens"));
}

} // namespace
} // namespace nx::agent
