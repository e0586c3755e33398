// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What an agent records, when it refuses to start, and what it says about a transfer. Method: the exporter "recording"
// writes everything down; the backend GATED decides when a transfer ends.
#include <cstdlib>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nixl.h"
#include "support/agent_pair.h"
#include "support/buffer.h"
#include "support/gated_backend.h"
#include "support/recording_exporter.h"
#include "support/temp_dir.h"

namespace nx::test {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class AgentTelemetry : public testing::Test {
protected:
    void
    SetUp() override {
        gated().reset();
        recordingExporter().reset();
    }

    void
    TearDown() override {
        gated().reset();
        for (const auto &name : set_) ::unsetenv(name.c_str());
    }

    void
    set(const std::string &name, const std::string &value) {
        ::setenv(name.c_str(), value.c_str(), 1);
        set_.push_back(name);
    }

    static PairOptions
    measured() {
        PairOptions options;
        options.backend = "GATED";
        options.capture_telemetry = true;
        return options;
    }

    static nixlAgentConfig
    capturing() {
        nixlAgentConfig config;
        config.captureTelemetry = true;
        return config;
    }

    /// What the constructor of an agent throws; "" if it does not.
    static std::string
    startError(const std::string &name = "solo") {
        try {
            nixlAgent agent(name, capturing());
            return "";
        }
        catch (const std::runtime_error &error) {
            return error.what();
        }
    }

    /// Events in order; times replaced by "?", because nobody can know them.
    static std::vector<std::string>
    events() {
        std::vector<std::string> events;
        for (auto call : recordingExporter().calls()) {
            if (!call.starts_with("agent_")) continue;
            if (call.starts_with("agent_xfer_")) call = call.substr(0, call.find(' ')) + " ?";
            events.push_back(call.substr(6));
        }
        return events;
    }

