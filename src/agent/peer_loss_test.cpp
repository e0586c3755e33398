// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A backend says that a peer is lost by the outcome of whatever call concerns it, and nothing else is called for it:
// after each of them the peer is forgotten. And what both ways to make a request have in common.
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nixl.h"
#include "support/agent_pair.h"
#include "support/buffer.h"
#include "support/gated_backend.h"

namespace nx::test {
namespace {

/// A knows B, which has y registered; A has x.
struct Acquaintance {
    explicit Acquaintance(bool progress_thread = false) : pair(options(progress_thread)) {
        require(pair.a->registerMem(registrationOf({x.desc()}), &pair.a.with_backend), "register x");
        require(pair.b->registerMem(registrationOf({y.desc()}), &pair.b.with_backend), "register y");
        pair.exchange();
    }

    static PairOptions
    options(bool progress_thread) {
        PairOptions options;
        options.backend = "GATED";
        options.progress_thread = progress_thread;
        return options;
    }

    nixl_status_t
    create(nixlXferReqH *&request, const nixl_opt_args_t *args = nullptr) {
        return pair.a->createXferReq(NIXL_WRITE, listOf({x.desc()}), listOf({y.desc()}), "B", request, args);
    }

    nixl_status_t
    make(nixlXferReqH *&request, const nixl_opt_args_t *args = nullptr) {
        nixlDlistH *local = nullptr, *remote = nullptr;
        require(pair.a->prepXferDlist(listOf({x.desc()}), local), "prepare x");
        require(pair.a->prepXferDlist("B", listOf({y.desc()}), remote), "prepare y");
        return pair.a->makeXferReq(NIXL_WRITE, local, {0}, remote, {0}, request, args);
    }

    /// A request that is under way.
    nixlXferReqH *
    posted() {
        nixlXferReqH *request = nullptr;
        require(create(request), "create");
        gated().holdTransfers();
        if (pair.a->postXferReq(request) != NIXL_IN_PROG) throw std::runtime_error("the transfer is over");
        return request;
    }

    /// What B has registered since.
    nixl_blob_t
    more() {
        require(pair.b->registerMem(registrationOf({z.desc()}), &pair.b.with_backend), "register z");
        return pair.b.metadata();
    }

