// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// How requests end that take too long or are cancelled: after their limit, with TIMEOUT or CANCELED, and never before
// their buffers are quiet. Drives the public API over the GATED backend, where transfers move, settle and stand still
// on command; the limits are so short that no test waits for long.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nixl.h"
#include "support/agent_pair.h"
#include "support/buffer.h"
#include "support/gated_backend.h"

namespace nx::test {
namespace {

using nixlx::Limits;
using std::chrono::milliseconds;
using std::chrono::steady_clock;
using ::testing::HasSubstr;

constexpr milliseconds kShort{20};
constexpr milliseconds kSettleGuard{150};

class RequestLimits : public ::testing::Test {
protected:
    RequestLimits() : x(64), y(64) {
        gated().reset();
        PairOptions options;
        options.backend = "GATED";
        pair = std::make_unique<AgentPair>(options);
        request = pair->request(NIXL_WRITE, x, y);
    }
    ~RequestLimits() override {
        pair.reset();
        gated().reset();
    }

    nixlAgent &
    agent() const {
        return *pair->a.agent;
    }

    void
    limit(const Limits &limits) const {
        ASSERT_EQ(agent().setXferLimits(request, limits), NIXL_SUCCESS) << nixlx::lastError();
    }

    nixl_status_t
    postHeld() const {
        gated().holdTransfers();
        return agent().postXferReq(request);
    }

    nixl_status_t
    finish() const {
        return pair->finish(request, NIXL_IN_PROG);
    }

    nixlx::Report
    report() const {
        nixlx::Report report;
        EXPECT_EQ(agent().getXferReport(request, report), NIXL_SUCCESS);
        return report;
    }

