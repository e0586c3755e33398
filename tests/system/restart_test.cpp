// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: a peer can die and return as often as it likes; its survivor neither misses an end nor keeps anything of it.
// Method: one name, many processes, half of them killed and half closed, each used and then missed; descriptors,
// threads and memory are counted. NIXL_TEST_RESTARTS sets how many there are for each way to meet.
#include "system/survivor.h"

#include <filesystem>
#include <fstream>
#include <malloc.h>

#include "nixlx/engine.h"

namespace nx::test {
namespace {

constexpr size_t kSize = size_t{1} << 20;
constexpr int kWarmUp = 10;

struct Usage {
    size_t descriptors, threads;
    int64_t resident_bytes;
};

size_t
entries(const char *folder) {
    const std::filesystem::directory_iterator each(folder);
    return static_cast<size_t>(std::distance(begin(each), end(each)));
}

Usage
usage() {
    malloc_trim(0);
    int64_t size_pages = 0, resident_pages = 0;
    std::ifstream("/proc/self/statm") >> size_pages >> resident_pages;
    return {entries("/proc/self/fd"), entries("/proc/self/task"), resident_pages * sysconf(_SC_PAGESIZE)};
}

class Restarts : public Survivor {
protected:
    /// One life of the peer, with transfers both ways.
    void
    liveOnce(int round, const Buffer &local) {
        const auto seed = static_cast<uint64_t>(round);
        PeerProcess peer("B", options());
        const nixlBasicDesc there = peer.offer(kSize, seed);
        meet(peer);
        nixlXferReqH *read = nullptr, *write = nullptr;
        nixl_opt_args_t args;
        args.notif = "round " + std::to_string(round);
        require(a->createXferReq(NIXL_READ, listOf({local.desc()}), listOf({there}), "B", read), "create");
        require(a->createXferReq(NIXL_WRITE, listOf({local.desc()}), listOf({there}), "B", write, &args), "create");
        ASSERT_EQ(finish(read, a->postXferReq(read)), NIXL_SUCCESS) << nixlx::lastError();
        ASSERT_TRUE(local.holds(seed));
        local.fill(seed + 1);
        ASSERT_EQ(finish(write, a->postXferReq(write)), NIXL_SUCCESS) << nixlx::lastError();
        ASSERT_EQ(peer.ask("holds " + std::to_string(seed + 1)), "yes");
        peer.ask("notify A hello");
        ASSERT_TRUE(eventually([&] {
            require(a->getNotifs(a.inbox), "notifications");
            return a.inbox["B"].size() == 1;
        }));
        a.inbox.clear();

        if (round % 2) {
            ASSERT_EQ(peer.quit(), 0);
        } else {
            peer.kill();
        }
        nixl_status_t status = NIXL_SUCCESS;
        ASSERT_TRUE(eventually([&] { return (status = finish(read, a->postXferReq(read))) < 0; }));
        ASSERT_EQ(status, NIXL_ERR_REMOTE_DISCONNECT) << nixlx::lastError();
        ASSERT_EQ(a->releaseXferReq(read), NIXL_SUCCESS);
        ASSERT_EQ(a->releaseXferReq(write), NIXL_SUCCESS);
    }
};

INSTANTIATE_TEST_SUITE_P(Ucx, Restarts, allSetups(), nameOf);
INSTANTIATE_TEST_SUITE_P(Shm, Restarts, localSetups("SHM"), nameOf);

TEST_P(Restarts, LeaveNothingBehind) {
    const int rounds = std::stoi(nixlx::configValue("NIXL_TEST_RESTARTS").value_or("50"));
    ASSERT_GT(rounds, kWarmUp);
    const Buffer &local = registered(kSize);
    Usage before{};
    for (int round = 0; round < rounds; ++round) {
        SCOPED_TRACE("round " + std::to_string(round));
        ASSERT_NO_FATAL_FAILURE(liveOnce(round, local));
        if (round + 1 == kWarmUp) before = usage();
    }
    const Usage after = usage();
    // A link ends on a thread of its own: one or two may still be there at either moment.
    EXPECT_LE(after.descriptors, before.descriptors + 2);
    EXPECT_EQ(after.threads, before.threads);
    const int64_t growth = after.resident_bytes - before.resident_bytes;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) // they keep what is freed, and more beside it
    EXPECT_LE(growth, int64_t{2} << 20);
#endif
    std::cout << rounds << " restarts: " << after.descriptors << " descriptors, " << after.threads << " threads, "
              << after.resident_bytes / 1024 << " KiB, which is " << growth / 1024 << " KiB more than after " << kWarmUp
              << "\n";
}

} // namespace
} // namespace nx::test
