// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// An agent with the plugin and memory, at a server, for tests. Owned by the test.
#pragma once

#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nixl.h"
#include "support/agent_pair.h"

namespace nx::test {

struct ObjAgent {
    ObjAgent(size_t bytes, nixl_b_params_t params)
        : memory(bytes),
          agent("A", {.backend = "OBJ", .params = std::move(params)}) {
        require(agent->registerMem(registrationOf({memory.desc()})), "register memory");
    }

    /// Registers the object under this id.
    void
    add(uint64_t id, const std::string &key) const {
        nixl_reg_dlist_t objects(OBJ_SEG);
        objects.addDesc(nixlBlobDesc(0, 0, id, key));
        require(agent->registerMem(objects), "register the object");
    }

    nixlXferReqH *
    request(nixl_xfer_op_t operation, uint64_t id, size_t offset, size_t length, size_t at_memory = 0) const {
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
    nixlx::Report report; ///< of the last one
};

} // namespace nx::test
