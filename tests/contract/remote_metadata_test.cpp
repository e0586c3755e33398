// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Metadata of a backend: there and back, in parts, again, changed, gone.
#include "contract/contract.h"

#include "utils/serdes/serdes.h"

namespace nx::test {
namespace {

constexpr size_t kSize = 4096;

/// The connection information of a blob, as a blob of NIXL 1.4: without sections and without what we add at the end.
std::string
connectionOnly(const std::string &blob, const std::string &backend) {
    nixlSerDes in, out;
    if (in.importStr(blob) != NIXL_SUCCESS) throw std::runtime_error("not a blob");
    const std::string agent = in.getStr("Agent");
    size_t count = 0;
    if (in.getBuf("Conns", &count, sizeof(count)) != NIXL_SUCCESS) throw std::runtime_error("no connections");
    std::string info;
    for (size_t i = 0; i < count; ++i) {
        const std::string type = in.getStr("t");
        const std::string of_type = in.getStr("c");
        if (type == backend) info = of_type;
    }
    const size_t one = 1, none = 0;
    out.addStr("Agent", agent);
    out.addBuf("Conns", &one, sizeof(one));
    out.addStr("t", backend);
    out.addStr("c", info);
    out.addStr("", "MemSection");
    out.addBuf("nixlSecElms", &none, sizeof(none));
    return out.exportStr();
}

TEST_P(Remote, MetadataLoadsAgainAndAgain) {
    Buffer &at_b = buffer(kSize);
    registerAt(pair->b, {at_b.desc()});
    const nixl_blob_t blob = pair->b.metadata();
    EXPECT_EQ(pair->a->checkRemoteMD("B", listOf({at_b.desc()})), NIXL_ERR_NOT_FOUND);
    for (int i = 0; i < 3; ++i) {
        std::string agent;
        EXPECT_EQ(pair->a->loadRemoteMD(blob, agent), NIXL_SUCCESS) << nixlx::lastError();
        EXPECT_EQ(agent, "B");
        EXPECT_EQ(pair->a->checkRemoteMD("B", listOf({at_b.desc()})), NIXL_SUCCESS);
    }
    EXPECT_EQ(pair->a->makeConnection("B"), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->makeConnection("nobody"), NIXL_ERR_NOT_FOUND);
}

TEST_P(Remote, WhatIsNotCoveredIsNotFound) {
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

TEST_P(Remote, MetadataGrows) {
    Buffer &at_a = buffer(kSize), &first = buffer(kSize), &second = buffer(kSize);
    registerAt(pair->a, {at_a.desc()});
    registerAt(pair->b, {first.desc()});
    pair->exchange();
    EXPECT_EQ(pair->a->checkRemoteMD("B", listOf({second.desc()})), NIXL_ERR_NOT_FOUND);
    registerAt(pair->b, {second.desc()});
    pair->a.load(pair->b.metadata());
    at_a.fill(1);
    for (const Buffer *to : {&first, &second}) {
        nixlXferReqH *request = makeRequest(NIXL_WRITE, listOf({at_a.desc()}), listOf({to->desc()}));
        EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
        EXPECT_TRUE(to->holds(1));
        EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
    }
}

TEST_P(Remote, MetadataTravelsInParts) {
    Buffer &at_a = buffer(kSize), &first = buffer(kSize), &second = buffer(kSize);
    registerAt(pair->a, {at_a.desc()});
    registerAt(pair->b, {first.desc(), second.desc()});
    nixl_blob_t connection, part, both;
    std::string agent;
    ASSERT_EQ(pair->b->getLocalPartialMD(registrationOf({}), connection), NIXL_SUCCESS);
    ASSERT_EQ(pair->b->getLocalPartialMD(registrationOf({first.desc()}), part), NIXL_SUCCESS);
    nixl_opt_args_t with_connection;
    with_connection.includeConnInfo = true;
    ASSERT_EQ(pair->b->getLocalPartialMD(registrationOf({second.desc()}), both, &with_connection), NIXL_SUCCESS);
    EXPECT_EQ(pair->b->getLocalPartialMD(registrationOf({first.desc(0, 1)}), part), NIXL_ERR_NOT_FOUND);

    EXPECT_LT(pair->a->loadRemoteMD(part, agent), 0) << "memory before the connection";
    EXPECT_EQ(pair->a->loadRemoteMD(connection, agent), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(pair->a->checkRemoteMD("B", listOf({})), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->checkRemoteMD("B", listOf({first.desc()})), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(pair->a->loadRemoteMD(part, agent), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(pair->a->checkRemoteMD("B", listOf({first.desc()})), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->checkRemoteMD("B", listOf({second.desc()})), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(pair->a->loadRemoteMD(both, agent), NIXL_SUCCESS) << nixlx::lastError();
    at_a.fill(1);
    nixlXferReqH *request = makeRequest(NIXL_WRITE, listOf({at_a.desc()}), listOf({second.desc()}));
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
    EXPECT_TRUE(second.holds(1));
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Remote, BadMetadataChangesNothing) {
    Buffer &at_a = buffer(kSize), &at_b = buffer(kSize);
    nixlXferReqH *request = pair->request(NIXL_WRITE, at_a, at_b);
    std::string agent = "unchanged";
    const nixl_blob_t blob = pair->b.metadata();
    EXPECT_EQ(pair->a->loadRemoteMD("", agent), NIXL_ERR_MISMATCH);
    EXPECT_EQ(pair->a->loadRemoteMD("not metadata at all", agent), NIXL_ERR_MISMATCH);
    EXPECT_EQ(pair->a->loadRemoteMD(blob.substr(0, 40), agent), NIXL_ERR_MISMATCH);
    EXPECT_EQ(pair->a->loadRemoteMD(pair->a.metadata(), agent), NIXL_ERR_INVALID_PARAM) << "its own";
    EXPECT_EQ(agent, "unchanged");
    at_a.fill(1);
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
    EXPECT_TRUE(at_b.holds(1));
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Remote, ConnectionInfoOfALoadedAgentDoesNotChange) {
    const std::string first = connectionOnly(pair->b.metadata(), options().backend);
    PairedAgent other("B", options());
    const std::string second = connectionOnly(other.metadata(), options().backend);
    pair->a.load(first);
    pair->a.load(first);
    std::string agent = "unchanged";
    EXPECT_EQ(pair->a->loadRemoteMD(second, agent), NIXL_ERR_NOT_ALLOWED);
    EXPECT_EQ(agent, "unchanged");
    EXPECT_EQ(pair->a->invalidateRemoteMD("B"), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->loadRemoteMD(second, agent), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(pair->a->genNotif("B", "hello"), NIXL_SUCCESS);
    EXPECT_TRUE(eventually([&] {
        pair->progress();
        EXPECT_EQ(other->getNotifs(other.inbox), NIXL_SUCCESS);
        return !other.inbox.empty();
    }));
}

TEST_P(Remote, ANewStartOfAnAgentReplacesTheOld) {
    Buffer &at_a = buffer(kSize), &at_b = buffer(kSize);
    nixlXferReqH *request = pair->request(NIXL_WRITE, at_a, at_b);
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
    pair->b.agent.reset();
    PairedAgent restarted("B", options());
    registerAt(restarted, {at_b.desc()});
    pair->a.load(restarted.metadata());
    EXPECT_EQ(pair->a->postXferReq(request), NIXL_ERR_NOT_FOUND) << "it belongs to the old start";
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
    at_a.fill(1);
    at_b.clear();
    request = makeRequest(NIXL_WRITE, listOf({at_a.desc()}), listOf({at_b.desc()}));
    nixl_status_t status = pair->a->postXferReq(request);
    EXPECT_TRUE(eventually([&] {
        if (status == NIXL_IN_PROG) status = pair->a->getXferStatus(request);
        EXPECT_EQ(restarted->getNotifs(restarted.inbox), NIXL_SUCCESS);
        return status != NIXL_IN_PROG;
    }));
    EXPECT_EQ(status, NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(at_b.holds(1));
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Remote, AnInvalidatedAgentIsUnknownUntilItIsLoadedAgain) {
    Buffer &at_a = buffer(kSize), &at_b = buffer(kSize);
    nixlXferReqH *request = pair->request(NIXL_WRITE, at_a, at_b);
    EXPECT_EQ(pair->run(request), NIXL_SUCCESS);
    const nixl_blob_t blob = pair->b.metadata();
    for (int round = 0; round < 5; ++round) {
        EXPECT_EQ(pair->a->invalidateRemoteMD("B"), NIXL_SUCCESS);
        EXPECT_EQ(pair->a->invalidateRemoteMD("B"), NIXL_ERR_NOT_FOUND);
        EXPECT_EQ(pair->a->checkRemoteMD("B", listOf({})), NIXL_ERR_NOT_FOUND);
        EXPECT_EQ(pair->a->postXferReq(request), NIXL_ERR_NOT_FOUND);
        EXPECT_EQ(pair->a->genNotif("B", "hello"), NIXL_ERR_NOT_FOUND);
        pair->a.load(blob);
        EXPECT_EQ(pair->a->postXferReq(request), NIXL_ERR_NOT_FOUND) << "it was made before";
        at_a.fill(round);
        nixlXferReqH *fresh = makeRequest(NIXL_WRITE, listOf({at_a.desc()}), listOf({at_b.desc()}));
        EXPECT_EQ(pair->run(fresh), NIXL_SUCCESS);
        EXPECT_TRUE(at_b.holds(round));
        EXPECT_EQ(pair->a->releaseXferReq(fresh), NIXL_SUCCESS);
    }
    EXPECT_EQ(pair->a->invalidateRemoteMD("A"), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(Remote, PreparedListsGoStale) {
    Buffer &at_a = buffer(kSize), &at_b = buffer(kSize);
    registerAt(pair->a, {at_a.desc()});
    registerAt(pair->b, {at_b.desc()});
    pair->exchange();
    nixlDlistH *local = prepare("", listOf({at_a.desc()})), *remote = prepare("B", listOf({at_b.desc()}));
    nixlXferReqH *request = nullptr;
    const auto make = [&] { return pair->a->makeXferReq(NIXL_WRITE, local, {0}, remote, {0}, request); };
    ASSERT_EQ(make(), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->invalidateRemoteMD("B"), NIXL_SUCCESS);
    EXPECT_EQ(make(), NIXL_ERR_NOT_FOUND);
    pair->a.load(pair->b.metadata());
    EXPECT_EQ(make(), NIXL_ERR_NOT_FOUND) << "the list refers to what was loaded before";
    EXPECT_EQ(pair->a->releasedDlistH(remote), NIXL_SUCCESS);
    remote = prepare("B", listOf({at_b.desc()}));
    ASSERT_EQ(make(), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->deregisterMem(registrationOf({at_a.desc()})), NIXL_SUCCESS);
    EXPECT_EQ(make(), NIXL_ERR_NOT_FOUND) << "local memory was deregistered";
    registerAt(pair->a, {at_a.desc()});
    EXPECT_EQ(make(), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(pair->a->releasedDlistH(local), NIXL_SUCCESS);
    EXPECT_EQ(pair->a->releasedDlistH(remote), NIXL_SUCCESS);
}

TEST_P(Remote, InvalidatingEndsATransferInProgress) {
    constexpr size_t kLong = size_t{64} << 20;
    Buffer &at_a = buffer(kLong), &at_b = buffer(kLong);
    nixlXferReqH *request = pair->request(NIXL_WRITE, at_a, at_b);
    if (pair->a->postXferReq(request) != NIXL_IN_PROG) GTEST_SKIP() << "a post of 64 MiB never stays in progress";
    EXPECT_EQ(pair->a->invalidateRemoteMD("B"), NIXL_SUCCESS);
    const nixl_status_t status = pair->finish(request, NIXL_IN_PROG);
    EXPECT_TRUE(status == NIXL_ERR_NOT_FOUND || status == NIXL_SUCCESS) << nixlEnumStrings::statusStr(status);
    EXPECT_EQ(pair->release(request), NIXL_SUCCESS);
}

} // namespace
} // namespace nx::test
