// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The engine of both backends, GDS and GDS_MT, between files and memory of the host or of a GPU, by way of cuFile. By
// delegation: memory.h knows what is registered, transfer.h is a request, mover.h moves them all. Every function may be
// called from any thread, as nixlx::Engine asks.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "gds/driver.h"
#include "gds/memory.h"
#include "gds/mover.h"
#include "kit/bell.h"
#include "kit/files.h"
#include "nixlx/engine.h"

namespace nx::gds {

inline constexpr size_t kBatchOptionCount = 3, kThreadOptionCount = 1;
extern const nixlx_option kBatchOptions[kBatchOptionCount];   ///< GDS's
extern const nixlx_option kThreadOptions[kThreadOptionCount]; ///< GDS_MT's

/// Which kinds of memory move to which, of both.
inline constexpr uint8_t kMemory = NIXLX_MEMORY(DRAM_SEG) | NIXLX_MEMORY(VRAM_SEG), kFiles = NIXLX_MEMORY(FILE_SEG);

class Engine final : public nixlx::Engine, public nixlx::Queries, public nixlx::Costs, public nixlx::Waiting {
public:
    /// GDS and GDS_MT. Throw with a sentence.
    static nixlx::Engine *
    createBatched(const nixlBackendInitParams *params);
    static nixlx::Engine *
    createThreaded(const nixlBackendInitParams *params);

    struct Setup {
        std::string agent;
        std::string how; ///< "batches": for people
        std::string thread_name;
        uint64_t bytes_max; ///< of what a thread takes at once
    };
    Engine(Setup setup, Ledger::Use ledger, std::vector<std::unique_ptr<Way>> ways);

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

    void *
    ability(std::string_view name, uint32_t version) noexcept override {
        return nixlx::offer<Queries, Costs, Waiting>(this, name, version);
    }

private:
    Status
    add(const nixlBlobDesc &mem, nixl_mem_t memory, nixlBackendMD *&out);

    const Setup setup_;
    kit::Files files_;
    const Ledger::Use ledger_;
    kit::Bell bell_;
    Mover mover_;
};

} // namespace nx::gds
