// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: objects go to and from an S3 server whole and unchanged, whatever their names and sizes, and what fails says
// what and why. Method: agents that load the plugin, a real server, and one that fails as it is told.
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>

#include <gtest/gtest.h>

#include "obj_agent.h"
#include "support/s3_server.h"

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

} // namespace
} // namespace nx::test
