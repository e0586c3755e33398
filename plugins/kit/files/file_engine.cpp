// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/files/file_engine.h"

#include <cerrno>
#include <fcntl.h>
#include <utility>

#include "kit/files/file_plan.h"
#include "utils/common/nixl_log.h"

namespace nx::kit {

namespace {

FileTransfer &
transferOf(nixlBackendReqH *request) {
    return *static_cast<FileTransfer *>(request);
}

} // namespace

Result<Fd>
ownDescriptor(File &file) {
    Result<int> fd = file.use();
    if (!fd.ok()) return std::move(fd).status();
    Fd own(::fcntl(*fd, F_DUPFD_CLOEXEC, 0));
    const int error = errno;
    file.done();
    if (own) return own;
    return {error == EMFILE ? NIXL_ERR_NO_MEMORY : NIXL_ERR_BACKEND,
            withErrno(file.name() + ": no second descriptor can be had", error)};
}

FileEngine::FileEngine(Setup setup, std::vector<std::unique_ptr<FileWay>> ways)
    : files_({.root = {}, .open_max = 1}),
      setup_(std::move(setup)),
      mover_(bell_, std::move(ways), setup_.bytes_max, setup_.thread_name) {
    NIXL_INFO << "files of agent " << quoted(setup_.agent) << " travel by " << setup_.path;
}

// ---- Memory ------------------------------------------------------------------------------------------------------

nixl_status_t
FileEngine::registerMem(const nixlBlobDesc &mem, nixl_mem_t memory, nixlBackendMD *&out) {
    const Status status = add(mem, memory, out);
    return status.ok() ? NIXL_SUCCESS : nixlx::fail(status.code(), status.message());
}

nixl_status_t
FileEngine::queryMem(const nixl_reg_dlist_t &descs, std::vector<nixl_query_resp_t> &resp) const {
    return files_.query(descs, resp);
}

// ---- Requests ----------------------------------------------------------------------------------------------------

nixl_status_t
FileEngine::prepare(const nixlx::Plan &plan, const nixl_opt_b_args_t *, nixlBackendReqH *&request) {
    if (plan.remote_agent != setup_.agent) {
        return nixlx::fail(NIXL_ERR_INVALID_PARAM,
                           "files are on the side of agent " + quoted(setup_.agent) + " itself, not of " +
                               quoted(plan.remote_agent));
    }
    if ((plan.local_memory == FILE_SEG) == (plan.remote_memory == FILE_SEG)) {
        return nixlx::fail(NIXL_ERR_INVALID_PARAM, "one side has to be memory, the other a file (FILE_SEG)");
    }
    if (const Status status = checkOffsets(plan); !status.ok()) return nixlx::fail(status.code(), status.message());
    request = new FileTransfer(plan);
    return NIXL_SUCCESS;
}

nixl_status_t
FileEngine::post(nixlBackendReqH *request, const std::string *) {
    mover_.post(transferOf(request));
    return transferOf(request).outcome();
}

nixl_status_t
FileEngine::check(nixlBackendReqH *request) {
    return transferOf(request).outcome();
}

void
FileEngine::cancel(nixlBackendReqH *request) {
    mover_.cancel(transferOf(request));
}

nixlx::RequestInfo
FileEngine::describe(const nixlBackendReqH *request) const {
    return static_cast<const FileTransfer *>(request)->describe(setup_.path);
}

std::optional<uint64_t>
FileEngine::bytesDone(const nixlBackendReqH *request) const {
    return static_cast<const FileTransfer *>(request)->bytesDone();
}

std::optional<uint64_t>
FileEngine::pathMark(const nixlBackendReqH *) const {
    return mover_.mark();
}

std::optional<nixlx::Cost>
FileEngine::cost(nixl_mem_t, nixl_mem_t, std::string_view) const {
    return setup_.cost;
}

} // namespace nx::kit
