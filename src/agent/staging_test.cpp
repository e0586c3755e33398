// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Transfers between memories that no backend joins: every byte arrives, or the error, the count and the quiet buffers
// are those of an ordinary transfer. Agent A has memory that only RECORDING reaches, and reaches B with GATED only, so
// that one leg of each transfer stops, fails and settles on command. Drives the public API.
#include <atomic>
#include <map>
#include <random>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nixl.h"
#include "support/agent_pair.h"
#include "support/buffer.h"
#include "support/gated_backend.h"
#include "support/recording_backend.h"

namespace nx::test {
namespace {

using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr size_t kMiB = size_t{1} << 20;

class Staging : public ::testing::TestWithParam<bool> {
protected:
    Staging() {
        gated().reset();
        recording().reset();
        a = makeAgent("A");
        require(a->createBackend("RECORDING", {}, recorder), "create RECORDING");
        require(a->createBackend("GATED", {}, gate), "create GATED");
        b = peer("B");
    }
    ~Staging() override {
        gated().finishAll();
        gated().settleCancelled();
        a.reset();
        peers.clear();
        gated().reset();
    }

    static std::unique_ptr<nixlAgent>
    makeAgent(const std::string &name) {
        nixlAgentConfig config;
        config.useProgThread = GetParam();
        return std::make_unique<nixlAgent>(name, config);
    }

    /// Another agent, which only GATED reaches.
    nixlAgent *
    peer(const std::string &name) {
        auto made = makeAgent(name);
        nixlBackendH *backend = nullptr;
        require(made->createBackend("GATED", {}, backend), "create GATED of " + name);
        return (peers[name] = std::move(made)).get();
    }

    /// Memory of A that RECORDING alone reaches; a kind of its own, so that it stands for a device's.
    void
    addOwn(const Buffer &buffer, nixl_mem_t memory = VRAM_SEG) const {
        nixl_opt_args_t args;
        args.backends = {recorder};
        require(a->registerMem(registrationOf({buffer.desc()}, memory), &args), "register at A");
    }

    void
    addFar(const std::string &name, const Buffer &buffer) const {
        auto &other = *peers.at(name);
        require(other.registerMem(registrationOf({buffer.desc()})), "register at " + name);
        nixl_blob_t blob;
        require(other.getLocalMD(blob), "metadata of " + name);
        std::string loaded;
        require(a->loadRemoteMD(blob, loaded), "load metadata of " + name);
    }

    nixlXferReqH *
    request(nixl_xfer_op_t operation,
            const nixl_xfer_dlist_t &local,
            const nixl_xfer_dlist_t &remote,
            const std::string &name = "B") const {
        nixlXferReqH *made = nullptr;
        require(a->createXferReq(operation, local, remote, name, made), "create");
        return made;
    }

    /// All of the one to or from all of the other.
    nixlXferReqH *
    request(nixl_xfer_op_t operation, const Buffer &own, const Buffer &far, const std::string &name = "B") const {
        addOwn(own);
        addFar(name, far);
        return request(operation, listOf({own.desc()}, VRAM_SEG), listOf({far.desc()}), name);
    }

    nixl_status_t
    finish(nixlXferReqH *request) const {
        return a->waitXfer(request, std::chrono::seconds(60));
    }

    nixl_status_t
    run(nixlXferReqH *request, const nixl_opt_args_t *args = nullptr) const {
        const auto posted = a->postXferReq(request, args);
        return posted == NIXL_IN_PROG ? finish(request) : posted;
    }

    nixlx::Report
    report(nixlXferReqH *request) const {
        nixlx::Report report;
        require(a->getXferReport(request, report), "report");
        return report;
    }

    /// Until so many legs over GATED have begun.
    bool
    begun(nixlXferReqH *request, uint64_t legs) const {
        return eventually([&] {
            EXPECT_EQ(a->getXferStatus(request), NIXL_IN_PROG);
            return gated().count(EngineCall::kPost) >= legs;
        });
    }

