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

/// A plan with everything it points to.
struct OwnedPlan {
    std::vector<nixlx::Run> runs;
    std::vector<nixlx::Segment> local_segments;
    std::vector<nixlx::Segment> remote_segments;
    std::vector<std::shared_ptr<Window>> local_windows; ///< as many as segments, in the same order
    std::vector<std::shared_ptr<Window>> remote_windows;
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
    bool to_self = false; ///< the remote side uses the mappings' remote faces
    bool merge = true;    ///< neighbouring elements become one block
};

/// Pairs element i with element i. INVALID_PARAM: counts or lengths differ (the sentence names the element).
Result<std::unique_ptr<OwnedPlan>>
planAll(const PlanRequest &request, const Side &local, const Side &remote);

/// Pairs element local_indices[i] with element remote_indices[i]. INVALID_PARAM: counts differ or are zero, an index is
/// out of range, lengths differ.
Result<std::unique_ptr<OwnedPlan>>
planIndexed(const PlanRequest &request,
            const Side &local,
            std::span<const int> local_indices,
            const Side &remote,
            std::span<const int> remote_indices);

} // namespace nx::memory
