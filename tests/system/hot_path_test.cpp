// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: between the post of a request over SHM and its end nothing is allocated, and no mutex is taken that anybody may
// hold who works on another request or with another peer. Method: peers in processes of their own; this program's own
// operator new and pthread_mutex_lock count what the thread that posts does.
#include <algorithm>
#include <iterator>
#include <list>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nixlx/report.h"
#include "support/lock_watch.h"
#include "support/no_memory.h"
#include "support/peer_process.h"

namespace nx::test {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr size_t kBlocks = 64;
constexpr size_t kBlock = 256; // less than what a peer that looks takes its share of, which wakes progress threads
constexpr size_t kSize = 2 * kBlocks * kBlock; // of a peer's memory: blocks that do not touch

/// Which memory of the peer, and whether there is a progress thread here.
struct Kind {
    bool mapped;
    bool progress_thread;
};

std::string
nameOf(const testing::TestParamInfo<Kind> &info) {
    return std::string(info.param.mapped ? "Mapped" : "Private") + (info.param.progress_thread ? "Threaded" : "Polled");
}

PairOptions
options() {
    return {"SHM", {}, false};
}

class HotPath : public testing::TestWithParam<Kind> {
protected:
    struct Peer {
        explicit Peer(const std::string &name) : process(name, options()) {}

        PeerProcess process;
        nixlBasicDesc there{0, 0, 0};
    };

    HotPath() : local_(kSize), a_("A", {"SHM", {}, GetParam().progress_thread}) {
        require(a_->registerMem(registrationOf({local_.desc()})), "register");
        for (const char *name : {"B", "C"}) {
            Peer &peer = peers_.emplace_back(name);
            const std::string where =
                peer.process.ask((GetParam().mapped ? "share " : "register ") + std::to_string(kSize) + " 1");
            peer.there = {std::stoull(where), kSize, 0};
            a_.load(peer.process.metadata());
            peer.process.load(a_.metadata());
        }
    }

    nixlXferReqH *
    request(nixl_xfer_op_t operation, const Peer &peer) {
        nixl_xfer_dlist_t here(DRAM_SEG), there(DRAM_SEG);
        for (size_t i = 0; i < kBlocks; ++i) {
            here.addDesc(local_.desc(2 * i * kBlock, kBlock));
            there.addDesc({peer.there.addr + 2 * i * kBlock, kBlock, 0});
        }
        nixlXferReqH *made = nullptr;
        require(a_->createXferReq(operation, here, there, peer.process.name, made), "create");
        return made;
    }

    /// A post to its end. Nothing of this test allocates in it.
    nixl_status_t
    run(nixlXferReqH *request, const nixl_opt_args_t *args) const {
        nixl_status_t status = a_->postXferReq(request, args);
        while (status == NIXL_IN_PROG) status = a_->getXferStatus(request);
        return status;
    }

    std::set<const void *>
    locksOf(nixlXferReqH *request, const nixl_opt_args_t *args) const {
        const LockWatch watch;
        EXPECT_EQ(run(request, args), NIXL_SUCCESS);
        EXPECT_EQ(a_->getXferStatus(request), NIXL_SUCCESS);
        return watch.taken();
    }

    static std::set<const void *>
    common(const std::set<const void *> &one, const std::set<const void *> &other) {
        std::set<const void *> both;
        std::set_intersection(one.begin(), one.end(), other.begin(), other.end(), std::inserter(both, both.begin()));
        return both;
    }

    const Buffer local_; // outlives the agent
    PairedAgent a_;
    std::list<Peer> peers_;
};

INSTANTIATE_TEST_SUITE_P(Shm,
                         HotPath,
                         testing::Values(Kind{false, false}, Kind{false, true}, Kind{true, false}, Kind{true, true}),
                         nameOf);

TEST_P(HotPath, TakesTheWayThatItIsAbout) {
    nixlx::Report report;
    require(a_->getXferReport(request(NIXL_WRITE, peers_.front()), report), "report");
    EXPECT_EQ(report.path, GetParam().mapped ? "shared memory, mapped" : "shared memory, copied by the kernel");
}

TEST_P(HotPath, AllocatesNothing) {
    nixl_opt_args_t short_note, long_note;
    short_note.notif = "done";
    long_note.notif = std::string(3000, 'n');
    PeerProcess &process = peers_.front().process;
    size_t sent = 0;
    for (const nixl_xfer_op_t operation : {NIXL_WRITE, NIXL_READ}) {
        nixlXferReqH *const made = request(operation, peers_.front());
        for (const nixl_opt_args_t *args :
             {static_cast<const nixl_opt_args_t *>(nullptr), static_cast<const nixl_opt_args_t *>(&short_note),
              static_cast<const nixl_opt_args_t *>(&long_note)}) {
            for (int i = 0; i < 20; ++i) {
                const uint64_t before = allocationCount();
                const nixl_status_t status = run(made, args);
                const nixl_status_t again = a_->getXferStatus(made);
                const uint64_t allocations = allocationCount() - before;
                ASSERT_EQ(status, NIXL_SUCCESS) << nixlx::lastError();
                ASSERT_EQ(again, NIXL_SUCCESS);
                // What finds no room in the ring is kept, and that takes memory.
                sent += args != nullptr;
                ASSERT_TRUE(eventually([&] { return process.ask("received") == std::to_string(sent); }));
                // The first of a longer notification may: the request keeps the text, with its room, for later posts.
                if (i > 0 || !args || args == &short_note) {
                    ASSERT_EQ(allocations, 0u) << "post " << i << (args ? " with" : " without") << " notification";
                }
            }
        }
        EXPECT_EQ(a_->releaseXferReq(made), NIXL_SUCCESS);
    }
}

TEST_P(HotPath, TakesNoLockThatAnotherRequestOrPeerCanHold) {
    if (!LockWatch::works()) GTEST_SKIP() << "the thread sanitizer needs pthread_mutex_lock for itself";
    nixlXferReqH *const first = request(NIXL_WRITE, peers_.front()), *const second = request(NIXL_READ, peers_.front()),
                        *const other = request(NIXL_WRITE, peers_.back());
    const auto locks = locksOf(first, nullptr);
    EXPECT_THAT(locks, testing::Not(IsEmpty())) << "the watch sees those of the request";
    EXPECT_THAT(common(locks, locksOf(second, nullptr)), IsEmpty());
    EXPECT_THAT(common(locks, locksOf(other, nullptr)), IsEmpty());
    // A notification goes through the outbox, which is one for each peer.
    nixl_opt_args_t args;
    args.notif = "done";
    const auto noting = locksOf(first, &args);
    EXPECT_THAT(common(noting, locksOf(second, &args)), SizeIs(1));
    EXPECT_THAT(common(noting, locksOf(other, &args)), IsEmpty());
}

} // namespace
} // namespace nx::test
