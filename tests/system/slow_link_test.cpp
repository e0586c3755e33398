// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: a link that is slow costs nobody a transfer, and one that stands still ends them all in time, whether anybody
// asks or not. Method: an agent here and one in a process of its own, and between them a relay that passes so many
// bytes a second, or none.
#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nixlx/report.h"
#include "support/detour.h"
#include "support/peer_process.h"

namespace nx::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using ::testing::Each;
using ::testing::HasSubstr;
using Way = Relay::Way;

constexpr size_t kMiB = size_t{1} << 20;
constexpr milliseconds kSettleGuard{150};
constexpr std::chrono::seconds kHang{10}; ///< on a busy machine

class SlowLink : public ::testing::TestWithParam<bool> {
protected:
    SlowLink()
        : a("A", {"UCX", kUcxOverTcp, GetParam()}),
          b("B", {"UCX", kUcxOverTcp, true}),
          there(b.offer(kSize, 1)),
          relay(ucxPort(b.metadata())),
          detour(relay) {
        require(a->registerMem(registrationOf({here.desc()})), "register");
        a.load(forTheNetwork(b.metadata()));
    }

    /// A WRITE of the `index`th piece of `size` bytes.
    nixlXferReqH *
    request(size_t index, size_t size, const nixlx::Limits &limits) {
        nixlXferReqH *made = nullptr;
        require(a->createXferReq(NIXL_WRITE, listOf({here.desc(index * size, size)}),
                                 listOf({nixlBasicDesc(there.addr + index * size, size, 0)}), "B", made),
                "create");
        require(a->setXferLimits(made, limits), "limits");
        requests.push_back(made);
        return made;
    }

    /// So that the connection is there before the link is made slow.
    void
    meet() {
        nixlXferReqH *first = request(0, 64, {});
        require(a->postXferReq(first) == NIXL_IN_PROG ? finish(first) : NIXL_SUCCESS, "first transfer");
        require(a->releaseXferReq(first), "release");
        requests.clear();
    }

    nixl_status_t
    finish(nixlXferReqH *made) {
        nixl_status_t status = NIXL_IN_PROG;
        eventually([&] {
            status = a->getXferStatus(made);
            return status != NIXL_IN_PROG;
        });
        return status;
    }

    /// Asks for all of them in turn, as programs do.
    std::vector<nixl_status_t>
    finishAll() const {
        std::vector<nixl_status_t> statuses(requests.size(), NIXL_IN_PROG);
        eventually([&] {
            for (size_t i = 0; i < requests.size(); ++i) {
                if (statuses[i] == NIXL_IN_PROG) statuses[i] = a->getXferStatus(requests[i]);
            }
            return std::find(statuses.begin(), statuses.end(), NIXL_IN_PROG) == statuses.end();
        });
        return statuses;
    }

    nixlx::Report
    report(nixlXferReqH *made) const {
        nixlx::Report report;
        EXPECT_EQ(a->getXferReport(made, report), NIXL_SUCCESS);
        return report;
    }

    static constexpr size_t kSize = 80 * kMiB;
    const Buffer here{kSize}; // outlives the agent, whose transfers may still run
    PairedAgent a;
    PeerProcess b;
    const nixlBasicDesc there;
    Relay relay;
    Detour detour;
    std::vector<nixlXferReqH *> requests;
};

INSTANTIATE_TEST_SUITE_P(Ucx, SlowLink, testing::Bool(), [](const testing::TestParamInfo<bool> &info) {
    return std::string(info.param ? "Threaded" : "Polled");
});

