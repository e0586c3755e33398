// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What we add for clients: how long a transfer may take.
#pragma once

#include <chrono>
#include <optional>

#pragma GCC visibility push(default)

namespace nixlx {

/// Limits of a request, each from 1 ms to 24 h or kNone. When one passes, the request is cancelled and ends with
/// NIXL_ERR_TIMEOUT once its buffers are quiet (nixlAgent::setXferLimits).
struct Limits {
    static constexpr std::chrono::milliseconds kNone = std::chrono::milliseconds::max(); ///< no limit

    /// From the post to the end. A new request has none. Absent: as it was.
    std::optional<std::chrono::milliseconds> deadline = {};
    /// In which nothing moves on its path to the peer, for it or for others. A new request has the agent's,
    /// NIXL_STALL_LIMIT_MS or 30 s. Absent: as it was.
    std::optional<std::chrono::milliseconds> stall = {};
};

} // namespace nixlx

#pragma GCC visibility pop
