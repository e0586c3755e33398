// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: any public call may run beside any other one. Method: two threads repeat each pair of calls on shared agents
// and objects; every status is one that the table allows, and afterwards the agents move the right bytes, have lost no
// message and nothing that was registered. Crashes and races are the sanitizers' to find. NIXL_TEST_ROUNDS says how
// often each call is made in its pair.
#include <barrier>
#include <fstream>
#include <map>
#include <memory>
#include <regex>
#include <sstream>
#include <thread>
#include <tuple>

#include <gtest/gtest.h>

#include "nixlx/engine.h"
#include "stress/calls.h"

namespace nx::test {
namespace {

constexpr uint64_t kRoundsOfNewWorld = 4; ///< what a call that needs a new world can do in one

uint64_t
roundsOn(const std::string &backend) {
    static const auto given = nixlx::configValue("NIXL_TEST_ROUNDS");
    if (given) return std::stoull(*given);
    return backend == "UCX" ? 2 : 8;
}

using Pair = std::tuple<std::string, size_t, size_t>; ///< backend, indices of calls

class CallPairs : public testing::TestWithParam<Pair> {
protected:
    static void
    TearDownTestSuite() {
        leaveWorld();
    }

    static void
    leaveWorld() {
        if (world_) world_->checkRegistrations();
        world_.reset();
    }

    /// Both calls, `rounds` times at least and for as long as the other one needs for that.
    static void
    runBeside(const Call &first, const Call &second, uint64_t rounds) {
        std::barrier start(kHands);
        std::array<std::atomic<bool>, kHands> done{};
        const auto act = [&](const Call &call, size_t number) {
            Hand hand{number};
            start.arrive_and_wait();
            const std::atomic<bool> &other_done = done[1 - number];
            // A quick call goes on beside a slow one, within bounds.
            for (; hand.round < rounds || (!other_done && hand.round < 100 * rounds); ++hand.round) {
                runOnce(call, hand);
                if (testing::Test::HasFailure()) break;
            }
            done[number] = true;
        };
        std::thread other(act, std::cref(second), 1);
        act(first, 0);
        other.join();
    }

    static void
    runOnce(const Call &call, Hand &hand) {
        try {
            const nixl_status_t status = call.run(*world_, hand);
            if (std::find(call.may_give.begin(), call.may_give.end(), status) != call.may_give.end()) return;
            ADD_FAILURE() << call.name() << " gave " << nixlEnumStrings::statusStr(status) << " in round " << hand.round
                          << ": " << nixlx::lastError();
        }
        catch (const std::exception &error) {
            ADD_FAILURE() << call.name() << " in round " << hand.round << ": " << error.what();
        }
    }

    static inline std::unique_ptr<World> world_; ///< of the pairs with the same first call, as long as all is well
    static inline Pair first_of_world_;
};

TEST_P(CallPairs, RunBesideEachOther) {
    const auto &[backend, i, j] = GetParam();
    const Call &first = allCalls()[i], &second = allCalls()[j];
    const bool needs_new = first.needs_new || second.needs_new;
    for (uint64_t left = roundsOn(backend); left && !HasFailure();) {
        const bool usable = world_ && std::get<0>(first_of_world_) == backend && std::get<1>(first_of_world_) == i;
        if (needs_new || !usable) {
            leaveWorld();
            world_ = std::make_unique<World>(backend);
            first_of_world_ = GetParam();
        }
        const uint64_t rounds = needs_new ? std::min(left, kRoundsOfNewWorld) : left;
        left -= rounds;
        runBeside(first, second, rounds);
        world_->check(!first.parts && !second.parts);
        if (needs_new || HasFailure()) leaveWorld();
    }
}

std::vector<Pair>
pairsOn(const std::string &backend) {
    std::vector<Pair> pairs;
    for (size_t i = 0; i < allCalls().size(); ++i) {
        for (size_t j = i; j < allCalls().size(); ++j) pairs.emplace_back(backend, i, j);
    }
    return pairs;
}

std::string
pairName(const testing::TestParamInfo<Pair> &info) {
    const auto &[backend, i, j] = info.param;
    return allCalls()[i].name() + "_and_" + allCalls()[j].name();
}

INSTANTIATE_TEST_SUITE_P(Loopback, CallPairs, testing::ValuesIn(pairsOn("LOOPBACK")), pairName);
INSTANTIATE_TEST_SUITE_P(Legacy, CallPairs, testing::ValuesIn(pairsOn("LEGACY")), pairName);
INSTANTIATE_TEST_SUITE_P(Shm, CallPairs, testing::ValuesIn(pairsOn("SHM")), pairName);
INSTANTIATE_TEST_SUITE_P(Ucx, CallPairs, testing::ValuesIn(pairsOn("UCX")), pairName);

TEST(CallTable, HasEveryMethodOfTheAgent) {
    std::ifstream file(NX_SOURCE_DIR "/include/nixl.h");
    std::stringstream header;
    header << file.rdbuf();
    const std::string text = header.str();
    // A declaration: the type on a line of its own, then the name.
    const std::regex method(R"(\n    (?:nixl_status_t|void)\n    (\w+)\()");
    std::map<std::string, int> missing;
    for (std::sregex_iterator it(text.begin(), text.end(), method), end; it != end; ++it) ++missing[(*it)[1]];
    ASSERT_GE(missing.size(), 30u) << "the pattern finds too little";
    for (const Call &call : allCalls()) --missing[call.method];
    for (const auto &[name, count] : missing) {
        EXPECT_LE(count, 0) << count << " overloads of " << name << " are in no entry of the table";
    }
}

} // namespace
} // namespace nx::test
