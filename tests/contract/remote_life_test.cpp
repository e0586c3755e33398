// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Things end in every order, and many threads use one agent.
#include <algorithm>
#include <array>
#include <atomic>
#include <thread>

#include "contract/contract.h"

namespace nx::test {
namespace {

enum class Step { kRelease, kReleaseLists, kDeregister, kDestroyA, kDestroyB };

/// One pair with a request, ended in one order.
class Ending {
public:
    Ending(const PairOptions &options, size_t size) : at_a_(size), at_b_(size), pair_(options) {
        request_ = pair_.request(NIXL_WRITE, at_a_, at_b_);
        require(pair_.a->prepXferDlist("", listOf({at_a_.desc()}), local_), "prepare");
        require(pair_.a->prepXferDlist("B", listOf({at_b_.desc()}), remote_), "prepare");
    }

    nixl_status_t
    post() {
        return pair_.a->postXferReq(request_);
    }

    nixl_status_t
    run() {
        return pair_.run(request_);
    }

    /// Does the step, as far as its agent is still there.
    void
    take(Step step) {
        nixlAgent *a = pair_.a.agent.get();
        switch (step) {
        case Step::kRelease:
            if (!a) break;
            EXPECT_EQ(pair_.release(request_), NIXL_SUCCESS) << nixlx::lastError();
            break;
        case Step::kReleaseLists:
            if (!a) break;
            EXPECT_EQ(a->releasedDlistH(local_), NIXL_SUCCESS);
            EXPECT_EQ(a->releasedDlistH(remote_), NIXL_SUCCESS);
            break;
        case Step::kDeregister:
            deregister(pair_.a, at_a_);
            deregister(pair_.b, at_b_);
            break;
        case Step::kDestroyA: pair_.a.agent.reset(); break;
        case Step::kDestroyB: pair_.b.agent.reset(); break;
        }
    }

private:
    static void
    deregister(PairedAgent &owner, const Buffer &buffer) {
        if (!owner.agent) return;
        // A transfer that runs may need its peer, which makes no progress here, to become quiet.
        const nixl_status_t status = owner->deregisterMem(registrationOf({buffer.desc()}));
        EXPECT_TRUE(status == NIXL_SUCCESS || status == NIXL_ERR_REPOST_ACTIVE) << nixlx::lastError();
    }

