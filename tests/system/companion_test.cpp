// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: programs that know only UCX reach peers of their host through its companion SHM, and all others through UCX,
// with nothing else to see but the path in the report. The peers are processes of their own.
#include "system/descriptors.h"
#include "system/survivor.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>

#include <gmock/gmock.h>

namespace nx::test {
namespace {

using ::testing::StartsWith;

constexpr size_t kSize = size_t{4} << 20;

/// Of this process, both ends there.
size_t
tcpConnections() {
    std::set<std::string> own;
    for (const auto &each : std::filesystem::directory_iterator("/proc/self/fd")) {
        std::error_code gone;
        own.insert(std::filesystem::read_symlink(each.path(), gone).string());
    }
    size_t count = 0;
    for (const char *table : {"/proc/self/net/tcp", "/proc/self/net/tcp6"}) {
        std::ifstream rows(table);
        for (std::string row; std::getline(rows, row);) {
            std::istringstream in(row);
            const std::vector<std::string> fields{std::istream_iterator<std::string>(in), {}};
            if (fields.size() > 9 && fields[3] == "01") count += own.contains("socket:[" + fields[9] + "]");
        }
    }
    return count;
}

class Companion : public Survivor {
protected:
    /// How a request of A to the peer travels, hinted at UCX or not.
    nixlx::Report
    reportTo(const Met &peer, const nixl_opt_args_t *args = nullptr) const {
        nixlXferReqH *request = nullptr;
        require(a->createXferReq(NIXL_READ, listOf({peer.local.desc()}), listOf({peer.there}), peer.process.name,
                                 request, args),
                "create");
        nixlBackendH *backend = nullptr;
        require(a->queryXferBackend(request, backend), "backend");
        EXPECT_EQ(backend, a.backend);
        nixlx::Report report;
        require(a->getXferReport(request, report), "report");
        require(a->releaseXferReq(request), "release");
        return report;
    }