    Buffer x, y;
    std::unique_ptr<AgentPair> pair;
    nixlXferReqH *request = nullptr;
};

TEST_F(RequestLimits, APassedDeadlineEndsWithTimeoutAndSaysWhatHappened) {
    limit({.deadline = kShort});
    const auto start = steady_clock::now();
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    gated().setBytesDone(17);
    EXPECT_EQ(finish(), NIXL_ERR_TIMEOUT);
    EXPECT_GE(steady_clock::now() - start, kShort) << "never early";
    for (const char *part : {"deadline of 20 ms", "17 of 64 bytes", "'B'", "GATED"}) {
        EXPECT_THAT(nixlx::lastError(), HasSubstr(part));
    }
    EXPECT_EQ(agent().getXferStatus(request), NIXL_ERR_TIMEOUT) << "final statuses are sticky";
    EXPECT_EQ(gated().count(EngineCall::kForceQuiet), 0u) << "it became quiet by itself";
    EXPECT_EQ(agent().checkRemoteMD("B", listOf({y.desc()})), NIXL_SUCCESS) << "the peer is not to blame";
}

TEST_F(RequestLimits, NothingIsFinalBeforeTheBuffersAreQuiet) {
    gated().fail(EngineCall::kForceQuiet, NIXL_ERR_NOT_SUPPORTED);
    gated().holdCancelled();
    limit({.deadline = kShort});
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    ASSERT_TRUE(eventually([&] {
        EXPECT_EQ(agent().getXferStatus(request), NIXL_IN_PROG);
        return report().stuck;
    }));
    EXPECT_TRUE(report().settling);
    EXPECT_EQ(report().status, NIXL_IN_PROG);
    EXPECT_EQ(agent().postXferReq(request), NIXL_ERR_REPOST_ACTIVE);
    EXPECT_EQ(agent().releaseXferReq(request), NIXL_ERR_REPOST_ACTIVE);
    EXPECT_EQ(gated().count(EngineCall::kForceQuiet), 1u) << "asked once";
    const auto deregistered = gated().count(EngineCall::kDeregister);
    EXPECT_EQ(agent().deregisterMem(registrationOf({x.desc()})), NIXL_ERR_REPOST_ACTIVE);
    EXPECT_EQ(gated().count(EngineCall::kDeregister), deregistered) << "the backend keeps the memory";
    gated().settleCancelled();
    EXPECT_EQ(finish(), NIXL_ERR_TIMEOUT);
    EXPECT_EQ(gated().count(EngineCall::kDeregister), deregistered + 1);
    EXPECT_FALSE(report().stuck);
}

TEST_F(RequestLimits, ATransferThatDoesNotSettleIsForcedAndItsPeerIsLost) {
    gated().holdCancelled();
    limit({.deadline = kShort});
    const auto start = steady_clock::now();
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    EXPECT_EQ(finish(), NIXL_ERR_TIMEOUT);
    EXPECT_GE(steady_clock::now() - start, kShort + kSettleGuard * 3 / 4) << "it got its time to settle";
    EXPECT_EQ(gated().count(EngineCall::kForceQuiet), 1u);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("load the agent's metadata again"));
    EXPECT_EQ(agent().checkRemoteMD("B", {DRAM_SEG}), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(agent().postXferReq(request), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(agent().releaseXferReq(request), NIXL_SUCCESS);
    gated().finishAll();
    pair->a.load(pair->b.metadata());
    nixlXferReqH *again = nullptr;
    ASSERT_EQ(agent().createXferReq(NIXL_WRITE, listOf({x.desc()}), listOf({y.desc()}), "B", again), NIXL_SUCCESS);
    EXPECT_EQ(pair->run(again), NIXL_SUCCESS);
}

TEST_F(RequestLimits, APeerThatDiesWhileItsRequestSettlesIsLostToo) {
    gated().fail(EngineCall::kForceQuiet, NIXL_ERR_NOT_SUPPORTED);
    gated().holdCancelled();
    limit({.deadline = kShort});
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    ASSERT_TRUE(eventually([&] { return agent().getXferStatus(request) == NIXL_IN_PROG && report().settling; }));
    gated().abort(0, NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_EQ(finish(), NIXL_ERR_TIMEOUT);
    EXPECT_EQ(agent().checkRemoteMD("B", {DRAM_SEG}), NIXL_ERR_NOT_FOUND);
}

TEST_F(RequestLimits, AStallEndsWithTimeoutAndProgressPostponesIt) {
    constexpr milliseconds kStall{100};
    limit({.stall = kStall});
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    // Moves on, for longer than the limit.
    uint64_t bytes = 0;
    const auto start = steady_clock::now();
    ASSERT_TRUE(eventually([&] {
        gated().setBytesDone(++bytes);
        EXPECT_EQ(agent().getXferStatus(request), NIXL_IN_PROG);
        return steady_clock::now() - start > 3 * kStall;
    }));
    EXPECT_EQ(report().bytes_done, bytes);
    EXPECT_EQ(finish(), NIXL_ERR_TIMEOUT);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("no byte moved for 100 ms (the stall limit)"));
}

TEST_F(RequestLimits, ARequestThatWaitsForItsTurnHasNotStalled) {
    constexpr milliseconds kStall{100};
    limit({.stall = kStall});
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    const auto start = steady_clock::now();
    ASSERT_TRUE(eventually([&] {
        gated().movePath(); // others do
        EXPECT_EQ(agent().getXferStatus(request), NIXL_IN_PROG);
        return steady_clock::now() - start > 3 * kStall;
    }));
    EXPECT_FALSE(report().settling);
    EXPECT_EQ(report().bytes_done, 0u);
    EXPECT_EQ(finish(), NIXL_ERR_TIMEOUT) << "once nothing moves";
}

TEST_F(RequestLimits, APathThatMovesIsNotDropped) {
    gated().holdCancelled();
    limit({.deadline = kShort});
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    const auto start = steady_clock::now();
    ASSERT_TRUE(eventually([&] {
        gated().movePath();
        EXPECT_EQ(agent().getXferStatus(request), NIXL_IN_PROG);
        return steady_clock::now() - start > kShort + 3 * kSettleGuard;
    }));
    EXPECT_TRUE(report().stuck) << "it says so meanwhile";
    EXPECT_EQ(gated().count(EngineCall::kForceQuiet), 0u);
    gated().settleCancelled();
    EXPECT_EQ(finish(), NIXL_ERR_TIMEOUT);
    EXPECT_EQ(agent().checkRemoteMD("B", listOf({y.desc()})), NIXL_SUCCESS);
}

TEST_F(RequestLimits, APathThatOthersHopeForIsDroppedLater) {
    gated().holdCancelled();
    nixlXferReqH *other = nullptr;
    ASSERT_EQ(agent().createXferReq(NIXL_WRITE, listOf({x.desc()}), listOf({y.desc()}), "B", other), NIXL_SUCCESS);
    limit({.deadline = kShort});
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    ASSERT_EQ(agent().postXferReq(other), NIXL_IN_PROG);
    const auto start = steady_clock::now();
    ASSERT_TRUE(eventually([&] {
        EXPECT_EQ(agent().getXferStatus(request), NIXL_IN_PROG);
        return steady_clock::now() - start > kShort + 3 * kSettleGuard;
    }));
    EXPECT_EQ(gated().count(EngineCall::kForceQuiet), 0u) << "the other one may still come through";
    ASSERT_EQ(agent().cancelXferReq(other), NIXL_SUCCESS);
    EXPECT_EQ(finish(), NIXL_ERR_TIMEOUT) << "nobody hopes any more";
    EXPECT_EQ(gated().count(EngineCall::kForceQuiet), 1u);

    gated().settleCancelled();
    EXPECT_EQ(pair->finish(other, NIXL_IN_PROG), NIXL_ERR_CANCELED);
}

TEST_F(RequestLimits, APathThatStandsStillForSecondsIsDroppedWhoeverHopes) {
    gated().holdCancelled();
    nixlXferReqH *other = nullptr;
    ASSERT_EQ(agent().createXferReq(NIXL_WRITE, listOf({x.desc()}), listOf({y.desc()}), "B", other), NIXL_SUCCESS);
    limit({.deadline = kShort});
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    ASSERT_EQ(agent().postXferReq(other), NIXL_IN_PROG);
    const auto start = steady_clock::now();
    EXPECT_EQ(finish(), NIXL_ERR_TIMEOUT);
    EXPECT_GE(steady_clock::now() - start, std::chrono::seconds(2));
    EXPECT_EQ(gated().count(EngineCall::kForceQuiet), 1u);
    gated().finishAll();
    (void)pair->finish(other, NIXL_IN_PROG);
}

TEST_F(RequestLimits, TimeInWhichNobodyLooksIsNoStall) {
    constexpr milliseconds kStall{40};
    limit({.stall = kStall});
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    const auto start = steady_clock::now();
    eventually([&] { return steady_clock::now() - start > 5 * kStall; });
    EXPECT_EQ(agent().getXferStatus(request), NIXL_IN_PROG);
    EXPECT_FALSE(report().settling);
    EXPECT_EQ(finish(), NIXL_ERR_TIMEOUT);
}

TEST_F(RequestLimits, CanBeChangedBetweenPostsAndNotDuringOne) {
    limit({.deadline = kShort, .stall = Limits::kNone});
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    EXPECT_EQ(agent().setXferLimits(request, {.deadline = milliseconds(1)}), NIXL_ERR_REPOST_ACTIVE);
    EXPECT_EQ(finish(), NIXL_ERR_TIMEOUT);
    limit({.deadline = Limits::kNone});
    ASSERT_EQ(agent().postXferReq(request), NIXL_IN_PROG);
    const auto start = steady_clock::now();
    eventually([&] {
        EXPECT_EQ(agent().getXferStatus(request), NIXL_IN_PROG);
        return steady_clock::now() - start > 5 * kShort;
    });
    gated().finishAll();
    EXPECT_EQ(finish(), NIXL_SUCCESS);
    EXPECT_EQ(report().bytes_done, 64u);
    EXPECT_EQ(report().attempts, 2u);
}

TEST_F(RequestLimits, ARequestThatTimedOutCanBePostedAgain) {
    limit({.deadline = kShort});
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    EXPECT_EQ(finish(), NIXL_ERR_TIMEOUT);
    limit({.deadline = milliseconds(std::chrono::minutes(5))});
    gated().finishAll();
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
    EXPECT_TRUE(report().error.empty());
}

TEST_F(RequestLimits, APostFindsOutThatTheOldOneIsOverTime) {
    limit({.deadline = kShort});
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    gated().finishAll(); // what is held ends only in a check
    gated().holdTransfers();
    nixl_status_t status = NIXL_ERR_REPOST_ACTIVE;
    EXPECT_TRUE(eventually([&] { return (status = agent().postXferReq(request)) != NIXL_ERR_REPOST_ACTIVE; }));
    EXPECT_EQ(status, NIXL_IN_PROG) << "the old post has timed out, the new one runs";
    EXPECT_EQ(report().attempts, 2u);
}

TEST_F(RequestLimits, TheLimitOfASuccessfulTransferIsNotLookedAt) {
    limit({.deadline = milliseconds(1)});
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    const auto start = steady_clock::now();
    eventually([&] { return steady_clock::now() - start > milliseconds(30); });
    gated().finish(0);
    EXPECT_EQ(agent().getXferStatus(request), NIXL_SUCCESS) << "it had finished when it was looked at";
}

TEST_F(RequestLimits, ReleaseForcesWhatIsPastItsLimitAndNothingElse) {
    gated().holdCancelled();
    limit({.deadline = milliseconds(std::chrono::minutes(5)), .stall = Limits::kNone});
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    EXPECT_EQ(agent().releaseXferReq(request), NIXL_ERR_REPOST_ACTIVE);
    EXPECT_EQ(gated().count(EngineCall::kForceQuiet), 0u);
    gated().settleCancelled();
    EXPECT_EQ(finish(), NIXL_ERR_CANCELED);

    gated().holdCancelled();
    limit({.deadline = kShort});
    ASSERT_EQ(agent().postXferReq(request), NIXL_IN_PROG);
    EXPECT_EQ(agent().releaseXferReq(request), NIXL_SUCCESS) << "the deadline passed while it waited";
    EXPECT_EQ(gated().count(EngineCall::kForceQuiet), 1u);
    EXPECT_EQ(agent().checkRemoteMD("B", {DRAM_SEG}), NIXL_ERR_NOT_FOUND) << "the connection is gone";
}

TEST_F(RequestLimits, DeregistrationForcesWhatIsPastItsLimitAndItsPeerIsLost) {
    gated().holdCancelled();
    limit({.deadline = kShort});
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    EXPECT_EQ(agent().deregisterMem(registrationOf({x.desc()})), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(gated().count(EngineCall::kForceQuiet), 1u);
    EXPECT_EQ(agent().checkRemoteMD("B", nixl_xfer_dlist_t(DRAM_SEG)), NIXL_ERR_NOT_FOUND);
}

TEST_F(RequestLimits, ADroppedRequestIsForcedWhenItIsPastItsLimit) {
    gated().holdCancelled();
    limit({.deadline = kShort});
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    const auto released = gated().count(EngineCall::kRelease);
    ASSERT_EQ(agent().dropXferReq(request), NIXL_SUCCESS);
    EXPECT_TRUE(eventually([&] {
        pair->progress();
        return gated().count(EngineCall::kRelease) == released + 1;
    }));
    EXPECT_EQ(gated().count(EngineCall::kForceQuiet), 1u);
    EXPECT_EQ(agent().checkRemoteMD("B", {DRAM_SEG}), NIXL_ERR_NOT_FOUND);
}

TEST_F(RequestLimits, DestructionForcesWhatDoesNotSettle) {
    gated().holdCancelled();
    limit({.stall = Limits::kNone});
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    const auto released = gated().count(EngineCall::kRelease);
    pair.reset();
    EXPECT_EQ(gated().count(EngineCall::kForceQuiet), 1u);
    EXPECT_EQ(gated().count(EngineCall::kRelease), released + 1) << "quiet, so nothing had to be left behind";
}

TEST_F(RequestLimits, CancelEndsAsCanceled) {
    EXPECT_EQ(agent().cancelXferReq(request), NIXL_SUCCESS) << "nothing to cancel";
    EXPECT_EQ(agent().getXferStatus(request), NIXL_ERR_NOT_POSTED);
    gated().holdCancelled();
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    EXPECT_EQ(agent().cancelXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(agent().cancelXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(agent().getXferStatus(request), NIXL_IN_PROG) << "not quiet yet";
    gated().settleCancelled();
    EXPECT_EQ(agent().getXferStatus(request), NIXL_ERR_CANCELED);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("cancelled"));
    EXPECT_EQ(agent().cancelXferReq(request), NIXL_SUCCESS);
    gated().finishAll();
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
    EXPECT_EQ(agent().cancelXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(agent().getXferStatus(request), NIXL_SUCCESS) << "too late";
}

TEST_F(RequestLimits, ACancelledRequestPastItsLimitIsForcedAndStillCanceled) {
    gated().holdCancelled();
    limit({.deadline = kShort});
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    ASSERT_EQ(agent().cancelXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(finish(), NIXL_ERR_CANCELED);
    EXPECT_EQ(gated().count(EngineCall::kForceQuiet), 1u);
}

TEST_F(RequestLimits, RefusesHandlesThatAreNoneAndLimitsOutOfRange) {
    EXPECT_EQ(agent().setXferLimits(nullptr, {}), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(agent().cancelXferReq(nullptr), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(pair->b->setXferLimits(request, {}), NIXL_ERR_INVALID_PARAM) << "another agent's";
    EXPECT_EQ(pair->b->cancelXferReq(request), NIXL_ERR_INVALID_PARAM);
    for (const auto wrong :
         {milliseconds(0), milliseconds(-1), milliseconds(std::chrono::hours(24)) + milliseconds(1)}) {
        EXPECT_EQ(agent().setXferLimits(request, {.deadline = wrong}), NIXL_ERR_INVALID_PARAM);
        EXPECT_THAT(nixlx::lastError(), HasSubstr("deadline of " + std::to_string(wrong.count())));
        EXPECT_EQ(agent().setXferLimits(request, {.deadline = kShort, .stall = wrong}), NIXL_ERR_INVALID_PARAM);
    }
    // A refused call changed nothing: no deadline is set.
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    const auto start = steady_clock::now();
    eventually([&] {
        EXPECT_EQ(agent().getXferStatus(request), NIXL_IN_PROG);
        return steady_clock::now() - start > 5 * kShort;
    });
    gated().finishAll();
    EXPECT_EQ(finish(), NIXL_SUCCESS);
    EXPECT_EQ(agent().setXferLimits(request, {.deadline = milliseconds(1), .stall = std::chrono::hours(24)}),
              NIXL_SUCCESS);
    ASSERT_EQ(agent().releaseXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(agent().setXferLimits(request, {}), NIXL_ERR_INVALID_PARAM) << "released";
    EXPECT_EQ(agent().cancelXferReq(request), NIXL_ERR_INVALID_PARAM);
}

TEST_F(RequestLimits, ABackendThatCannotTellHowFarItIsHasNoStallLimit) {
    PairOptions options;
    options.backend = "LEGACY";
    options.progress_thread = true;
    AgentPair legacy(options);
    Buffer from(64), to(64);
    auto *made = legacy.request(NIXL_WRITE, from, to);
    ASSERT_EQ(legacy.a->setXferLimits(made, {.stall = milliseconds(1)}), NIXL_SUCCESS);
    EXPECT_EQ(legacy.run(made), NIXL_SUCCESS);
}

// ---- With a progress thread nobody has to ask

class UnwatchedLimits : public RequestLimits {
protected:
    UnwatchedLimits() {
        pair.reset();
        PairOptions options;
        options.backend = "GATED";
        options.progress_thread = true;
        pair = std::make_unique<AgentPair>(options);
        request = pair->request(NIXL_WRITE, x, y);
    }

    /// Nobody asks for the status, which would keep the limits as well.
    bool
    ends() const {
        return eventually([&] { return report().status != NIXL_IN_PROG; });
    }
};

TEST_F(UnwatchedLimits, ADeadlinePasses) {
    limit({.deadline = kShort});
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    ASSERT_TRUE(ends());
    EXPECT_EQ(report().status, NIXL_ERR_TIMEOUT);
    EXPECT_EQ(agent().getXferStatus(request), NIXL_ERR_TIMEOUT);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("deadline of 20 ms"));
}

TEST_F(UnwatchedLimits, AStallLimitPassesAndThePeerIsLost) {
    gated().holdCancelled();
    limit({.stall = milliseconds(100)});
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    ASSERT_TRUE(ends());
    EXPECT_EQ(report().status, NIXL_ERR_TIMEOUT);
    EXPECT_EQ(gated().count(EngineCall::kForceQuiet), 1u);
    EXPECT_TRUE(eventually([&] { return agent().checkRemoteMD("B", {DRAM_SEG}) == NIXL_ERR_NOT_FOUND; }));
}

TEST_F(UnwatchedLimits, ADropIsNoticedAndForgotten) {
    limit({.deadline = kShort});
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    gated().abort(0, NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_TRUE(eventually([&] { return agent().checkRemoteMD("B", {DRAM_SEG}) == NIXL_ERR_NOT_FOUND; }));
    EXPECT_EQ(agent().getXferStatus(request), NIXL_ERR_REMOTE_DISCONNECT);
}

TEST_F(UnwatchedLimits, AShorterLimitIsSeenAtOnce) {
    limit({.deadline = milliseconds(std::chrono::hours(1))});
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    nixlXferReqH *urgent = nullptr;
    ASSERT_EQ(agent().createXferReq(NIXL_WRITE, listOf({x.desc()}), listOf({y.desc()}), "B", urgent), NIXL_SUCCESS);
    // Again and again, at whatever moment of the other look.
    for (int i = 0; i < 20; ++i) {
        ASSERT_EQ(agent().setXferLimits(urgent, {.deadline = milliseconds(1)}), NIXL_SUCCESS);
        ASSERT_EQ(agent().postXferReq(urgent), NIXL_IN_PROG);
        nixlx::Report seen;
        ASSERT_TRUE(eventually([&] {
            EXPECT_EQ(agent().getXferReport(urgent, seen), NIXL_SUCCESS);
            return seen.status == NIXL_ERR_TIMEOUT;
        }));
    }
    EXPECT_EQ(report().status, NIXL_IN_PROG);
    gated().finishAll();
    EXPECT_EQ(finish(), NIXL_SUCCESS);
}

/// How often the threads of this name have gone to sleep; nothing if there is none.
std::optional<uint64_t>
sleepsOf(const std::string &thread) {
    std::optional<uint64_t> sleeps;
    for (const auto &task : std::filesystem::directory_iterator("/proc/self/task")) {
        std::ifstream status(task.path() / "status");
        std::string word;
        bool its = false;
        while (status >> word) {
            if (word == "Name:") its = status >> word && word == thread;
            if (uint64_t count = 0; its && word == "voluntary_ctxt_switches:" && status >> count) {
                sleeps = sleeps.value_or(0) + count;
            }
        }
    }
    return sleeps;
}

TEST_F(UnwatchedLimits, TheThreadSleepsWithoutATimerWhileNothingIsInFlight) {
    EXPECT_FALSE(sleepsOf("nixl-limits")) << "not needed yet";
    limit({.deadline = milliseconds(80)});
    ASSERT_EQ(postHeld(), NIXL_IN_PROG);
    ASSERT_TRUE(ends());
    EXPECT_TRUE(eventually([] {
        const auto before = sleepsOf("nixl-limits");
        const auto start = steady_clock::now();
        eventually([&] { return steady_clock::now() - start > milliseconds(200); });
        return before && sleepsOf("nixl-limits") == before;
    }));
    ASSERT_EQ(agent().postXferReq(request), NIXL_IN_PROG) << "and wakes up again";
    ASSERT_TRUE(ends());
}

// ---- NIXL_STALL_LIMIT_MS

class StallLimitOption : public ::testing::Test {
protected:
    ~StallLimitOption() override {
        unsetenv("NIXL_STALL_LIMIT_MS");
        gated().reset();
    }

    /// How a transfer that does not move ends within `patience`, if it ends.
    static nixl_status_t
    endWith(const char *value, milliseconds patience = milliseconds(200)) {
        gated().reset();
        setenv("NIXL_STALL_LIMIT_MS", value, 1);
        PairOptions options;
        options.backend = "GATED";
        AgentPair pair(options);
        setenv("NIXL_STALL_LIMIT_MS", "nonsense", 1); // read once, when the agent is made
        Buffer x(64), y(64);
        auto *request = pair.request(NIXL_WRITE, x, y);
        gated().holdTransfers();
        nixl_status_t status = pair.a->postXferReq(request);
        eventually([&] { return (status = pair.a->getXferStatus(request)) != NIXL_IN_PROG; }, patience);
        EXPECT_TRUE(pair.release(request) == NIXL_SUCCESS);
        return status;
    }
};

TEST_F(StallLimitOption, IsInMillisecondsOrNone) {
    EXPECT_EQ(endWith("20", kPatience), NIXL_ERR_TIMEOUT);
    EXPECT_EQ(endWith("none"), NIXL_IN_PROG);
    EXPECT_EQ(endWith("0"), NIXL_IN_PROG);
    EXPECT_EQ(endWith("86400000"), NIXL_IN_PROG);
}

TEST_F(StallLimitOption, ABadValueIsABrokenConfiguration) {
    for (const char *value : {"", "-1", "soon", "30s", "86400001", "99999999999999999999"}) {
        setenv("NIXL_STALL_LIMIT_MS", value, 1);
        EXPECT_THROW(nixlAgent("solo", nixlAgentConfig()), std::runtime_error) << value;
    }
    try {
        nixlAgent("solo", nixlAgentConfig());
    }
    catch (const std::runtime_error &error) {
        EXPECT_THAT(error.what(), HasSubstr("NIXL_STALL_LIMIT_MS"));
    }
}

} // namespace
} // namespace nx::test
