// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What may be registered, what covers what, and that deregistering is exact.
#include "contract/contract.h"

namespace nx::test {
namespace {

constexpr size_t kSize = 1 << 16;

TEST_P(Any, DeregistersExactRangesOnly) {
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

TEST_P(Any, DeregistersAllOfAListOrNothing) {
    Buffer &first = buffer(kSize), &second = buffer(kSize), &third = buffer(kSize);
    PairedAgent &a = pair->a;
    registerAt(a, {first.desc(), second.desc()});
    EXPECT_EQ(a->deregisterMem(registrationOf({first.desc(), third.desc()})), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(a->deregisterMem(registrationOf({first.desc(), second.desc()})), NIXL_SUCCESS);
}

TEST_P(Any, RegistersARangeTwiceAndKeepsItUntilTheSecondDeregistration) {
    Buffer &at_a = buffer(kSize);
    registerAt(pair->a, {at_a.desc()});
    registerAt(pair->a, {at_a.desc()});
    FarSide &far = farSide(kSize, {{0, kSize}, {0, kSize}});
    ASSERT_EQ(pair->a->deregisterMem(registrationOf({at_a.desc()})), NIXL_SUCCESS);
    at_a.fill(1);
    nixlXferReqH *request = makeRequest(NIXL_WRITE, listOf({at_a.desc()}), far.list());
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
    far.pull();
    EXPECT_TRUE(far.image().holds(1));
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->deregisterMem(registrationOf({at_a.desc()})), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->createXferReq(NIXL_WRITE, listOf({at_a.desc()}), far.list(), farAgent(), request),
              NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(far.deregister(), NIXL_SUCCESS);
    EXPECT_EQ(far.deregister(), NIXL_ERR_NOT_FOUND);
}

TEST_P(Any, ResolvesInNestedAndOverlappingRegistrations) {
    Buffer &at_a = buffer(kSize);
    // A whole, a small one inside, and one that overlaps the small one.
    registerAt(pair->a, {at_a.desc(), at_a.desc(1000, 10), at_a.desc(1005, 5000)});
    FarSide &far = farSide(kSize, {{0, kSize}, {1000, 10}, {1005, 5000}});
    at_a.fill(2);
    nixl_xfer_dlist_t local(DRAM_SEG), remote(far.memory());
    for (const auto &[offset, length] :
         {std::pair<size_t, size_t>{0, 900}, {1000, 10}, {1011, 100}, {900, 5000}, {50000, 100}}) {
        local.addDesc(at_a.desc(offset, length));
        remote.addDesc(far.desc(offset, length));
    }
    nixlXferReqH *request = makeRequest(NIXL_WRITE, local, remote);
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
    far.pull();
    EXPECT_EQ(std::memcmp(far.image().data(), at_a.data(), 5900), 0);
    EXPECT_EQ(std::memcmp(far.image().data() + 50000, at_a.data() + 50000, 100), 0);
    EXPECT_EQ(far.image().data()[5900], 0);
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Any, DescriptorsSpanAdjacentRegistrations) {
    Buffer &at_a = buffer(kSize);
    // Cut at different places on the two sides, in registrations of their own.
    registerAt(pair->a, {at_a.desc(0, 10000)});
    registerAt(pair->a, {at_a.desc(10000, kSize - 10000)});
    FarSide &far = farSide(kSize, {{0, 20001}, {20001, 9}, {20010, kSize - 20010}});
    for (nixl_xfer_op_t operation : {NIXL_WRITE, NIXL_READ}) {
        const Buffer &from = operation == NIXL_WRITE ? at_a : far.image();
        const Buffer &to = operation == NIXL_WRITE ? far.image() : at_a;
        from.fill(3 + operation);
        to.clear();
        far.push();
        nixlXferReqH *request = makeRequest(operation, listOf({at_a.desc()}), far.list());
        EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
        far.pull();
        EXPECT_TRUE(to.holds(3 + operation));
        EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
    }
}

TEST_P(Any, RegistersNothingAtAll) {
    Buffer &memory = buffer(kSize);
    for (PairedAgent *agent : {&pair->a, &pair->b}) {
        EXPECT_EQ((*agent)->registerMem(registrationOf({})), NIXL_SUCCESS);
        EXPECT_EQ((*agent)->registerMem(registrationOf({memory.desc(0, 0)})), NIXL_SUCCESS) << "length zero";
    }
    if (GetParam().reach == Reach::kPeer) pair->exchange();
    for (PairedAgent *agent : {&pair->a, &pair->b}) {
        EXPECT_EQ((*agent)->deregisterMem(registrationOf({memory.desc(0, 0)})), NIXL_SUCCESS);
    }
}

TEST_P(Any, OneMoreRangeAfterAnother) {
    constexpr size_t kRanges = 1000, kLength = 64;
    Buffer &at_a = buffer(kRanges * kLength);
    FarSide::Ranges ranges;
    for (size_t i = 0; i < kRanges; ++i) ranges.emplace_back(i * kLength, kLength);
    for (const auto &[offset, length] : ranges) registerAt(pair->a, {at_a.desc(offset, length)});
    FarSide &far = farSide(kRanges * kLength, ranges);
    at_a.fill(4);
    nixlXferReqH *request = makeRequest(NIXL_WRITE, listOf({at_a.desc()}), far.list());
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
    far.pull();
    EXPECT_TRUE(far.image().holds(4));
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(far.deregister(), NIXL_SUCCESS);
    EXPECT_EQ(far.deregister(), NIXL_ERR_NOT_FOUND);
    for (size_t i = kRanges; i-- > 0;) {
        ASSERT_EQ(pair->a->deregisterMem(registrationOf({at_a.desc(i * kLength, kLength)})), NIXL_SUCCESS);
    }
    EXPECT_EQ(pair->a->deregisterMem(registrationOf({at_a.desc(0, kLength)})), NIXL_ERR_NOT_FOUND);
}

TEST_P(Any, LocalMemoryOfARequestMustBeRegistered) {
    Buffer &at_a = buffer(kSize);
    registerAt(pair->a, {at_a.desc()});
    FarSide &far = farSide(kSize);
    nixlXferReqH *request = makeRequest(NIXL_WRITE, listOf({at_a.desc()}), far.list());
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->deregisterMem(registrationOf({at_a.desc()})), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->postXferReq(request), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Any, MemoryPastTheEndOfTheAddressSpaceIsRefused) {
    Buffer &memory = buffer(kSize);
    const nixlBasicDesc past_the_end(memory.address(), SIZE_MAX - 100, 0);
    EXPECT_LT(pair->a->registerMem(registrationOf({past_the_end})), 0);
    EXPECT_FALSE(nixlx::lastError().empty());
    EXPECT_LT(pair->a->registerMem(registrationOf({memory.desc(), past_the_end})), 0);
    EXPECT_EQ(pair->a->deregisterMem(registrationOf({memory.desc()})), NIXL_ERR_NOT_FOUND)
        << "all of a list or nothing";
}

} // namespace
} // namespace nx::test
