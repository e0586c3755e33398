// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A peer: how it is reached, and the endpoints to it, one per worker of ours, made when first needed.
// Self-synchronised; each endpoint is guarded by its worker's lock. Once an endpoint has failed the peer counts as gone
// for good: who wants it back disconnects and loads it again.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/fd.h"
#include "ucx/driver.h"
#include "ucx/peer_info.h"

namespace nx::ucx {

class Runtime;

/// The two contexts. A peer is reached through one of them; they never meet.
enum class Fabric : unsigned { kPlain, kLocal };
inline constexpr size_t kFabricCount = 2;

class Connection {
public:
    /// `address` as NIXL 1.4 exchanges it.
    Connection(Runtime &runtime, std::string name, std::string address);
    ~Connection();

    const std::string &
    name() const noexcept {
        return name_;
    }

    const std::string &
    address() const noexcept {
        return address_;
    }

    /// Which keys of this peer must not be used.
    const RefusedDomains &
    refusedDomains() const noexcept {
        return refused_domains_;
    }

    /// The peer is one of ours; call before the first use.
    void
    setPeerInfo(const PeerInfo &info, bool same_host);

    /// Which context serves this peer. Decided at the first call.
    Fabric
    fabric();

    /// Lock of that worker held. REMOTE_DISCONNECT once the peer is gone.
    Result<Endpoint *>
    endpoint(Fabric fabric, size_t worker);

    /// Takes the peer for gone if its beacon is. Costs a system call where there is one.
    void
    lookForDeath();

    /// Readable when the peer has ended; -1 if there is no beacon.
    int
    beaconFd() const noexcept {
        return beacon_.get();
    }

    bool
    gone() const noexcept {
        return gone_.load(std::memory_order_acquire);
    }

    /// Why the peer cannot be used any more, for people.
    std::string
    sentence() const;

    /// Remembers the first reason.
    void
    setGone(const std::string &reason);

    /// Ends it. Returns at once; closed() tells when the last endpoint is.
    void
    close(bool orderly);

    bool
    closed();

    /// Ends all endpoints at once with an error for whatever is outstanding. The peer has ended and sends nothing more.
    void
    abandon(const std::string &reason);

    /// The same for a peer that may still live. UCX may keep operations that it cannot call back from it (see
    /// Endpoint::abandon); they end when it goes on or ends.
    void
    sever(const std::string &reason);

private:
    template<class Visit>
    void
    forEachEndpoint(Visit visit);

    Runtime &runtime_;
    const std::string name_;
    const std::string address_;
    std::vector<std::string> local_addresses_; ///< constant after setPeerInfo
    RefusedDomains refused_domains_;           ///< constant after setPeerInfo
    Fd beacon_;                                ///< constant after setPeerInfo
    std::atomic<bool> gone_{false};
    std::atomic<bool> ended_{false}; ///< it is known to have ended
    std::atomic<int> fabric_;        ///< -1: not decided

    mutable std::mutex mutex_;
    // Guarded by mutex_:
    std::string reason_;
    // Each guarded by its worker's lock:
    std::array<std::vector<std::unique_ptr<Endpoint>>, kFabricCount> endpoints_;
};

} // namespace nx::ucx