TEST_P(SlowLink, CarriesWhatWaitsForItsTurnThoughThatTakesLongerThanTheStallLimit) {
    meet();
    here.fill(7);
    relay.setRate(Way::kForward, 14 * kMiB);
    for (size_t i = 0; i < 40; ++i) request(i, 2 * kMiB, {.stall = milliseconds(1000)});
    for (nixlXferReqH *made : requests) ASSERT_EQ(a->postXferReq(made), NIXL_IN_PROG) << nixlx::lastError();
    EXPECT_THAT(finishAll(), Each(NIXL_SUCCESS)) << nixlx::lastError();
    EXPECT_EQ(b.ask("holds 7"), "yes");
    EXPECT_GE(relay.passed(Way::kForward), kSize) << "it did not go over the link";
}

TEST_P(SlowLink, ShowsThatItMovesUntilTheLastByteIsThere) {
    meet();
    relay.setRate(Way::kForward, kMiB);
    // The system takes the last of it about two seconds before it has arrived.
    nixlXferReqH *write = request(0, 5 * kMiB, {.stall = milliseconds(1500)});
    ASSERT_EQ(a->postXferReq(write), NIXL_IN_PROG) << nixlx::lastError();
    EXPECT_EQ(finish(write), NIXL_SUCCESS) << nixlx::lastError();
}

TEST_P(SlowLink, ADeadlineOfOneEndsThatOneAndHarmsNoOther) {
    meet();
    relay.setRate(Way::kForward, 14 * kMiB);
    // More than UCX is given at once, and so much that it settles for longer than the settle guard.
    nixlXferReqH *hurried = request(1, 32 * kMiB, {.deadline = milliseconds(200)});
    ASSERT_EQ(a->postXferReq(hurried), NIXL_IN_PROG) << nixlx::lastError();
    requests.clear();
    for (size_t i = 0; i < 12; ++i) request(i, 2 * kMiB, {.stall = milliseconds(1000)});
    for (nixlXferReqH *made : requests) ASSERT_EQ(a->postXferReq(made), NIXL_IN_PROG) << nixlx::lastError();
    EXPECT_EQ(finish(hurried), NIXL_ERR_TIMEOUT);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("deadline of 200 ms"));
    EXPECT_THAT(finishAll(), Each(NIXL_SUCCESS)) << nixlx::lastError();
    EXPECT_EQ(a->checkRemoteMD("B", {DRAM_SEG}), NIXL_SUCCESS) << "the connection has stayed";
}

TEST_P(SlowLink, AllEndInTimeWhenItStops) {
    meet();
    relay.setRate(Way::kForward, 14 * kMiB);
    constexpr milliseconds kStall{500};
    for (size_t i = 0; i < 40; ++i) request(i, 2 * kMiB, {.stall = kStall});
    for (nixlXferReqH *made : requests) ASSERT_EQ(a->postXferReq(made), NIXL_IN_PROG) << nixlx::lastError();
    ASSERT_TRUE(eventually([&] {
        (void)a->getXferStatus(requests.front()); // progress
        return relay.passed(Way::kForward) > 4 * kMiB;
    }));
    relay.stop();
    const auto stopped = steady_clock::now();
    if (GetParam()) { // nobody has to ask
        EXPECT_TRUE(eventually([&] {
            return std::all_of(requests.begin(), requests.end(),
                               [&](nixlXferReqH *made) { return report(made).status != NIXL_IN_PROG; });
        }));
    } else {
        (void)finishAll();
    }
    EXPECT_LT(steady_clock::now() - stopped, kStall + kSettleGuard + kHang);
    RecordProperty("milliseconds", std::to_string((steady_clock::now() - stopped) / milliseconds(1)));
    for (nixlXferReqH *made : requests) {
        EXPECT_THAT(report(made).status, testing::AnyOf(NIXL_SUCCESS, NIXL_ERR_TIMEOUT, NIXL_ERR_REMOTE_DISCONNECT));
    }
    EXPECT_EQ(report(requests.back()).status, NIXL_ERR_TIMEOUT) << report(requests.back()).error;
    EXPECT_TRUE(eventually([&] { return a->checkRemoteMD("B", {DRAM_SEG}) == NIXL_ERR_NOT_FOUND; }));
}

} // namespace
} // namespace nx::test
