// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "posix/engine.h"

#include <algorithm>
#include <fcntl.h>
#include <stdexcept>

#include "kit/files/file_path.h"
#include "kit/files/file_plan.h"
#include "kit/files/file_version.h"
#include "kit/params.h"
#include "posix/aio_queue.h"
#include "posix/cached_writes.h"
#include "posix/memory.h"
#include "posix/thread_queue.h"
#include "posix/uring_queue.h"
#include "utils/common/nixl_log.h"

namespace nx::posix {

const nixlx_option kOptionTable[kOptionCount] = {
    {"use_aio", "bool", "false", "Linux AIO or nothing", ""},
    {"use_uring", "bool", "false", "io_uring or nothing", ""},
    {"use_posix_aio", "bool", "false", "threads; without one of the three: what works best here", ""},
    {"kernel_queue_size", "int", "256", "operations in flight at most (16-1024)", ""},
    {"ios_pool_size", "int", "65536", "likewise (64-65536): the smaller one counts", ""},
    {"durable", "bool", "false", "a WRITE succeeds when it is on the device, not in memory", ""},
    {"root", "string", "", "a directory that paths stay beneath; empty: anywhere", ""},
};

namespace {

constexpr unsigned kThreads = 16;

/// The status of a failed control call, its sentence left for the agent.
nixl_status_t
report(const Status &status) {
    return nixlx::fail(status.code(), status.message());
}

Transfer &
transferOf(nixlBackendReqH *request) {
    return *static_cast<Transfer *>(request);
}

/// The queue that was asked for, or the first that the system offers.
Result<std::unique_ptr<Queue>>
createQueue(kit::ParamReader &in) {
    struct Kind {
        const char *parameter;
        Result<std::unique_ptr<Queue>> (*create)(unsigned depth);
    };
    const Kind kinds[] = {
        {"use_uring",
         [](unsigned depth) {
             auto queue = UringQueue::create(depth);
             return queue.ok() ? CachedWrites::create(*std::move(queue)) : std::move(queue);
         }},
        {"use_aio", AioQueue::create},
        {"use_posix_aio", [](unsigned depth) { return ThreadQueue::create(std::min(depth, kThreads)); }},
    };
    const auto clamped = [&](const char *name, uint64_t otherwise, uint64_t least, uint64_t most) {
        return std::clamp(in.number(name, otherwise), least, most);
    };
    const uint64_t depth =
        std::min(clamped("kernel_queue_size", 256, 16, 1024), clamped("ios_pool_size", 65536, 64, 65536));
    const Kind *asked_for = nullptr;
    for (const char *parameter : {"use_aio", "use_uring", "use_posix_aio"}) { // 1.4's order
        const bool wanted = in.boolean(parameter, false);
        if (!wanted || asked_for) continue;
        asked_for = std::find_if(std::begin(kinds), std::end(kinds),
                                 [&](const Kind &kind) { return std::string_view(kind.parameter) == parameter; });
    }
    if (!in.status().ok()) return {in.status().code(), in.status().message()};
    if (asked_for) {
        auto queue = asked_for->create(static_cast<unsigned>(depth));
        if (queue.ok()) return queue;
        return {NIXL_ERR_BACKEND,
                queue.message() + "; without " + asked_for->parameter + " the backend uses what the system offers"};
    }
    std::string refused;
    for (const Kind &kind : kinds) {
        auto queue = kind.create(static_cast<unsigned>(depth));
        if (queue.ok()) {
            if (!refused.empty()) NIXL_INFO << "posix: " << refused;
            return queue;
        }
        refused += (refused.empty() ? "" : "; ") + queue.message();
    }
    return {NIXL_ERR_BACKEND, refused};
}

} // namespace

nixlx::Engine *
Engine::create(const nixlBackendInitParams *params) {
    kit::ParamReader in(params->customParams);
    const bool durable = in.boolean("durable", false);
    kit::FilesOptions files{.root = in.text("root")};
    auto queue = createQueue(in);
    if (!queue.ok()) throw std::runtime_error(queue.message());
    NIXL_INFO << "posix: agent " << quoted(params->localAgent) << " uses " << (*queue)->name() << ", "
              << (*queue)->depth() << " operations at once";
    return new Engine(*params, std::move(files), std::move(*queue), durable);
}

Engine::Engine(const nixlBackendInitParams &params, kit::FilesOptions files, std::unique_ptr<Queue> queue, bool durable)
    : agent_(params.localAgent),
      durable_(durable),
      files_(std::move(files)),
      mover_(std::move(queue), bell_, files_.openMax()) {
    if (params.enableProgTh) {
        progress_ = std::make_unique<kit::ProgressThread>("nixl-posix");
        progress_->add(mover_);
    } else {
        bell_or_queue_ = either(bell_.descriptor(), mover_.descriptor());
    }
}

Engine::~Engine() {
    if (progress_) progress_->stop();
}

// ---- Memory ------------------------------------------------------------------------------------------------------

nixl_status_t
Engine::registerMem(const nixlBlobDesc &mem, nixl_mem_t memory, nixlBackendMD *&out) {
    if (memory == DRAM_SEG) {
        out = new Memory;
        return NIXL_SUCCESS;
    }
    if (memory != FILE_SEG && memory != BLK_SEG) {
        return nixlx::fail(NIXL_ERR_NOT_SUPPORTED,
                           "POSIX has to do with DRAM_SEG, FILE_SEG and BLK_SEG, not with " +
                               nixlEnumStrings::memTypeStr(memory));
    }
    auto file = files_.add(mem);
    if (!file.ok()) return report(file.status());
    const auto trial = (*file)->version(true, nullptr); // shows that there can be one
    const auto alignment = alignmentOf(trial ? *trial : **file);
    if (!alignment.ok()) return report(alignment.status());
    const auto path = kit::parseFilePath(mem.metaInfo);
    if (durable_ && !trial && path.ok() && *path && (*path)->flags & O_CREAT) {
        if (const Status synced = syncFolderOf(**file); !synced.ok()) return report(synced);
    }
    out = new FileMemory(*std::move(file), *alignment);
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::queryMem(const nixl_reg_dlist_t &descs, std::vector<nixl_query_resp_t> &resp) const {
    return files_.query(descs, resp);
}

// ---- Requests ----------------------------------------------------------------------------------------------------

nixl_status_t
Engine::prepare(const nixlx::Plan &plan, const nixl_opt_b_args_t *, nixlBackendReqH *&request) {
    if (plan.remote_agent != agent_) {
        return nixlx::fail(NIXL_ERR_INVALID_PARAM,
                           "files are on the side of agent " + quoted(agent_) + " itself, not of " +
                               quoted(plan.remote_agent));
    }
    if ((plan.local_memory == DRAM_SEG) == (plan.remote_memory == DRAM_SEG)) {
        return nixlx::fail(NIXL_ERR_INVALID_PARAM, "one side has to be memory (DRAM_SEG), the other a file");
    }
    if (const Status status = kit::checkOffsets(plan); !status.ok()) return report(status);
    request = new Transfer(plan, durable_);
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::post(nixlBackendReqH *request, const std::string *) {
    Transfer &transfer = transferOf(request);
    if (mover_.post(transfer, progress_ != nullptr)) {
        if (progress_) progress_->nudge();
        else bell_.ring(); // somebody else may sleep, and this caller may go away
    }
    return transfer.outcome();
}

nixl_status_t
Engine::check(nixlBackendReqH *request) {
    Transfer &transfer = transferOf(request);
    if (!progress_ && !transfer.quiet()) mover_.tryDrive();
    return transfer.outcome();
}

void
Engine::cancel(nixlBackendReqH *request) {
    Transfer &transfer = transferOf(request);
    if (transfer.quiet()) return;
    transfer.cancel();
    mover_.look();
    if (progress_) progress_->nudge();
}

nixlx::RequestInfo
Engine::describe(const nixlBackendReqH *request) const {
    return static_cast<const Transfer *>(request)->describe(std::string("posix, ") + mover_.queue().name());
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
    return nixlx::Cost{.start_us = 10, .block_us = 1, .byte_us = 1 / 2e3}; // about a page cache, or a good disk
}

// ---- Waiting -----------------------------------------------------------------------------------------------------

int
Engine::descriptor() const noexcept {
    return progress_ ? bell_.descriptor() : bell_or_queue_.get();
}

bool
Engine::arm() noexcept {
    return (progress_ || mover_.arm()) && bell_.arm();
}

} // namespace nx::posix