    std::vector<std::string> set_;
};

TEST_F(AgentTelemetry, RecordsATransferItsMemoryAndItsEnd) {
    set("NIXL_TELEMETRY_EXPORTER", "recording");
    set("NIXL_TELEMETRY_BUFFER_SIZE", "16");
    Buffer x(4096), y(4096);
    {
        set("NIXL_TELEMETRY_ENABLE", "no");
        PairOptions target;
        target.backend = "GATED";
        PairedAgent b("B", target);
        set("NIXL_TELEMETRY_ENABLE", "yes"); // asks for it where the configuration does not
        PairedAgent a("A", target);
        ASSERT_EQ(a->registerMem(registrationOf({x.desc(0, 1024), x.desc(2048, 1024)})), NIXL_SUCCESS);
        ASSERT_EQ(b->registerMem(registrationOf({y.desc()})), NIXL_SUCCESS);
        a.load(b.metadata());
        for (const auto operation : {NIXL_WRITE, NIXL_READ}) {
            nixlXferReqH *request = nullptr;
            ASSERT_EQ(a->createXferReq(operation, listOf({x.desc(0, 512)}), listOf({y.desc(0, 512)}), "B", request),
                      NIXL_SUCCESS);
            ASSERT_EQ(a->postXferReq(request), NIXL_SUCCESS);
        }
        ASSERT_EQ(a->deregisterMem(registrationOf({x.desc(0, 1024)})), NIXL_SUCCESS);
    }
    EXPECT_THAT(events(),
                ElementsAre("memory_registered 2048", "xfer_post_time ?", "xfer_time ?", "tx_bytes 512",
                            "tx_requests_num 1", "xfer_post_time ?", "xfer_time ?", "rx_bytes 512", "rx_requests_num 1",
                            "memory_deregistered 1024"));
    const auto calls = recordingExporter().calls();
    EXPECT_EQ(calls.front(), "init");
    EXPECT_EQ(calls[1], "created A 16");
    EXPECT_EQ(calls[calls.size() - 2], "destroyed") << "before its plugin's fini";
    EXPECT_EQ(calls.back(), "fini");
}

TEST_F(AgentTelemetry, RecordsEveryAttemptOnceWhoeverSeesItsEnd) {
    set("NIXL_TELEMETRY_EXPORTER", "recording");
    set("NIXL_TELEMETRY_ENABLED_METRICS", "agent_tx_requests_num");
    Buffer x(64), y(64);
    {
        AgentPair pair(measured());
        auto *request = pair.request(NIXL_WRITE, x, y);
        gated().holdTransfers();
        ASSERT_EQ(pair.a->postXferReq(request), NIXL_IN_PROG);
        gated().finish(0);
        ASSERT_EQ(pair.finish(request, NIXL_IN_PROG), NIXL_SUCCESS);
        EXPECT_EQ(pair.a->getXferStatus(request), NIXL_SUCCESS); // once more
        ASSERT_EQ(pair.a->postXferReq(request), NIXL_IN_PROG);
        gated().finish(1);
        ASSERT_EQ(pair.a->postXferReq(request), NIXL_IN_PROG); // notices that the second is done
        gated().finish(2);
        pair.release(request);
    }
    const auto all = events();
    EXPECT_GE(all.size(), 2u);
    EXPECT_LE(all.size(), 3u) << "the last one may have been cancelled before it was done";
    EXPECT_THAT(all, testing::Each("tx_requests_num 1"));
}

TEST_F(AgentTelemetry, RecordsFailingCallsByStatusOnce) {
    set("NIXL_TELEMETRY_EXPORTER", "recording");
    set("NIXL_TELEMETRY_ENABLED_METRICS", "agent_err_*");
    Buffer x(64), y(64);
    {
        AgentPair pair(measured());
        auto *request = pair.request(NIXL_WRITE, x, y);
        nixl_xfer_telem_t telemetry;
        EXPECT_EQ(pair.a->getXferTelemetry(request, telemetry), NIXL_ERR_NOT_POSTED);
        EXPECT_THAT(nixlx::lastError(), HasSubstr("getXferTelemetry: the request was not posted"));
        EXPECT_EQ(pair.a->getXferStatus(nullptr), NIXL_ERR_INVALID_PARAM);
        nixlBackendH *backend = nullptr;
        EXPECT_EQ(pair.a->createBackend("NOSUCH", {}, backend), NIXL_ERR_NOT_FOUND);
        gated().holdTransfers();
        ASSERT_EQ(pair.a->postXferReq(request), NIXL_IN_PROG);
        EXPECT_EQ(pair.a->postXferReq(request), NIXL_ERR_REPOST_ACTIVE);
        gated().abort(0, NIXL_ERR_BACKEND);
        EXPECT_EQ(pair.finish(request, NIXL_IN_PROG), NIXL_ERR_BACKEND);
        EXPECT_EQ(pair.a->getXferStatus(request), NIXL_ERR_BACKEND) << "told again, counted once";
        EXPECT_EQ(pair.a->getXferTelemetry(request, telemetry), NIXL_ERR_BACKEND);
        EXPECT_THAT(nixlx::lastError(), HasSubstr("getXferTelemetry: backend GATED"));
    }
    EXPECT_THAT(events(),
                ElementsAre("err_not_posted 1", "err_invalid_param 1", "err_not_found 1", "err_repost_active 1",
                            "err_backend 1"));
}

TEST_F(AgentTelemetry, TakesWhatEnginesOf14Collected) {
    set("NIXL_TELEMETRY_EXPORTER", "recording");
    Buffer x(64);
    {
        nixlAgent agent("vintage", capturing());
        nixlBackendH *backend = nullptr;
        ASSERT_EQ(agent.createBackend("VINTAGE", {{"telemetry", "yes"}}, backend), NIXL_SUCCESS);
        ASSERT_EQ(agent.registerMem(registrationOf({x.desc()})), NIXL_SUCCESS);
    }
    EXPECT_THAT(recordingExporter().calls(),
                AllOf(Contains("agent_memory_registered 64"), Contains("agent_xfer_time 42").Times(1)));
}

TEST_F(AgentTelemetry, EveryFinishedTransferHasItsMeasurements) {
    Buffer x(4096), y(4096);
    AgentPair pair(measured());
    auto *request = pair.request(NIXL_WRITE, x, y);
    nixl_xfer_telem_t telemetry;
    ASSERT_EQ(pair.a->postXferReq(request), NIXL_SUCCESS);
    ASSERT_EQ(pair.a->getXferTelemetry(request, telemetry), NIXL_SUCCESS) << "done inside the post";
    EXPECT_EQ(telemetry.totalBytes, 4096u);
    EXPECT_EQ(telemetry.descCount, 1u);
    EXPECT_GE(telemetry.xferDuration, telemetry.postDuration);
    const auto first_start = telemetry.startTime;

    gated().holdTransfers();
    ASSERT_EQ(pair.a->postXferReq(request), NIXL_IN_PROG);
    nixl_xfer_telem_t untouched;
    EXPECT_EQ(pair.a->getXferTelemetry(request, untouched), NIXL_IN_PROG) << "those of the first are over";
    EXPECT_EQ(untouched.totalBytes, 0u);
    gated().finish(0);
    ASSERT_EQ(pair.finish(request, NIXL_IN_PROG), NIXL_SUCCESS);
    ASSERT_EQ(pair.a->invalidateRemoteMD("B"), NIXL_SUCCESS);
    ASSERT_EQ(pair.a->getXferTelemetry(request, telemetry), NIXL_SUCCESS) << "the peer was removed";
    EXPECT_GT(telemetry.startTime, first_start);
    EXPECT_EQ(pair.a->postXferReq(request), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(pair.a->getXferTelemetry(request, telemetry), NIXL_SUCCESS) << "no new attempt was made";
    ASSERT_EQ(pair.a->deregisterMem(registrationOf({x.desc()})), NIXL_SUCCESS);
    EXPECT_EQ(pair.a->getXferTelemetry(request, telemetry), NIXL_SUCCESS);
}

TEST_F(AgentTelemetry, IsOffUnlessAskedFor) {
    set("NIXL_TELEMETRY_EXPORTER", "recording");
    set("NIXL_TELEMETRY_BUFFER_SIZE", "nonsense that nobody reads");
    Buffer x(64), y(64);
    PairOptions options;
    options.backend = "GATED";
    for (const bool contradicted : {false, true}) {
        testing::internal::CaptureStderr();
        if (contradicted) set("NIXL_TELEMETRY_ENABLE", "0");
        options.capture_telemetry = contradicted;
        {
            AgentPair pair(options);
            auto *request = pair.request(NIXL_WRITE, x, y);
            ASSERT_EQ(pair.a->postXferReq(request), NIXL_SUCCESS);
            nixl_xfer_telem_t telemetry;
            EXPECT_EQ(pair.a->getXferTelemetry(request, telemetry), NIXL_ERR_NO_TELEMETRY);
            EXPECT_THAT(nixlx::lastError(), HasSubstr("cannot return values when telemetry is not enabled"));
        }
        const auto log = testing::internal::GetCapturedStderr();
        EXPECT_EQ(log.find("ignoring telemetry requested through agent config") != std::string::npos, contradicted)
            << log;
    }
    EXPECT_THAT(recordingExporter().calls(), IsEmpty());
}

TEST_F(AgentTelemetry, NobodyListensUnlessAnExporterIsNamed) {
    const auto threads = [] { return std::distance(std::filesystem::directory_iterator("/proc/self/task"), {}); };
    const auto before = threads();
    nixlAgent agent("solo", capturing());
    EXPECT_EQ(threads(), before) << "measuring needs no thread";
    set("NIXL_TELEMETRY_EXPORTER", "NOP");
    nixlAgent other("other", capturing());
    EXPECT_EQ(threads(), before);
    set("NIXL_TELEMETRY_EXPORTER", "recording");
    nixlAgent listened("listened", capturing());
    EXPECT_EQ(threads(), before + 1);
}

TEST_F(AgentTelemetry, ABrokenConfigurationIsThrown) {
    set("NIXL_TELEMETRY_BUFFER_SIZE", "many");
    EXPECT_THAT(startError(), AllOf(HasSubstr("NIXL_TELEMETRY_BUFFER_SIZE"), HasSubstr("'many'")));
    set("NIXL_TELEMETRY_BUFFER_SIZE", "0");
    EXPECT_THAT(startError(), HasSubstr("NIXL_TELEMETRY_BUFFER_SIZE is 0"));
    set("NIXL_TELEMETRY_BUFFER_SIZE", "1000000000000");
    EXPECT_THAT(startError(), HasSubstr("NIXL_TELEMETRY_BUFFER_SIZE is 1000000000000"));
    set("NIXL_TELEMETRY_BUFFER_SIZE", "24");
    EXPECT_EQ(startError(), "") << "a power of two is the ring's need";
    const TempDir folder;
    set("NIXL_TELEMETRY_DIR", folder.path().string());
    EXPECT_THAT(startError(), AllOf(HasSubstr("exporter 'BUFFER'"), HasSubstr("is 24"), HasSubstr("power of two")));
    set("NIXL_TELEMETRY_ENABLE", "perhaps");
    EXPECT_THAT(startError(), HasSubstr("NIXL_TELEMETRY_ENABLE"));
}

TEST_F(AgentTelemetry, AnExporterThatCannotBeHadIsThrown) {
    set("NIXL_TELEMETRY_EXPORTER", "nosuch");
    EXPECT_THAT(startError(),
                AllOf(HasSubstr("agent 'solo': telemetry exporter 'nosuch': Plugin file does not exist"),
                      HasSubstr("libtelemetry_exporter_nosuch.so")));
    set("NIXL_TELEMETRY_EXPORTER", "old");
    EXPECT_THAT(startError(), HasSubstr("api_version is 1, this library has 2"));
    set("NIXL_TELEMETRY_EXPORTER", "failing");
    EXPECT_THAT(startError(), HasSubstr("exporter 'failing': the collector is on holiday"));
    EXPECT_THAT(startError("silent"), HasSubstr("created no exporter and gave no reason"));
    EXPECT_THAT(startError("odd"), HasSubstr("std::exception"));
    set("NIXL_TELEMETRY_EXPORTER", "BUFFER");
    EXPECT_THAT(startError(), HasSubstr("NIXL_TELEMETRY_DIR is not set"));
}

TEST_F(AgentTelemetry, AnAddressThatIsTakenCostsTheEventsOnly) {
    set("NIXL_TELEMETRY_EXPORTER", "taken");
    testing::internal::CaptureStderr();
    Buffer x(64), y(64);
    AgentPair pair(measured());
    const auto log = testing::internal::GetCapturedStderr();
    EXPECT_THAT(log, HasSubstr("agent 'A': telemetry exporter 'taken': port 9090 is taken"));
    auto *request = pair.request(NIXL_WRITE, x, y);
    ASSERT_EQ(pair.a->postXferReq(request), NIXL_SUCCESS);
    nixl_xfer_telem_t telemetry;
    EXPECT_EQ(pair.a->getXferTelemetry(request, telemetry), NIXL_SUCCESS);
}

TEST_F(AgentTelemetry, TwoAgentsOfOneNameShareNoRing) {
    const TempDir folder;
    set("NIXL_TELEMETRY_DIR", folder.path().string());
    nixlAgent first("twin", capturing());
    testing::internal::CaptureStderr();
    nixlAgent second("twin", capturing());
    EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("in use by another agent of this name"));
    nixlAgent third("../twin", capturing());
    EXPECT_TRUE(std::filesystem::exists(folder / "twin"));
    EXPECT_TRUE(std::filesystem::exists(folder / "%..%2Ftwin"));
}

TEST_F(AgentTelemetry, AHealthyRunWarnsOfNothing) {
    const TempDir folder;
    set("NIXL_TELEMETRY_DIR", folder.path().string());
    Buffer x(64), y(64);
    testing::internal::CaptureStderr();
    {
        AgentPair pair(measured());
        ASSERT_EQ(pair.run(pair.request(NIXL_WRITE, x, y)), NIXL_SUCCESS);
    }
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

} // namespace
} // namespace nx::test
