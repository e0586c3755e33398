// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The other agents that an agent knows: loading what they published, connecting, forgetting them. Self-synchronised.
// The mutex is held across backend calls that load or drop a peer, so that a peer's state in the agent and in the
// backends changes as one; nothing on the data path takes it except to forget a peer that was lost.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "agent/backends.h"
#include "agent/credentials.h"
#include "agent/editions.h"
#include "agent/load_plan.h"
#include "agent/requests.h"

namespace nx::agent {

class Peers {
public:
    Peers(const std::string &agent,
          const wire::Incarnation &incarnation,
          const PeerLimits &limits,
          const Credentials &credentials,
          const Backends &backends,
          Requests &requests)
        : agent_(agent),
          incarnation_(incarnation),
          limits_(limits),
          credentials_(credentials),
          backends_(backends),
          requests_(requests) {}

    /// What a blob says, once its author is proven, if peers have to prove themselves.
    Result<wire::Metadata>
    decode(std::string_view blob) const;

    /// Takes up a peer, or what has come to it since.
    Status
    load(const wire::Metadata &metadata);

    Status
    connect(const std::string &agent, const nixl_opt_args_t *args) const;

    /// Null: it is not known, or not any more.
    std::shared_ptr<Peer>
    find(const std::string &agent) const;

    Status
    forget(const std::string &agent);

    /// Somebody asks for it on behalf of that start of the agent. NOT_ALLOWED: a peer that has shown which start it is
    /// is not forgotten for whoever does not know that.
    Status
    withdraw(const std::string &agent, const std::optional<wire::Incarnation> &start);

    /// Nothing is done if the agent is known by another start, or not at all.
    void
    forgetStart(const std::string &agent, const wire::Incarnation &start);

    void
    forgetAll();

    /// Frees what is held of peers that backends have lost. To be called at the end of whatever calls backends, without
    /// locks.
    void
    forgetLost() {
        if (some_lost_.load(std::memory_order_relaxed)) [[unlikely]]
            sweep();
    }

    /// Held of all of them.
    size_t
    bytes() const {
        const MutexLock lock(mutex_);
        return bytes_;
    }

private:
    using Map = std::unordered_map<std::string, std::shared_ptr<Peer>>;

    template<class Judge>
    Status
    forgetIf(const std::string &agent, Judge judge);
    void
    sweep() NX_EXCLUDES(mutex_);
    void
    sweepLocked() NX_REQUIRES(mutex_);
    Status
    loadLocked(const wire::Metadata &metadata) NX_REQUIRES(mutex_);
    void
    commitLocked(const LoadPlan &plan, Sections loaded) NX_REQUIRES(mutex_);
    void
    forgetLocked(const std::shared_ptr<Peer> &peer) NX_REQUIRES(mutex_);

    const std::string &agent_;
    const wire::Incarnation &incarnation_;
    const PeerLimits limits_;
    const Credentials &credentials_;
    const Backends &backends_;
    Requests &requests_;

    std::atomic<bool> some_lost_{false};
    mutable Mutex mutex_;
    Snapshot<Map> map_; ///< replaced under mutex_
    size_t bytes_ NX_GUARDED_BY(mutex_) = 0;
    Editions editions_ NX_GUARDED_BY(mutex_); ///< of those who prove themselves
};

} // namespace nx::agent
