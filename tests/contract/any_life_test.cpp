// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// An engine is made with any parameters or refused with a sentence, ends in every order, and serves many threads.
#include <algorithm>
#include <array>
#include <atomic>
#include <thread>

#include "contract/contract.h"

namespace nx::test {
namespace {

TEST_P(Any, ASecondBackendOfTheKindIsRefused) {
    nixlBackendH *second = nullptr;
    EXPECT_EQ(pair->a->createBackend(options().backend, options().params, second), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(second, nullptr);
    EXPECT_FALSE(nixlx::lastError().empty());
}

TEST_P(Any, WhatThePluginAdvertisesIsAcceptedAndWhatItDoesNotKnowIgnored) {
    nixl_mem_list_t memory;
    nixl_b_params_t params;
    ASSERT_EQ(pair->a->getPluginParams(options().backend, memory, params), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_NE(std::find(memory.begin(), memory.end(), DRAM_SEG), memory.end());
    for (const auto &[key, value] : options().params) params[key] = value;
    params["no_backend_has_an_option_of_this_name"] = "x";
    PairOptions advertised = options();
    advertised.params = params;
    const PairedAgent agent("C", advertised);
    nixl_b_params_t in_use;
    EXPECT_EQ(agent->getBackendParams(agent.backend, memory, in_use), NIXL_SUCCESS);
}

TEST_P(Any, NonsenseInAnOptionIsRefusedWithASentenceOrUsed) {
    nixl_mem_list_t memory;
    nixl_b_params_t params;
    ASSERT_EQ(pair->a->getPluginParams(options().backend, memory, params), NIXL_SUCCESS);
    for (const auto &[key, normal] : params) {
        for (const std::string &value :
             {std::string(), std::string("\0\xff", 2), std::string("-1"), std::string("99999999999999999999"),
              std::string("nonsense"), std::string(100000, 'x')}) {
            SCOPED_TRACE(key + " = " + value.substr(0, 30));
            nixlAgentConfig config;
            config.useProgThread = GetParam().progress_thread;
            nixlAgent agent("C", config);
            nixlBackendH *made = nullptr;
            nixl_b_params_t one = options().params;
            one[key] = value;
            if (agent.createBackend(options().backend, one, made) == NIXL_SUCCESS) continue;
            EXPECT_EQ(made, nullptr);
            EXPECT_FALSE(nixlx::lastError().empty());
            EXPECT_EQ(agent.createBackend(options().backend, options().params, made), NIXL_SUCCESS)
                << "a refused creation left something behind: " << nixlx::lastError();
        }
    }
}

TEST_P(Any, AgentsComeAndGo) {
    for (int round = 0; round < 20; ++round) {
        const PairedAgent agent("C", options());
        const Buffer memory(4096);
        require(agent->registerMem(registrationOf({memory.desc()})), "register");
    }
}

TEST_P(Any, EndsInEveryOrderWithATransferInProgressOrDone) {
    constexpr size_t kSize = size_t{8} << 20;
    enum Step { kRelease, kReleaseLists, kDeregister, kDestroy };
    std::array order{kRelease, kReleaseLists, kDeregister, kDestroy};
    do {
        for (const bool done : {true, false}) {
            if (!done && targetMustCall()) continue; // Remote ends so, with both agents in every order
            SCOPED_TRACE(testing::PrintToString(order) + (done ? " done" : " in progress"));
            Buffer &memory = buffer(kSize);
            registerAt(pair->a, {memory.desc()});
            const FarSide &far = farSide(kSize);
            nixlXferReqH *request = makeRequest(NIXL_READ, listOf({memory.desc()}), far.list());
            nixlDlistH *local = prepare("", listOf({memory.desc()})), *remote = prepare(farAgent(), far.list());
            const nixl_status_t posted = pair->a->postXferReq(request);
            ASSERT_GE(posted, 0) << nixlx::lastError();
            if (done) {
                EXPECT_EQ(pair->finish(request, posted), NIXL_SUCCESS);
            }
            for (const Step step : order) {
                if (!pair->a.agent) break;
                switch (step) {
                case kRelease: EXPECT_EQ(pair->release(request), NIXL_SUCCESS) << nixlx::lastError(); break;
                case kReleaseLists:
                    EXPECT_EQ(pair->a->releasedDlistH(local), NIXL_SUCCESS);
                    EXPECT_EQ(pair->a->releasedDlistH(remote), NIXL_SUCCESS);
                    break;
                case kDeregister: {
                    const nixl_status_t status = pair->a->deregisterMem(registrationOf({memory.desc()}));
                    EXPECT_TRUE(status == NIXL_SUCCESS || status == NIXL_ERR_REPOST_ACTIVE) << nixlx::lastError();
                    break;
                }
                case kDestroy: pair->a.agent.reset(); break;
                }
            }
            // Whatever ended it: nobody writes there any more.
            memory.fill(7);
            forgetFarSides();
            pair = std::make_unique<AgentPair>(options());
            EXPECT_TRUE(memory.holds(7));
            if (HasFailure()) return;
        }
    } while (std::next_permutation(order.begin(), order.end()));
}

TEST_P(Any, ManyThreadsMoveTheirPartsWithOneAgent) {
    constexpr size_t kThreads = 8, kRounds = 50, kSize = 20000;
    Buffer &out = buffer(kThreads * kSize), &back = buffer(kThreads * kSize);
    registerAt(pair->a, {out.desc(), back.desc()});
    const FarSide &far = farSide(kThreads * kSize);
    std::atomic<size_t> working{kThreads}, wrong{0};
    const auto work = [&](size_t index) {
        const Buffer mine(kSize); // for registrations of its own
        nixlAgent &agent = *pair->a.agent;
        const size_t offset = index * kSize;
        const auto move = [&](nixl_xfer_op_t operation, const Buffer &memory) {
            nixlXferReqH *request = nullptr;
            nixl_status_t status = agent.createXferReq(operation, listOf({memory.desc(offset, kSize)}),
                                                       far.list({far.desc(offset, kSize)}), farAgent(), request);
            if (status == NIXL_SUCCESS) status = agent.postXferReq(request);
            eventually([&] {
                if (status == NIXL_IN_PROG) status = agent.getXferStatus(request);
                return status != NIXL_IN_PROG;
            });
            wrong += status != NIXL_SUCCESS;
            wrong += agent.releaseXferReq(request) != NIXL_SUCCESS;
        };
        for (size_t round = 0; round < kRounds; ++round) {
            std::memset(out.data() + offset, static_cast<int>(round + index + 1), kSize);
            std::memset(back.data() + offset, 0, kSize);
            move(NIXL_WRITE, out);
            wrong += agent.registerMem(registrationOf({mine.desc()})) != NIXL_SUCCESS;
            move(NIXL_READ, back);
            wrong += agent.deregisterMem(registrationOf({mine.desc()})) != NIXL_SUCCESS;
            wrong += std::memcmp(out.data() + offset, back.data() + offset, kSize) != 0;
        }
        --working;
    };
    std::vector<std::thread> threads;
    for (size_t i = 0; i < kThreads; ++i) threads.emplace_back(work, i);
    EXPECT_TRUE(eventually([&] { // the target makes progress meanwhile
        pair->progress();
        return !working;
    }));
    for (std::thread &thread : threads) thread.join();
    EXPECT_EQ(wrong, 0u);
}

} // namespace
} // namespace nx::test
