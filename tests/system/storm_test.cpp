// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: peers may come, grow, shrink, leave and die while others transfer; every request ends, with one of few
// statuses, and what succeeded is right. Method: eight threads of one agent move and compare bytes while another
// changes its peers at random. NIXL_TEST_SEED repeats a run's changes; the thread sanitizer watches the run over
// LOOPBACK.
#include <atomic>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "nixlx/engine.h"
#include "support/agent_pair.h"

namespace nx::test {
namespace {

constexpr size_t kThreads = 8, kPeers = 4;
// Of each thread in each half of a peer's memory. The first's are in flight for several calls.
constexpr size_t kLarge = size_t{5} << 20, kSmall = 32 << 10;
constexpr size_t kHalf = kLarge + (kThreads - 1) * kSmall;

struct Slice {
    size_t offset, size;
};

Slice
sliceOf(size_t thread) {
    return thread == 0 ? Slice{0, kLarge} : Slice{kLarge + (thread - 1) * kSmall, kSmall};
}

std::string
peerName(size_t index) {
    return "peer-" + std::to_string(index);
}

bool
isAllowed(nixl_status_t status) {
    return status == NIXL_SUCCESS || status == NIXL_ERR_NOT_FOUND || status == NIXL_ERR_REMOTE_DISCONNECT;
}

class Storm : public testing::TestWithParam<PairOptions> {
protected:
    Storm() : seed_(chooseSeed()), hub_("hub", GetParam()), memory_(kHalf) {
        std::cout << "seed " << seed_ << "\n";
        for (size_t i = 0; i < kPeers; ++i) peers_.push_back(std::make_unique<Buffer>(2 * kHalf));
        require(hub_->registerMem(registrationOf({memory_.desc()})), "register at hub");
    }

    /// What one of the eight does until `stop_`.
    void
    transfer(size_t thread) {
        std::mt19937_64 random(seed_ + 1 + thread);
        const auto [offset, size] = sliceOf(thread);
        nixlDlistH *local = nullptr;
        require(hub_->prepXferDlist("", listOf({memory_.desc(offset, size)}), local), "prepare");
        std::vector<nixlDlistH *> remote(kPeers); // prepared, perhaps for a start that is gone
        for (uint64_t round = 0; !stop_; ++round) {
            const size_t peer = random() % kPeers, half = random() % 2;
            const nixlBasicDesc there = peers_[peer]->desc(half * kHalf + offset, size);
            const auto operation = random() % 2 ? NIXL_READ : NIXL_WRITE;
            const auto pattern = static_cast<int>(round + thread);
            std::memset(memory_.data() + offset, operation == NIXL_WRITE ? pattern : ~pattern, size);
            if (operation == NIXL_READ) std::memset(reinterpret_cast<void *>(there.addr), pattern, size);

            nixl_opt_args_t args;
            if (random() % 2) args.notif = "x";
            nixlXferReqH *request = nullptr;
            nixl_status_t status;
            if (half == 0 && random() % 2) {
                if (!remote[peer]) note(hub_->prepXferDlist(peerName(peer), listOf({there}), remote[peer]));
                if (!remote[peer]) continue;
                status = hub_->makeXferReq(operation, local, {0}, remote[peer], {0}, request, &args);
                if (status != NIXL_SUCCESS) {
                    wrong_ += hub_->releasedDlistH(std::exchange(remote[peer], nullptr)) != NIXL_SUCCESS;
                }
            } else {
                status = hub_->createXferReq(operation, listOf({memory_.desc(offset, size)}), listOf({there}),
                                             peerName(peer), request, &args);
            }
            note(status);
            for (uint64_t posts = 1 + random() % 3; posts && request; --posts) {
                status = hub_->postXferReq(request);
                wrong_ += !eventually([&] {
                    if (status == NIXL_IN_PROG) status = hub_->getXferStatus(request);
                    return status != NIXL_IN_PROG;
                });
                note(status);
                if (status != NIXL_SUCCESS) break;
                ++done_;
                wrong_ += std::memcmp(memory_.data() + offset, reinterpret_cast<void *>(there.addr), size) != 0;
                wrong_ += memory_.data()[offset] != static_cast<unsigned char>(pattern);
            }
            if (request) wrong_ += hub_->releaseXferReq(request) != NIXL_SUCCESS;
            note(hub_->genNotif(peerName(peer), "hello"));
        }
        for (nixlDlistH *list : remote) {
            if (list) wrong_ += hub_->releasedDlistH(list) != NIXL_SUCCESS;
        }
    }

