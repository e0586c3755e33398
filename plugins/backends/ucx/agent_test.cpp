// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: metadata with a damaged address or key in it is refused by an agent with a sentence and changes nothing.
// Method: take genuine metadata apart, damage one part, load it, then load the genuine one and transfer.
#include <sys/socket.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/agent_pair.h"
#include "support/eventually.h"
#include "ucx/address.h"
#include "ucx/link.h"
#include "ucx/peer_info.h"
#include "wire/metadata.h"

namespace nx::ucx {
namespace {

using nx::test::AgentPair;
using nx::test::Buffer;

class AgentOverUcx : public testing::Test {
protected:
    void
    SetUp() override {
        EXPECT_EQ(pair.b->registerMem(nx::test::registrationOf({target.desc()})), NIXL_SUCCESS);
    }

    /// B's metadata after `damage`, offered to A: what A says.
    template<class Damage>
    std::pair<nixl_status_t, std::string>
    offer(Damage damage) {
        auto metadata = wire::decodeMetadata(pair.b.metadata());
        EXPECT_TRUE(metadata.ok()) << metadata.message();
        damage(*metadata);
        std::string loaded;
        const auto status = pair.a->loadRemoteMD(wire::encodeMetadata(*metadata), loaded);
        EXPECT_EQ(loaded, "");
        return {status, nixlx::lastError()};
    }

    void
    expectThatTheGenuineOneStillLoads() {
        Buffer source(4096);
        EXPECT_EQ(pair.a->checkRemoteMD(pair.b.name, nx::test::listOf({})), NIXL_ERR_NOT_FOUND);
        EXPECT_EQ(pair.a->registerMem(nx::test::registrationOf({source.desc()})), NIXL_SUCCESS);
        pair.exchange();
        write(source, 7);
    }

    /// Writes the pattern of `seed` from A's memory to B's; the report's path.
    std::string
    write(Buffer &source, uint64_t seed) {
        nixlXferReqH *request = nullptr;
        EXPECT_EQ(pair.a->createXferReq(NIXL_WRITE, nx::test::listOf({source.desc()}),
                                        nx::test::listOf({target.desc()}), pair.b.name, request),
                  NIXL_SUCCESS)
            << nixlx::lastError();
        if (!request) return "";
        source.fill(seed);
        target.clear();
        EXPECT_EQ(pair.run(request), NIXL_SUCCESS) << nixlx::lastError();
        EXPECT_EQ(target.firstDifference(seed), target.size());
        nixlx::Report report;
        EXPECT_EQ(pair.a->getXferReport(request, report), NIXL_SUCCESS);
        EXPECT_EQ(pair.release(request), NIXL_SUCCESS);
        return report.path;
    }

