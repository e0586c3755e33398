// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: objects go to and from an S3 server whole and unchanged, whatever their names and sizes, and what fails says
// what and why. Method: agents that load the plugin, a real server, and one that fails as it is told.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "nixlx/engine.h"
#include "support/obj_agent.h"
#include "support/faulty_s3.h"
#include "support/s3_server.h"
#include "support/temp_dir.h"

namespace nx::test {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

class AtAServer : public testing::Test {
protected:
    void
    SetUp() override {
        if (const std::string why = S3Server::whyNot(); !why.empty()) GTEST_SKIP() << why;
        server = std::make_unique<S3Server>();
        server->bucket("bucket");
    }

    nixl_b_params_t
    params() const {
        return {{"endpoint_override", server->endpoint()},
                {"access_key", server->accessKey()},
                {"secret_key", server->secretKey()},
                {"bucket", "bucket"},
                {"retries", "1"}};
    }

    std::unique_ptr<S3Server> server;
};

TEST_F(AtAServer, EverySizeIsWrittenAndReadAtEveryOffset) {
    nixl_b_params_t small_parts = params();
    small_parts["part_size"] = "0x10000";
    ObjAgent agent(24 * kMiB, small_parts);
    uint64_t id = 0;
    for (const size_t size :
         {size_t{1}, size_t{65535}, size_t{65536}, size_t{65537}, 5 * kMiB, 5 * kMiB + 1, 10 * kMiB + 777}) {
        SCOPED_TRACE(size);
        agent.add(++id, "size/" + std::to_string(size));
        agent.memory.fill(id);
        ASSERT_EQ(agent.move(NIXL_WRITE, id, 0, size), NIXL_SUCCESS) << agent.report.error;
        EXPECT_EQ(agent.report.bytes_done, size);
        const std::vector<unsigned char> written(agent.memory.data(), agent.memory.data() + size);
        for (const size_t offset : {size_t{0}, size / 3, size - 1}) {
            agent.memory.clear();
            ASSERT_EQ(agent.move(NIXL_READ, id, offset, size - offset, 17), NIXL_SUCCESS) << agent.report.error;
            EXPECT_EQ(std::memcmp(agent.memory.data() + 17, written.data() + offset, size - offset), 0);
            EXPECT_EQ(std::count(agent.memory.data(), agent.memory.data() + 17, 0), 17);
            EXPECT_EQ(agent.memory.data()[17 + size - offset], 0);
        }
    }
    EXPECT_EQ(server->leftovers("bucket"), 0u);
}

TEST_F(AtAServer, NamesMayHaveEveryCharacter) {
    std::string every = "every ";
    for (char c = 0x21; c < 0x7f; ++c) every += c == '/' ? std::string("/") : std::string(1, c);
    const std::string names[] = {every,
                                 "a/b/c.d",
                                 "a+b c%20d%2Fe",
                                 "?x=1&uploads#y",
                                 "\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80",
                                 "tab\tand newline\n",
                                 "~-_.",
                                 std::string(200, 'k')};
    ObjAgent agent(1000, params());
    nixl_reg_dlist_t questions(OBJ_SEG);
    uint64_t id = 0;
    for (const std::string &name : names) {
        SCOPED_TRACE(name);
        agent.add(++id, name);
        agent.memory.fill(id);
        EXPECT_EQ(agent.move(NIXL_WRITE, id, 0, 100 + id), NIXL_SUCCESS) << agent.report.error;
        EXPECT_TRUE(std::filesystem::exists(server->bucket("bucket") / name));
        agent.memory.clear();
        EXPECT_EQ(agent.move(NIXL_READ, id, 0, 100 + id), NIXL_SUCCESS) << agent.report.error;
        Buffer expected(1000);
        expected.fill(id);
        EXPECT_EQ(std::memcmp(agent.memory.data(), expected.data(), 100 + id), 0);
        questions.addDesc(nixlBlobDesc(0, 0, id, name));
    }
    std::vector<nixl_query_resp_t> answers;
    ASSERT_EQ(agent.agent->queryMem(questions, answers, &agent.agent.with_backend), NIXL_SUCCESS);
    for (uint64_t i = 0; i < id; ++i) {
        ASSERT_TRUE(answers[i]) << names[i];
        EXPECT_EQ(answers[i]->at("size"), std::to_string(101 + i));
    }
}

TEST_F(AtAServer, AKeyIsTheDeviceIdWhereThereIsNoName) {
    ObjAgent agent(100, params());
    agent.add(77, "");
    EXPECT_EQ(agent.move(NIXL_WRITE, 77, 0, 100), NIXL_SUCCESS) << agent.report.error;
    EXPECT_EQ(std::filesystem::file_size(server->bucket("bucket") / "77"), 100u);
    // An id is of one object, as long as that is registered.
    nixl_reg_dlist_t other(OBJ_SEG);
    other.addDesc(nixlBlobDesc(0, 0, 77, "other"));
    EXPECT_LT(agent.agent->registerMem(other), 0);
    EXPECT_THAT(nixlx::lastError(), testing::HasSubstr("device id 77 is object '77' already"));
    nixl_reg_dlist_t first(OBJ_SEG);
    first.addDesc(nixlBlobDesc(0, 0, 77, ""));
    EXPECT_EQ(agent.agent->deregisterMem(first), NIXL_SUCCESS);
    EXPECT_EQ(agent.agent->registerMem(other), NIXL_SUCCESS) << nixlx::lastError();
}

TEST_F(AtAServer, AnObjectIsReadWithinItsEndOnly) {
    const auto folder = server->bucket("bucket");
    std::ofstream(folder / "ten") << "0123456789";
    std::ofstream(folder / "empty") << "";
    ObjAgent agent(100, params());
    agent.add(1, "ten");
    agent.add(2, "empty");
    EXPECT_EQ(agent.move(NIXL_READ, 1, 3, 7), NIXL_SUCCESS) << agent.report.error;
    EXPECT_EQ(std::memcmp(agent.memory.data(), "3456789", 7), 0);
    EXPECT_EQ(agent.move(NIXL_READ, 1, 3, 8), NIXL_ERR_BACKEND);
    EXPECT_THAT(agent.report.error, testing::HasSubstr("the object ends after 10 bytes; 7 were there"));
    EXPECT_EQ(agent.report.bytes_done, 7u);
    for (const uint64_t id : {1, 2}) {
        EXPECT_EQ(agent.move(NIXL_READ, id, id == 1 ? 10 : 0, 1), NIXL_ERR_BACKEND);
        EXPECT_THAT(agent.report.error, testing::HasSubstr("InvalidRange (416)"));
        EXPECT_EQ(agent.report.bytes_done, 0u);
    }
    EXPECT_EQ(agent.move(NIXL_READ, 2, 0, 0), NIXL_SUCCESS) << "nothing of an empty object";
}

TEST_F(AtAServer, AnObjectOfFiveGibibytesIsReadWhereverItIs) {
    constexpr size_t kSize = size_t{5} << 30;
    const auto path = server->bucket("bucket") / "sparse";
    std::ofstream(path) << "begin";
    std::filesystem::resize_file(path, kSize);
    {
        std::fstream file(path, std::ios::in | std::ios::out);
        file.seekp(static_cast<std::streamoff>(kSize - 3));
        file << "end";
    }
    ObjAgent agent(3 * kMiB, params());
    agent.add(1, "sparse");
    EXPECT_EQ(agent.move(NIXL_READ, 1, kSize - 2 * kMiB, 2 * kMiB), NIXL_SUCCESS) << agent.report.error;
    EXPECT_EQ(std::memcmp(agent.memory.data() + 2 * kMiB - 4, "\0end", 4), 0);
    EXPECT_EQ(agent.move(NIXL_READ, 1, kSize - 1, 2), NIXL_ERR_BACKEND);
    nixl_reg_dlist_t question(OBJ_SEG);
    question.addDesc(nixlBlobDesc(0, 0, 1, "sparse"));
    std::vector<nixl_query_resp_t> answers;
    ASSERT_EQ(agent.agent->queryMem(question, answers, &agent.agent.with_backend), NIXL_SUCCESS);
    EXPECT_EQ(answers.at(0)->at("size"), std::to_string(kSize));
}

TEST_F(AtAServer, AnObjectIsWrittenAsAWhole) {
    ObjAgent agent(10000, params());
    agent.add(1, "whole");
    const auto create = [&](std::initializer_list<std::pair<size_t, size_t>> places, nixlXferReqH *&request) {
        nixl_xfer_dlist_t memory(DRAM_SEG), object(OBJ_SEG);
        size_t at = 0;
        for (const auto &[offset, length] : places) {
            memory.addDesc(agent.memory.desc(at, length));
            object.addDesc({offset, length, 1});
            at += length;
        }
        return agent.agent->createXferReq(NIXL_WRITE, memory, object, "A", request);
    };
    nixlXferReqH *request = nullptr;
    EXPECT_EQ(create({{1, 10}}, request), NIXL_ERR_INVALID_PARAM);
    EXPECT_THAT(nixlx::lastError(), testing::HasSubstr("written as a whole"));
    EXPECT_EQ(create({{0, 10}, {11, 10}}, request), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(create({{0, 10}, {9, 10}}, request), NIXL_ERR_INVALID_PARAM);
    // From pieces that are anywhere in memory.
    ASSERT_EQ(create({{6000, 1000}, {0, 2000}, {2000, 4000}}, request), NIXL_SUCCESS) << nixlx::lastError();
    agent.memory.fill(1);
    EXPECT_EQ(agent.run(request), NIXL_SUCCESS) << agent.report.error;
    EXPECT_EQ(agent.agent->releaseXferReq(request), NIXL_SUCCESS);
    const std::vector<unsigned char> bytes(agent.memory.data(), agent.memory.data() + 7000);
    EXPECT_EQ(agent.move(NIXL_READ, 1, 0, 7000), NIXL_SUCCESS) << agent.report.error;
    EXPECT_EQ(std::memcmp(agent.memory.data(), bytes.data() + 1000, 6000), 0);
    EXPECT_EQ(std::memcmp(agent.memory.data() + 6000, bytes.data(), 1000), 0);
}

// ---- What is wrong

TEST_F(AtAServer, WhatIsWrongIsNamedAsTheServerNamesIt) {
    const auto errorOf = [&](const std::string &name, const std::string &value, nixl_status_t status) {
        nixl_b_params_t wrong = params();
        if (name != "key") wrong[name] = value;
        ObjAgent agent(100, wrong);
        agent.add(1, "missing");
        EXPECT_EQ(agent.move(NIXL_READ, 1, 0, 100), status) << name << ": " << agent.report.error;
        EXPECT_THAT(agent.report.error, testing::HasSubstr("request id"));
        return agent.report.error;
    };
    const auto contains = [](const std::string &text) { return testing::HasSubstr(text); };
    EXPECT_THAT(errorOf("key", "", NIXL_ERR_NOT_FOUND), contains("NoSuchKey (404)"));
    EXPECT_THAT(errorOf("bucket", "no-such-bucket", NIXL_ERR_NOT_FOUND), contains("NoSuchBucket (404)"));
    EXPECT_THAT(errorOf("access_key", "NOBODY", NIXL_ERR_NOT_ALLOWED), contains("check \"access_key\""));
    EXPECT_THAT(errorOf("secret_key", "guessed", NIXL_ERR_NOT_ALLOWED), contains("SignatureDoesNotMatch (403)"));
    EXPECT_THAT(errorOf("region", "eu-north-7", NIXL_ERR_NOT_ALLOWED), contains("check \"region\""));
}

TEST_F(AtAServer, ACertificateIsTrustedByTheBundleThatVouchesForIt) {
    server = std::make_unique<S3Server>(S3Server::Options{.tls = true, .virtual_domain = {}});
    server->bucket("bucket");
    ObjAgent stranger(100, params());
    stranger.add(1, "k");
    EXPECT_EQ(stranger.move(NIXL_WRITE, 1, 0, 100), NIXL_ERR_NOT_ALLOWED) << stranger.report.error;
    EXPECT_THAT(stranger.report.error, testing::HasSubstr("ca_bundle"));
    nixl_b_params_t trusting = params();
    trusting["ca_bundle"] = server->ca();
    trusting["part_size"] = "65536";
    ObjAgent agent(12 * kMiB, trusting);
    agent.add(1, "k");
    agent.memory.fill(1);
    EXPECT_EQ(agent.move(NIXL_WRITE, 1, 0, 12 * kMiB), NIXL_SUCCESS) << agent.report.error;
    agent.memory.clear();
    EXPECT_EQ(agent.move(NIXL_READ, 1, 0, 12 * kMiB), NIXL_SUCCESS) << agent.report.error;
    EXPECT_TRUE(agent.memory.holds(1));
    trusting["ca_bundle"] = "/no/such/file";
    nixlAgent refused("C", nixlAgentConfig());
    nixlBackendH *backend = nullptr;
    EXPECT_EQ(refused.createBackend("OBJ", trusting, backend), NIXL_ERR_BACKEND);
    EXPECT_THAT(nixlx::lastError(), testing::HasSubstr("/no/such/file"));
}

TEST_F(AtAServer, AServerThatIsKilledAndStartedAgainInBetweenCostsTimeOnly) {
    nixl_b_params_t patient = params();
    patient["retries"] = "20";
    patient["part_size"] = "262144";
    ObjAgent agent(64 * kMiB, patient);
    agent.add(1, "long");
    agent.memory.fill(1);
    for (const nixl_xfer_op_t operation : {NIXL_WRITE, NIXL_READ}) {
        if (operation == NIXL_READ) agent.memory.clear();
        nixlXferReqH *const request = agent.request(operation, 1, 0, 64 * kMiB);
        nixl_status_t status = agent.agent->postXferReq(request);
        server->kill();
        server->restart();
        EXPECT_TRUE(eventually([&] {
            if (status == NIXL_IN_PROG) status = agent.agent->getXferStatus(request);
            return status != NIXL_IN_PROG;
        }));
        EXPECT_EQ(status, NIXL_SUCCESS) << nixlx::lastError();
        EXPECT_EQ(agent.agent->releaseXferReq(request), NIXL_SUCCESS);
    }
    EXPECT_TRUE(agent.memory.holds(1));
}

TEST_F(AtAServer, AServerThatStopsForAWhileCostsTimeOnly) {
    nixl_b_params_t patient = params();
    patient["stall_ms"] = "100";
    patient["retries"] = "20";
    ObjAgent agent(kMiB, patient);
    agent.add(1, "k");
    agent.memory.fill(1);
    server->pause();
    nixlXferReqH *const request = agent.request(NIXL_WRITE, 1, 0, kMiB);
    nixl_status_t status = agent.agent->postXferReq(request);
    EXPECT_FALSE(eventually([&] { return (status = agent.agent->getXferStatus(request)) != NIXL_IN_PROG; },
                            std::chrono::milliseconds(300)));
    server->goOn();
    EXPECT_TRUE(eventually([&] { return (status = agent.agent->getXferStatus(request)) != NIXL_IN_PROG; }));
    EXPECT_EQ(status, NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(agent.agent->releaseXferReq(request), NIXL_SUCCESS);
}

// ---- Where it all comes from

/// Environment variables while it exists.
class Variables {
public:
    explicit Variables(const std::vector<std::pair<std::string, std::string>> &values) {
        for (const auto &[name, value] : values) {
            before_.emplace_back(name, nixlx::configValue(name));
            ::setenv(name.c_str(), value.c_str(), 1);
        }
    }
    ~Variables() {
        for (const auto &[name, value] : before_) {
            if (value) ::setenv(name.c_str(), value->c_str(), 1);
            else ::unsetenv(name.c_str());
        }
    }
    Variables(const Variables &) = delete;

private:
    std::vector<std::pair<std::string, std::optional<std::string>>> before_;
};

/// The status of a write of 100 bytes by an agent that is made with these.
nixl_status_t
writes(const nixl_b_params_t &params, std::string *error = nullptr) {
    ObjAgent agent(100, params);
    agent.add(1, "written");
    const nixl_status_t status = agent.move(NIXL_WRITE, 1, 0, 100);
    if (error) *error = agent.report.error;
    return status;
}

TEST_F(AtAServer, TheEnvironmentOrAProfileOrAContainersServiceGiveWhatIsNotAParameter) {
    const TempDir folder;
    const Variables nothing{{{"AWS_EC2_METADATA_DISABLED", "true"},
                             {"AWS_SHARED_CREDENTIALS_FILE", folder / "credentials"},
                             {"AWS_CONFIG_FILE", folder / "config"},
                             {"AWS_DEFAULT_BUCKET", "bucket"},
                             {"AWS_ENDPOINT_OVERRIDE", server->endpoint()}}};
    std::string error;
    EXPECT_EQ(writes({}, &error), NIXL_ERR_NOT_ALLOWED);
    EXPECT_THAT(error, testing::HasSubstr("no credentials were found"));
    {
        const Variables keys{
            {{"AWS_ACCESS_KEY_ID", server->accessKey()}, {"AWS_SECRET_ACCESS_KEY", server->secretKey()}}};
        EXPECT_EQ(writes({}, &error), NIXL_SUCCESS) << error;
    }
    {
        FaultyS3 service; // answers with what it has
        service.put("v2", "credentials",
                    R"({"AccessKeyId":")" + server->accessKey() + R"(","SecretAccessKey":")" + server->secretKey() +
                        R"(","Token":"t","Expiration":"2099-01-01T00:00:00Z"})");
        const Variables container{{{"AWS_CONTAINER_CREDENTIALS_FULL_URI", service.endpoint() + "/v2/credentials"},
                                   {"AWS_CONTAINER_AUTHORIZATION_TOKEN", "token"}}};
        // The server knows of no token, which shows that it was sent.
        EXPECT_EQ(writes({}, &error), NIXL_ERR_NOT_ALLOWED);
        EXPECT_THAT(error, testing::HasSubstr("InvalidToken"));
        EXPECT_GE(service.count(), 1u);
    }
    std::ofstream(folder / "credentials") << "[mine]\naws_access_key_id = " << server->accessKey()
                                          << "\naws_secret_access_key = " << server->secretKey() << "\n";
    std::ofstream(folder / "config") << "[profile mine]\nregion = us-east-1\n";
    const Variables profile{{{"AWS_PROFILE", "mine"}, {"AWS_REGION", ""}}};
    EXPECT_EQ(writes({}, &error), NIXL_SUCCESS) << error;
}

TEST_F(AtAServer, ProxiesAreUsedUnlessTheHostIsExcepted) {
    // The server itself is the proxy to a host that has no address, and takes a bucket in the host's name.
    server = std::make_unique<S3Server>(S3Server::Options{.tls = false, .virtual_domain = "s3.example"});
    server->bucket("bucket");
    std::string error;
    {
        const Variables proxy{{{"HTTP_PROXY", server->endpoint()}, {"http_proxy", server->endpoint()}}};
        nixl_b_params_t there = params();
        there["endpoint_override"] = "http://s3.example";
        there["use_virtual_addressing"] = "true";
        EXPECT_EQ(writes(there, &error), NIXL_SUCCESS) << error;
        EXPECT_TRUE(std::filesystem::exists(server->bucket("bucket") / "written"));
    }
    const Variables dead{{{"HTTP_PROXY", "http://127.0.0.1:9"}, {"http_proxy", "http://127.0.0.1:9"}}};
    EXPECT_EQ(writes(params(), &error), NIXL_ERR_BACKEND) << error;
    const Variables excepted{{{"NO_PROXY", "127.0.0.1"}, {"no_proxy", "127.0.0.1"}}};
    EXPECT_EQ(writes(params(), &error), NIXL_SUCCESS) << error;
}

TEST(Creation, IsQuickAndRefusesWhatCannotBe) {
    nixlAgent agent("A", nixlAgentConfig());
    nixlBackendH *backend = nullptr;
    const auto errorOf = [&](const nixl_b_params_t &params) {
        EXPECT_EQ(agent.createBackend("OBJ", params, backend), NIXL_ERR_BACKEND);
        return nixlx::lastError();
    };
    EXPECT_THAT(errorOf({}), testing::HasSubstr("no bucket"));
    EXPECT_THAT(errorOf({{"bucket", "b"}, {"accelerated", "true"}}), testing::HasSubstr("vendor's library"));
    EXPECT_THAT(errorOf({{"bucket", "b"}, {"type", "dell"}}), testing::HasSubstr("vendor's library"));
    EXPECT_THAT(errorOf({{"bucket", "b"}, {"access_key", "a"}}), testing::HasSubstr("secret_key"));
    EXPECT_THAT(errorOf({{"bucket", "b"}, {"endpoint_override", "ftp://x"}}), testing::HasSubstr("ftp://x"));
    // Nobody is asked for credentials, and nobody connected to: there is nobody.
    EXPECT_EQ(agent.createBackend("OBJ", {{"bucket", "b"}, {"endpoint_override", "https://192.0.2.1"}}, backend),
              NIXL_SUCCESS)
        << nixlx::lastError();
}

} // namespace
} // namespace nx::test
