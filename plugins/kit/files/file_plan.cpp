// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/files/file_plan.h"

#include <cerrno>
#include <string>

namespace nx::kit {

Status
checkOffsets(const nixlx::Plan &plan) {
    const bool files_are_local = filesAreLocal(plan);
    for (const nixlx::Run &run : plan.runs) {
        if (run.count == 0) continue;
        const uint64_t first = files_are_local ? run.local : run.remote;
        const uint64_t stride = files_are_local ? run.local_stride : run.remote_stride;
        for (const uint64_t offset : {first, first + (run.count - 1) * stride}) {
            if (offset <= INT64_MAX && run.length <= INT64_MAX - offset) continue;
            return {NIXL_ERR_INVALID_PARAM,
                    std::to_string(run.length) + " bytes at offset " + std::to_string(offset) +
                        ": no file reaches so far; the offset is negative, or has wrapped around"};
        }
    }
    return {};
}

nixl_status_t
statusOfIo(int error) noexcept {
    switch (error) {
    case ENOMEM: return NIXL_ERR_NO_MEMORY;
    case ENOSYS:
    case EOPNOTSUPP: return NIXL_ERR_NOT_SUPPORTED;
    default: return NIXL_ERR_BACKEND;
    }
}

} // namespace nx::kit