    AgentPair pair{{.backend = "UCX", .params = {}}};
    Buffer target{4096};
};

TEST_F(AgentOverUcx, RefusesADamagedAddressAndLoadsTheGenuineOneAfterwards) {
    const auto [status, sentence] = offer([](wire::Metadata &metadata) { metadata.connections[0].info.pop_back(); });
    EXPECT_EQ(status, NIXL_ERR_INVALID_PARAM);
    EXPECT_NE(sentence.find("no worker address of UCX"), std::string::npos) << sentence;
    expectThatTheGenuineOneStillLoads();
}

TEST_F(AgentOverUcx, RefusesADamagedKeyAndLoadsTheGenuineOneAfterwards) {
    const auto [status, sentence] = offer([](wire::Metadata &metadata) {
        metadata.sections[0].descs[0].metaInfo.resize(kKeyBytesMin);
        metadata.sections[0].descs[0].metaInfo.front() = '\x01';
    });
    EXPECT_EQ(status, NIXL_ERR_INVALID_PARAM);
    EXPECT_NE(sentence.find("no memory key of UCX"), std::string::npos) << sentence;
    expectThatTheGenuineOneStillLoads();
}

TEST_F(AgentOverUcx, UsesTheNetworkWithAPeerThatOffersNothingSoundOverItsLink) {
    auto genuine = wire::decodeMetadata(pair.b.metadata());
    ASSERT_TRUE(genuine.ok());
    auto info = decodePeerInfo(genuine->trailer->peer_info.at(0).info);
    ASSERT_TRUE(info.ok()) << info.message();
    if (info->link.empty()) GTEST_SKIP() << "UCX has no shared memory here";
    Buffer source(4096);
    ASSERT_EQ(pair.a->registerMem(nx::test::registrationOf({source.desc()})), NIXL_SUCCESS);
    pair.b.load(pair.a.metadata());
    const std::string sound = encodeOffer({std::string("\x20", 1) + "12345678\xff"});
    for (const std::string &offer : {std::string("garbage"), sound.substr(0, sound.size() - 2), encodeOffer({}),
                                     encodeOffer({std::string("\x20", 1) + "1234567"}), sound, std::string()}) {
        SCOPED_TRACE("an offer of " + std::to_string(offer.size()) + " bytes");
        auto listener = kit::LocalListener::create(kLinks);
        ASSERT_TRUE(listener.ok()) << listener.message();
        auto metadata = *genuine;
        metadata.trailer->peer_info.at(0).info = encodePeerInfo({info->host, listener->name()});
        pair.a.load(wire::encodeMetadata(metadata));
        const auto accepted = listener->accept();
        ASSERT_TRUE(accepted.ok() && *accepted);
        const Fd &link = *accepted;
        if (!offer.empty()) { // else it is silent
            ASSERT_EQ(::send(link.get(), offer.data(), offer.size(), 0), static_cast<ssize_t>(offer.size()));
        }
        EXPECT_THAT(write(source, offer.size() + 1), testing::HasSubstr(", network"));
        EXPECT_EQ(pair.a->invalidateRemoteMD(pair.b.name), NIXL_SUCCESS);
    }
}

TEST_F(AgentOverUcx, UsesTheNetworkWithAPeerThatServesTooManyAlready) {
    const auto metadata = wire::decodeMetadata(pair.b.metadata());
    ASSERT_TRUE(metadata.ok());
    const auto info = decodePeerInfo(metadata->trailer->peer_info.at(0).info);
    ASSERT_TRUE(info.ok()) << info.message();
    if (info->link.empty()) GTEST_SKIP() << "UCX has no shared memory here";
    std::vector<Fd> links;
    for (bool served = true; served;) {
        ASSERT_LT(links.size(), 300u);
        auto link = kit::connectLocal(kLinks, info->link);
        ASSERT_TRUE(link.ok()) << link.message();
        const auto offer = receiveOffer(*link, std::chrono::seconds(20));
        ASSERT_TRUE(offer.ok()) << offer.message();
        served = !offer->empty();
        links.push_back(*std::move(link));
    }
    EXPECT_EQ(links.size(), 257u);
    const auto path = [&] {
        Buffer source(4096);
        EXPECT_EQ(pair.a->registerMem(nx::test::registrationOf({source.desc()})), NIXL_SUCCESS);
        pair.exchange();
        std::string taken = write(source, links.size());
        EXPECT_EQ(pair.a->deregisterMem(nx::test::registrationOf({source.desc()})), NIXL_SUCCESS);
        EXPECT_EQ(pair.a->invalidateRemoteMD(pair.b.name), NIXL_SUCCESS);
        return taken;
    };
    EXPECT_THAT(path(), testing::HasSubstr(", network"));
    links.clear();
    EXPECT_TRUE(nx::test::eventually([&] { return path().find("shared memory") != std::string::npos; }));
}

TEST_F(AgentOverUcx, TakesAPeerForGoneWhoseLinkEnds) {
    auto metadata = wire::decodeMetadata(pair.b.metadata());
    ASSERT_TRUE(metadata.ok());
    auto info = decodePeerInfo(metadata->trailer->peer_info.at(0).info);
    ASSERT_TRUE(info.ok()) << info.message();
    if (info->link.empty()) GTEST_SKIP() << "UCX has no shared memory here";
    auto listener = kit::LocalListener::create(kLinks);
    ASSERT_TRUE(listener.ok()) << listener.message();
    metadata->trailer->peer_info.at(0).info = encodePeerInfo({info->host, listener->name()});
    pair.a.load(wire::encodeMetadata(*metadata));
    static_cast<void>(listener->accept()); // and away
    EXPECT_TRUE(nx::test::eventually([&] { return pair.a->genNotif(pair.b.name, "x") == NIXL_ERR_NOT_FOUND; }))
        << nixlx::lastError();
}

TEST_F(AgentOverUcx, ADamagedBlobOfAnotherStartLeavesTheKnownStartAsItWas) {
    Buffer source(4096), other(4096);
    ASSERT_EQ(pair.a->registerMem(nx::test::registrationOf({source.desc()})), NIXL_SUCCESS);
    pair.exchange();
    nx::test::PairedAgent restarted(pair.b.name, {.backend = "UCX", .params = {}});
    ASSERT_EQ(restarted->registerMem(nx::test::registrationOf({other.desc()})), NIXL_SUCCESS);
    const auto genuine = wire::decodeMetadata(restarted.metadata());
    ASSERT_TRUE(genuine.ok());
    std::vector<wire::Metadata> damaged(3, *genuine);
    damaged[0].connections.front().info = "\x00";
    damaged[1].sections.front().descs.front().metaInfo = "no key";
    damaged[2].trailer->peer_info.front().info.resize(20);
    for (const auto &metadata : damaged) {
        std::string loaded;
        EXPECT_LT(pair.a->loadRemoteMD(wire::encodeMetadata(metadata), loaded), 0);
        EXPECT_NE(nixlx::lastError().find("the one that is known stays"), std::string::npos) << nixlx::lastError();
        write(source, 9);
    }
    pair.a.load(restarted.metadata());
    EXPECT_EQ(pair.a->checkRemoteMD(pair.b.name, nx::test::listOf({other.desc()})), NIXL_SUCCESS);
}

// UCX before 1.18 ended the process that connected back to a peer which had just gone. Without a progress thread the
// target decides how far the connection has come.
TEST(EndOfAnAgent, IsSurvivedByAPeerThatIsConnectingToIt) {
    for (const int steps : {3, 5, 8}) {
        AgentPair pair({"UCX", {}, false});
        for (auto *way : {&pair.a, &pair.b}) {
            nixl_blob_t blob = (way == &pair.a ? pair.b : pair.a).metadata();
            blob.resize(std::min(blob.size(), blob.rfind("nixlxTrailer"))); // over the network
            way->load(blob);
        }
        EXPECT_EQ(pair.a->genNotif("B", "message"), NIXL_SUCCESS) << nixlx::lastError();
        for (int i = 0; i < steps; ++i) EXPECT_EQ(pair.b->getNotifs(pair.b.inbox), NIXL_SUCCESS);
        pair.a.agent.reset();
        for (int i = 0; i < 50; ++i) EXPECT_EQ(pair.b->getNotifs(pair.b.inbox), NIXL_SUCCESS);
    }
}

} // namespace
} // namespace nx::ucx
