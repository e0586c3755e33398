// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The engine between objects of an S3 server and memory of the host. By delegation: memory.h knows what is registered,
// transfer.h is a request, client.h works on them all, driver.h is the library. Every function may be called from any
// thread, as nixlx::Engine asks.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kit/bell.h"
#include "nixlx/engine.h"
#include "obj/client.h"
#include "obj/driver.h"
#include "obj/memory.h"
#include "obj/options.h"

namespace nx::obj {

class Engine final : public nixlx::Engine, public nixlx::Queries, public nixlx::Costs, public nixlx::Waiting {
public:
    /// Throws with a sentence.
    static nixlx::Engine *
    create(const nixlBackendInitParams *params);

    nixl_status_t
    registerMem(const nixlBlobDesc &mem, nixl_mem_t memory, nixlBackendMD *&out) override;
    nixl_status_t
    queryMem(const nixl_reg_dlist_t &descs, std::vector<nixl_query_resp_t> &resp) const override;

    nixl_status_t
    prepare(const nixlx::Plan &plan, const nixl_opt_b_args_t *args, nixlBackendReqH *&request) override;
    nixl_status_t
    post(nixlBackendReqH *request, const std::string *notification) override;
    nixl_status_t
    check(nixlBackendReqH *request) override;
    void
    cancel(nixlBackendReqH *request) override;
    nixlx::RequestInfo
    describe(const nixlBackendReqH *request) const override;
    std::optional<uint64_t>
    bytesDone(const nixlBackendReqH *request) const override;
    std::optional<uint64_t>
    pathMark(const nixlBackendReqH *request) const override;
    std::optional<nixlx::Cost>
    cost(nixl_mem_t local, nixl_mem_t remote, std::string_view remote_agent) const override;

    int
    descriptor() const noexcept override {
        return bell_.descriptor();
    }
    bool
    arm() noexcept override {
        return bell_.arm();
    }

    void
    endBy(std::chrono::steady_clock::time_point deadline) override;
    void *
    ability(std::string_view name, uint32_t version) noexcept override {
        return nixlx::offer<Queries, Costs, Waiting>(this, name, version);
    }

private:
    Engine(std::string agent, Options options, std::unique_ptr<Driver> driver);

    const std::string agent_;
    const Options options_;
    Objects objects_;
    kit::Bell bell_;
    const std::unique_ptr<Driver> driver_;
    mutable Client client_; ///< questions go through it, too
};

} // namespace nx::obj
