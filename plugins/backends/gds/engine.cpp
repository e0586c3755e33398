// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "gds/engine.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "gds/ways.h"
#include "kit/params.h"

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

} // namespace

nixlx::Engine *
Engine::createBatched(const nixlBackendInitParams *params) {
    kit::ParamReader in(params->customParams);
    const uint64_t batch_count = in.number("batch_pool_size", 16, {.min = 1, .max = kThreadsMax});
    const auto entry_count = static_cast<unsigned>(in.number("batch_limit", 128, {.min = 1, .max = 4096}));
    const uint64_t bytes_max = in.number("max_request_size", kBytesMax, {.min = 1});
    kit::orThrow(in.status());
    std::shared_ptr<Ledger> ledger = kit::orThrow(Ledger::open());
    std::vector<std::unique_ptr<kit::FileWay>> ways;
    for (uint64_t i = 0; i < batch_count; ++i)
        ways.push_back(kit::orThrow(BatchWay::create(ledger->driver(), entry_count)));
    return new Engine({"batches", "nixl-gds", bytes_max}, params->localAgent, std::move(ledger), std::move(ways));
}

nixlx::Engine *
Engine::createThreaded(const nixlBackendInitParams *params) {
    kit::ParamReader in(params->customParams);
    uint64_t thread_count = in.number("thread_count", 0, {.max = kThreadsMax});
    kit::orThrow(in.status());
    if (thread_count == 0) thread_count = std::clamp(std::thread::hardware_concurrency() / 2, 1U, kThreadsMax);
    std::shared_ptr<Ledger> ledger = kit::orThrow(Ledger::open());
    std::vector<std::unique_ptr<kit::FileWay>> ways;
    for (uint64_t i = 0; i < thread_count; ++i) ways.push_back(std::make_unique<CallWay>(ledger->driver()));
    return new Engine({"threads", "nixl-gds-mt", kBytesMax}, params->localAgent, std::move(ledger), std::move(ways));
}

Engine::Engine(const Kind &kind,
               const std::string &agent,
               std::shared_ptr<Ledger> ledger,
               std::vector<std::unique_ptr<kit::FileWay>> ways)
    : FileEngine({.agent = agent,
                  .path = ledger->driver().name() + ", " + kind.how,
                  .thread_name = kind.thread_name,
                  .bytes_max = kind.bytes_max,
                  // POSIX is better at memory of the host; nobody else reaches a GPU's.
                  .cost = {.start_us = 30, .block_us = 5, .byte_us = 1 / 2e3},
                  .uses = ledger},
                 std::move(ways)),
      ledger_(std::move(ledger)) {}

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

} // namespace nx::gds
