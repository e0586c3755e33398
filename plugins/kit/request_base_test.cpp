// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Claim: a request ends as the first thing that happened to it says, tells why only then, and forgets it all with the
// next post; whoever sees it final sees what it moved. Method: a request whose work is made-up calls.
#include <gtest/gtest.h>

#include <array>
#include <thread>
#include <vector>

#include "kit/request_base.h"
#include "support/eventually.h"

namespace nx::kit {
namespace {

TEST(RequestBase, IsNotPostedBeforeItIsPosted) {
    RequestBase request;
    EXPECT_EQ(request.outcome(), NIXL_ERR_NOT_POSTED);
    EXPECT_TRUE(request.quiet());
    EXPECT_EQ(request.describe("a path").path, "a path");
    EXPECT_EQ(request.describe({}).error, "");
    request.begin();
    EXPECT_EQ(request.outcome(), NIXL_IN_PROG);
    EXPECT_FALSE(request.quiet());
    EXPECT_EQ(request.finish(true), NIXL_SUCCESS);
    EXPECT_EQ(request.outcome(), NIXL_SUCCESS);
}

TEST(RequestBase, KeepsTheFirstFailureAndTellsItWhenItIsFinal) {
    RequestBase request;
    request.begin();
    EXPECT_FALSE(request.stopping());
    EXPECT_EQ(request.fail(NIXL_ERR_BACKEND, "the first"), NIXL_ERR_BACKEND);
    EXPECT_EQ(request.fail(NIXL_ERR_NOT_FOUND, "the second"), NIXL_ERR_NOT_FOUND);
    request.cancel();
    EXPECT_TRUE(request.stopping());
    EXPECT_EQ(request.outcome(), NIXL_IN_PROG);
    EXPECT_EQ(request.describe({}).error, "");
    EXPECT_EQ(request.finish(true), NIXL_ERR_BACKEND);
    EXPECT_EQ(request.outcome(), NIXL_ERR_BACKEND);
    EXPECT_EQ(request.describe({}).error, "the first");
}

TEST(RequestBase, IsCancelledIfSomethingWasLeftOut) {
    RequestBase request;
    for (const bool complete : {false, true, false}) {
        request.begin();
        EXPECT_FALSE(request.stopping());
        request.cancel();
        EXPECT_TRUE(request.stopping());
        EXPECT_EQ(request.outcome(), NIXL_IN_PROG);
        const nixl_status_t expected = complete ? NIXL_SUCCESS : NIXL_ERR_CANCELED;
        EXPECT_EQ(request.finish(complete), expected);
        EXPECT_EQ(request.outcome(), expected);
        EXPECT_EQ(request.describe({}).error, complete ? "" : "the request was cancelled");
    }
}

TEST(RequestBase, FailsForItsOwnReasonWhereItWasCancelledBefore) {
    RequestBase request;
    request.begin();
    request.cancel();
    request.fail(NIXL_ERR_REMOTE_DISCONNECT, "the peer is gone");
    EXPECT_EQ(request.finish(false), NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_EQ(request.describe({}).error, "the peer is gone");
}

TEST(RequestBase, ForgetsWithTheNextPost) {
    RequestBase request;
    request.begin();
    request.moved(7);
    request.moved(8);
    request.fail(NIXL_ERR_BACKEND, "it broke");
    request.finish(false);
    EXPECT_EQ(request.bytesDone(), 15u);
    request.cancel(); // quiet: no effect
    request.begin();
    EXPECT_FALSE(request.stopping());
    EXPECT_EQ(request.bytesDone(), 0u);
    EXPECT_EQ(request.finish(true), NIXL_SUCCESS);
    EXPECT_EQ(request.describe({}).error, "");
}

TEST(RequestBase, ShowsWhatItMovedToWhoeverSeesItFinal) {
    std::array<uint64_t, 64> memory{};
    RequestBase request;
    for (uint64_t round = 1; round <= 200; ++round) {
        request.begin();
        std::thread works([&] {
            for (uint64_t &word : memory) {
                word = round;
                request.moved(sizeof word);
            }
            request.finish(true);
        });
        const bool ended = test::eventually([&] { return request.quiet(); });
        for (const uint64_t word : memory) EXPECT_EQ(word, round);
        EXPECT_EQ(request.bytesDone(), sizeof memory);
        works.join();
        ASSERT_TRUE(ended);
    }
}

TEST(RequestBase, HasOneFirstFailureWhereSeveralThreadsFail) {
    RequestBase request;
    for (int round = 0; round < 100; ++round) {
        request.begin();
        std::vector<std::thread> threads;
        for (const nixl_status_t status : {NIXL_ERR_BACKEND, NIXL_ERR_NOT_FOUND, NIXL_ERR_NO_MEMORY}) {
            threads.emplace_back([&request, status] { request.fail(status, std::to_string(status)); });
        }
        for (std::thread &thread : threads) thread.join();
        const nixl_status_t status = request.finish(false);
        EXPECT_EQ(request.describe({}).error, std::to_string(status));
    }
}

} // namespace
} // namespace nx::kit
