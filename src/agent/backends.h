// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The backends of one agent: created, found by handle, never removed. Self-synchronised.
#pragma once

#include <memory>
#include <string>

#include "agent/backend.h"
#include "base/handle_table.h"
#include "base/mutex.h"
#include "base/snapshot.h"
#include "nixl.h"

namespace nx::agent {

class Backends {
public:
    Backends(const std::string &agent, const nixlAgentConfig &config) : agent_(agent), config_(config) {}

    /// `telemetry`: somebody takes the engine's events.
    Status
    create(const nixl_backend_t &type, const nixl_b_params_t &params, bool telemetry, nixlBackendH *&handle);

    /// Null: it is no backend of this agent.
    std::shared_ptr<Backend>
    find(const nixlBackendH *handle) const;

    Held<BackendList>
    all() const {
        return all_.get();
    }

    /// The hinted ones in the hints' order, or all. A companion stands before its leader.
    Result<Held<BackendList>>
    candidates(const nixl_opt_args_t *args) const;

private:
    Result<std::shared_ptr<Backend>>
    make(const nixl_backend_t &type, const nixl_b_params_t &params, bool telemetry, const BackendList &others) const;
    std::shared_ptr<Backend>
    companionFor(const Backend &leader, bool telemetry, const BackendList &others) const;
    Status
    insert(std::shared_ptr<Backend> backend, BackendList &list);

    const std::string &agent_;
    const nixlAgentConfig &config_;
    mutable HandleTable<std::shared_ptr<Backend>> handles_{1};
    Snapshot<BackendList> all_; ///< replaced under mutex_
    Mutex mutex_;               ///< held while a backend is created
};

inline bool
isHinted(const nixl_opt_args_t *args) noexcept {
    return args && !args->backends.empty();
}

} // namespace nx::agent
