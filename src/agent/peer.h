// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What is known of one start of another agent, and the calls into backends for its sake. Requests and prepared lists
// hold it; once it is not alive it serves nothing new. Self-synchronised, except where it says otherwise.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>

#include "agent/backend.h"
#include "agent/origin.h"
#include "agent/sections.h"
#include "wire/metadata.h"

namespace nx::agent {

/// Backend -> connection info as it came.
using Connections = std::map<std::string, std::string>;

/// What is held of one peer. Bytes are counted as the peer sends them: connection infos, ranges and keys.
struct Holding {
    size_t windows = 0;
    size_t bytes = 0;
};

class Peer {
public:
    /// `some_lost` is set when a backend says that the peer is lost; it outlives the peer.
    Peer(std::string name, std::atomic<bool> &some_lost) : name(std::move(name)), some_lost_(some_lost) {}

    bool
    alive() const noexcept {
        return state_.load(std::memory_order_acquire) == State::kAlive;
    }

    /// It is not alive because a backend said so, as opposed to the user.
    bool
    lost() const noexcept {
        return state_.load(std::memory_order_acquire) == State::kLost;
    }

    /// No effect if it is not alive. It is forgotten at the end of the agent's call (Peers::forgetLost).
    void
    lose() noexcept {
        State alive = State::kAlive;
        if (state_.compare_exchange_strong(alive, State::kLost)) some_lost_.store(true);
    }

    /// No effect if it is not alive.
    void
    remove() noexcept {
        State alive = State::kAlive;
        state_.compare_exchange_strong(alive, State::kRemoved);
    }

    const std::string name;
    Snapshot<Connections> connections;
    Snapshot<Sections> sections;
    Origin origin;

    // Guarded by the mutex of Peers:
    wire::Incarnation incarnation{}; ///< zeros: a peer without trailer
    Holding held;

private:
    enum class State { kAlive, kLost, kRemoved };

    std::atomic<State> state_{State::kAlive};
    std::atomic<bool> &some_lost_;
};

/// Backend::call for the sake of `peer` (null: only of this agent). All that concern a peer go through here: an outcome
/// of REMOTE_DISCONNECT says that it is lost.
template<class Ability = nixlx::Engine, class Body>
nixl_status_t
callFor(Peer *peer, const Backend &backend, const char *function, Body body) {
    const auto status = backend.call<Ability>(function, std::move(body));
    if (status == NIXL_ERR_REMOTE_DISCONNECT && peer) [[unlikely]]
        peer->lose();
    return status;
}

/// The backend forgets the peer.
void
disconnect(const Backend &backend, const std::string &peer);

/// "`function` failed with ...", or what the backend said about it.
std::string
backendFailure(const std::string &function, nixl_status_t status);

/// Begins to fetch a peer's metadata once more, if it is known where and the last time was not just now.
void
beginRefetch(const std::shared_ptr<Peer> &peer);

/// attempt(lacking) puts into `lacking` the peer of whom a range is not known. Then it gets a second chance with
/// metadata that is newer, if there is any. Holds no lock while it waits.
template<class Attempt>
Status
withFreshMetadata(Attempt attempt) {
    std::shared_ptr<Peer> lacking;
    auto status = attempt(lacking);
    if (status.ok() || !lacking) return status;
    beginRefetch(lacking);
    const auto told = lacking->origin.wait();
    if (told.look_again) {
        lacking = nullptr;
        status = attempt(lacking);
        if (status.ok() || !lacking) return status;
    }
    return {status.code(), status.message() + "; " + told.sentence};
}

} // namespace nx::agent
