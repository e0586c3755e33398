// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: whatever the server does, a request ends as it should: with every byte, or with the status and the sentence
// that fit, with nothing left behind and no byte after its end. Method: a server that fails as it is told.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>

#include <gtest/gtest.h>

#include "support/obj_agent.h"
#include "support/faulty_s3.h"

namespace nx::test {
namespace {

using Fault = FaultyS3::Fault;
using Kind = FaultyS3::Kind;
using Way = FaultyS3::Way;

constexpr size_t kPart = size_t{64} << 10;

std::string
pattern(size_t size, unsigned seed) {
    std::string bytes(size, '\0');
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>((i * 131 + i / 251 + seed) % 256);
    return bytes;
}

class Faults : public testing::Test {
protected:
    nixl_b_params_t
    params(const nixl_b_params_t &more = {}) const {
        nixl_b_params_t all = {{"endpoint_override", server.endpoint()},
                               {"access_key", "key"},
                               {"secret_key", "secret"},
                               {"bucket", "bucket"},
                               {"part_size", "65536"},
                               {"stall_ms", "300"},
                               {"retries", "2"}};
        for (const auto &[name, value] : more) all[name] = value;
        return all;
    }

    /// The first `times` requests of the kind have the fault.
    void
    failTimes(uint64_t times, Kind kind, Fault fault) {
        server.setScript([=, left = std::make_shared<std::atomic<uint64_t>>(times)](const FaultyS3::Request &request) {
            if (request.kind != kind || *left == 0) return Fault{};
            --*left;
            return fault;
        });
    }

    void
    failAlways(Kind kind, Fault fault) {
        failTimes(UINT64_MAX, kind, std::move(fault));
    }

    /// An agent, in place of the last one, and an object of so many bytes at the server under the id 1.
    ObjAgent &
    with(size_t size, const nixl_b_params_t &more = {}) {
        server.setScript({});
        content = pattern(size, 1);
        server.put("bucket", "k", content);
        owned.reset();
        owned = std::make_unique<ObjAgent>(2 * size, params(more));
        owned->add(1, "k");
        return *owned;
    }

    bool
    holdsContent(const ObjAgent &agent) const {
        return std::memcmp(agent.memory.data(), content.data(), content.size()) == 0;
    }

