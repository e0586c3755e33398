// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A staged transfer that lacks memory at any moment ends, with quiet buffers, and can be posted again.
#include <gtest/gtest.h>

#include "nixl.h"
#include "support/agent_pair.h"
#include "support/buffer.h"
#include "support/no_memory.h"

namespace nx::test {
namespace {

TEST(StagingWithoutMemory, EndsAndGoesOnOnceThereIsSome) {
    nixlAgent agent("A", nixlAgentConfig());
    nixlBackendH *near = nullptr, *far = nullptr;
    require(agent.createBackend("RECORDING", {}, near), "create RECORDING");
    require(agent.createBackend("GATED", {}, far), "create GATED");
    const Buffer own(2 << 20), other(2 << 20);
    nixl_opt_args_t with_near, with_far;
    with_near.backends = {near};
    with_far.backends = {far};
    require(agent.registerMem(registrationOf({own.desc()}, VRAM_SEG), &with_near), "register");
    require(agent.registerMem(registrationOf({other.desc()}), &with_far), "register");
    nixlXferReqH *request = nullptr;
    require(agent.createXferReq(NIXL_WRITE, listOf({own.desc()}, VRAM_SEG), listOf({other.desc()}), "A", request),
            "create");
    size_t failed = 0;
    for (uint64_t spared = 0; spared < 150; ++spared) {
        own.fill(spared);
        nixl_status_t status;
        {
            const NoMemory none(spared);
            status = agent.postXferReq(request);
            for (int i = 0; i < 20 && status == NIXL_IN_PROG; ++i) status = agent.getXferStatus(request);
        }
        if (status == NIXL_IN_PROG) status = agent.waitXfer(request, std::chrono::seconds(60));
        ASSERT_TRUE(status == NIXL_SUCCESS || status == NIXL_ERR_NO_MEMORY)
            << spared << ": " << nixlEnumStrings::statusStr(status) << ": " << nixlx::lastError();
        failed += status < 0;
        if (status == NIXL_SUCCESS) {
            ASSERT_TRUE(other.holds(spared)) << spared;
        }
    }
    EXPECT_GT(failed, 20u);
    own.fill(1000);
    const auto posted = agent.postXferReq(request);
    EXPECT_EQ(posted == NIXL_IN_PROG ? agent.waitXfer(request, std::chrono::seconds(60)) : posted, NIXL_SUCCESS);
    EXPECT_TRUE(other.holds(1000));
    EXPECT_EQ(agent.releaseXferReq(request), NIXL_SUCCESS);
}

} // namespace
} // namespace nx::test