    /// One change of one peer, by the only thread that touches them.
    void
    change(std::mt19937_64 &random) {
        const size_t index = random() % kPeers;
        auto &peer = live_[index];
        const nixl_reg_dlist_t base = registrationOf({peers_[index]->desc(0, kHalf)}),
                               more = registrationOf({peers_[index]->desc(kHalf, kHalf)});
        const auto load = [&] {
            hub_.load(peer->metadata());
            ++changes_;
        };
        if (!peer) {
            peer = std::make_unique<PairedAgent>(peerName(index), GetParam());
            require((*peer)->registerMem(base), "register");
            peer->load(hub_.metadata());
            grown_[index] = false;
            return load();
        }
        switch (random() % 4) {
        case 0: // grows
            require((*peer)->registerMem(more), "grow");
            grown_[index] = true;
            return load();
        case 1: // shrinks
            if (grown_[index]) require((*peer)->deregisterMem(more), "shrink");
            grown_[index] = false;
            [[fallthrough]];
        case 2: // is removed and loaded again
            require(hub_->invalidateRemoteMD(peerName(index)), "remove");
            return load();
        default: // leaves, known to the hub or not
            if (random() % 2) require(hub_->invalidateRemoteMD(peerName(index)), "remove");
            peer.reset();
            ++changes_;
        }
    }

    void
    fetchNotifications() {
        nixl_notifs_t arrived;
        require(hub_->getNotifs(arrived), "notifications of hub");
        for (const auto &peer : live_) {
            if (peer) require((*peer)->getNotifs(arrived), "notifications");
        }
    }

    void
    note(nixl_status_t status) {
        if (isAllowed(status)) return;
        ++wrong_;
        ADD_FAILURE() << nixlEnumStrings::statusStr(status) << ": " << nixlx::lastError();
    }

    static uint64_t
    chooseSeed() {
        const auto given = nixlx::configValue("NIXL_TEST_SEED");
        return given ? std::stoull(*given) : std::random_device()();
    }

    const uint64_t seed_;
    std::vector<std::unique_ptr<Buffer>> peers_; ///< outlive all agents
    PairedAgent hub_;
    Buffer memory_;
    std::array<std::unique_ptr<PairedAgent>, kPeers> live_;
    std::array<bool, kPeers> grown_{};
    size_t changes_ = 0;
    std::atomic<bool> stop_{false};
    std::atomic<size_t> wrong_{0}, done_{0};
};

INSTANTIATE_TEST_SUITE_P(Loopback,
                         Storm,
                         testing::Values(PairOptions{"LOOPBACK", {}, false}, PairOptions{"LOOPBACK", {}, true}));
INSTANTIATE_TEST_SUITE_P(Shm, Storm, testing::Values(PairOptions{"SHM", {}, false}, PairOptions{"SHM", {}, true}));
INSTANTIATE_TEST_SUITE_P(Ucx, Storm, testing::Values(PairOptions{"UCX", {}, true}));

TEST_P(Storm, OfPeersLeavesTransfersRight) {
    const size_t changes = GetParam().backend == "UCX" ? 60 : 300;
    std::mt19937_64 random(seed_);
    std::vector<std::thread> threads;
    for (size_t i = 0; i < kThreads; ++i) threads.emplace_back([this, i] { transfer(i); });
    try {
        while (changes_ < changes) {
            change(random);
            // Some transfers between any two changes.
            const size_t before = done_;
            const bool some = std::any_of(live_.begin(), live_.end(), [](const auto &peer) { return peer != nullptr; });
            eventually([&] {
                fetchNotifications();
                return !some || done_ > before || wrong_;
            });
        }
    }
    catch (const std::exception &error) {
        ADD_FAILURE() << error.what();
    }
    stop_ = true;
    for (std::thread &thread : threads) thread.join();
    EXPECT_EQ(wrong_, 0u);
    EXPECT_GE(done_, changes / 2);
    std::cout << changes_ << " changes, " << done_ << " transfers\n";
}

} // namespace
} // namespace nx::test
