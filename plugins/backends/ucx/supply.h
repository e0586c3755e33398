// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Whether the system has what UCX is about to take. UCX aborts, hangs, or is unusable from then on where it finds out
// half-way. Free of state; others of this process may be quicker with what was there.
#pragma once

#include <cstddef>

#include "base/error.h"

namespace nx::ucx {

struct Supply {
    size_t descriptors = 0;
    size_t address_space = 0; ///< bytes
    bool thread = false;
};

/// NO_MEMORY, with a sentence that names what is short. Takes it all and gives it back.
Status
trySupply(const Supply &needed);

} // namespace nx::ucx
