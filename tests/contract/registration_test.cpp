// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What may be registered, what covers what, and that deregistering is exact.
#include "contract/contract.h"

namespace nx::test {
namespace {

constexpr size_t kSize = 1 << 16;

TEST_P(Contract, DeregistersExactRangesOnly) {
    Buffer &memory = buffer(kSize);
    PairedAgent &a = pair->a;
    registerAt(a, {memory.desc()});
    for (const nixlBasicDesc &other :
         {memory.desc(0, kSize - 1), memory.desc(1, kSize - 1), memory.desc(0, kSize, 1)}) {
        EXPECT_EQ(a->deregisterMem(registrationOf({other})), NIXL_ERR_NOT_FOUND);
    }
    EXPECT_EQ(a->deregisterMem(registrationOf({memory.desc()})), NIXL_SUCCESS);
    EXPECT_EQ(a->deregisterMem(registrationOf({memory.desc()})), NIXL_ERR_NOT_FOUND);
}

TEST_P(Contract, DeregistersAllOfAListOrNothing) {
    Buffer &first = buffer(kSize), &second = buffer(kSize), &third = buffer(kSize);
    PairedAgent &a = pair->a;
    registerAt(a, {first.desc(), second.desc()});
    EXPECT_EQ(a->deregisterMem(registrationOf({first.desc(), third.desc()})), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(a->deregisterMem(registrationOf({first.desc(), second.desc()})), NIXL_SUCCESS);
}

TEST_P(Contract, RegistersARangeTwiceAndKeepsItUntilTheSecondDeregistration) {
    Buffer &at_a = buffer(kSize), &at_b = buffer(kSize);
    registerAt(pair->a, {at_a.desc()});
    registerAt(pair->a, {at_a.desc()});
    registerAt(pair->b, {at_b.desc(), at_b.desc()});
    pair->exchange();
    ASSERT_EQ(pair->a->deregisterMem(registrationOf({at_a.desc()})), NIXL_SUCCESS);
    at_a.fill(1);
    nixlXferReqH *request = makeRequest(NIXL_WRITE, listOf({at_a.desc()}), listOf({at_b.desc()}));
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
    EXPECT_TRUE(at_b.holds(1));
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->deregisterMem(registrationOf({at_a.desc()})), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->createXferReq(NIXL_WRITE, listOf({at_a.desc()}), listOf({at_b.desc()}), "B", request),
              NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(pair->b->deregisterMem(registrationOf({at_b.desc(), at_b.desc()})), NIXL_SUCCESS);
}

TEST_P(Contract, ResolvesInNestedAndOverlappingRegistrations) {
    Buffer &at_a = buffer(kSize), &at_b = buffer(kSize);
    // A whole, a small one inside, and one that overlaps the small one.
    registerAt(pair->a, {at_a.desc(), at_a.desc(1000, 10), at_a.desc(1005, 5000)});
    registerAt(pair->b, {at_b.desc(), at_b.desc(1000, 10), at_b.desc(1005, 5000)});
    pair->exchange();
    at_a.fill(2);
    nixl_xfer_dlist_t local(DRAM_SEG), remote(DRAM_SEG);
    for (const auto &[offset, length] :
         {std::pair<size_t, size_t>{0, 900}, {1000, 10}, {1011, 100}, {900, 5000}, {50000, 100}}) {
        local.addDesc(at_a.desc(offset, length));
        remote.addDesc(at_b.desc(offset, length));
    }
    nixlXferReqH *request = makeRequest(NIXL_WRITE, local, remote);
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
    EXPECT_EQ(std::memcmp(at_b.data(), at_a.data(), 5900), 0);
    EXPECT_EQ(std::memcmp(at_b.data() + 50000, at_a.data() + 50000, 100), 0);
    EXPECT_EQ(at_b.data()[5900], 0);
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Contract, DescriptorsSpanAdjacentRegistrations) {
    Buffer &at_a = buffer(kSize), &at_b = buffer(kSize);
    // Cut at different places on the two sides, in registrations of their own.
    registerAt(pair->a, {at_a.desc(0, 10000)});
    registerAt(pair->a, {at_a.desc(10000, kSize - 10000)});
    registerAt(pair->b, {at_b.desc(0, 20001)});
    registerAt(pair->b, {at_b.desc(20001, 9)});
    registerAt(pair->b, {at_b.desc(20010, kSize - 20010)});
    pair->exchange();
    for (nixl_xfer_op_t operation : {NIXL_WRITE, NIXL_READ}) {
        const Buffer &from = operation == NIXL_WRITE ? at_a : at_b, &to = operation == NIXL_WRITE ? at_b : at_a;
        from.fill(3 + operation);
        to.clear();
        nixlXferReqH *request = makeRequest(operation, listOf({at_a.desc()}), listOf({at_b.desc()}));
        EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
        EXPECT_TRUE(to.holds(3 + operation));
        EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
    }
}

TEST_P(Contract, WhatIsNotCoveredIsNotFound) {
    Buffer &at_a = buffer(kSize), &at_b = buffer(kSize);
    registerAt(pair->a, {at_a.desc()});
    registerAt(pair->b, {at_b.desc(0, 100), at_b.desc(200, 100)});
    pair->exchange();
    nixlXferReqH *request = nullptr;
    nixlDlistH *list = nullptr;
    for (const auto &[offset, length] : {std::pair<size_t, size_t>{50, 200}, {100, 1}, {99, 2}, {199, 2}, {300, 1}}) {
        const auto remote = listOf({at_b.desc(offset, length)});
        EXPECT_EQ(pair->a->checkRemoteMD("B", remote), NIXL_ERR_NOT_FOUND) << offset << " + " << length;
        EXPECT_EQ(pair->a->prepXferDlist("B", remote, list), NIXL_ERR_NOT_FOUND);
        EXPECT_EQ(pair->a->createXferReq(NIXL_WRITE, listOf({at_a.desc(0, length)}), remote, "B", request),
                  NIXL_ERR_NOT_FOUND);
    }
    // One whose end passes the last address is no range at all.
    EXPECT_EQ(pair->a->prepXferDlist("B", listOf({at_b.desc(250, SIZE_MAX - 100)}), list), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(pair->a->checkRemoteMD("B", listOf({at_b.desc(250, SIZE_MAX - 100)})), NIXL_ERR_NOT_FOUND);
    // Another device is another place.
    EXPECT_EQ(pair->a->checkRemoteMD("B", listOf({at_b.desc(0, 100), at_b.desc(200, 100)})), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->checkRemoteMD("B", listOf({at_b.desc(0, 100, 1)})), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(pair->a->checkRemoteMD("B", listOf({at_b.desc(0, 100)}, VRAM_SEG)), NIXL_ERR_NOT_FOUND);
}

TEST_P(Contract, RegistersNothingAtAll) {
    Buffer &at_b = buffer(kSize);
    EXPECT_EQ(pair->b->registerMem(registrationOf({})), NIXL_SUCCESS);
    EXPECT_EQ(pair->b->registerMem(registrationOf({at_b.desc(0, 0)})), NIXL_SUCCESS) << "a range of length zero";
    pair->exchange();
    EXPECT_EQ(pair->b->deregisterMem(registrationOf({at_b.desc(0, 0)})), NIXL_SUCCESS);
}

TEST_P(Contract, OneMoreRangeAfterAnother) {
    constexpr size_t kRanges = 1000, kLength = 64;
    Buffer &at_a = buffer(kRanges * kLength), &at_b = buffer(kRanges * kLength);
    registerAt(pair->a, {at_a.desc()});
    for (size_t i = 0; i < kRanges; ++i) registerAt(pair->b, {at_b.desc(i * kLength, kLength)});
    pair->exchange();
    at_a.fill(4);
    nixlXferReqH *request = makeRequest(NIXL_WRITE, listOf({at_a.desc()}), listOf({at_b.desc()}));
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
    EXPECT_TRUE(at_b.holds(4));
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
    for (size_t i = kRanges; i-- > 0;) {
        ASSERT_EQ(pair->b->deregisterMem(registrationOf({at_b.desc(i * kLength, kLength)})), NIXL_SUCCESS);
    }
    EXPECT_EQ(pair->b->deregisterMem(registrationOf({at_b.desc(0, kLength)})), NIXL_ERR_NOT_FOUND);
}

TEST_P(Contract, LocalMemoryOfARequestMustBeRegistered) {
    Buffer &at_a = buffer(kSize), &at_b = buffer(kSize);
    nixlXferReqH *request = pair->request(NIXL_WRITE, at_a, at_b);
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->deregisterMem(registrationOf({at_a.desc()})), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->postXferReq(request), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

} // namespace
} // namespace nx::test
