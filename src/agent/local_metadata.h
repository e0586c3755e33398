// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What this agent tells its peers: how to connect to its backends, and what is registered. Self-synchronised.
#pragma once

#include <memory>
#include <string>

#include "agent/backends.h"
#include "agent/registrations.h"
#include "metadata/exchange.h"
#include "wire/metadata.h"

namespace nx::agent {

class LocalMetadata {
public:
    LocalMetadata(const std::string &agent,
                  const wire::Incarnation &incarnation,
                  const Backends &backends,
                  const Registrations &registrations)
        : agent_(agent),
          incarnation_(incarnation),
          backends_(backends),
          registrations_(registrations) {}

    /// NOT_SUPPORTED: it is more than peers take.
    Result<std::string>
    whole() const;

    /// Of these ranges, and how to connect if that is asked for or the list is empty.
    Result<std::string>
    part(const nixl_reg_dlist_t &descs, const nixl_opt_args_t *args) const;

    /// whole() as one blob for all who send it, made anew when backends or registrations have changed.
    Result<metadata::Blob>
    shared();

private:
    wire::Metadata
    empty() const;

    const std::string &agent_;
    const wire::Incarnation &incarnation_;
    const Backends &backends_;
    const Registrations &registrations_;

    Mutex mutex_; // held for a few instructions; no call out of it
    struct {
        metadata::Blob blob;
        std::weak_ptr<const BackendList> backends; ///< of which it was made
        std::weak_ptr<const Sections> sections;
    } shared_ NX_GUARDED_BY(mutex_);
};

} // namespace nx::agent
