// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Requests that are cancelled or take too long: they end, as what they should, and nobody touches their buffers then.
#include "contract/contract.h"

namespace nx::test {
namespace {

constexpr size_t kLong = size_t{64} << 20;

/// A READ of 64 MiB that is to end early.
class EarlyEnd {
public:
    EarlyEnd(AgentPair &pair, Buffer &at_a, FarSide &far, Buffer &other_a)
        : pair_(pair),
          at_a_(at_a),
          other_a_(other_a),
          far_(far) {
        far.image().fill(1);
        far.push();
        require(pair.a->registerMem(registrationOf({at_a.desc()})), "register at A");
        require(pair.a->createXferReq(NIXL_READ, listOf({at_a.desc()}), far.list(), far.agent(), request), "create");
        require(pair.a->registerMem(registrationOf({other_a.desc()})), "register at A");
    }

    /// Its buffer stays as it is while other transfers of the same size run.
    void
    expectQuiet() {
        at_a_.fill(2);
        // What took too long to settle has cost the connection.
        if (far_.agent() == "B" && pair_.a->checkRemoteMD("B", {DRAM_SEG}) != NIXL_SUCCESS) {
            pair_.a.load(pair_.b.metadata());
        }
        nixlXferReqH *later = nullptr;
        require(pair_.a->createXferReq(NIXL_READ, listOf({other_a_.desc()}), far_.list(), far_.agent(), later),
                "create");
        EXPECT_EQ(pair_.run(later), NIXL_SUCCESS);
        EXPECT_TRUE(other_a_.holds(1));
        EXPECT_EQ(at_a_.firstDifference(2), kLong) << "bytes arrived after the final status";
        EXPECT_EQ(pair_.a->releaseXferReq(later), NIXL_SUCCESS);
        EXPECT_EQ(pair_.a->releaseXferReq(request), NIXL_SUCCESS);
    }

    /// In time, or the limit came too late.
    void
    expect(nixl_status_t status, nixl_status_t early) {
        nixlx::Report report;
        EXPECT_EQ(pair_.a->getXferReport(request, report), NIXL_SUCCESS);
        EXPECT_FALSE(report.settling || report.stuck);
        EXPECT_LE(report.bytes_done, kLong);
        if (status == NIXL_SUCCESS) {
            EXPECT_TRUE(at_a_.holds(1));
            EXPECT_EQ(report.bytes_done, kLong);
        } else {
            EXPECT_EQ(status, early) << report.error;
            EXPECT_FALSE(report.error.empty());
        }
    }

    nixlXferReqH *request = nullptr;

private:
    AgentPair &pair_;
    Buffer &at_a_, &other_a_;
    FarSide &far_;
};

TEST_P(Any, ACancelledTransferEndsCanceledOrDoneAndIsQuiet) {
    EarlyEnd read(*pair, buffer(kLong), farSide(kLong), buffer(kLong));
    const nixl_status_t posted = pair->a->postXferReq(read.request);
    EXPECT_EQ(pair->a->cancelXferReq(read.request), NIXL_SUCCESS);
    read.expect(pair->finish(read.request, posted), NIXL_ERR_CANCELED);
    EXPECT_EQ(pair->run(read.request), NIXL_SUCCESS) << "posted again";
    read.expect(NIXL_SUCCESS, NIXL_ERR_CANCELED);
    const nixl_status_t again = pair->a->postXferReq(read.request);
    EXPECT_EQ(pair->a->cancelXferReq(read.request), NIXL_SUCCESS);
    EXPECT_NE(pair->finish(read.request, again), NIXL_IN_PROG);
    read.expectQuiet();
}

TEST_P(Any, ATransferPastItsDeadlineEndsTimedOutOrDoneAndIsQuiet) {
    EarlyEnd read(*pair, buffer(kLong), farSide(kLong), buffer(kLong));
    ASSERT_EQ(pair->a->setXferLimits(read.request, {.deadline = std::chrono::milliseconds(1)}), NIXL_SUCCESS);
    read.expect(pair->run(read.request), NIXL_ERR_TIMEOUT);
    read.expectQuiet();
}

} // namespace
} // namespace nx::test