    FaultyS3 server;
    std::string content;
    std::unique_ptr<ObjAgent> owned;
};

TEST_F(Faults, WhatPassesIsTriedAgainAndOnlyThePartThatFailed) {
    const Fault kPassing[] = {FaultyS3::internalError(),
                              FaultyS3::slowDown(),
                              FaultyS3::tooMany(),
                              {Way::kAnswer, 502},
                              {Way::kAnswer, 504},
                              {Way::kAnswer, 408, "RequestTimeout"},
                              {Way::kReset},
                              {Way::kLostAnswer},
                              {Way::kResetInBody},
                              {Way::kStall},
                              {Way::kStallInBody},
                              {Way::kShortBody},
                              {Way::kShortObject}};
    for (const Fault &fault : kPassing) {
        SCOPED_TRACE(static_cast<int>(fault.way) * 1000 + fault.status);
        ObjAgent &agent = with(4 * kPart);
        const uint64_t before = server.count(Kind::kGet);
        failTimes(1, Kind::kGet, fault);
        EXPECT_EQ(agent.move(NIXL_READ, 1, 0, 4 * kPart), NIXL_SUCCESS) << agent.report.error;
        EXPECT_TRUE(holdsContent(agent));
        EXPECT_EQ(server.count(Kind::kGet) - before, 5u);
        if (fault.way == Way::kShortObject) continue; // of answers with bytes
        failTimes(1, Kind::kPut, fault);
        EXPECT_EQ(agent.move(NIXL_WRITE, 1, 0, 1000), NIXL_SUCCESS) << agent.report.error;
        EXPECT_TRUE(server.get("bucket", "k") == content.substr(0, 1000));
    }
}

TEST_F(Faults, WhatDoesNotPassSaysWhatTheServerSaidAndHowOftenItWasTried) {
    ObjAgent &agent = with(kPart);
    const auto errorOf = [&](Fault fault, nixl_status_t status) {
        failAlways(Kind::kGet, std::move(fault));
        EXPECT_EQ(agent.move(NIXL_READ, 1, 0, kPart), status) << agent.report.error;
        return agent.report.error;
    };
    const auto contains = [](const std::string &text) { return testing::HasSubstr(text); };
    const std::string error = errorOf(FaultyS3::internalError(), NIXL_ERR_BACKEND);
    EXPECT_THAT(error, contains("object 'k' in bucket 'bucket' at " + server.endpoint()));
    EXPECT_THAT(error, contains("reading 65536 bytes at offset 0"));
    EXPECT_THAT(error, contains("InternalError (500)"));
    EXPECT_THAT(error, contains("request id"));
    EXPECT_THAT(error, contains("after 3 tries"));
    EXPECT_THAT(errorOf({Way::kStall}, NIXL_ERR_BACKEND), contains("nothing moved for 300 ms"));
    EXPECT_THAT(errorOf({Way::kShortBody}, NIXL_ERR_BACKEND), contains("after 3 tries"));
    EXPECT_THAT(errorOf({Way::kAnswer, 403, "AccessDenied"}, NIXL_ERR_NOT_ALLOWED), contains("AccessDenied (403)"));
    EXPECT_THAT(errorOf({Way::kAnswer, 418, "Teapot\n"}, NIXL_ERR_BACKEND), contains("Teapot? (418)"));
    EXPECT_THAT(errorOf(FaultyS3::moved("eu-west-9"), NIXL_ERR_BACKEND), contains("region is 'eu-west-9'"));
    EXPECT_THAT(
        errorOf({Way::kAnswer, 307, "TemporaryRedirect", {{"Location", "http://elsewhere/"}}}, NIXL_ERR_BACKEND),
        contains("'http://elsewhere/'"));
    EXPECT_THAT(errorOf(FaultyS3::skewed(), NIXL_ERR_NOT_ALLOWED), contains("set the clock"));
    // What is right again succeeds, on the same request's object.
    failTimes(0, Kind::kGet, {});
    EXPECT_EQ(agent.move(NIXL_READ, 1, 0, kPart), NIXL_SUCCESS) << agent.report.error;
    EXPECT_TRUE(holdsContent(agent));
}

TEST_F(Faults, AWrongClockIsSetByTheServers) {
    ObjAgent &agent = with(kPart);
    failTimes(1, Kind::kGet, FaultyS3::skewed());
    EXPECT_EQ(agent.move(NIXL_READ, 1, 0, kPart), NIXL_SUCCESS) << agent.report.error;
}

TEST_F(Faults, AnObjectThatChangesWhileItIsReadIsDetected) {
    ObjAgent &agent = with(64 * kPart);
    std::atomic<int> reads{0};
    server.setScript([&](const FaultyS3::Request &request) {
        return Fault{request.kind == Kind::kGet && ++reads == 40 ? Way::kChanged : Way::kNone};
    });
    EXPECT_EQ(agent.move(NIXL_READ, 1, 0, 64 * kPart), NIXL_ERR_MISMATCH) << agent.report.error;
    EXPECT_EQ(agent.move(NIXL_READ, 1, 0, 64 * kPart), NIXL_SUCCESS) << agent.report.error;
    EXPECT_TRUE(holdsContent(agent));
}

TEST_F(Faults, NoByteIsWrittenBesideWhatALongAnswerBrings) {
    ObjAgent &agent = with(4 * kPart);
    failAlways(Kind::kGet, {Way::kLongBody});
    std::memset(agent.memory.data(), 0x5a, agent.memory.size());
    const nixl_status_t status = agent.move(NIXL_READ, 1, 100, 1000);
    if (status == NIXL_SUCCESS) {
        EXPECT_EQ(std::memcmp(agent.memory.data(), content.data() + 100, 1000), 0);
    }
    EXPECT_EQ(agent.memory.data()[1000], 0x5a);
}

TEST_F(Faults, BytesThatHaveNotTheirChecksumAreMovedAgainAndNeverGood) {
    ObjAgent &agent = with(kPart);
    agent.memory.fill(1);
    failTimes(2, Kind::kPut, {Way::kCorrupted});
    ASSERT_EQ(agent.move(NIXL_WRITE, 1, 0, kPart), NIXL_SUCCESS) << agent.report.error;
    content.assign(reinterpret_cast<const char *>(agent.memory.data()), kPart);
    EXPECT_TRUE(server.get("bucket", "k") == content);
    agent.memory.clear();
    failTimes(2, Kind::kGet, {Way::kCorrupted});
    EXPECT_EQ(agent.move(NIXL_READ, 1, 0, kPart), NIXL_SUCCESS) << agent.report.error;
    EXPECT_TRUE(holdsContent(agent));
    failAlways(Kind::kGet, {Way::kCorrupted});
    EXPECT_EQ(agent.move(NIXL_READ, 1, 0, kPart), NIXL_ERR_INTEGRITY);
    EXPECT_THAT(agent.report.error, testing::HasSubstr("checksum"));
    failAlways(Kind::kPut, {Way::kCorrupted});
    EXPECT_EQ(agent.move(NIXL_WRITE, 1, 0, kPart), NIXL_ERR_INTEGRITY) << agent.report.error;
}

// ---- Uploads in parts

constexpr size_t kUpload = size_t{12} << 20; // three parts

TEST_F(Faults, EveryStepOfAnUploadIsTriedAgain) {
    for (const Kind kind : {Kind::kCreateUpload, Kind::kPart, Kind::kComplete}) {
        for (const Fault &fault : {FaultyS3::internalError(), Fault{Way::kReset}, Fault{Way::kLostAnswer}}) {
            SCOPED_TRACE(static_cast<int>(kind) * 100 + static_cast<int>(fault.way));
            ObjAgent &agent = with(kUpload);
            std::memcpy(agent.memory.data(), content.data(), kUpload);
            agent.add(2, "written");
            failTimes(1, kind, fault);
            EXPECT_EQ(agent.move(NIXL_WRITE, 2, 0, kUpload), NIXL_SUCCESS) << agent.report.error;
            EXPECT_EQ(agent.report.bytes_done, kUpload);
            EXPECT_TRUE(server.get("bucket", "written") == content);
        }
    }
}

TEST_F(Faults, AnUploadThatFailsOrIsCancelledLeavesNothingBehind) {
    for (const Kind kind : {Kind::kPart, Kind::kComplete}) {
        ObjAgent &agent = with(kUpload);
        agent.add(2, "never");
        failAlways(kind, {Way::kAnswer, 400, "InvalidRequest"});
        EXPECT_EQ(agent.move(NIXL_WRITE, 2, 0, kUpload), NIXL_ERR_BACKEND);
        EXPECT_EQ(agent.report.bytes_done, 0u);
        EXPECT_TRUE(eventually([&] { return server.openUploads() == 0; }));
    }
    for (const Kind kind : {Kind::kCreateUpload, Kind::kPart, Kind::kComplete}) {
        SCOPED_TRACE(static_cast<int>(kind));
        ObjAgent &agent = with(kUpload, {{"stall_ms", "60000"}});
        agent.add(2, "never");
        const uint64_t before = server.count(kind);
        // It is done, and the answer takes its time.
        failAlways(kind, {kind == Kind::kCreateUpload ? Way::kNone : Way::kStall});
        nixlXferReqH *const request = agent.request(NIXL_WRITE, 2, 0, kUpload);
        ASSERT_EQ(agent.agent->postXferReq(request), NIXL_IN_PROG);
        EXPECT_TRUE(eventually([&] { return server.count(kind) > before; }));
        EXPECT_EQ(agent.agent->cancelXferReq(request), NIXL_SUCCESS);
        nixl_status_t status = NIXL_IN_PROG;
        EXPECT_TRUE(eventually([&] { return (status = agent.agent->getXferStatus(request)) != NIXL_IN_PROG; }));
        EXPECT_EQ(status, NIXL_ERR_CANCELED);
        EXPECT_EQ(agent.agent->releaseXferReq(request), NIXL_SUCCESS);
        owned.reset(); // which waits for what is still to be undone
        EXPECT_EQ(server.openUploads(), 0u);
        EXPECT_FALSE(server.get("bucket", "never"));
    }
}

// ---- The end of a request

TEST_F(Faults, ARequestThatIsCancelledOrLateIsQuietAtOnce) {
    for (const Way way : {Way::kStall, Way::kStallInBody}) {
        for (const bool late : {false, true}) {
            ObjAgent &agent = with(64 * kPart, {{"stall_ms", "60000"}});
            failAlways(Kind::kGet, {way});
            nixlXferReqH *const request = agent.request(NIXL_READ, 1, 0, 64 * kPart);
            if (late) {
                ASSERT_EQ(agent.agent->setXferLimits(request, {.deadline = std::chrono::milliseconds(50)}),
                          NIXL_SUCCESS);
            }
            ASSERT_EQ(agent.agent->postXferReq(request), NIXL_IN_PROG);
            if (!late) {
                EXPECT_EQ(agent.agent->cancelXferReq(request), NIXL_SUCCESS);
            }
            nixl_status_t status = NIXL_IN_PROG;
            EXPECT_TRUE(eventually([&] { return (status = agent.agent->getXferStatus(request)) != NIXL_IN_PROG; }));
            EXPECT_EQ(status, late ? NIXL_ERR_TIMEOUT : NIXL_ERR_CANCELED);
            std::memset(agent.memory.data(), 0x5a, agent.memory.size());
            EXPECT_EQ(agent.agent->releaseXferReq(request), NIXL_SUCCESS);
            failTimes(0, Kind::kGet, {});
            EXPECT_EQ(agent.move(NIXL_READ, 1, 0, 64 * kPart, 64 * kPart), NIXL_SUCCESS) << agent.report.error;
            unsigned char *const end = agent.memory.data() + 64 * kPart;
            EXPECT_EQ(std::count(agent.memory.data(), end, 0x5a), static_cast<ptrdiff_t>(64 * kPart));
        }
    }
}

TEST_F(Faults, AServerThatRefusesConnectionsIsNamed) {
    uint16_t port = 0;
    {
        const FaultyS3 gone;
        port = gone.port();
    }
    ObjAgent agent(100, params({{"endpoint_override", "http://127.0.0.1:" + std::to_string(port)}, {"retries", "1"}}));
    agent.add(1, "k");
    EXPECT_EQ(agent.move(NIXL_READ, 1, 0, 100), NIXL_ERR_BACKEND);
    EXPECT_THAT(agent.report.error, testing::HasSubstr("refused"));
    EXPECT_THAT(agent.report.error, testing::HasSubstr("after 2 tries"));
}

// ---- Many

TEST_F(Faults, AtTenPercentOfMixedFaultsAllSucceedWithFewMoreRequests) {
    constexpr size_t kObjects = 500, kSize = 4 * kPart;
    ObjAgent agent(kObjects * kSize, params({{"retries", "8"}, {"stall_ms", "500"}}));
    nixl_xfer_dlist_t memory(DRAM_SEG), objects(OBJ_SEG);
    for (size_t i = 0; i < kObjects; ++i) {
        agent.add(i, "many/" + std::to_string(i));
        memory.addDesc(agent.memory.desc(i * kSize, kSize));
        objects.addDesc({0, kSize, i});
    }
    server.setScript(FaultyS3::mixed(1, 0.1,
                                     {FaultyS3::internalError(),
                                      FaultyS3::slowDown(),
                                      FaultyS3::tooMany(),
                                      {Way::kReset},
                                      {Way::kResetInBody},
                                      {Way::kStall},
                                      {Way::kStallInBody},
                                      {Way::kShortBody},
                                      {Way::kShortObject}}));
    for (const nixl_xfer_op_t operation : {NIXL_WRITE, NIXL_READ}) {
        if (operation == NIXL_WRITE) agent.memory.fill(1);
        else agent.memory.clear();
        nixlXferReqH *request = nullptr;
        require(agent.agent->createXferReq(operation, memory, objects, "A", request), "create");
        const uint64_t before = server.count();
        EXPECT_EQ(agent.run(request), NIXL_SUCCESS) << agent.report.error;
        const uint64_t needed = operation == NIXL_WRITE ? kObjects : kObjects * kSize / kPart;
        EXPECT_LE(server.count() - before, needed * 5 / 4);
        EXPECT_TRUE(agent.memory.holds(1));
        EXPECT_EQ(agent.agent->releaseXferReq(request), NIXL_SUCCESS);
    }
}

TEST_F(Faults, ManyObjectsAreAskedAboutInSpiteOfFaults) {
    constexpr size_t kObjects = 1000;
    ObjAgent agent(100, params({{"retries", "8"}}));
    nixl_reg_dlist_t questions(OBJ_SEG);
    for (size_t i = 0; i < kObjects; ++i) {
        const std::string key = "asked/" + std::to_string(i);
        if (i % 3 != 0) server.put("bucket", key, std::string(i, 'x'));
        questions.addDesc(nixlBlobDesc(0, 0, i, key));
    }
    server.setScript(FaultyS3::mixed(1, 0.1, {FaultyS3::internalError(), FaultyS3::slowDown(), {Way::kReset}}));
    std::vector<nixl_query_resp_t> answers;
    ASSERT_EQ(agent.agent->queryMem(questions, answers, &agent.agent.with_backend), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_EQ(answers.size(), kObjects);
    for (size_t i = 0; i < kObjects; ++i) {
        ASSERT_EQ(answers[i].has_value(), i % 3 != 0) << i;
        if (answers[i]) {
            EXPECT_EQ(answers[i]->at("size"), std::to_string(i));
        }
    }
    failAlways(Kind::kHead, {Way::kAnswer, 403, "AccessDenied"});
    EXPECT_EQ(agent.agent->queryMem(questions, answers, &agent.agent.with_backend), NIXL_ERR_NOT_ALLOWED);
    EXPECT_EQ(answers.size(), kObjects) << "written on success only";
}

} // namespace
} // namespace nx::test
