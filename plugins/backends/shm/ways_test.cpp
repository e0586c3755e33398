// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: a transfer is right whichever way its bytes go, and whatever happens to that way meanwhile: the peer looks or
// stops looking, the kernel copies or refuses from one call to the next.
// Method: agents of one process that are to each other like those of two (link.cpp); seccomp filters, which hold for
// the thread that sets them.
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <thread>

#include <gtest/gtest.h>

#include "nixlx/engine.h"
#include "support/agent_pair.h"
#include "support/eventually.h"

namespace nx::test {
namespace {

constexpr size_t kLarge = size_t{24} << 20, kSmall = 4096;
constexpr const char *kByKernel = "shared memory, copied by the kernel";
constexpr const char *kByBoth = "shared memory, copied by both sides";

/// The calling thread may not copy between processes any more.
bool
forbidKernelCopies() {
    const sock_filter with_eperm = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 0, 1),
        with_eperm,
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_writev, 0, 1),
        with_eperm,
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog program{sizeof filter / sizeof *filter, filter};
    return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

class Ways : public testing::TestWithParam<PairOptions> {
protected:
    Ways() : at_a_(kLarge), at_b_(kLarge), pair_(GetParam()) {}

    /// A request between the first `size` bytes of both; its memory is registered once.
    nixlXferReqH *
    request(nixl_xfer_op_t operation, size_t size) {
        if (!exchanged_) {
            require(pair_.a->registerMem(registrationOf({at_a_.desc()})), "register");
            require(pair_.b->registerMem(registrationOf({at_b_.desc()})), "register");
            pair_.exchange();
            exchanged_ = true;
        }
        nixlXferReqH *made = nullptr;
        require(
            pair_.a->createXferReq(operation, listOf({at_a_.desc(0, size)}), listOf({at_b_.desc(0, size)}), "B", made),
            "create");
        return made;
    }

    /// Moves bytes that say which round it is; how they went.
    std::string
    move(nixlXferReqH *request, nixl_xfer_op_t operation, size_t size, uint64_t round) {
        Buffer &from = operation == NIXL_WRITE ? at_a_ : at_b_, &to = operation == NIXL_WRITE ? at_b_ : at_a_;
        std::memset(from.data(), static_cast<int>(round % 251 + 1), size);
        std::memset(to.data(), 0, size);
        nixl_status_t status = pair_.a->postXferReq(request);
        EXPECT_TRUE(eventually([&] {
            if (status == NIXL_IN_PROG) status = pair_.a->getXferStatus(request);
            return status != NIXL_IN_PROG;
        }));
        EXPECT_EQ(status, NIXL_SUCCESS) << nixlx::lastError();
        EXPECT_EQ(std::memcmp(from.data(), to.data(), size), 0) << "round " << round;
        nixlx::Report report;
        EXPECT_EQ(pair_.a->getXferReport(request, report), NIXL_SUCCESS);
        EXPECT_EQ(report.bytes_done, size);
        return report.path;
    }

    Buffer at_a_, at_b_;
    AgentPair pair_;
    bool exchanged_ = false;
};

INSTANTIATE_TEST_SUITE_P(Shm,
                         Ways,
                         testing::Values(PairOptions{.backend = "SHM", .params = {}, .progress_thread = false},
                                         PairOptions{.backend = "SHM", .params = {}, .progress_thread = true}),
                         [](const auto &info) { return info.param.progress_thread ? "Threaded" : "Polled"; });

TEST_P(Ways, APeerTakesItsShareWhileItLooksAndOfLargeTransfers) {
    for (const auto operation : {NIXL_WRITE, NIXL_READ}) {
        for (const size_t size : {kSmall, kLarge}) {
            nixlXferReqH *const made = request(operation, size);
            std::atomic<bool> looks{true};
            std::thread peer([&] {
                nixl_notifs_t none;
                while (looks) EXPECT_EQ(pair_.b->getNotifs(none), NIXL_SUCCESS);
            });
            uint64_t round = 0;
            EXPECT_TRUE(eventually([&] { return move(made, operation, size, ++round) == kByBoth; }));
            looks = false;
            peer.join();
            // A large one wakes the peer for its share.
            const char *const now = size == kSmall ? kByKernel : kByBoth;
            EXPECT_TRUE(eventually([&] { return move(made, operation, size, ++round) == now; }));
            EXPECT_EQ(pair_.a->releaseXferReq(made), NIXL_SUCCESS);
        }
    }
}

TEST_P(Ways, WhatTheKernelRefusesMidwayGoesThroughTheRelay) {
    nixlXferReqH *const small = request(NIXL_READ, kSmall), *const large = request(NIXL_WRITE, kLarge);
    EXPECT_EQ(move(small, NIXL_READ, kSmall, 1), kByKernel);
    bool forbidden = false;
    std::thread restricted([&] {
        forbidden = forbidKernelCopies();
        if (!forbidden) return;
        EXPECT_EQ(move(large, NIXL_WRITE, kLarge, 2), kByBoth);
        EXPECT_EQ(move(small, NIXL_READ, kSmall, 3), kByBoth);
    });
    restricted.join();
    if (!forbidden) GTEST_SKIP() << "the system takes no seccomp filters";
    EXPECT_EQ(move(small, NIXL_READ, kSmall, 4), kByBoth) << "it stays with that";
    for (nixlXferReqH *made : {small, large}) EXPECT_EQ(pair_.a->releaseXferReq(made), NIXL_SUCCESS);
}

TEST_P(Ways, ACancelledRequestGivesTheRelayBack) {
    nixlXferReqH *const large = request(NIXL_WRITE, kLarge), *const small = request(NIXL_WRITE, kSmall);
    std::atomic<bool> looks{true};
    std::thread peer([&] {
        nixl_notifs_t none;
        while (looks) EXPECT_EQ(pair_.b->getNotifs(none), NIXL_SUCCESS);
    });
    uint64_t round = 0;
    EXPECT_TRUE(eventually([&] { return move(large, NIXL_WRITE, kLarge, ++round) == kByBoth; }));
    for (size_t i = 0; i < 50; ++i) {
        nixl_status_t status = pair_.a->postXferReq(large);
        EXPECT_GE(pair_.a->cancelXferReq(large), 0) << nixlx::lastError();
        EXPECT_TRUE(eventually([&] {
            if (status == NIXL_IN_PROG) status = pair_.a->getXferStatus(large);
            return status != NIXL_IN_PROG;
        }));
    }
    EXPECT_TRUE(eventually([&] { return move(small, NIXL_WRITE, kSmall, ++round) == kByBoth; }));
    looks = false;
    peer.join();
    for (nixlXferReqH *made : {small, large}) EXPECT_EQ(pair_.a->releaseXferReq(made), NIXL_SUCCESS);
}

} // namespace
} // namespace nx::test