    Buffer at_a_, at_b_;
    AgentPair pair_;
    nixlXferReqH *request_ = nullptr;
    nixlDlistH *local_ = nullptr, *remote_ = nullptr;
};

/// `every`: tries each order, or one in so many.
template<class Prepare>
void
endInEveryOrder(const PairOptions &options, size_t size, size_t every, Prepare prepare) {
    size_t number = 0;
    std::array order{Step::kRelease, Step::kReleaseLists, Step::kDeregister, Step::kDestroyA, Step::kDestroyB};
    do {
        if (number++ % every != 0) continue;
        std::string trace = "order";
        for (Step step : order) trace += " " + std::to_string(static_cast<int>(step));
        SCOPED_TRACE(trace);
        Ending ending(options, size);
        prepare(ending);
        for (Step step : order) ending.take(step);
        if (testing::Test::HasFailure()) return;
    } while (std::next_permutation(order.begin(), order.end()));
}

TEST_P(Remote, EndsInEveryOrder) {
    endInEveryOrder(options(), 4096, 1, [](Ending &ending) { EXPECT_EQ(ending.run(), NIXL_SUCCESS); });
}

TEST_P(Remote, EndsInEveryOrderWithATransferInProgress) {
    // An end may wait for its full limit, because the peer makes no progress in this thread: one order in seventeen
    // then, of 120.
    endInEveryOrder(options(), size_t{8} << 20, targetMustCall() ? 17 : 1,
                    [](Ending &ending) { EXPECT_GE(ending.post(), 0); });
}

TEST_P(Remote, EndsWithAnswersUnderWay) {
    constexpr size_t kSize = size_t{64} << 20;
    Buffer &at_a = buffer(kSize), &at_b = buffer(kSize);
    for (const nixl_xfer_op_t operation : {NIXL_READ, NIXL_WRITE}) {
        for (const bool target_first : {false, true}) {
            AgentPair ending(options());
            nixlXferReqH *request = ending.request(operation, at_a, at_b);
            ASSERT_EQ(ending.run(request), NIXL_SUCCESS) << nixlx::lastError();
            EXPECT_GE(ending.a->postXferReq(request), 0);
            // The target begins to answer; without a progress thread nobody takes the answers.
            for (int i = 0; i < 100; ++i) require(ending.b->getNotifs(ending.b.inbox), "progress at B");
            if (target_first) ending.b.agent.reset();
            ending.a.agent.reset();
            at_a.fill(1);
            ending.progress();
            ending.b.agent.reset();
            EXPECT_EQ(at_a.firstDifference(1), kSize) << "bytes arrived after the end";
        }
    }
}

TEST_P(Remote, ATargetRefusesWhatItHasDeregistered) {
    constexpr size_t kSize = size_t{64} << 20;
    Buffer &at_a = buffer(kSize), &at_b = buffer(kSize);
    at_a.fill(1);
    nixlXferReqH *request = pair->request(NIXL_WRITE, at_a, at_b);
    const nixl_status_t posted = pair->a->postXferReq(request);
    ASSERT_GE(posted, 0) << nixlx::lastError();
    ASSERT_EQ(pair->b->deregisterMem(registrationOf({at_b.desc()})), NIXL_SUCCESS) << nixlx::lastError();
    at_b.fill(2);
    (void)pair->finish(request, posted);
    EXPECT_EQ(at_b.firstDifference(2), kSize) << "bytes arrived after the deregistration";
    EXPECT_LT(pair->run(request), 0);
    EXPECT_EQ(at_b.firstDifference(2), kSize);
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Remote, AReportOutlivesTheMemoryThatItIsAbout) {
    Buffer &at_a = buffer(4096), &at_b = buffer(4096);
    nixlXferReqH *request = pair->request(NIXL_WRITE, at_a, at_b);
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS) << nixlx::lastError();
    nixlx::Report before, after;
    EXPECT_EQ(pair->a->getXferReport(request, before), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->invalidateRemoteMD("B"), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(pair->a->deregisterMem(registrationOf({at_a.desc()})), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(pair->a->getXferReport(request, after), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(after.backend, before.backend);
    EXPECT_EQ(after.path, before.path);
    EXPECT_EQ(after.bytes_done, 4096u);
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Remote, ManyThreadsUseOneAgent) {
    constexpr size_t kThreads = 8, kRounds = 100, kSize = 20000;
    Buffer &at_a = buffer(kThreads * kSize), &at_b = buffer(kThreads * kSize);
    registerAt(pair->a, {at_a.desc()});
    registerAt(pair->b, {at_b.desc()});
    pair->exchange();
    std::atomic<size_t> working{kThreads}, wrong{0};
    const auto work = [&](size_t index) {
        Buffer mine(kSize); // for registrations of its own
        nixlAgent &agent = *pair->a.agent;
        const auto local = listOf({at_a.desc(index * kSize, kSize)}),
                   remote = listOf({at_b.desc(index * kSize, kSize)});
        for (size_t round = 0; round < kRounds; ++round) {
            std::memset(at_a.data() + index * kSize, static_cast<int>(round + index), kSize);
            nixlXferReqH *request = nullptr;
            nixl_opt_args_t args;
            args.notif = std::to_string(index);
            nixl_status_t status = agent.createXferReq(NIXL_WRITE, local, remote, "B", request, &args);
            if (status == NIXL_SUCCESS) status = agent.postXferReq(request);
            eventually([&] {
                if (status == NIXL_IN_PROG) status = agent.getXferStatus(request);
                return status != NIXL_IN_PROG;
            });
            wrong += status != NIXL_SUCCESS;
            wrong += std::memcmp(at_a.data() + index * kSize, at_b.data() + index * kSize, kSize) != 0;
            wrong += agent.releaseXferReq(request) != NIXL_SUCCESS;
            wrong += agent.genNotif("B", std::to_string(index)) != NIXL_SUCCESS;
            wrong += agent.registerMem(registrationOf({mine.desc()})) != NIXL_SUCCESS;
            nixl_notifs_t none;
            wrong += agent.getNotifs(none) != NIXL_SUCCESS || !none.empty();
            wrong += agent.deregisterMem(registrationOf({mine.desc()})) != NIXL_SUCCESS;
        }
        --working;
    };
    std::vector<std::thread> threads;
    for (size_t i = 0; i < kThreads; ++i) threads.emplace_back(work, i);
    // The target makes progress meanwhile, and until all messages are there.
    const bool all = eventually([&] {
        EXPECT_EQ(pair->b->getNotifs(pair->b.inbox), NIXL_SUCCESS);
        return !working && pair->b.inbox["A"].size() >= 2 * kThreads * kRounds;
    });
    for (std::thread &thread : threads) thread.join();
    EXPECT_TRUE(all);
    EXPECT_EQ(wrong, 0u);
    std::array<size_t, kThreads> count{};
    for (const std::string &message : pair->b.inbox["A"]) ++count.at(std::stoul(message));
    for (size_t of_thread : count) EXPECT_EQ(of_thread, 2 * kRounds);
}

TEST_P(Remote, MetadataChangesUnderRunningTransfers) {
    constexpr size_t kSize = 20000;
    Buffer &at_a = buffer(kSize), &at_b = buffer(kSize);
    registerAt(pair->a, {at_a.desc()});
    registerAt(pair->b, {at_b.desc()});
    pair->exchange();
    const nixl_blob_t blob = pair->b.metadata();
    std::atomic<bool> stop{false}, stopped{false};
    std::atomic<size_t> done{0}, wrong{0};
    std::thread poster([&] {
        nixlAgent &agent = *pair->a.agent;
        while (!stop) {
            nixlXferReqH *request = nullptr;
            nixl_status_t status =
                agent.createXferReq(NIXL_WRITE, listOf({at_a.desc()}), listOf({at_b.desc()}), "B", request);
            if (status == NIXL_SUCCESS) status = agent.postXferReq(request);
            eventually([&] {
                if (status == NIXL_IN_PROG) status = agent.getXferStatus(request);
                return status != NIXL_IN_PROG;
            });
            // Either it was done, or B was not known at that moment.
            wrong += status != NIXL_SUCCESS && status != NIXL_ERR_NOT_FOUND;
            done += status == NIXL_SUCCESS;
            if (request) eventually([&] { return agent.releaseXferReq(request) != NIXL_ERR_REPOST_ACTIVE; });
        }
        stopped = true;
    });
    for (int round = 0; round < 200; ++round) {
        EXPECT_EQ(pair->a->invalidateRemoteMD("B"), NIXL_SUCCESS);
        std::string agent;
        EXPECT_EQ(pair->a->loadRemoteMD(blob, agent), NIXL_SUCCESS) << nixlx::lastError();
        EXPECT_EQ(pair->b->getNotifs(pair->b.inbox), NIXL_SUCCESS);
    }
    // At least one goes through once it is quiet.
    const size_t before = done;
    EXPECT_TRUE(eventually([&] {
        EXPECT_EQ(pair->b->getNotifs(pair->b.inbox), NIXL_SUCCESS);
        return done > before;
    }));
    stop = true;
    eventually([&] {
        EXPECT_EQ(pair->b->getNotifs(pair->b.inbox), NIXL_SUCCESS);
        return stopped.load();
    });
    poster.join();
    EXPECT_EQ(wrong, 0u);
}

} // namespace
} // namespace nx::test
