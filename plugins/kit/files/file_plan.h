// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What a plan between memory and files says of the files. Pure functions.
#pragma once

#include "base/error.h"
#include "nixlx/engine.h"

namespace nx::kit {

/// Files are on the local side of the plan, memory on the remote one.
inline bool
filesAreLocal(const nixlx::Plan &plan) noexcept {
    return plan.local_memory == FILE_SEG || plan.local_memory == BLK_SEG;
}

/// The plan writes to its files.
inline bool
writesFiles(const nixlx::Plan &plan) noexcept {
    return (plan.operation == NIXL_WRITE) != filesAreLocal(plan);
}

/// INVALID_PARAM: a place that no file has.
Status
checkOffsets(const nixlx::Plan &plan);

/// The status of a read or write that ended with this errno.
nixl_status_t
statusOfIo(int error) noexcept;

} // namespace nx::kit
