// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Memory views for device kernels. A view stays the engine's own pointer, because kernels dereference it; it is checked
// by look-up. Self-synchronised.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "agent/backends.h"
#include "agent/peers.h"
#include "agent/registrations.h"

namespace nx::agent {

class MemoryViews {
public:
    MemoryViews(const std::string &agent,
                const Backends &backends,
                const Registrations &registrations,
                const Peers &peers)
        : agent_(agent),
          backends_(backends),
          registrations_(registrations),
          peers_(peers) {}

    Status
    prepare(const nixl_remote_dlist_t &descs, nixlMemViewH &view, const nixl_opt_args_t *args);
    Status
    prepare(const nixl_local_dlist_t &descs, nixlMemViewH &view, const nixl_opt_args_t *args);

    void
    release(nixlMemViewH view);

    /// At the agent's end.
    void
    clear();

private:
    Status
    prepareOnce(const nixl_remote_dlist_t &descs,
                nixlMemViewH &view,
                const nixl_opt_args_t *args,
                std::shared_ptr<Peer> &lacking);
    template<class List>
    Status
    prepareWith(const std::shared_ptr<Backend> &backend, Peer *peer, const List &list, nixlMemViewH &view);

    const std::string &agent_;
    const Backends &backends_;
    const Registrations &registrations_;
    const Peers &peers_;
    Mutex mutex_; // held for a few instructions; no call out of it
    std::unordered_map<nixlMemViewH, std::shared_ptr<Backend>> views_ NX_GUARDED_BY(mutex_);
};

} // namespace nx::agent