    std::unique_ptr<nixlAgent> a;
    nixlAgent *b = nullptr;
    std::map<std::string, std::unique_ptr<nixlAgent>> peers;
    nixlBackendH *recorder = nullptr, *gate = nullptr;
};

INSTANTIATE_TEST_SUITE_P(, Staging, testing::Bool(), [](const auto &info) {
    return info.param ? "Threaded" : "Polled";
});

TEST_P(Staging, MovesEveryByteBothWaysAndSaysHow) {
    const Buffer own(37 * kMiB + 12345, 3), far(own.size(), 5);
    own.fill(1);
    auto *const write = request(NIXL_WRITE, own, far);
    ASSERT_EQ(run(write), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(far.holds(1));

    far.fill(2);
    auto *const read = request(NIXL_READ, listOf({own.desc()}, VRAM_SEG), listOf({far.desc()}));
    ASSERT_EQ(run(read), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(own.holds(2));

    gated().setPath("through the gate");
    const auto told = report(read);
    EXPECT_EQ(told.backend, "GATED") << "what reaches the other side";
    const std::string count = std::to_string(own.size()) + " bytes";
    EXPECT_THAT(told.path,
                AllOf(HasSubstr("RECORDING+GATED: through host memory: GATED ("), HasSubstr("has read " + count),
                      HasSubstr("RECORDING ("), HasSubstr("has written " + count)));
    EXPECT_EQ(told.bytes_done, own.size());
    ASSERT_EQ(told.candidates.size(), 3u);
    EXPECT_FALSE(told.candidates[0].chosen);
    EXPECT_TRUE(told.candidates[2].chosen);
    EXPECT_EQ(told.candidates[2].backend, "RECORDING+GATED");
    EXPECT_THAT(told.candidates[2].reason, HasSubstr("no single backend"));
    nixlBackendH *backend = nullptr;
    EXPECT_EQ(a->queryXferBackend(read, backend), NIXL_SUCCESS);
    EXPECT_EQ(backend, gate);
}

TEST_P(Staging, MovesBlocksOfAnyShapeAndOrder) {
    const Buffer own(8 * kMiB), far(8 * kMiB);
    addOwn(own);
    addFar("B", far);
    std::mt19937_64 random(20261129);
    for (int round = 0; round < 8; ++round) {
        SCOPED_TRACE(round);
        nixl_xfer_dlist_t local(VRAM_SEG), remote(DRAM_SEG);
        std::vector<size_t> places(2000);
        for (size_t i = 0; i < places.size(); ++i) places[i] = i;
        std::shuffle(places.begin(), places.end(), random);
        const size_t slot = own.size() / places.size();
        const auto lengthOf = [&](size_t i) { return round == 0 ? slot : (i * 7919 + round) % slot; };
        for (size_t i = 0; i < places.size(); ++i) {
            const size_t there = round % 2 ? i : places[i];
            local.addDesc(own.desc(places[i] * slot, lengthOf(i)));
            remote.addDesc(far.desc(there * slot, lengthOf(i)));
        }
        const bool writes = round % 4 < 2;
        const Buffer &from = writes ? own : far, &to = writes ? far : own;
        from.fill(100 + round);
        to.clear();
        auto *const made = request(writes ? NIXL_WRITE : NIXL_READ, local, remote);
        ASSERT_EQ(run(made), NIXL_SUCCESS) << nixlx::lastError();
        size_t wrong = 0;
        for (int i = 0; i < local.descCount(); ++i) {
            wrong += std::memcmp(reinterpret_cast<void *>(local[i].addr), reinterpret_cast<void *>(remote[i].addr),
                                 local[i].len) != 0;
        }
        EXPECT_EQ(wrong, 0u);
        EXPECT_EQ(a->releaseXferReq(made), NIXL_SUCCESS);
    }
}

TEST_P(Staging, APreparedPairOfListsAndARepostSendTodaysBytes) {
    const Buffer own(4 * kMiB), far(4 * kMiB);
    addOwn(own);
    addFar("B", far);
    nixl_xfer_dlist_t locals(VRAM_SEG), remotes(DRAM_SEG);
    for (size_t i = 0; i < 64; ++i) {
        locals.addDesc(own.desc(i * 65536, 65536));
        remotes.addDesc(far.desc((63 - i) * 65536, 65536));
    }
    nixlDlistH *local = nullptr, *remote = nullptr;
    ASSERT_EQ(a->prepXferDlist(NIXL_INIT_AGENT, locals, local), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_EQ(a->prepXferDlist("B", remotes, remote), NIXL_SUCCESS) << nixlx::lastError();
    std::vector<int> all(64);
    for (int i = 0; i < 64; ++i) all[i] = i;
    nixlXferReqH *made = nullptr;
    ASSERT_EQ(a->makeXferReq(NIXL_WRITE, local, all, remote, all, made), NIXL_SUCCESS) << nixlx::lastError();
    for (uint64_t seed = 1; seed < 4; ++seed) {
        own.fill(seed);
        ASSERT_EQ(run(made), NIXL_SUCCESS) << nixlx::lastError();
        for (size_t i = 0; i < 64; ++i) {
            ASSERT_EQ(std::memcmp(own.data() + i * 65536, far.data() + (63 - i) * 65536, 65536), 0) << i;
        }
    }
}

TEST_P(Staging, ANotificationFollowsAllBytes) {
    const Buffer own(5 * kMiB), far(5 * kMiB);
    own.fill(7);
    auto *const made = request(NIXL_WRITE, own, far);
    nixl_opt_args_t args;
    args.notif = "all of it";
    ASSERT_EQ(a->postXferReq(made, &args), NIXL_IN_PROG) << nixlx::lastError();
    nixl_notifs_t arrived;
    ASSERT_TRUE(eventually([&] {
        (void)a->getXferStatus(made);
        return b->getNotifs(arrived) == NIXL_SUCCESS && !arrived.empty();
    }));
    EXPECT_TRUE(far.holds(7));
    EXPECT_EQ(arrived["A"], std::vector<nixl_blob_t>{"all of it"});
    EXPECT_EQ(finish(made), NIXL_SUCCESS);

    arrived.clear();
    gated().fail(EngineCall::kNotify, NIXL_ERR_REPOST_ACTIVE, 5); // the peer has no place for it
    EXPECT_EQ(run(made, &args), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_TRUE(eventually([&] { return b->getNotifs(arrived) == NIXL_SUCCESS && !arrived.empty(); }));
    EXPECT_EQ(arrived["A"].size(), 1u);

    gated().fail(EngineCall::kNotify, NIXL_ERR_BACKEND);
    EXPECT_EQ(run(made, &args), NIXL_ERR_BACKEND);
    EXPECT_THAT(nixlx::lastError(), AllOf(HasSubstr("notification was not sent"), HasSubstr("the test ordered")));
}

TEST_P(Staging, NothingToMoveIsDone) {
    const Buffer own(kMiB), far(kMiB);
    addOwn(own);
    addFar("B", far);
    auto *const made = request(NIXL_WRITE, listOf({own.desc(5, 0)}, VRAM_SEG), listOf({far.desc(7, 0)}));
    EXPECT_EQ(run(made), NIXL_SUCCESS) << nixlx::lastError();
}

// ---- Failures

TEST_P(Staging, TheFirstErrorEndsItNamesItsLegAndIsExact) {
    const Buffer own(40 * kMiB), far(40 * kMiB), other_own(3 * kMiB), other_far(3 * kMiB);
    own.fill(3);
    other_own.fill(4);
    auto *const made = request(NIXL_WRITE, own, far);
    auto *const innocent = request(NIXL_WRITE, other_own, other_far);
    for (const auto call : {EngineCall::kPrepare, EngineCall::kPost}) {
        far.clear();
        gated().fail(call, NIXL_ERR_BACKEND, 1, 5);
        EXPECT_EQ(run(made), NIXL_ERR_BACKEND);
        EXPECT_THAT(
            nixlx::lastError(),
            AllOf(HasSubstr("writing 1048576 bytes of DRAM_SEG of 'B' over GATED"), HasSubstr("the test ordered")));
        size_t arrived = 0;
        for (size_t i = 0; i < far.size(); i += kMiB) arrived += std::memcmp(far.data() + i, own.data() + i, kMiB) == 0;
        EXPECT_EQ(report(made).bytes_done, arrived * kMiB);
        EXPECT_LT(arrived, 40u);
        EXPECT_EQ(run(innocent), NIXL_SUCCESS) << nixlx::lastError();
        EXPECT_TRUE(other_far.holds(4));
    }
    EXPECT_EQ(run(made), NIXL_SUCCESS) << "posted again: " << nixlx::lastError();
    EXPECT_TRUE(far.holds(3));
    gated().fail(EngineCall::kPost, NIXL_ERR_NOT_ALLOWED, 1, 9);
    auto *const read = request(NIXL_READ, listOf({own.desc()}, VRAM_SEG), listOf({far.desc()}));
    EXPECT_EQ(run(read), NIXL_ERR_NOT_ALLOWED);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("reading 1048576 bytes of DRAM_SEG of 'B' over GATED"));
}

TEST_P(Staging, CancelledItEndsWhenBothLegsAreQuiet) {
    const Buffer own(40 * kMiB), far(40 * kMiB);
    far.fill(1);
    auto *const made = request(NIXL_READ, own, far);
    gated().holdTransfers();
    gated().holdCancelled();
    ASSERT_EQ(a->postXferReq(made), NIXL_IN_PROG);
    ASSERT_TRUE(begun(made, 16));
    for (uint64_t i = 0; i < 4; ++i) gated().finish(i);
    ASSERT_TRUE(eventually([&] {
        (void)a->getXferStatus(made);
        return report(made).bytes_done == 4 * kMiB;
    }));
    ASSERT_EQ(a->cancelXferReq(made), NIXL_SUCCESS);
    EXPECT_EQ(a->getXferStatus(made), NIXL_IN_PROG) << "GATED still uses the memory";
    EXPECT_TRUE(report(made).settling);
    EXPECT_EQ(a->postXferReq(made), NIXL_ERR_REPOST_ACTIVE);
    gated().settleCancelled();
    EXPECT_EQ(finish(made), NIXL_ERR_CANCELED);
    EXPECT_EQ(report(made).bytes_done, 4 * kMiB);
    gated().finishAll();
    EXPECT_EQ(run(made), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(own.holds(1));
}

TEST_P(Staging, ReleasedWhileItRunsItLeavesTheMemoryAlone) {
    const Buffer own(20 * kMiB), far(20 * kMiB);
    own.fill(1);
    auto *const made = request(NIXL_WRITE, own, far);
    gated().holdTransfers();
    ASSERT_EQ(a->postXferReq(made), NIXL_IN_PROG);
    ASSERT_TRUE(begun(made, 16));
    EXPECT_EQ(a->releaseXferReq(made), NIXL_SUCCESS) << nixlx::lastError();
    gated().finishAll();
    EXPECT_TRUE(far.isZero());
    EXPECT_EQ(a->getXferStatus(made), NIXL_ERR_INVALID_PARAM);
}

TEST_P(Staging, ALimitThatPassesEndsItWithTimeout) {
    const Buffer own(20 * kMiB), far(20 * kMiB);
    auto *const made = request(NIXL_WRITE, own, far);
    gated().holdTransfers();
    for (const nixlx::Limits &limits : {nixlx::Limits{.deadline = milliseconds(20), .stall = nixlx::Limits::kNone},
                                        nixlx::Limits{.deadline = nixlx::Limits::kNone, .stall = milliseconds(20)}}) {
        ASSERT_EQ(a->setXferLimits(made, limits), NIXL_SUCCESS);
        ASSERT_EQ(a->postXferReq(made), NIXL_IN_PROG);
        EXPECT_EQ(finish(made), NIXL_ERR_TIMEOUT);
        EXPECT_THAT(nixlx::lastError(), AllOf(HasSubstr("RECORDING+GATED"), HasSubstr("0 of 20971520 bytes")));
    }
}

TEST_P(Staging, OneThatDoesNotBecomeQuietLosesItsPeer) {
    const Buffer own(2 * kMiB), far(2 * kMiB);
    auto *const made = request(NIXL_WRITE, own, far);
    gated().holdTransfers();
    gated().holdCancelled();
    ASSERT_EQ(a->setXferLimits(made, {.deadline = milliseconds(20)}), NIXL_SUCCESS);
    ASSERT_EQ(a->postXferReq(made), NIXL_IN_PROG);
    EXPECT_EQ(finish(made), NIXL_ERR_TIMEOUT);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("connection was dropped"));
    EXPECT_GE(gated().count(EngineCall::kForceQuiet), 1u);
    EXPECT_EQ(a->checkRemoteMD("B", listOf({far.desc()})), NIXL_ERR_NOT_FOUND);
}

TEST_P(Staging, ALostPeerEndsIt) {
    const Buffer own(2 * kMiB), far(2 * kMiB);
    auto *const made = request(NIXL_WRITE, own, far);
    gated().fail(EngineCall::kPost, NIXL_ERR_REMOTE_DISCONNECT, 1, 1);
    EXPECT_EQ(run(made), NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_EQ(a->checkRemoteMD("B", listOf({far.desc()})), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(run(made), NIXL_ERR_NOT_FOUND) << "it needs a new request";
}

TEST_P(Staging, DeregisteringEitherSideEndsIt) {
    const Buffer own(20 * kMiB), far(20 * kMiB);
    auto *const made = request(NIXL_WRITE, own, far);
    gated().holdTransfers();
    ASSERT_EQ(a->postXferReq(made), NIXL_IN_PROG);
    ASSERT_TRUE(begun(made, 16));
    EXPECT_EQ(a->deregisterMem(registrationOf({own.desc()}, VRAM_SEG)), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(finish(made), NIXL_ERR_CANCELED);
    EXPECT_EQ(a->postXferReq(made), NIXL_ERR_NOT_FOUND);
}

// ---- What is staged and what is not

class StagedObjects : public Staging {
protected:
    /// An object of A that GATED alone reaches.
    void
    addObject(uint64_t device, size_t size) const {
        nixl_opt_args_t args;
        args.backends = {gate};
        require(a->registerMem(registrationOf({{0, size, device}}, OBJ_SEG), &args), "register an object");
    }

    nixlXferReqH *
    request(nixl_xfer_op_t operation, const nixl_xfer_dlist_t &own, const nixl_xfer_dlist_t &objects) const {
        return Staging::request(operation, own, objects, "A");
    }
};

INSTANTIATE_TEST_SUITE_P(, StagedObjects, testing::Bool(), [](const auto &info) {
    return info.param ? "Threaded" : "Polled";
});

TEST_P(StagedObjects, AreWrittenAndReadAllAtOnce) {
    // Each of several descriptors, not in order, small ones and large ones.
    constexpr size_t kSizes[] = {kMiB * 3 + 64, 4096, 65536, kMiB * 40, 8192};
    constexpr size_t kPieces = 32;
    std::vector<std::unique_ptr<Buffer>> own;
    nixl_xfer_dlist_t local(VRAM_SEG), remote(OBJ_SEG);
    for (const size_t size : kSizes) {
        addOwn(*own.emplace_back(std::make_unique<Buffer>(size)));
        addObject(size, size);
        own.back()->fill(size);
    }
    for (size_t piece = 0; piece < kPieces; ++piece) {
        for (size_t i = 0; i < own.size(); ++i) {
            const size_t length = kSizes[i] / kPieces;
            local.addDesc(own[i]->desc(piece * length, length));
            remote.addDesc({piece * length, length, kSizes[i]});
        }
    }
    auto *const write = request(NIXL_WRITE, local, remote);
    const auto posts = gated().count(EngineCall::kPost);
    ASSERT_EQ(run(write), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(gated().count(EngineCall::kPost), posts + 4) << "two small neighbours share one";
    for (const auto &each : own) each->clear();
    auto *const read = request(NIXL_READ, local, remote);
    ASSERT_EQ(run(read), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(gated().count(EngineCall::kPost), posts + 8);
    for (size_t i = 0; i < own.size(); ++i) EXPECT_TRUE(own[i]->holds(kSizes[i])) << kSizes[i];
}

TEST_P(StagedObjects, OneThatIsTooLargeIsRefusedBeforeAnythingIsWritten) {
    const Buffer own(70 * kMiB);
    addOwn(own);
    addObject(1, own.size());
    nixlXferReqH *made = nullptr;
    const auto local = listOf({own.desc(0, 35 * kMiB), own.desc(35 * kMiB, 35 * kMiB)}, VRAM_SEG);
    const auto remote = listOf({{0, 35 * kMiB, 1}, {35 * kMiB, 35 * kMiB, 1}}, OBJ_SEG);
    EXPECT_EQ(a->createXferReq(NIXL_WRITE, local, remote, "A", made), NIXL_ERR_NOT_SUPPORTED);
    EXPECT_THAT(nixlx::lastError(), AllOf(HasSubstr("one of 73400320 bytes"), HasSubstr("make smaller objects")));
    EXPECT_EQ(a->createXferReq(NIXL_READ, local, remote, "A", made), NIXL_SUCCESS)
        << "what is read may be cut: " << nixlx::lastError();
}

TEST_P(StagedObjects, LargeOnesGetTheirTurnBesideManySmall) {
    const Buffer large(64 * kMiB), small(16 * kMiB), far(16 * kMiB);
    addOwn(large);
    addOwn(small);
    addObject(1, 40 * kMiB);
    addObject(2, large.size());
    addFar("B", far);
    std::atomic<bool> over{false};
    std::thread others([&] {
        auto *const made = Staging::request(NIXL_WRITE, listOf({small.desc()}, VRAM_SEG), listOf({far.desc()}));
        while (!over) EXPECT_EQ(run(made), NIXL_SUCCESS) << nixlx::lastError();
    });
    auto *const one =
        request(NIXL_WRITE, listOf({large.desc(0, 40 * kMiB)}, VRAM_SEG), listOf({{0, 40 * kMiB, 1}}, OBJ_SEG));
    auto *const two = request(NIXL_WRITE, listOf({large.desc()}, VRAM_SEG), listOf({{0, large.size(), 2}}, OBJ_SEG));
    for (int round = 0; round < 3; ++round) {
        (void)a->postXferReq(one);
        (void)a->postXferReq(two);
        EXPECT_EQ(finish(one), NIXL_SUCCESS) << nixlx::lastError();
        EXPECT_EQ(finish(two), NIXL_SUCCESS) << nixlx::lastError();
    }
    over = true;
    others.join();
}

TEST_P(Staging, MemoryOfTheHostIsNot) {
    const Buffer own(kMiB), far(kMiB);
    addOwn(own, DRAM_SEG);
    addFar("B", far);
    nixlXferReqH *made = nullptr;
    EXPECT_EQ(a->createXferReq(NIXL_WRITE, listOf({own.desc()}), listOf({far.desc()}), "B", made), NIXL_ERR_NOT_FOUND);
}

TEST_P(Staging, HintsHaveToNameBothBackends) {
    const Buffer own(kMiB), far(kMiB);
    addOwn(own);
    addFar("B", far);
    nixl_opt_args_t args;
    nixlXferReqH *made = nullptr;
    for (auto *const hint : {recorder, gate}) {
        args.backends = {hint};
        EXPECT_EQ(a->createXferReq(NIXL_WRITE, listOf({own.desc()}, VRAM_SEG), listOf({far.desc()}), "B", made, &args),
                  NIXL_ERR_NOT_FOUND);
    }
    args.backends = {gate, recorder};
    EXPECT_EQ(a->createXferReq(NIXL_WRITE, listOf({own.desc()}, VRAM_SEG), listOf({far.desc()}), "B", made, &args),
              NIXL_SUCCESS)
        << nixlx::lastError();
}

TEST_P(Staging, ABackendThatDoesNotTakeTheMemoryInBetweenIsNamed) {
    const Buffer own(kMiB), far(kMiB);
    addOwn(own);
    addFar("B", far);
    gated().fail(EngineCall::kRegister, NIXL_ERR_NOT_ALLOWED);
    nixlXferReqH *made = nullptr;
    const auto local = listOf({own.desc()}, VRAM_SEG), remote = listOf({far.desc()});
    EXPECT_EQ(a->createXferReq(NIXL_WRITE, local, remote, "B", made), NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(
        nixlx::lastError(),
        AllOf(HasSubstr("RECORDING+GATED"), HasSubstr("does not take the memory"), HasSubstr("the test ordered")));
    EXPECT_EQ(a->createXferReq(NIXL_WRITE, local, remote, "B", made), NIXL_SUCCESS) << nixlx::lastError();
}

// ---- Several at once

TEST_P(Staging, APeerThatStandsStillLeavesRoomForOthers) {
    const Buffer own(64 * kMiB), far(64 * kMiB), other_far(64 * kMiB);
    own.fill(5);
    peer("C");
    addOwn(own);
    addFar("B", far);
    addFar("C", other_far);
    gated().holdTransfers();
    std::vector<nixlXferReqH *> stuck;
    for (size_t i = 0; i < 16; ++i) {
        const size_t at = i * 4 * kMiB, size = 4 * kMiB;
        stuck.push_back(request(NIXL_WRITE, listOf({own.desc(at, size)}, VRAM_SEG), listOf({far.desc(at, size)})));
        ASSERT_EQ(a->postXferReq(stuck.back()), NIXL_IN_PROG) << nixlx::lastError();
    }
    ASSERT_TRUE(eventually([&] {
        for (auto *const each : stuck) EXPECT_EQ(a->getXferStatus(each), NIXL_IN_PROG);
        return gated().count(EngineCall::kPost) >= 31;
    }));
    for (auto *const each : stuck) EXPECT_EQ(a->getXferStatus(each), NIXL_IN_PROG);
    const auto held = gated().count(EngineCall::kPost);
    EXPECT_LE(held, 48u) << "half of the memory, and one portion each";
    auto *const other = request(NIXL_WRITE, listOf({own.desc()}, VRAM_SEG), listOf({other_far.desc()}), "C");
    ASSERT_EQ(a->postXferReq(other), NIXL_IN_PROG);
    uint64_t next = held;
    ASSERT_TRUE(eventually([&] {
        for (; next < gated().count(EngineCall::kPost); ++next) gated().finish(next); // those to C
        return a->getXferStatus(other) != NIXL_IN_PROG;
    }));
    EXPECT_EQ(a->getXferStatus(other), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(other_far.holds(5));
    gated().finishAll();
    for (auto *const each : stuck) EXPECT_EQ(finish(each), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(far.holds(5));
}

TEST_P(Staging, WhoeverIsLookedAfterGoesOnThoughTheOthersAreNot) {
    const Buffer own(40 * kMiB), far(40 * kMiB);
    addOwn(own);
    addFar("B", far);
    own.fill(8);
    std::vector<nixlXferReqH *> all;
    for (size_t i = 0; i < 80; ++i) {
        const size_t size = kMiB / 2;
        all.push_back(
            request(NIXL_WRITE, listOf({own.desc(i * size, size)}, VRAM_SEG), listOf({far.desc(i * size, size)})));
        ASSERT_GE(a->postXferReq(all.back()), 0) << nixlx::lastError();
    }
    ASSERT_TRUE(eventually([&] { return a->getXferStatus(all.back()) != NIXL_IN_PROG; }));
    EXPECT_EQ(a->getXferStatus(all.back()), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(std::memcmp(far.data() + 79 * kMiB / 2, own.data() + 79 * kMiB / 2, kMiB / 2), 0);
    for (auto *const each : all) EXPECT_EQ(a->releaseXferReq(each), NIXL_SUCCESS) << nixlx::lastError();
}

TEST_P(Staging, OneThatStandsStillIsSeenThoughOthersMove) {
    const Buffer own(4 * kMiB), far(4 * kMiB), other_far(4 * kMiB);
    peer("C");
    auto *const stuck = request(NIXL_WRITE, own, far);
    addFar("C", other_far);
    auto *const moving = request(NIXL_WRITE, listOf({own.desc()}, VRAM_SEG), listOf({other_far.desc()}), "C");
    ASSERT_EQ(a->setXferLimits(stuck, {.stall = milliseconds(100)}), NIXL_SUCCESS);
    gated().holdTransfers();
    ASSERT_EQ(a->postXferReq(stuck), NIXL_IN_PROG);
    ASSERT_TRUE(begun(stuck, 4));
    uint64_t next = gated().count(EngineCall::kPost);
    nixl_status_t status = NIXL_IN_PROG;
    ASSERT_TRUE(eventually([&] {
        for (; next < gated().count(EngineCall::kPost); ++next) gated().finish(next);
        if (a->getXferStatus(moving) != NIXL_IN_PROG) {
            (void)a->postXferReq(moving);
        }
        return (status = a->getXferStatus(stuck)) != NIXL_IN_PROG;
    }));
    EXPECT_EQ(status, NIXL_ERR_TIMEOUT);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("no byte moved for 100 ms"));
    gated().finishAll();
    (void)finish(moving);
}

TEST_P(Staging, ManyThreadsPostCancelAndRelease) {
    constexpr size_t kThreads = 4, kRounds = 30, kSize = 3 * kMiB;
    const Buffer own(kThreads * kSize), far(kThreads * kSize);
    own.fill(6);
    addOwn(own);
    addFar("B", far);
    std::atomic<size_t> done{0}, wrong{0};
    std::vector<std::thread> threads;
    for (size_t t = 0; t < kThreads; ++t) {
        threads.emplace_back([&, t] {
            for (size_t round = 0; round < kRounds; ++round) {
                auto *const made = request(NIXL_WRITE, listOf({own.desc(t * kSize, kSize)}, VRAM_SEG),
                                           listOf({far.desc(t * kSize, kSize)}));
                (void)a->postXferReq(made);
                if (round % 3 == 0) (void)a->cancelXferReq(made);
                const auto status = finish(made);
                done += status == NIXL_SUCCESS;
                wrong += status != NIXL_SUCCESS && status != NIXL_ERR_CANCELED;
                wrong += a->releaseXferReq(made) != NIXL_SUCCESS;
            }
        });
    }
    for (auto &thread : threads) thread.join();
    EXPECT_EQ(wrong, 0u);
    EXPECT_GE(done, kThreads * kRounds * 2 / 3 - 1);
    EXPECT_TRUE(far.holds(6));
}

TEST_P(Staging, AnAgentThatGoesLeavesNothingRunning) {
    const Buffer own(40 * kMiB), far(40 * kMiB);
    own.fill(1);
    auto *const made = request(NIXL_WRITE, own, far);
    gated().holdTransfers();
    ASSERT_EQ(a->postXferReq(made), NIXL_IN_PROG);
    ASSERT_TRUE(begun(made, 16));
    a.reset();
    gated().finishAll();
    EXPECT_TRUE(far.isZero());
}

TEST_P(Staging, AnAgentThatGoesWithALegThatIsNotQuietLeavesItsMemoryThere) {
    const Buffer own(4 * kMiB), far(4 * kMiB);
    auto *const made = request(NIXL_READ, own, far);
    far.fill(1);
    gated().holdTransfers();
    gated().holdCancelled();
    gated().fail(EngineCall::kForceQuiet, NIXL_ERR_NOT_SUPPORTED, 100);
    ASSERT_EQ(a->postXferReq(made), NIXL_IN_PROG);
    ASSERT_TRUE(begun(made, 4));
    const auto deregistered = recordedCalls("deregisterMem").size();
    a.reset();
    EXPECT_EQ(recordedCalls("deregisterMem").size(), deregistered) << "neither the program's nor what is in between";
    EXPECT_TRUE(own.isZero());
}

TEST_P(Staging, BackendsOf14CarryALeg) {
    nixlBackendH *legacy = nullptr;
    ASSERT_EQ(a->createBackend("LEGACY", {}, legacy), NIXL_SUCCESS) << nixlx::lastError();
    const Buffer own(20 * kMiB + 7), far(20 * kMiB + 7);
    nixl_opt_args_t args;
    args.backends = {legacy};
    ASSERT_EQ(a->registerMem(registrationOf({own.desc()}, VRAM_SEG), &args), NIXL_SUCCESS) << nixlx::lastError();
    addFar("B", far);
    own.fill(1);
    auto *const write = request(NIXL_WRITE, listOf({own.desc()}, VRAM_SEG), listOf({far.desc()}));
    ASSERT_EQ(run(write), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(far.holds(1));
    EXPECT_THAT(report(write).path, HasSubstr("LEGACY+GATED"));
    far.fill(2);
    auto *const read = request(NIXL_READ, listOf({own.desc()}, VRAM_SEG), listOf({far.desc()}));
    ASSERT_EQ(run(read), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(own.holds(2));
    for (int round = 0; round < 10; ++round) {
        (void)a->postXferReq(write);
        (void)a->cancelXferReq(write);
        const auto status = finish(write);
        EXPECT_TRUE(status == NIXL_SUCCESS || status == NIXL_ERR_CANCELED) << nixlx::lastError();
    }
}

} // namespace
} // namespace nx::test
