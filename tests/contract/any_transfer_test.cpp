// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Every byte arrives where it belongs and no other changes, for all shapes of requests; and the life of a request:
// posted again, posted while active, released while active.
#include <algorithm>
#include <fstream>
#include <numeric>
#include <random>

#include "contract/contract.h"

namespace nx::test {
namespace {

TEST_P(Any, MovesEverySizeFromEveryAlignment) {
    constexpr size_t kRoom = 3 << 20;
    Buffer &at_a = buffer(kRoom);
    registerAt(pair->a, {at_a.desc()});
    FarSide &far = farSide(kRoom);
    uint64_t seed = 0;
    for (const size_t size : {size_t{1}, size_t{3}, size_t{64}, size_t{4095}, size_t{4096}, size_t{8193}, size_t{65537},
                              (size_t{2} << 20) + 1}) {
        for (const auto &[from_offset, to_offset] : {std::pair<size_t, size_t>{0, 0}, {1, 0}, {7, 4093}}) {
            for (nixl_xfer_op_t operation : {NIXL_WRITE, NIXL_READ}) {
                SCOPED_TRACE(std::to_string(size) + " bytes " + nixlEnumStrings::xferOpStr(operation));
                const Buffer &from = operation == NIXL_WRITE ? at_a : far.image();
                const Buffer &to = operation == NIXL_WRITE ? far.image() : at_a;
                const size_t at_a_offset = operation == NIXL_WRITE ? from_offset : to_offset;
                const size_t far_offset = operation == NIXL_WRITE ? to_offset : from_offset;
                from.fill(++seed);
                std::memset(to.data(), 0x5a, std::min(kRoom, to_offset + size + 4096));
                far.push();
                nixlXferReqH *request = makeRequest(operation, listOf({at_a.desc(at_a_offset, size)}),
                                                    far.list({far.desc(far_offset, size)}));
                ASSERT_EQ(pair->run(request), NIXL_SUCCESS);
                EXPECT_EQ(pair->a->getXferStatus(request), NIXL_SUCCESS);
                far.pull();
                EXPECT_EQ(std::memcmp(to.data() + to_offset, from.data() + from_offset, size), 0);
                EXPECT_TRUE(to_offset == 0 || to.data()[to_offset - 1] == 0x5a);
                EXPECT_EQ(to.data()[to_offset + size], 0x5a);
                ASSERT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
            }
        }
    }
}

TEST_P(Any, ElementsOfLengthZeroMoveNothing) {
    Buffer &at_a = buffer(100);
    registerAt(pair->a, {at_a.desc()});
    FarSide &far = farSide(100);
    at_a.fill(1);
    nixlXferReqH *request = makeRequest(NIXL_WRITE, listOf({at_a.desc(10, 0)}), far.list({far.desc(20, 0)}));
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
    far.pull();
    EXPECT_TRUE(far.image().isZero());
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
    // Between elements that do move something.
    request = makeRequest(NIXL_WRITE, listOf({at_a.desc(0, 10), at_a.desc(50, 0), at_a.desc(90, 10)}),
                          far.list({far.desc(0, 10), far.desc(100, 0), far.desc(90, 10)}));
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
    far.pull();
    EXPECT_EQ(std::memcmp(far.image().data(), at_a.data(), 10), 0);
    EXPECT_EQ(std::memcmp(far.image().data() + 90, at_a.data() + 90, 10), 0);
    EXPECT_EQ(std::count(far.image().data() + 10, far.image().data() + 90, 0), 80);
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Any, MovesMoreThanTwoGibibytesInOneBlock) {
    constexpr size_t kSize = (size_t{2} << 30) + 1;
#ifdef __SANITIZE_THREAD__
    GTEST_SKIP() << "the thread sanitizer needs many times the memory";
#endif
    size_t available = 0;
    std::ifstream meminfo("/proc/meminfo");
    for (std::string word; meminfo >> word;) {
        if (word == "MemAvailable:" && meminfo >> available) break;
    }
    available *= 1024;
    if (available < 3 * kSize) {
        GTEST_SKIP() << "needs " << (3 * kSize >> 20) << " MiB of memory, " << (available >> 20)
                     << " MiB are available";
    }
    Buffer &at_a = buffer(kSize);
    at_a.fill(1);
    registerAt(pair->a, {at_a.desc()});
    FarSide &far = farSide(kSize);
    nixlXferReqH *request = makeRequest(NIXL_WRITE, listOf({at_a.desc()}), far.list());
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
    far.pull();
    EXPECT_EQ(std::memcmp(far.image().data(), at_a.data(), kSize), 0);
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

// ---- Many descriptors

constexpr size_t kMany = 100000;
constexpr size_t kBlock = 48;

TEST_P(Any, CreatesARequestOfAHundredThousandDescriptors) {
    Buffer &at_a = buffer(kMany * kBlock);
    registerAt(pair->a, {at_a.desc()});
    FarSide &far = farSide(2 * kMany * kBlock);
    at_a.fill(1);
    std::vector<size_t> places(kMany);
    std::iota(places.begin(), places.end(), 0);
    std::shuffle(places.begin(), places.end(), std::mt19937_64(1));
    nixl_xfer_dlist_t local(DRAM_SEG), remote(far.memory());
    for (size_t i = 0; i < kMany; ++i) {
        local.addDesc(at_a.desc(i * kBlock, kBlock));
        remote.addDesc(far.desc(2 * places[i] * kBlock, kBlock));
    }
    nixlXferReqH *request = makeRequest(NIXL_WRITE, local, remote);
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
    far.pull();
    for (size_t i = 0; i < kMany; ++i) {
        const unsigned char *place = far.image().data() + 2 * places[i] * kBlock;
        ASSERT_EQ(std::memcmp(place, at_a.data() + i * kBlock, kBlock), 0) << "block " << i;
        ASSERT_EQ(std::count(place + kBlock, place + 2 * kBlock, 0), static_cast<ptrdiff_t>(kBlock)) << "gap " << i;
    }
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Any, MakesRequestsFromPreparedListsByPermutedIndices) {
    Buffer &at_a = buffer(kMany * kBlock);
    registerAt(pair->a, {at_a.desc()});
    FarSide &far = farSide(kMany * kBlock);
    nixl_xfer_dlist_t local(DRAM_SEG), remote(far.memory());
    for (size_t i = 0; i < kMany; ++i) {
        local.addDesc(at_a.desc(i * kBlock, kBlock));
        remote.addDesc(far.desc(i * kBlock, kBlock));
    }
    nixlDlistH *local_list = prepare("", local), *remote_list = prepare(farAgent(), remote);
    std::vector<int> from(kMany), to(kMany);
    std::iota(from.begin(), from.end(), 0);
    std::iota(to.begin(), to.end(), 0);
    std::shuffle(from.begin(), from.end(), std::mt19937_64(2));
    std::shuffle(to.begin(), to.end(), std::mt19937_64(3));
    nixl_opt_args_t unmerged;
    unmerged.skipDescMerge = true;
    for (const nixl_opt_args_t *args : {static_cast<nixl_opt_args_t *>(nullptr), &unmerged}) {
        at_a.fill(4);
        far.image().clear();
        far.push();
        nixlXferReqH *request = nullptr;
        require(pair->a->makeXferReq(NIXL_WRITE, local_list, from, remote_list, to, request, args), "make");
        EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
        far.pull();
        for (size_t i = 0; i < kMany; ++i) {
            ASSERT_EQ(std::memcmp(far.image().data() + to[i] * kBlock, at_a.data() + from[i] * kBlock, kBlock), 0) << i;
        }
        EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
    }
    // A part, some elements twice, read.
    far.image().fill(5);
    far.push();
    at_a.clear();
    const std::vector<int> some_local{5, 7, 99999, 0}, some_remote{1, 1, 0, 99999};
    nixlXferReqH *request = nullptr;
    require(pair->a->makeXferReq(NIXL_READ, local_list, some_local, remote_list, some_remote, request), "make");
    EXPECT_EQ(pair->a->releasedDlistH(local_list), NIXL_SUCCESS) << "a request outlives its lists";
    EXPECT_EQ(pair->a->releasedDlistH(remote_list), NIXL_SUCCESS);
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
    for (size_t i = 0; i < some_local.size(); ++i) {
        EXPECT_EQ(
            std::memcmp(at_a.data() + some_local[i] * kBlock, far.image().data() + some_remote[i] * kBlock, kBlock), 0);
    }
    EXPECT_EQ(std::count(at_a.data() + 8 * kBlock, at_a.data() + 99999 * kBlock, 0),
              static_cast<ptrdiff_t>(99991 * kBlock));
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Any, MakesRequestsFromStridedLists) {
    constexpr size_t kCount = 1000, kLength = 40, kStride = 100;
    Buffer &at_a = buffer(kCount * kLength);
    registerAt(pair->a, {at_a.desc()});
    FarSide &far = farSide(kCount * kStride);
    at_a.fill(1);
    const nixlBasicDesc start = far.desc();
    nixlDescList<nixlStrideDesc> local(DRAM_SEG), remote(far.memory());
    local.addDesc(nixlStrideDesc(at_a.address(), kLength, 0, kLength, kCount));
    remote.addDesc(nixlStrideDesc(start.addr, kLength, start.devId, kStride, kCount / 2));
    remote.addDesc(nixlStrideDesc(start.addr + kCount / 2 * kStride, kLength, start.devId, kStride, kCount / 2));
    nixlDlistH *local_list = nullptr, *remote_list = nullptr;
    require(pair->a->prepXferDlist(local, local_list), "prepare");
    require(pair->a->prepXferDlist(farAgent(), remote, remote_list), "prepare");
    std::vector<int> forwards(kCount), backwards(kCount);
    std::iota(forwards.begin(), forwards.end(), 0);
    std::iota(backwards.rbegin(), backwards.rend(), 0);
    for (const std::vector<int> &to : {forwards, backwards}) {
        far.image().clear();
        far.push();
        nixlXferReqH *request = nullptr;
        require(pair->a->makeXferReq(NIXL_WRITE, local_list, forwards, remote_list, to, request), "make");
        EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
        far.pull();
        for (size_t i = 0; i < kCount; ++i) {
            const unsigned char *place = far.image().data() + to[i] * kStride;
            ASSERT_EQ(std::memcmp(place, at_a.data() + i * kLength, kLength), 0) << i;
            ASSERT_EQ(std::count(place + kLength, place + kStride, 0), static_cast<ptrdiff_t>(kStride - kLength)) << i;
        }
        EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
    }
    EXPECT_EQ(pair->a->releasedDlistH(local_list), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->releasedDlistH(remote_list), NIXL_SUCCESS);
}

// ---- What is refused

TEST_P(Any, ListsMustMatch) {
    Buffer &at_a = buffer(100);
    registerAt(pair->a, {at_a.desc()});
    FarSide &far = farSide(100);
    nixlXferReqH *request = nullptr;
    const auto create = [&](const nixl_xfer_dlist_t &local, const nixl_xfer_dlist_t &remote, const std::string &agent) {
        return pair->a->createXferReq(NIXL_WRITE, local, remote, agent, request);
    };
    const auto ten = listOf({at_a.desc(0, 10)}), nine = far.list({far.desc(0, 9)});
    EXPECT_EQ(create(ten, nine, farAgent()), NIXL_ERR_INVALID_PARAM) << "lengths differ";
    EXPECT_EQ(create(ten, far.list({far.desc(0, 10), far.desc(20, 10)}), farAgent()), NIXL_ERR_INVALID_PARAM);
    EXPECT_LT(create(listOf({}), far.list({}), farAgent()), 0) << "empty lists";
    EXPECT_EQ(create(ten, far.list({far.desc(0, 10)}), "nobody"), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(request, nullptr) << "a failed call writes nothing";
    EXPECT_FALSE(nixlx::lastError().empty());
}

TEST_P(Any, IndicesMustMatch) {
    Buffer &at_a = buffer(100);
    registerAt(pair->a, {at_a.desc()});
    FarSide &far = farSide(100);
    nixlDlistH *local = prepare("", listOf({at_a.desc(0, 10), at_a.desc(20, 11)}));
    nixlDlistH *remote = prepare(farAgent(), far.list({far.desc(0, 10), far.desc(20, 11)}));
    nixlXferReqH *request = nullptr;
    using Indices = std::vector<int>;
    const auto make = [&](nixlDlistH *l, const Indices &l_indices, nixlDlistH *r, const Indices &r_indices) {
        return pair->a->makeXferReq(NIXL_WRITE, l, l_indices, r, r_indices, request);
    };
    EXPECT_EQ(make(local, {0}, remote, {2}), NIXL_ERR_INVALID_PARAM) << "out of range";
    EXPECT_EQ(make(local, {-1}, remote, {0}), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(make(local, {2}, remote, {0}), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(make(local, {0}, remote, {1}), NIXL_ERR_INVALID_PARAM) << "lengths differ";
    EXPECT_EQ(make(local, {0, 1}, remote, {0}), NIXL_ERR_INVALID_PARAM) << "counts differ";
    EXPECT_EQ(make(local, {}, remote, {}), NIXL_ERR_INVALID_PARAM) << "nothing";
    EXPECT_EQ(make(remote, {0}, local, {0}), NIXL_ERR_INVALID_PARAM) << "sides exchanged";
    EXPECT_EQ(make(local, {0}, local, {0}), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(make(nullptr, {0}, remote, {0}), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(make(local, {0}, nullptr, {0}), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(request, nullptr);
    EXPECT_EQ(make(local, {1}, remote, {1}), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->releasedDlistH(local), NIXL_SUCCESS);
    EXPECT_EQ(make(local, {1}, remote, {1}), NIXL_ERR_INVALID_PARAM) << "released";
}

// ---- The life of a request

TEST_P(Any, ARequestTellsItsState) {
    Buffer &at_a = buffer(4096);
    registerAt(pair->a, {at_a.desc()});
    FarSide &far = farSide(4096);
    nixlXferReqH *request = makeRequest(NIXL_WRITE, listOf({at_a.desc()}), far.list());
    EXPECT_EQ(pair->a->getXferStatus(request), NIXL_ERR_NOT_POSTED);
    nixlBackendH *backend = nullptr;
    EXPECT_EQ(pair->a->queryXferBackend(request, backend), NIXL_SUCCESS);
    EXPECT_EQ(backend, pair->a.backend);
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->getXferStatus(request), NIXL_SUCCESS);
    nixlx::Report report;
    EXPECT_EQ(pair->a->getXferReport(request, report), NIXL_SUCCESS);
    EXPECT_EQ(report.status, NIXL_SUCCESS);
    EXPECT_EQ(report.backend, options().backend);
    EXPECT_EQ(report.total_bytes, 4096u);
    EXPECT_EQ(report.bytes_done, 4096u);
    EXPECT_EQ(report.attempts, 1u);
    EXPECT_FALSE(report.path.empty());
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->getXferStatus(request), NIXL_ERR_INVALID_PARAM) << "a released handle is refused";
    EXPECT_EQ(pair->a->postXferReq(request), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_ERR_INVALID_PARAM);
}

TEST_P(Any, ARequestIsPostedAgainAndAgain) {
    Buffer &at_a = buffer(100000);
    registerAt(pair->a, {at_a.desc()});
    FarSide &far = farSide(100000);
    nixlXferReqH *request = makeRequest(NIXL_WRITE, listOf({at_a.desc()}), far.list());
    for (uint64_t round = 1; round <= 50; ++round) {
        at_a.fill(round);
        ASSERT_EQ(pair->run(request), NIXL_SUCCESS);
        far.pull();
        ASSERT_TRUE(far.image().holds(round)) << "round " << round;
    }
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

constexpr size_t kLong = size_t{64} << 20;
constexpr const char *kFinishesAtOnce = "a post of 64 MiB never stays in progress";

TEST_P(Any, ARequestInProgressIsNotPostedAgain) {
    Buffer &at_a = buffer(kLong);
    registerAt(pair->a, {at_a.desc()});
    FarSide &far = farSide(kLong);
    nixlXferReqH *request = makeRequest(NIXL_WRITE, listOf({at_a.desc()}), far.list());
    // An engine with a thread may finish between the two posts: try until it does not.
    bool in_progress = false, refused = false;
    for (uint64_t round = 1; round <= 20 && !refused; ++round) {
        at_a.fill(round);
        const nixl_status_t first = pair->a->postXferReq(request);
        ASSERT_GE(first, 0) << nixlx::lastError();
        in_progress |= first == NIXL_IN_PROG;
        const nixl_status_t second = first == NIXL_IN_PROG ? pair->a->postXferReq(request) : first;
        refused = second == NIXL_ERR_REPOST_ACTIVE;
        ASSERT_EQ(pair->finish(request, refused ? NIXL_IN_PROG : second), NIXL_SUCCESS);
        far.pull();
        ASSERT_TRUE(far.image().holds(round));
    }
    if (!in_progress) GTEST_SKIP() << kFinishesAtOnce;
    EXPECT_TRUE(refused);
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Any, BuffersOfAReleasedRequestAreQuiet) {
    Buffer &at_a = buffer(kLong), &other_a = buffer(kLong);
    registerAt(pair->a, {at_a.desc(), other_a.desc()});
    FarSide &far = farSide(kLong);
    far.image().fill(1);
    far.push();
    nixlXferReqH *request = makeRequest(NIXL_READ, listOf({at_a.desc()}), far.list());
    if (pair->a->postXferReq(request) != NIXL_IN_PROG) GTEST_SKIP() << kFinishesAtOnce;
    ASSERT_EQ(pair->release(request), NIXL_SUCCESS);
    at_a.fill(2);
    // Long enough for what was still on its way: another transfer of the same size, behind the first.
    nixlXferReqH *later = makeRequest(NIXL_READ, listOf({other_a.desc()}), far.list());
    EXPECT_EQ(pair->run(later), NIXL_SUCCESS);
    EXPECT_TRUE(other_a.holds(1));
    EXPECT_EQ(at_a.firstDifference(2), kLong) << "bytes arrived after the release";
    EXPECT_EQ(pair->a->releaseXferReq(later), NIXL_SUCCESS);
}

TEST_P(Any, ADroppedRequestEndsByItself) {
    Buffer &at_a = buffer(kLong);
    registerAt(pair->a, {at_a.desc()});
    FarSide &far = farSide(kLong);
    nixlXferReqH *request = makeRequest(NIXL_WRITE, listOf({at_a.desc()}), far.list());
    ASSERT_GE(pair->a->postXferReq(request), 0);
    EXPECT_EQ(pair->a->dropXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->dropXferReq(request), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(pair->a->getXferStatus(request), NIXL_ERR_INVALID_PARAM);
    // It may take longer than a deregistration waits, if B must make progress meanwhile.
    const nixl_status_t status = pair->a->deregisterMem(registrationOf({at_a.desc()}));
    EXPECT_TRUE(status == NIXL_SUCCESS || status == NIXL_ERR_REPOST_ACTIVE) << nixlx::lastError();
}

TEST_P(Any, DeregisteringEndsTheTransfersOnTheMemory) {
    Buffer &at_a = buffer(kLong), &other_a = buffer(kLong);
    registerAt(pair->a, {at_a.desc(), other_a.desc()});
    FarSide &far = farSide(kLong);
    far.image().fill(1);
    far.push();
    nixlXferReqH *request = makeRequest(NIXL_READ, listOf({at_a.desc()}), far.list());
    if (pair->a->postXferReq(request) != NIXL_IN_PROG) GTEST_SKIP() << kFinishesAtOnce;
    const nixl_status_t deregistered = pair->a->deregisterMem(registrationOf({at_a.desc()}));
    if (deregistered == NIXL_ERR_REPOST_ACTIVE) {
        // Not quiet yet because B makes no progress meanwhile: the request's final status says when it is.
        EXPECT_FALSE(GetParam().progress_thread);
        EXPECT_NE(pair->finish(request, NIXL_IN_PROG), NIXL_IN_PROG);
    } else {
        ASSERT_EQ(deregistered, NIXL_SUCCESS) << nixlx::lastError();
        EXPECT_NE(pair->a->getXferStatus(request), NIXL_IN_PROG);
    }
    at_a.fill(2);
    nixlXferReqH *later = makeRequest(NIXL_READ, listOf({other_a.desc()}), far.list());
    EXPECT_EQ(pair->run(later), NIXL_SUCCESS);
    EXPECT_EQ(at_a.firstDifference(2), kLong) << "bytes arrived after the deregistration";
    EXPECT_EQ(pair->a->deregisterMem(registrationOf({at_a.desc()})), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->releaseXferReq(later), NIXL_SUCCESS);
}

} // namespace
} // namespace nx::test
