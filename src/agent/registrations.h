// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The memory that this agent has registered with its backends. Self-synchronised.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "agent/backends.h"
#include "agent/requests.h"
#include "agent/sections.h"

namespace nx::agent {

class Registrations {
public:
    Registrations(const std::string &agent, const Backends &backends, Requests &requests)
        : agent_(agent),
          backends_(backends),
          requests_(requests) {}

    /// With every candidate backend that takes it; all or nothing with each.
    Status
    add(const nixl_reg_dlist_t &descs, const nixl_opt_args_t *args);

    /// `removed` says whether new requests find it no more. REPOST_ACTIVE: a transfer that was cancelled still uses it,
    /// or (not removed) a peer that stands still.
    Status
    remove(const nixl_reg_dlist_t &descs, const nixl_opt_args_t *args, bool &removed);

    /// At the agent's end, when its requests have settled.
    void
    clear();

    /// What one backend knows about storage.
    Status
    query(const nixl_reg_dlist_t &descs, std::vector<nixl_query_resp_t> &resp, const nixl_opt_args_t *args) const;

    /// Their backends are among those that Backends::all() returns afterwards.
    Held<Sections>
    sections() const {
        return sections_.get();
    }

    /// Raised when something has been removed. To be read before the sections.
    const Epoch &
    epoch() const noexcept {
        return epoch_;
    }

private:
    void
    commit(SectionKey key, std::vector<std::shared_ptr<memory::Window>> windows);

    const std::string &agent_;
    const Backends &backends_;
    Requests &requests_;
    Epoch epoch_{0};
    Mutex mutex_;
    Snapshot<Sections> sections_; ///< replaced under mutex_
};

} // namespace nx::agent
