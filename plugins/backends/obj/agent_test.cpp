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

#include "nixl.h"
#include "support/agent_pair.h"
#include "support/faulty_s3.h"
#include "support/s3_server.h"

namespace nx::test {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

/// An agent with memory, at a server.
struct Moving {
    Moving(size_t bytes, nixl_b_params_t params, bool progress_thread = false)
        : memory(bytes),
          agent("A", {.backend = "OBJ", .params = std::move(params), .progress_thread = progress_thread}) {
        require(agent->registerMem(registrationOf({memory.desc()})), "register memory");
    }

    /// Registers the object under this id.
    void
    add(uint64_t id, const std::string &key) {
        nixl_reg_dlist_t objects(OBJ_SEG);
        objects.addDesc(nixlBlobDesc(0, 0, id, key));
        require(agent->registerMem(objects), "register the object");
    }

    nixlXferReqH *
    request(nixl_xfer_op_t operation, uint64_t id, size_t offset, size_t length, size_t at_memory = 0) {
        nixlXferReqH *made = nullptr;
        require(agent->createXferReq(operation, listOf({memory.desc(at_memory, length)}),
                                     listOf({{offset, length, id}}, OBJ_SEG), "A", made),
                "create");
        return made;
    }

    nixl_status_t
    run(nixlXferReqH *request) {
        nixl_status_t status = agent->postXferReq(request);
        eventually([&] {
            if (status == NIXL_IN_PROG) status = agent->getXferStatus(request);
            return status != NIXL_IN_PROG;
        });
        require(agent->getXferReport(request, report), "report");
        return status;
    }

    nixl_status_t
    move(nixl_xfer_op_t operation, uint64_t id, size_t offset, size_t length, size_t at_memory = 0) {
        nixlXferReqH *const made = request(operation, id, offset, length, at_memory);
        const nixl_status_t status = run(made);
        EXPECT_EQ(agent->releaseXferReq(made), NIXL_SUCCESS);
        return status;
    }

    Buffer memory;
    PairedAgent agent;
    nixlx::Report report;
};

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
    Moving moving(24 * kMiB, small_parts);
    uint64_t id = 0;
    for (const size_t size :
         {size_t{1}, size_t{65535}, size_t{65536}, size_t{65537}, 5 * kMiB, 5 * kMiB + 1, 10 * kMiB + 777}) {
        SCOPED_TRACE(size);
        moving.add(++id, "size/" + std::to_string(size));
        moving.memory.fill(id);
        ASSERT_EQ(moving.move(NIXL_WRITE, id, 0, size), NIXL_SUCCESS) << moving.report.error;
        EXPECT_EQ(moving.report.bytes_done, size);
        const std::vector<unsigned char> written(moving.memory.data(), moving.memory.data() + size);
        for (const size_t offset : {size_t{0}, size / 3, size - 1}) {
            moving.memory.clear();
            ASSERT_EQ(moving.move(NIXL_READ, id, offset, size - offset, 17), NIXL_SUCCESS) << moving.report.error;
            EXPECT_EQ(std::memcmp(moving.memory.data() + 17, written.data() + offset, size - offset), 0);
            EXPECT_EQ(std::count(moving.memory.data(), moving.memory.data() + 17, 0), 17);
            EXPECT_EQ(moving.memory.data()[17 + size - offset], 0);
        }
    }
    EXPECT_EQ(server->leftovers("bucket"), 0u);
}

} // namespace
} // namespace nx::test
