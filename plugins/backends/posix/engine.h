// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The backend for files and block devices. By delegation: kit/files/files.h knows the files, transfer.h is a request,
// mover.h moves them all through one queue (queue.h). Every function may be called from any thread, as nixlx::Engine
// asks.
#pragma once

#include <memory>
#include <string>

#include "base/fd.h"
#include "kit/bell.h"
#include "kit/files/files.h"
#include "kit/progress.h"
#include "nixlx/engine.h"
#include "posix/mover.h"

namespace nx::posix {

inline constexpr size_t kOptionCount = 7;
extern const nixlx_option kOptionTable[kOptionCount];

class Engine final : public nixlx::Engine, public nixlx::Queries, public nixlx::Costs, public nixlx::Waiting {
public:
    /// Throws with a sentence.
    static nixlx::Engine *
    create(const nixlBackendInitParams *params);
    Engine(const nixlBackendInitParams &params, kit::FilesOptions files, std::unique_ptr<Queue> queue, bool durable);
    ~Engine() override;

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
    descriptor() const noexcept override;
    bool
    arm() noexcept override;

    void *
    ability(std::string_view name, uint32_t version) noexcept override {
        return nixlx::offer<Queries, Costs, Waiting>(this, name, version);
    }

private:
    const std::string agent_;
    const bool durable_;
    kit::Files files_;
    kit::Bell bell_;
    Fd bell_or_queue_; ///< without a progress thread: readable if one of the two is
    Mover mover_;
    std::unique_ptr<kit::ProgressThread> progress_; ///< null: check() drives the mover
};

} // namespace nx::posix