    void
    expectRightTransfers(const Met &peer, uint64_t seed) {
        EXPECT_EQ(run(NIXL_READ, peer), NIXL_SUCCESS) << nixlx::lastError();
        EXPECT_TRUE(peer.local.holds(seed));
        peer.local.fill(seed + 1);
        EXPECT_EQ(run(NIXL_WRITE, peer, "written"), NIXL_SUCCESS) << nixlx::lastError();
        EXPECT_EQ(const_cast<PeerProcess &>(peer.process).ask("holds " + std::to_string(seed + 1)), "yes");
    }
};

INSTANTIATE_TEST_SUITE_P(Companion, Companion, localSetups("UCX"), nameOf);

TEST_P(Companion, ServesPeersOfTheHostInTheNameOfItsLeader) {
    auto &peer = start("B", kSize, 1);
    nixl_opt_args_t hinted;
    hinted.backends = {a.backend};
    for (const nixl_opt_args_t *args : {static_cast<const nixl_opt_args_t *>(nullptr), &std::as_const(hinted)}) {
        const nixlx::Report report = reportTo(peer, args);
        EXPECT_EQ(report.backend, "UCX");
        EXPECT_THAT(report.path, StartsWith("SHM: shared memory"));
    }
    expectRightTransfers(peer, 1);
    peer.process.ask("notify A hello");
    EXPECT_TRUE(eventually([&] {
        require(a->getNotifs(a.inbox), "notifications");
        return a.inbox["B"].size() == 1;
    }));
}

TEST_P(Companion, LeavesPeersWithoutOneToItsLeader) {
    ::setenv("NIXL_COMPANIONS", "n", 1); // for the process of the peer
    auto &peer = start("B", kSize, 1);
    ::unsetenv("NIXL_COMPANIONS");
    EXPECT_THAT(reportTo(peer).path, StartsWith("ucx "));
    expectRightTransfers(peer, 1);
}

TEST_P(Companion, LeavesPeersBeyondItsBudgetToItsLeader) {
    constexpr size_t kShare = 8, kOfLink = 2; // it has a quarter of the descriptors, two for each peer
    PeerProcess crowd("crowd", {"SHM", {}, true});
    crowd.offer(4096, 1);
    const size_t allowed = (openDescriptors() + 200) / (kShare - kOfLink);
    for (size_t i = 0; i < allowed; ++i) a.load(fromHex(crowd.ask("another crowd-" + std::to_string(i))));
    const DescriptorLimit limit(kShare * allowed);
    auto &peer = start("B", kSize, 1);
    EXPECT_THAT(reportTo(peer).path, StartsWith("ucx "));
    expectRightTransfers(peer, 1);
}

TEST_P(Companion, LeavesPeersOfOtherHostsToItsLeader) {
    auto &peer = start("C", kSize, 1);
    // As one that moved to another network namespace would look.
    PeerProcess stranger("B", options());
    const nixlBasicDesc there = stranger.offer(kSize, 2);
    nixl_blob_t blob = stranger.metadata();
    const size_t at = blob.find("nixl-shm-");
    ASSERT_NE(at, nixl_blob_t::npos);
    const size_t host = blob.find("/net:[", at);
    ASSERT_NE(host, nixl_blob_t::npos);
    blob[host + 6] = blob[host + 6] == '1' ? '2' : '1';
    a.load(blob);
    stranger.load(a.metadata());
    nixlXferReqH *request = nullptr;
    ASSERT_EQ(a->createXferReq(NIXL_READ, listOf({peer.local.desc()}), listOf({there}), "B", request), NIXL_SUCCESS)
        << nixlx::lastError();
    nixlx::Report report;
    require(a->getXferReport(request, report), "report");
    EXPECT_THAT(report.path, StartsWith("ucx "));
    EXPECT_EQ(finish(request, a->postXferReq(request)), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(peer.local.holds(2));
    EXPECT_EQ(a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Companion, BecomesABackendWhenItIsNamed) {
    nixlBackendH *shm = nullptr;
    ASSERT_EQ(a->createBackend("SHM", {}, shm), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_NE(shm, a.backend);
    nixlBackendH *again = nullptr;
    EXPECT_EQ(a->createBackend("SHM", {}, again), NIXL_ERR_INVALID_PARAM);
    auto &peer = start("B", kSize, 1);
    nixl_opt_args_t hinted;
    hinted.backends = {shm};
    nixlXferReqH *request = nullptr;
    ASSERT_EQ(a->createXferReq(NIXL_READ, listOf({peer.local.desc()}), listOf({peer.there}), "B", request, &hinted),
              NIXL_SUCCESS)
        << nixlx::lastError();
    nixlBackendH *backend = nullptr;
    ASSERT_EQ(a->queryXferBackend(request, backend), NIXL_SUCCESS);
    EXPECT_EQ(backend, shm);
    EXPECT_EQ(finish(request, a->postXferReq(request)), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(peer.local.holds(1));
    EXPECT_EQ(a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Companion, FindsThatItsPeerHasDiedAndMeetsTheNextStart) {
    auto &victim = start("B", kSize, 1);
    expectRightTransfers(victim, 1);
    victim.process.kill();
    EXPECT_TRUE(eventually([&] { return run(NIXL_READ, victim) == NIXL_ERR_NOT_FOUND; }));
    auto &next = start("B", kSize, 5);
    EXPECT_THAT(reportTo(next).path, StartsWith("SHM: "));
    expectRightTransfers(next, 5);
}

TEST_P(Companion, TakesPartsOfMetadataAndWhatIsDeregistered) {
    auto &peer = start("B", kSize, 1);
    Buffer &more = registered(4096);
    nixl_opt_args_t hinted;
    hinted.backends = {a.backend};
    hinted.includeConnInfo = true;
    nixl_blob_t part;
    ASSERT_EQ(a->getLocalPartialMD(registrationOf({more.desc()}), part, &hinted), NIXL_SUCCESS) << nixlx::lastError();
    peer.process.load(part);
    EXPECT_EQ(a->deregisterMem(registrationOf({more.desc()}), &hinted), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(a->deregisterMem(registrationOf({more.desc()}), &hinted), NIXL_ERR_NOT_FOUND);
}

TEST_P(Companion, DoesNotMakeMetadataTooLargeForItsLeader) {
    constexpr size_t kRanges = 600'000; // of which peers take about a million, over all backends
    Buffer buffer(kRanges);
    nixl_reg_dlist_t many(DRAM_SEG);
    many.reserve(kRanges);
    for (size_t i = 0; i < kRanges; ++i) many.addDesc(nixlBlobDesc(buffer.desc(i, 1), ""));
    ASSERT_EQ(a->registerMem(many), NIXL_SUCCESS) << nixlx::lastError();
    nixl_blob_t blob;
    EXPECT_EQ(a->getLocalMD(blob), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_EQ(a->deregisterMem(many), NIXL_SUCCESS) << nixlx::lastError();
}

TEST_P(Companion, LeavesItsLeaderNothingToConnect) {
    auto &peer = start("B", kSize, 1);
    EXPECT_EQ(a->makeConnection("B"), NIXL_SUCCESS) << nixlx::lastError();
    expectRightTransfers(peer, 1);
    for (int i = 0; i < 100; ++i) require(a->getNotifs(a.inbox), "notifications");
    EXPECT_EQ(tcpConnections(), 0u);
}

} // namespace
} // namespace nx::test