    Buffer x{64}, y{64}, z{64};
    AgentPair pair;
};

struct Loss {
    const char *name;
    EngineCall call;
    std::function<nixl_status_t(Acquaintance &)> body; ///< orders the outcome, and makes the agent call
};

void
PrintTo(const Loss &loss, std::ostream *out) {
    *out << loss.name;
}

nixl_status_t
ordered(EngineCall call, const std::function<nixl_status_t()> &body) {
    gated().fail(call, NIXL_ERR_REMOTE_DISCONNECT);
    return body();
}

class PeerLoss : public ::testing::TestWithParam<Loss> {
protected:
    void
    SetUp() override {
        gated().reset();
    }
    void
    TearDown() override {
        gated().reset();
    }
};

TEST_P(PeerLoss, IsSaidByTheOutcomeAlone) {
    Acquaintance known;
    ASSERT_EQ(known.pair.a->checkRemoteMD("B", listOf({known.y.desc()})), NIXL_SUCCESS);
    EXPECT_EQ(GetParam().body(known), NIXL_ERR_REMOTE_DISCONNECT) << nixlx::lastError();
    EXPECT_EQ(gated().count(EngineCall::kDisconnect), 1u) << "the backend has forgotten it";
    EXPECT_EQ(known.pair.a->checkRemoteMD("B", {DRAM_SEG}), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(known.pair.a->invalidateRemoteMD("B"), NIXL_ERR_NOT_FOUND);
    gated().finishAll();
    known.pair.a.load(known.pair.b.metadata());
    nixlXferReqH *request = nullptr;
    ASSERT_EQ(known.create(request), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(known.pair.run(request), NIXL_SUCCESS);
}

INSTANTIATE_TEST_SUITE_P(
    EveryCall,
    PeerLoss,
    ::testing::Values(Loss{"CreateARequest", EngineCall::kPrepare,
                           [](Acquaintance &known) {
                               nixlXferReqH *request = nullptr;
                               return ordered(EngineCall::kPrepare, [&] { return known.create(request); });
                           }},
                      Loss{"MakeARequest", EngineCall::kPrepare,
                           [](Acquaintance &known) {
                               nixlXferReqH *request = nullptr;
                               return ordered(EngineCall::kPrepare, [&] { return known.make(request); });
                           }},
                      Loss{"Post", EngineCall::kPost,
                           [](Acquaintance &known) {
                               nixlXferReqH *request = nullptr;
                               require(known.create(request), "create");
                               return ordered(EngineCall::kPost, [&] { return known.pair.a->postXferReq(request); });
                           }},
                      Loss{"Check", EngineCall::kCheck,
                           [](Acquaintance &known) {
                               auto *request = known.posted();
                               return ordered(EngineCall::kCheck, [&] { return known.pair.a->getXferStatus(request); });
                           }},
                      Loss{"PostAgain", EngineCall::kCheck,
                           [](Acquaintance &known) {
                               auto *request = known.posted();
                               return ordered(EngineCall::kCheck, [&] { return known.pair.a->postXferReq(request); });
                           }},
                      Loss{"Message", EngineCall::kNotify,
                           [](Acquaintance &known) {
                               return ordered(EngineCall::kNotify,
                                              [&] { return known.pair.a->genNotif("B", "hello"); });
                           }},
                      Loss{"Connect", EngineCall::kConnect,
                           [](Acquaintance &known) {
                               return ordered(EngineCall::kConnect, [&] { return known.pair.a->makeConnection("B"); });
                           }},
                      Loss{"LoadMore", EngineCall::kLoadRemote,
                           [](Acquaintance &known) {
                               const auto blob = known.more();
                               std::string name;
                               return ordered(EngineCall::kLoadRemote,
                                              [&] { return known.pair.a->loadRemoteMD(blob, name); });
                           }}),
    [](const auto &info) { return std::string(info.param.name); });

TEST_F(PeerLoss, IsNoticedWhenARequestIsReleased) {
    Acquaintance known;
    auto *request = known.posted();
    gated().abort(0, NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_EQ(known.pair.a->releaseXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(known.pair.a->checkRemoteMD("B", {DRAM_SEG}), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(gated().count(EngineCall::kDisconnect), 1u);
}

TEST_F(PeerLoss, IsNoticedWhileNobodyAsks) {
    Acquaintance known(true);
    (void)known.posted();
    gated().abort(0, NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_TRUE(eventually([] { return gated().count(EngineCall::kDisconnect) == 1; }));
    EXPECT_EQ(known.pair.a->checkRemoteMD("B", {DRAM_SEG}), NIXL_ERR_NOT_FOUND);
}

TEST_F(PeerLoss, OfAStartThatTheUserRemovedIsNone) {
    Acquaintance known;
    auto *request = known.posted();
    ASSERT_EQ(known.pair.a->invalidateRemoteMD("B"), NIXL_SUCCESS);
    gated().abort(0, NIXL_ERR_REMOTE_DISCONNECT);
    known.pair.a.load(known.pair.b.metadata());
    EXPECT_EQ(known.pair.finish(request, NIXL_IN_PROG), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(known.pair.a->checkRemoteMD("B", listOf({known.y.desc()})), NIXL_SUCCESS);
}

TEST_F(PeerLoss, HintsAndPredictionsCountTheSameInBothWaysToMakeARequest) {
    Acquaintance known;
    auto &a = known.pair.a, &b = known.pair.b;
    nixl_opt_args_t legacy_of_a, legacy_of_b;
    legacy_of_a.backends = legacy_of_b.backends = {nullptr};
    require(a->createBackend("LEGACY", {}, legacy_of_a.backends[0]), "LEGACY of A");
    require(b->createBackend("LEGACY", {}, legacy_of_b.backends[0]), "LEGACY of B");
    require(a->registerMem(registrationOf({known.x.desc()}), &legacy_of_a), "register x");
    require(b->registerMem(registrationOf({known.y.desc()}), &legacy_of_b), "register y");
    known.pair.exchange();
    gated().setPrediction(5);
    const auto reportOf = [&](nixlXferReqH *request) {
        nixlx::Report report;
        require(a->getXferReport(request, report), "report");
        return report;
    };
    const auto expectSame = [&](const nixl_opt_args_t *args, const std::string &chosen, double predicted) {
        nixlXferReqH *created = nullptr, *made = nullptr;
        ASSERT_EQ(known.create(created, args), NIXL_SUCCESS);
        ASSERT_EQ(known.make(made, args), NIXL_SUCCESS);
        const auto one = reportOf(created), other = reportOf(made);
        EXPECT_EQ(one.backend, chosen);
        EXPECT_EQ(other.backend, chosen);
        ASSERT_EQ(one.candidates.size(), 2u);
        ASSERT_EQ(other.candidates.size(), 2u);
        for (size_t i = 0; i < 2; ++i) {
            EXPECT_EQ(one.candidates[i].reason, other.candidates[i].reason) << i;
            EXPECT_EQ(one.candidates[i].predicted_us, other.candidates[i].predicted_us) << i;
        }
        EXPECT_EQ(one.candidates[one.candidates[0].backend == "GATED" ? 0 : 1].predicted_us, predicted);
    };
    expectSame(nullptr, "GATED", 5);
    nixl_opt_args_t hints;
    hints.backends = {legacy_of_a.backends[0], a.backend};
    expectSame(&hints, "LEGACY", -1);
}

} // namespace
} // namespace nx::test
