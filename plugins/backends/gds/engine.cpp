// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "gds/engine.h"

#include <algorithm>
#include <stdexcept>
#include <thread>
#include <utility>

#include "gds/ways.h"
#include "kit/file_plan.h"
#include "kit/params.h"
#include "utils/common/nixl_log.h"

namespace nx::gds {

const nixlx_option kBatchOptions[kBatchOptionCount] = {
    {"batch_pool_size", "int", "16", "batches at once (1-256), a thread for each", ""},
    {"batch_limit", "int", "128", "entries of a batch at most (1-4096)", ""},
    {"max_request_size", "size", "16777216", "bytes of a batch at most; longer elements are cut", ""},
};

const nixlx_option kThreadOptions[kThreadOptionCount] = {
    {"thread_count", "int", "0", "calls at once (1-256), a thread for each; 0: half of the processors", "threads"},
};

namespace {

// What is in flight when a request is cancelled has to end first: threads times this.
constexpr uint64_t kBytesMax = uint64_t{16} << 20;
constexpr unsigned kThreadsMax = 256;

Transfer &
transferOf(nixlBackendReqH *request) {
    return *static_cast<Transfer *>(request);
}

template<class T>
T
orThrow(Result<T> result) {
    if (!result.ok()) throw std::runtime_error(result.message());
    return *std::move(result);
}

void
orThrow(const Status &status) {
    if (!status.ok()) throw std::runtime_error(status.message());
}

} // namespace

nixlx::Engine *
Engine::createBatched(const nixlBackendInitParams *params) {
    kit::ParamReader in(params->customParams);
    const uint64_t batch_count = in.number("batch_pool_size", 16, {.min = 1, .max = kThreadsMax});
    const auto entry_count = static_cast<unsigned>(in.number("batch_limit", 128, {.min = 1, .max = 4096}));
    const uint64_t bytes_max = in.number("max_request_size", kBytesMax, {.min = 1});
    orThrow(in.status());
    auto ledger = orThrow(Ledger::open());
    std::vector<std::unique_ptr<Way>> ways;
    for (uint64_t i = 0; i < batch_count; ++i) ways.push_back(orThrow(BatchWay::create(ledger->driver(), entry_count)));
    return new Engine({params->localAgent, "batches", "nixl-gds", bytes_max}, std::move(ledger), std::move(ways));
}

nixlx::Engine *
Engine::createThreaded(const nixlBackendInitParams *params) {
    kit::ParamReader in(params->customParams);
    uint64_t thread_count = in.number("thread_count", 0, {.max = kThreadsMax});
    orThrow(in.status());
    if (thread_count == 0) thread_count = std::clamp(std::thread::hardware_concurrency() / 2, 1U, kThreadsMax);
    auto ledger = orThrow(Ledger::open());
    std::vector<std::unique_ptr<Way>> ways;
    for (uint64_t i = 0; i < thread_count; ++i) ways.push_back(std::make_unique<CallWay>(ledger->driver()));
    return new Engine({params->localAgent, "threads", "nixl-gds-mt", kBytesMax}, std::move(ledger), std::move(ways));
}

Engine::Engine(Setup setup, Ledger::Use ledger, std::vector<std::unique_ptr<Way>> ways)
    : setup_(std::move(setup)),
      files_({.root = {}, .open_max = 1}), // the ledger has descriptors of its own
      ledger_(std::move(ledger)),
      mover_(ledger_->driver(), bell_, std::move(ways), setup_.bytes_max, setup_.thread_name) {
    NIXL_INFO << "gds: agent " << quoted(setup_.agent) << " uses " << ledger_->driver().name() << " with "
              << setup_.how;
}

// ---- Memory ------------------------------------------------------------------------------------------------------

nixl_status_t
Engine::registerMem(const nixlBlobDesc &mem, nixl_mem_t memory, nixlBackendMD *&out) {
    const Status status = add(mem, memory, out);
    return status.ok() ? NIXL_SUCCESS : nixlx::fail(status.code(), status.message());
}

Status
Engine::add(const nixlBlobDesc &mem, nixl_mem_t memory, nixlBackendMD *&out) {
    switch (memory) {
    case DRAM_SEG: out = new HostMemory; return {};
    case VRAM_SEG: {
        if (mem.len == 0) {
            out = new HostMemory; // nothing is ever moved there
            return {};
        }
        auto range = ledger_->use(mem);
        if (!range.ok()) return std::move(range).status();
        out = new VramMemory(*ledger_, *range);
        return {};
    }
    case FILE_SEG: {
        auto file = files_.add(mem);
        if (!file.ok()) return std::move(file).status();
        auto known = ledger_->use(**file);
        if (!known.ok()) return std::move(known).status();
        out = new FileMemory(*ledger_, *known, *std::move(file));
        return {};
    }
    default:
        return {NIXL_ERR_NOT_SUPPORTED,
                "cuFile has to do with DRAM_SEG, VRAM_SEG and FILE_SEG, not with " +
                    nixlEnumStrings::memTypeStr(memory)};
    }
}

nixl_status_t
Engine::queryMem(const nixl_reg_dlist_t &descs, std::vector<nixl_query_resp_t> &resp) const {
    return files_.query(descs, resp);
}

// ---- Requests ----------------------------------------------------------------------------------------------------

nixl_status_t
Engine::prepare(const nixlx::Plan &plan, const nixl_opt_b_args_t *, nixlBackendReqH *&request) {
    if (plan.remote_agent != setup_.agent) {
        return nixlx::fail(NIXL_ERR_INVALID_PARAM,
                           "files are on the side of agent " + quoted(setup_.agent) + " itself, not of " +
                               quoted(plan.remote_agent));
    }
    if ((plan.local_memory == FILE_SEG) == (plan.remote_memory == FILE_SEG)) {
        return nixlx::fail(NIXL_ERR_INVALID_PARAM, "one side has to be memory (DRAM_SEG, VRAM_SEG), the other a file");
    }
    if (const Status status = kit::checkOffsets(plan); !status.ok()) {
        return nixlx::fail(status.code(), status.message());
    }
    request = new Transfer(plan);
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::post(nixlBackendReqH *request, const std::string *) {
    mover_.post(transferOf(request));
    return transferOf(request).outcome();
}

nixl_status_t
Engine::check(nixlBackendReqH *request) {
    return transferOf(request).outcome();
}

void
Engine::cancel(nixlBackendReqH *request) {
    mover_.cancel(transferOf(request));
}

nixlx::RequestInfo
Engine::describe(const nixlBackendReqH *request) const {
    return static_cast<const Transfer *>(request)->describe(ledger_->driver().name() + ", " + setup_.how);
}

std::optional<uint64_t>
Engine::bytesDone(const nixlBackendReqH *request) const {
    return static_cast<const Transfer *>(request)->bytesDone();
}

std::optional<uint64_t>
Engine::pathMark(const nixlBackendReqH *) const {
    return mover_.mark();
}

std::optional<nixlx::Cost>
Engine::cost(nixl_mem_t, nixl_mem_t, std::string_view) const {
    // POSIX is better at memory of the host; nobody else reaches a GPU's.
    return nixlx::Cost{.start_us = 30, .block_us = 5, .byte_us = 1 / 2e3};
}

} // namespace nx::gds
