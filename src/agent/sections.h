// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What an agent has and what it knows of its peers: backends, and what is registered per kind of memory and backend.
// These are immutable snapshots; a change makes a new one and swaps it in. What belongs together is one snapshot.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "agent/backend.h"
#include "agent/origin.h"
#include "agent/peer_limits.h"
#include "base/snapshot.h"
#include "memory/range_index.h"
#include "wire/metadata.h"

namespace nx::agent {

using Backends = std::vector<std::shared_ptr<Backend>>; ///< in the order of creation

using SectionKey = std::pair<nixl_mem_t, size_t>; ///< kind of memory, order of the backend

/// The windows. Never holds an empty index.
using Sections = std::map<SectionKey, memory::RangeIndex>;

inline std::vector<std::shared_ptr<memory::Window>>
windowsOf(const Sections &sections) {
    std::vector<std::shared_ptr<memory::Window>> windows;
    for (const auto &[key, index] : sections) {
        index.forEach([&](const auto &entry) { windows.push_back(entry.window); });
    }
    return windows;
}

/// What this agent has. One snapshot: every section's backend is among the backends, at its order.
struct Local {
    Backends backends;
    Sections sections;
};

/// Backend -> connection info as it came.
using Connections = std::map<std::string, std::string>;

/// What is known of one start of another agent. Requests and prepared lists hold it; once `alive` is false it serves
/// nothing new. Self-synchronised, except where it says otherwise.
struct Peer {
    explicit Peer(std::string name) : name(std::move(name)) {}

    const std::string name;
    Snapshot<Connections> connections;
    Snapshot<Sections> sections;
    std::atomic<bool> alive{true};
    /// True once a backend reported that the connection is lost (as opposed to the user removing the peer).
    std::atomic<bool> lost{false};

    Origin origin;

    // Guarded by the agent's peers mutex:
    wire::Incarnation incarnation{}; ///< zeros: a peer without trailer
    Holding held;
};

} // namespace nx::agent
