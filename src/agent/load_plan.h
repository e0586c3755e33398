// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What loading a peer's metadata would change, judged as a whole before anything does. Pure: no backend is called.
// A plan is owned by one caller and points into the metadata it was made of.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "agent/peer.h"
#include "wire/limits.h"

namespace nx::agent {

struct LoadPlan {
    struct Connection {
        std::shared_ptr<Backend> backend;
        const std::string *info;
        const std::string *peer_info; ///< null: none
    };

    const wire::Metadata *metadata = nullptr;
    std::shared_ptr<Peer> known;                                    ///< grows; null: the peer is new
    std::shared_ptr<Peer> replaced;                                 ///< an earlier start of a new one
    size_t common = 0;                                              ///< backends that both agents have
    std::vector<Connection> connections;                            ///< new ones
    std::map<SectionKey, std::vector<const nixlBlobDesc *>> ranges; ///< new ones, of backends that are connected then

    /// Of the peer, once this is done.
    Holding
    held() const;

    /// The backend does not reach the peer.
    void
    leaveOut(const Backend &backend);
};

/// What the metadata of peers may cost an agent (docs/wire.md).
/// Defaults are the promise; tests make them small.
struct PeerLimits {
    size_t peers = 16'384;
    size_t windows = wire::kDescriptorsMax;  ///< of one peer: its ranges, over all backends
    size_t bytes = wire::kBlobBytesMax;      ///< of one peer
    size_t total_bytes = size_t{1024} << 20; ///< of all peers
};

/// What an agent knows before the load.
struct Known {
    std::shared_ptr<Peer> peer; ///< of the name in the metadata; may be null
    size_t peer_count = 0;
    size_t bytes = 0; ///< held of all peers
};

/// NO_MEMORY: a peer's metadata is to grow to `held`, and it would be too much. `peer_count` and `others_bytes`: of the
/// other peers.
Status
admit(const PeerLimits &limits, const Holding &held, size_t peer_count, size_t others_bytes);

/// True: the metadata offers no connection, or one that a backend of this agent could use.
bool
sharesBackend(const wire::Metadata &metadata, const BackendList &backends);

/// BACKEND: no backend in common; NOT_FOUND: a section of an agent that is not known; NOT_ALLOWED: it contradicts what
/// is known; NO_MEMORY: it would be more than the limits allow.
Result<LoadPlan>
judgeLoad(const wire::Metadata &metadata, const BackendList &backends, Known known, const PeerLimits &limits);

} // namespace nx::agent
