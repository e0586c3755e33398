// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Files, objects and block devices: what was written is read, at every offset and no byte beside it; what a store does
// not hold, may not or cannot take is an error of that request alone, never a success.
#include <algorithm>
#include <numeric>
#include <random>

#include "contract/contract.h"

namespace nx::test {
namespace {

TEST_P(Storage, AStoreKeepsWhatWasWritten) {
    constexpr size_t kSize = 300000;
    Buffer &memory = buffer(kSize);
    registerAt(pair->a, {memory.desc()});
    OwnedStore &store = this->store(kSize);
    require(pair->a->registerMem(store.registration()), "register");
    nixl_xfer_dlist_t places(kind().memory), pieces(DRAM_SEG);
    for (size_t i = 0; i < 3; ++i) {
        pieces.addDesc(memory.desc(i * (kSize / 3), kSize / 3));
        places.addDesc(store.desc((2 - i) * (kSize / 3), kSize / 3)); // back to front
    }
    memory.fill(1);
    EXPECT_EQ(move(NIXL_WRITE, pieces, places), NIXL_SUCCESS) << report.error;
    EXPECT_EQ(report.total_bytes, kSize);
    EXPECT_EQ(report.bytes_done, kSize);
    memory.clear();
    EXPECT_EQ(move(NIXL_READ, pieces, places), NIXL_SUCCESS) << report.error;
    EXPECT_EQ(report.bytes_done, kSize);
    EXPECT_TRUE(memory.holds(1));
    // In the order of the store: the thirds change places.
    nixlXferReqH *straight = makeRequest(NIXL_READ, listOf({memory.desc()}), store.list(0, kSize));
    EXPECT_EQ(pair->run(straight), NIXL_SUCCESS);
    const Buffer expected(kSize);
    expected.fill(1);
    for (size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(std::memcmp(memory.data() + i * (kSize / 3), expected.data() + (2 - i) * (kSize / 3), kSize / 3), 0);
    }
    EXPECT_EQ(pair->a->releaseXferReq(straight), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->deregisterMem(store.registration()), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->deregisterMem(store.registration()), NIXL_ERR_NOT_FOUND);
}

TEST_P(Storage, EverySizeAtEveryOffsetAndNoByteBeside) {
    constexpr size_t kRoom = size_t{3} << 20, kGuard = 4096;
    Buffer &memory = buffer(kRoom), &image = buffer(kRoom);
    registerAt(pair->a, {memory.desc(), image.desc()});
    OwnedStore &store = this->store(kRoom);
    require(pair->a->registerMem(store.registration()), "register");
    const auto all = [&] { return store.list(0, kRoom); };
    uint64_t seed = 0;
    for (const size_t size : {size_t{1}, size_t{3}, size_t{511}, size_t{512}, size_t{4095}, size_t{4096}, size_t{65537},
                              (size_t{2} << 20) + 1}) {
        for (const auto &[at_memory, at_store] :
             {std::pair<size_t, size_t>{0, 0}, {1, 0}, {0, 1}, {7, 4093}, {4096, 512}, {0, kRoom - size}}) {
            SCOPED_TRACE(std::to_string(size) + " bytes, " + std::to_string(at_memory) + " in memory, " +
                         std::to_string(at_store) + " in the store");
            // Written into a store that is full of another pattern.
            image.fill(++seed);
            ASSERT_EQ(move(NIXL_WRITE, listOf({image.desc()}), all()), NIXL_SUCCESS) << report.error;
            memory.fill(++seed);
            ASSERT_EQ(move(NIXL_WRITE, listOf({memory.desc(at_memory, size)}), store.list(at_store, size)),
                      NIXL_SUCCESS)
                << report.error;
            ASSERT_EQ(report.bytes_done, size);
            std::vector<unsigned char> expected(image.data(), image.data() + kRoom);
            std::copy_n(memory.data() + at_memory, size, expected.data() + at_store);
            image.clear();
            ASSERT_EQ(move(NIXL_READ, listOf({image.desc()}), all()), NIXL_SUCCESS) << report.error;
            const auto [found, wanted] = std::mismatch(image.data(), image.data() + kRoom, expected.begin());
            ASSERT_EQ(wanted, expected.end()) << "the store differs at " << found - image.data();
            // Read into memory that is full of one byte.
            const size_t end = std::min(kRoom, at_memory + size + kGuard);
            std::memset(memory.data(), 0x5a, end);
            ASSERT_EQ(move(NIXL_READ, listOf({memory.desc(at_memory, size)}), store.list(at_store, size)), NIXL_SUCCESS)
                << report.error;
            ASSERT_EQ(std::memcmp(memory.data() + at_memory, expected.data() + at_store, size), 0);
            ASSERT_EQ(std::count(memory.data(), memory.data() + at_memory, 0x5a), static_cast<ptrdiff_t>(at_memory));
            ASSERT_EQ(std::count(memory.data() + at_memory + size, memory.data() + end, 0x5a),
                      static_cast<ptrdiff_t>(end - at_memory - size));
        }
    }
}

TEST_P(Storage, ManyBlocksInAnyOrder) {
    constexpr size_t kCount = 5000, kBlock = 700, kStride = 1000;
    Buffer &memory = buffer(kCount * kBlock), &image = buffer(kCount * kStride);
    registerAt(pair->a, {memory.desc(), image.desc()});
    OwnedStore &store = this->store(image.size());
    require(pair->a->registerMem(store.registration()), "register");
    ASSERT_EQ(move(NIXL_WRITE, listOf({image.desc()}), store.list(0, image.size())), NIXL_SUCCESS) << report.error;
    std::vector<size_t> order(kCount);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937_64(4));
    nixl_xfer_dlist_t pieces(DRAM_SEG), places(kind().memory);
    for (size_t i = 0; i < kCount; ++i) {
        pieces.addDesc(memory.desc(i * kBlock, kBlock));
        places.addDesc(store.desc(order[i] * kStride, kBlock));
    }
    memory.fill(1);
    ASSERT_EQ(move(NIXL_WRITE, pieces, places), NIXL_SUCCESS) << report.error;
    EXPECT_EQ(report.bytes_done, kCount * kBlock);
    ASSERT_EQ(move(NIXL_READ, listOf({image.desc()}), store.list(0, image.size())), NIXL_SUCCESS) << report.error;
    for (size_t i = 0; i < kCount; ++i) {
        const unsigned char *place = image.data() + order[i] * kStride;
        ASSERT_EQ(std::memcmp(place, memory.data() + i * kBlock, kBlock), 0) << "block " << i;
        ASSERT_EQ(std::count(place + kBlock, place + kStride, 0), static_cast<ptrdiff_t>(kStride - kBlock)) << i;
    }
    memory.clear();
    ASSERT_EQ(move(NIXL_READ, pieces, places), NIXL_SUCCESS) << report.error;
    EXPECT_TRUE(memory.holds(1));
}

TEST_P(Storage, BlocksThatOverlapInTheStore) {
    constexpr size_t kSize = 10000, kOverlap = 3000;
    Buffer &memory = buffer(2 * kSize), &image = buffer(2 * kSize - kOverlap);
    registerAt(pair->a, {memory.desc(), image.desc()});
    OwnedStore &store = this->store(image.size());
    require(pair->a->registerMem(store.registration()), "register");
    const auto halves = listOf({memory.desc(0, kSize), memory.desc(kSize, kSize)});
    const auto places = listOf({store.desc(0, kSize), store.desc(kSize - kOverlap, kSize)}, kind().memory);
    memory.fill(1);
    ASSERT_EQ(move(NIXL_WRITE, halves, places), NIXL_SUCCESS) << report.error;
    ASSERT_EQ(move(NIXL_READ, listOf({image.desc()}), store.list(0, image.size())), NIXL_SUCCESS) << report.error;
    for (size_t i = 0; i < image.size(); ++i) {
        const bool is_first = i < kSize && image.data()[i] == memory.data()[i];
        const bool is_second = i >= kSize - kOverlap && image.data()[i] == memory.data()[i + kOverlap];
        ASSERT_TRUE(is_first || is_second) << "byte " << i << " is of none of its writers";
    }
    // Read, both get what is there.
    ASSERT_EQ(move(NIXL_READ, halves, places), NIXL_SUCCESS) << report.error;
    EXPECT_EQ(std::memcmp(memory.data(), image.data(), kSize), 0);
    EXPECT_EQ(std::memcmp(memory.data() + kSize, image.data() + kSize - kOverlap, kSize), 0);
}

TEST_P(Storage, ReadingPastTheEndFailsAndCountsWhatItRead) {
    if (kind().has_no_end) GTEST_SKIP() << "a store of this kind has no end to read past";
    constexpr size_t kSize = 5000;
    Buffer &memory = buffer(4 * kSize);
    registerAt(pair->a, {memory.desc()});
    OwnedStore &store = this->store(3 * kSize);
    require(pair->a->registerMem(store.registration()), "register");
    memory.fill(1);
    ASSERT_EQ(move(NIXL_WRITE, listOf({memory.desc(0, kSize)}), store.list(0, kSize)), NIXL_SUCCESS) << report.error;
    for (const auto &[offset, length] :
         {std::pair<size_t, size_t>{0, kSize + 1}, {kSize - 1, 2}, {kSize, 1}, {1, 2 * kSize}, {2 * kSize, 10}}) {
        SCOPED_TRACE(std::to_string(length) + " bytes at " + std::to_string(offset) + " of " + std::to_string(kSize));
        const size_t there = offset < kSize ? kSize - offset : 0;
        EXPECT_LT(move(NIXL_READ, listOf({memory.desc(kSize, length)}), store.list(offset, length)), 0);
        EXPECT_LE(report.bytes_done, there);
        EXPECT_FALSE(report.error.empty());
        // In the middle of a list: what comes before it may have been read.
        EXPECT_LT(move(NIXL_READ, listOf({memory.desc(kSize, 100), memory.desc(2 * kSize, length)}),
                       listOf({store.desc(0, 100), store.desc(offset, length)}, kind().memory)),
                  0);
        EXPECT_LE(report.bytes_done, 100 + there);
    }
    // The last byte is there, and nothing of all that made the store longer.
    EXPECT_EQ(move(NIXL_READ, listOf({memory.desc(kSize, 1)}), store.list(kSize - 1, 1)), NIXL_SUCCESS);
    EXPECT_EQ(memory.data()[kSize], memory.data()[kSize - 1]);
    EXPECT_LT(move(NIXL_READ, listOf({memory.desc(kSize, 1)}), store.list(kSize, 1)), 0);
}

TEST_P(Storage, ARequestThatFailedSucceedsWhenItsReasonIsGone) {
    if (kind().has_no_end) GTEST_SKIP() << "a store of this kind has no end to read past";
    constexpr size_t kSize = 5000;
    Buffer &memory = buffer(2 * kSize);
    registerAt(pair->a, {memory.desc()});
    OwnedStore &store = this->store(2 * kSize);
    require(pair->a->registerMem(store.registration()), "register");
    nixlXferReqH *read = makeRequest(NIXL_READ, listOf({memory.desc()}), store.list(0, 2 * kSize));
    for (int i = 0; i < 3; ++i) EXPECT_LT(pair->run(read), 0);
    memory.fill(1);
    ASSERT_EQ(move(NIXL_WRITE, listOf({memory.desc()}), store.list(0, 2 * kSize)), NIXL_SUCCESS) << report.error;
    memory.clear();
    EXPECT_EQ(pair->run(read), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(memory.holds(1));
    ASSERT_EQ(pair->a->getXferReport(read, report), NIXL_SUCCESS);
    EXPECT_EQ(report.bytes_done, 2 * kSize);
    EXPECT_TRUE(report.error.empty()) << report.error;
    EXPECT_EQ(pair->a->releaseXferReq(read), NIXL_SUCCESS);
}

TEST_P(Storage, AnErrorIsOfTheRequestThatFailedOnly) {
    if (kind().has_no_end) GTEST_SKIP() << "a store of this kind has no end to read past";
    constexpr size_t kRequests = 16, kSize = 100000;
    Buffer &memory = buffer(kRequests * kSize);
    registerAt(pair->a, {memory.desc()});
    OwnedStore &store = this->store(kSize), &empty = this->store(kSize);
    require(pair->a->registerMem(store.registration()), "register");
    require(pair->a->registerMem(empty.registration()), "register");
    memory.fill(1);
    ASSERT_EQ(move(NIXL_WRITE, listOf({memory.desc(0, kSize)}), store.list(0, kSize)), NIXL_SUCCESS) << report.error;
    // All in flight at once, every third one reads what is not there.
    std::vector<nixlXferReqH *> requests;
    std::vector<nixl_status_t> statuses;
    for (size_t i = 0; i < kRequests; ++i) {
        const OwnedStore &from = i % 3 == 1 ? empty : store;
        requests.push_back(makeRequest(NIXL_READ, listOf({memory.desc(i * kSize, kSize)}), from.list(0, kSize)));
        statuses.push_back(NIXL_IN_PROG);
    }
    memory.clear();
    for (size_t i = 0; i < kRequests; ++i) statuses[i] = pair->a->postXferReq(requests[i]);
    Buffer expected(kSize);
    expected.fill(1);
    for (size_t i = 0; i < kRequests; ++i) {
        const nixl_status_t status = pair->finish(requests[i], statuses[i]);
        if (i % 3 == 1) {
            EXPECT_LT(status, 0) << i;
        } else {
            EXPECT_EQ(status, NIXL_SUCCESS) << i;
            EXPECT_EQ(std::memcmp(memory.data() + i * kSize, expected.data(), kSize), 0) << i;
        }
        EXPECT_EQ(pair->a->releaseXferReq(requests[i]), NIXL_SUCCESS);
    }
}

TEST_P(Storage, AStoreThatDoesNotExistIsAnErrorToRead) {
    ASSERT_TRUE(kind().missing) << "say how a store that does not exist is named, or why there is none";
    if (kind().has_no_end) GTEST_SKIP() << "a store of this kind that nobody wrote reads as something";
    Buffer &memory = buffer(100);
    registerAt(pair->a, {memory.desc()});
    const OwnedStore &missing = store(kind().missing());
    if (pair->a->registerMem(missing.registration()) != NIXL_SUCCESS) {
        EXPECT_FALSE(nixlx::lastError().empty());
        EXPECT_EQ(pair->a->deregisterMem(missing.registration()), NIXL_ERR_NOT_FOUND);
        return;
    }
    EXPECT_LT(move(NIXL_READ, listOf({memory.desc()}), missing.list(0, 100)), 0);
    EXPECT_FALSE(report.error.empty());
    EXPECT_EQ(report.bytes_done, 0u);
    EXPECT_TRUE(memory.isZero());
}

TEST_P(Storage, AReadOnlyStoreIsReadAndNotWritten) {
    ASSERT_TRUE(kind().make_read_only) << "say how a store is made that cannot be written, or why there is none";
    constexpr size_t kSize = 10000;
    Buffer &memory = buffer(kSize);
    registerAt(pair->a, {memory.desc()});
    memory.fill(1);
    const OwnedStore &store =
        this->store(kind().make_read_only(std::string(reinterpret_cast<const char *>(memory.data()), kSize)));
    ASSERT_EQ(pair->a->registerMem(store.registration()), NIXL_SUCCESS) << nixlx::lastError();
    for (int i = 0; i < 2; ++i) {
        memory.fill(2);
        EXPECT_LT(move(NIXL_WRITE, listOf({memory.desc()}), store.list(0, kSize)), 0);
        EXPECT_EQ(report.bytes_done, 0u);
        EXPECT_FALSE(report.error.empty());
        EXPECT_EQ(move(NIXL_READ, listOf({memory.desc()}), store.list(0, kSize)), NIXL_SUCCESS) << report.error;
        EXPECT_TRUE(memory.holds(1));
    }
}

TEST_P(Storage, AFullStoreTakesNothing) {
    ASSERT_TRUE(kind().make_full) << "say how a store is made that takes no byte more, or why there is none";
    constexpr size_t kSize = 100000;
    Buffer &memory = buffer(kSize);
    registerAt(pair->a, {memory.desc()});
    const OwnedStore &full = store(kind().make_full()), &other = store(kSize);
    ASSERT_EQ(pair->a->registerMem(full.registration()), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_EQ(pair->a->registerMem(other.registration()), NIXL_SUCCESS) << nixlx::lastError();
    for (int i = 0; i < 3; ++i) {
        memory.fill(i);
        EXPECT_LT(move(NIXL_WRITE, listOf({memory.desc()}), full.list(0, kSize)), 0);
        EXPECT_EQ(report.bytes_done, 0u);
        EXPECT_FALSE(report.error.empty());
        EXPECT_EQ(move(NIXL_WRITE, listOf({memory.desc()}), other.list(0, kSize)), NIXL_SUCCESS) << report.error;
        memory.clear();
        EXPECT_EQ(move(NIXL_READ, listOf({memory.desc()}), other.list(0, kSize)), NIXL_SUCCESS) << report.error;
        EXPECT_TRUE(memory.holds(i));
    }
}

TEST_P(Storage, AQueryTellsTheSizeOfWhatIsThereInTheOrderOfTheQuestions) {
    ASSERT_TRUE(kind().missing) << "say how a store that does not exist is named, or why there is none";
    Buffer &memory = buffer(5000);
    registerAt(pair->a, {memory.desc()});
    nixl_reg_dlist_t questions(kind().memory);
    std::vector<size_t> sizes;
    for (const size_t size : {1u, 4096u, 4999u}) {
        const OwnedStore &written = store(5000);
        require(pair->a->registerMem(written.registration()), "register");
        ASSERT_EQ(move(NIXL_WRITE, listOf({memory.desc(0, size)}), written.list(0, size)), NIXL_SUCCESS);
        const OwnedStore &missing = store(kind().missing());
        questions.addDesc(missing.question());
        questions.addDesc(written.question());
        sizes.push_back(size);
    }
    std::vector<nixl_query_resp_t> answers;
    ASSERT_EQ(pair->a->queryMem(questions, answers, &pair->a.with_backend), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_EQ(answers.size(), 2 * sizes.size());
    for (size_t i = 0; i < sizes.size(); ++i) {
        EXPECT_FALSE(answers[2 * i]) << "store that does not exist, " << i;
        ASSERT_TRUE(answers[2 * i + 1]) << "store " << i;
        const std::string size = answers[2 * i + 1]->at("size");
        // A device is as large as it is, whatever was written.
        if (!kind().has_no_end) {
            EXPECT_EQ(size, std::to_string(sizes[i]));
        }
        EXPECT_GE(std::stoull(size), sizes[i]);
    }
    answers.clear();
    EXPECT_EQ(pair->a->queryMem(nixl_reg_dlist_t(kind().memory), answers, &pair->a.with_backend), NIXL_SUCCESS);
    EXPECT_TRUE(answers.empty());
}

TEST_P(Storage, AStoreRegisteredTwiceIsThereUntilTheSecondDeregistration) {
    constexpr size_t kSize = 5000;
    Buffer &memory = buffer(kSize);
    registerAt(pair->a, {memory.desc()});
    const OwnedStore &store = this->store(kSize);
    require(pair->a->registerMem(store.registration()), "register");
    const bool twice = pair->a->registerMem(store.registration()) == NIXL_SUCCESS;
    if (!twice) {
        EXPECT_FALSE(nixlx::lastError().empty()) << "a store may have one registration, but must say so";
    }
    memory.fill(1);
    EXPECT_EQ(move(NIXL_WRITE, listOf({memory.desc()}), store.list(0, kSize)), NIXL_SUCCESS) << report.error;
    if (twice) {
        EXPECT_EQ(pair->a->deregisterMem(store.registration()), NIXL_SUCCESS);
    }
    memory.clear();
    nixlXferReqH *read = makeRequest(NIXL_READ, listOf({memory.desc()}), store.list(0, kSize));
    EXPECT_EQ(pair->run(read), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(memory.holds(1));
    EXPECT_EQ(pair->a->deregisterMem(store.registration()), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->postXferReq(read), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(pair->a->releaseXferReq(read), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->deregisterMem(store.registration()), NIXL_ERR_NOT_FOUND);
}

TEST_P(Storage, APartOfAStoreIsRegisteredAndNoMoreOfItReached) {
    constexpr size_t kSize = 10000;
    Buffer &memory = buffer(kSize);
    registerAt(pair->a, {memory.desc()});
    const OwnedStore &store = this->store(kSize);
    require(pair->a->registerMem(store.registration(1000, 5000)), "register");
    memory.fill(1);
    EXPECT_EQ(move(NIXL_WRITE, listOf({memory.desc(0, 5000)}), store.list(1000, 5000)), NIXL_SUCCESS) << report.error;
    nixlXferReqH *none = nullptr;
    for (const auto &[offset, length] :
         {std::pair<size_t, size_t>{999, 1}, {999, 2}, {5999, 2}, {6000, 1}, {0, kSize}}) {
        EXPECT_EQ(
            pair->a->createXferReq(NIXL_WRITE, listOf({memory.desc(0, length)}), store.list(offset, length), "A", none),
            NIXL_ERR_NOT_FOUND)
            << length << " at " << offset;
    }
    memory.clear();
    EXPECT_EQ(move(NIXL_READ, listOf({memory.desc(0, 5000)}), store.list(1000, 5000)), NIXL_SUCCESS) << report.error;
    const Buffer expected(kSize);
    expected.fill(1);
    EXPECT_EQ(std::memcmp(memory.data(), expected.data(), 5000), 0);
}

TEST_P(Storage, StoresAreNotMixedUp) {
    constexpr size_t kStores = 10, kSize = 3000;
    Buffer &memory = buffer(kStores * kSize);
    registerAt(pair->a, {memory.desc()});
    nixl_xfer_dlist_t pieces(DRAM_SEG), places(kind().memory);
    nixl_reg_dlist_t all(kind().memory);
    for (size_t i = 0; i < kStores; ++i) {
        const OwnedStore &each = store(kSize);
        const nixl_reg_dlist_t registration = each.registration();
        all.addDesc(registration[0]);
        pieces.addDesc(memory.desc(i * kSize, kSize));
        places.addDesc(each.desc(0, kSize));
    }
    require(pair->a->registerMem(all), "register");
    memory.fill(1);
    ASSERT_EQ(move(NIXL_WRITE, pieces, places), NIXL_SUCCESS) << report.error;
    memory.clear();
    for (size_t i = kStores; i-- > 0;) {
        ASSERT_EQ(move(NIXL_READ, listOf({pieces[i]}), listOf({places[i]}, kind().memory)), NIXL_SUCCESS);
    }
    EXPECT_TRUE(memory.holds(1));
    EXPECT_EQ(pair->a->deregisterMem(all), NIXL_SUCCESS);
}

TEST_P(Storage, AnotherAgentFindsWhatWasWritten) {
    constexpr size_t kSize = 100000;
    Buffer &at_a = buffer(kSize), &at_b = buffer(kSize);
    registerAt(pair->a, {at_a.desc()});
    registerAt(pair->b, {at_b.desc()});
    const OwnedStore &store = this->store(kSize);
    require(pair->a->registerMem(store.registration()), "register at A");
    at_a.fill(1);
    ASSERT_EQ(move(NIXL_WRITE, listOf({at_a.desc()}), store.list(0, kSize)), NIXL_SUCCESS) << report.error;
    pair->a.agent.reset();
    ASSERT_EQ(pair->b->registerMem(store.registration()), NIXL_SUCCESS) << nixlx::lastError();
    nixlXferReqH *read = nullptr;
    ASSERT_EQ(pair->b->createXferReq(NIXL_READ, listOf({at_b.desc()}), store.list(0, kSize), "B", read), NIXL_SUCCESS);
    nixl_status_t status = pair->b->postXferReq(read);
    eventually([&] {
        if (status == NIXL_IN_PROG) status = pair->b->getXferStatus(read);
        return status != NIXL_IN_PROG;
    });
    EXPECT_EQ(status, NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(at_b.holds(1));
    EXPECT_EQ(pair->b->releaseXferReq(read), NIXL_SUCCESS);
}

constexpr size_t kLong = size_t{64} << 20;

TEST_P(Storage, DeregisteringAStoreEndsItsTransfers) {
    Buffer &memory = buffer(kLong);
    registerAt(pair->a, {memory.desc()});
    const OwnedStore &store = this->store(kLong);
    require(pair->a->registerMem(store.registration()), "register");
    memory.fill(1);
    ASSERT_EQ(move(NIXL_WRITE, listOf({memory.desc()}), store.list(0, kLong)), NIXL_SUCCESS) << report.error;
    nixlXferReqH *read = makeRequest(NIXL_READ, listOf({memory.desc()}), store.list(0, kLong));
    const nixl_status_t posted = pair->a->postXferReq(read);
    ASSERT_GE(posted, 0) << nixlx::lastError();
    nixl_status_t deregistered = NIXL_ERR_REPOST_ACTIVE;
    EXPECT_TRUE(eventually([&] {
        deregistered = pair->a->deregisterMem(store.registration());
        return deregistered != NIXL_ERR_REPOST_ACTIVE;
    }));
    EXPECT_EQ(deregistered, NIXL_SUCCESS) << nixlx::lastError();
    memory.fill(2);
    EXPECT_NE(pair->finish(read, posted), NIXL_IN_PROG);
    EXPECT_EQ(pair->a->postXferReq(read), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(pair->a->releaseXferReq(read), NIXL_SUCCESS);
    EXPECT_EQ(memory.firstDifference(2), kLong) << "bytes arrived after the deregistration";
}

TEST_P(Storage, TheProgressThreadEndsATransferThatNobodyAsksAbout) {
    if (!GetParam().progress_thread) GTEST_SKIP() << "without a progress thread the caller's polls move the data";
    Buffer &memory = buffer(kLong);
    registerAt(pair->a, {memory.desc()});
    const OwnedStore &store = this->store(kLong);
    require(pair->a->registerMem(store.registration()), "register");
    memory.fill(1);
    nixlXferReqH *write = makeRequest(NIXL_WRITE, listOf({memory.desc()}), store.list(0, kLong));
    // B looks for the last bytes in the store.
    Buffer &end = buffer(8);
    registerAt(pair->b, {end.desc()});
    require(pair->b->registerMem(store.registration()), "register at B");
    nixlXferReqH *look = nullptr;
    require(pair->b->createXferReq(NIXL_READ, listOf({end.desc()}), store.list(kLong - 8, 8), "B", look), "create");
    ASSERT_GE(pair->a->postXferReq(write), 0);
    EXPECT_TRUE(eventually([&] {
        nixl_status_t status = pair->b->postXferReq(look);
        while (status == NIXL_IN_PROG) status = pair->b->getXferStatus(look);
        return status == NIXL_SUCCESS && std::memcmp(end.data(), memory.data() + kLong - 8, 8) == 0;
    }));
    EXPECT_EQ(pair->b->releaseXferReq(look), NIXL_SUCCESS);
    EXPECT_EQ(pair->finish(write, NIXL_IN_PROG), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->releaseXferReq(write), NIXL_SUCCESS);
}

} // namespace
} // namespace nx::test
