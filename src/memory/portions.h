// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Cuts a plan into portions of bounded size, for whoever moves it through a buffer. Owned by one caller; the runs
// outlive it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "nixlx/engine.h"

namespace nx::memory {

/// A part of a plan, in its order. Its bytes lie in the buffer one after the other, as the runs name them.
struct Portion {
    std::vector<nixlx::Run> runs;
    uint64_t bytes = 0;
};

struct PortionLimits {
    /// The blocks that lie in one segment of that side are one portion, or share one with others that are whole.
    enum class Whole { kNothing, kLocalSegments, kRemoteSegments };

    uint64_t bytes;  ///< not 0
    uint64_t blocks; ///< not 0
    Whole whole = Whole::kNothing;
    uint64_t whole_bytes_max = 0; ///< what has more is cut all the same
};

class Portions {
public:
    /// To keep segments whole the runs stand in the order of these.
    Portions(std::span<const nixlx::Run> runs, const PortionLimits &limits) : runs_(runs), limits_(limits) {}

    /// Empty at the end. Blocks without bytes are left out. A block that does not fit begins the next portion, so that
    /// only what is too large for any is cut.
    Portion
    next();

private:
    struct Group {
        size_t runs = 0;
        uint64_t bytes = 0, blocks = 0;
    };

    Group
    group() const;

    std::span<const nixlx::Run> runs_; ///< what is left of them
    PortionLimits limits_;
    uint64_t block_ = 0;  ///< of the first run
    uint64_t offset_ = 0; ///< in the block
};

} // namespace nx::memory
