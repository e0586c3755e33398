// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The suite that every backend must pass, through the public API only. A backend joins with one BackendUnderTest in
// backends.cpp; each test is a claim, named by its test, that holds for all of them. What a backend cannot do is a
// deviation: a sentence, shown and counted when its tests are skipped.
#pragma once

#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "support/agent_pair.h"

namespace nx::test {

struct BackendUnderTest {
    std::string name; ///< of the plugin
    bool progress_thread = false;
    nixl_b_params_t params = {};
    std::vector<nixl_mem_t> storage =
        {}; ///< kinds of storage that need nothing but a name, tried with transfers to oneself
    /// Why the claim does not hold for this backend; empty if it does.
    std::function<std::string(const std::string &claim)> deviation = [](const std::string &) { return ""; };
};

inline void
PrintTo(const BackendUnderTest &backend, std::ostream *out) {
    *out << backend.name << (backend.progress_thread ? ", progress thread" : ", polled");
}

/// A pair of agents with the backend, not yet introduced to each other.
class Contract : public testing::TestWithParam<BackendUnderTest> {
protected:
    void
    SetUp() override;

    static PairOptions
    options() {
        return {GetParam().name, GetParam().params, GetParam().progress_thread};
    }

    /// A new buffer that outlives both agents: a test that fails may leave transfers running.
    Buffer &
    buffer(size_t size) {
        return *buffers_.emplace_back(std::make_unique<Buffer>(size));
    }

    /// Registers the ranges at A and at B.
    static void
    registerAt(PairedAgent &agent, std::initializer_list<nixlBasicDesc> ranges) {
        require(agent->registerMem(registrationOf(ranges)), "register at " + agent.name);
    }

    /// A request of A between the whole of two registered buffers, all known already.
    nixlXferReqH *
    makeRequest(nixl_xfer_op_t operation,
                const nixl_xfer_dlist_t &local,
                const nixl_xfer_dlist_t &remote,
                const nixl_opt_args_t *args = nullptr) {
        nixlXferReqH *request = nullptr;
        require(pair->a->createXferReq(operation, local, remote, pair->b.name, request, args), "create");
        return request;
    }

    nixlDlistH *
    prepare(const std::string &agent, const nixl_xfer_dlist_t &list) {
        nixlDlistH *handle = nullptr;
        require(pair->a->prepXferDlist(agent, list, handle), "prepare a list of '" + agent + "'");
        return handle;
    }

private:
    std::vector<std::unique_ptr<Buffer>> buffers_;

protected:
    std::unique_ptr<AgentPair> pair; // behind the buffers: it goes first
};

} // namespace nx::test
