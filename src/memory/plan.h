// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Builds the plan of a request from two sides: pairs up elements, merges neighbours, finds strides. Owned: one thread
// builds; the result is immutable.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "memory/side.h"
#include "nixlx/engine.h"

namespace nx::memory {

/// A plan with everything it points to. Its segments are those of the sides, whether runs use them or not.
struct OwnedPlan {
    std::vector<nixlx::Run> runs;
    std::shared_ptr<const Side> local;
    std::shared_ptr<const Side> remote;
    std::string remote_agent;
    nixlx::Plan plan{};

    OwnedPlan() = default;
    OwnedPlan(const OwnedPlan &) = delete; // `plan` points into the vectors
    OwnedPlan &
    operator=(const OwnedPlan &) = delete;
};

struct PlanRequest {
    nixl_xfer_op_t operation = NIXL_READ;
    nixl_mem_t local_memory = DRAM_SEG;
    nixl_mem_t remote_memory = DRAM_SEG;
    std::string remote_agent;
    bool merge = true; ///< neighbouring elements become one block
};

/// Pairs element i with element i. INVALID_PARAM: counts or lengths differ (the sentence names the element).
Result<std::unique_ptr<OwnedPlan>>
planAll(const PlanRequest &request, std::shared_ptr<const Side> local, std::shared_ptr<const Side> remote);

/// Pairs element local_indices[i] with element remote_indices[i]. INVALID_PARAM: counts differ or are zero, an index is
/// out of range, lengths differ.
Result<std::unique_ptr<OwnedPlan>>
planIndexed(const PlanRequest &request,
            std::shared_ptr<const Side> local,
            std::span<const int> local_indices,
            std::shared_ptr<const Side> remote,
            std::span<const int> remote_indices);

} // namespace nx::memory
