// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What this agent tells its peers: how to connect to its backends, and what is registered. Self-synchronised.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "agent/backends.h"
#include "agent/credentials.h"
#include "agent/registrations.h"
#include "metadata/exchange.h"
#include "wire/metadata.h"

namespace nx::agent {

class LocalMetadata {
public:
    LocalMetadata(const std::string &agent,
                  const wire::Incarnation &incarnation,
                  const Credentials &credentials,
                  const Backends &backends,
                  const Registrations &registrations)
        : agent_(agent),
          incarnation_(incarnation),
          credentials_(credentials),
          backends_(backends),
          registrations_(registrations) {}

    /// NOT_SUPPORTED: it is more than peers take.
    Result<std::string>
    whole();

    /// Of these ranges, and how to connect if that is asked for or the list is empty.
    Result<std::string>
    part(const nixl_reg_dlist_t &descs, const nixl_opt_args_t *args);

    /// whole() as one blob for all who send it, made anew when backends or registrations have changed.
    Result<metadata::Blob>
    shared();

private:
    /// What there is to publish at one moment.
    struct State {
        Held<Sections> sections;
        Held<BackendList> backends;
        uint64_t epoch; ///< another one for each
    };

    State
    state();
    Result<std::string>
    wholeOf(const State &state) const;
    wire::Metadata
    empty(uint64_t epoch, bool whole) const;
    Result<std::string>
    forPeers(const wire::Metadata &metadata) const;

    const std::string &agent_;
    const wire::Incarnation &incarnation_;
    const std::chrono::system_clock::time_point started_ = std::chrono::system_clock::now();
    const Credentials &credentials_;
    const Backends &backends_;
    const Registrations &registrations_;

    Mutex mutex_; // held for a few instructions; out of it only what is there is asked for
    struct {
        std::weak_ptr<const Sections> sections;
        std::weak_ptr<const BackendList> backends;
        uint64_t epoch = 0;
    } last_ NX_GUARDED_BY(mutex_); ///< of those who asked for the state
    struct {
        metadata::Blob blob;
        uint64_t epoch = 0; ///< of which it was made
    } shared_ NX_GUARDED_BY(mutex_);
};

} // namespace nx::agent
