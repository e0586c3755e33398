// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/peer_limits.h"

namespace nx::agent {

Status
admit(const PeerLimits &limits, const Holding &held, size_t peer_count, size_t others_bytes) {
    const auto refused = [](const std::string &what) -> Status {
        return {NIXL_ERR_NO_MEMORY, what + "; nothing was changed; invalidate peers that are not needed any more"};
    };
    if (peer_count >= limits.peers) return refused("this agent knows " + std::to_string(peer_count) + " peers already");
    if (held.windows > limits.windows) {
        return refused("the peer would have " + std::to_string(held.windows) + " ranges, and at most " +
                       std::to_string(limits.windows) + " are kept of one peer");
    }
    if (held.bytes > limits.bytes) {
        return refused("the peer's metadata would hold " + std::to_string(held.bytes) + " bytes, and at most " +
                       std::to_string(limits.bytes) + " are kept of one peer");
    }
    if (others_bytes + held.bytes > limits.total_bytes) {
        return refused("the metadata of all peers would hold " + std::to_string(others_bytes + held.bytes) +
                       " bytes, and at most " + std::to_string(limits.total_bytes) + " are kept");
    }
    return {};
}

} // namespace nx::agent
