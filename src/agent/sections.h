// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What is registered, per kind of memory and backend: of this agent, and of each peer. Sections are immutable
// snapshots; a change makes a new one and swaps it in.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "agent/backend.h"
#include "memory/range_index.h"
#include "wire/metadata.h"

namespace nx::agent {

/// A shared immutable value that can be replaced. Self-synchronised.
template<class T> class Snapshot {
public:
    Snapshot() : value_(std::make_shared<const T>()) {}

    std::shared_ptr<const T>
    get() const {
        std::lock_guard lock(mutex_);
        return value_;
    }

    void
    set(T value) {
        auto next = std::make_shared<const T>(std::move(value));
        std::lock_guard lock(mutex_);
        value_.swap(next);
    }

private:
    mutable std::mutex mutex_;
    std::shared_ptr<const T> value_;
};

/// (kind of memory, order of the backend) -> windows. Never holds an empty index.
using Sections = std::map<std::pair<nixl_mem_t, size_t>, memory::RangeIndex>;

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

    // Guarded by the agent's peers mutex:
    wire::Incarnation incarnation{}; ///< zeros: a peer without trailer
};

} // namespace nx::agent
