// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What a range of registered memory is backed by. A Mapping is one registration inside a backend; a Window is one range
// that the user (or a peer) registered, and several windows may share a mapping. Both outlive their removal: who
// resolved against them earlier finds them revoked instead of gone.
// Self-synchronised: atomics only.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "nixl_descriptors.h"

class nixlBackendMD;

namespace nx::memory {

/// Invariants: `let_go` runs exactly once, after revoke() or in the destructor, and never while the mapping is in use.
class Mapping {
public:
    /// `remote_face` is what transfers to oneself use as the remote side; null if the backend has none.
    /// `let_go` gives both back to the backend.
    Mapping(nixlBackendMD *metadata,
            nixlBackendMD *remote_face,
            std::string public_data,
            std::function<void(nixlBackendMD *, nixlBackendMD *)> let_go)
        : metadata(metadata),
          remote_face(remote_face),
          public_data(std::move(public_data)),
          let_go_(std::move(let_go)) {}

    ~Mapping() {
        if (!(state_.load() & kRevoked)) let_go_(metadata, remote_face);
    }

    Mapping(const Mapping &) = delete;
    Mapping &
    operator=(const Mapping &) = delete;

    /// Keeps the backend's registration until release(). False once revoked.
    bool
    acquire() noexcept {
        uint64_t state = state_.load(std::memory_order_relaxed);
        do {
            if (state & kRevoked) return false;
        } while (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire));
        return true;
    }

    /// The last release of a revoked mapping lets go.
    void
    release() {
        if (state_.fetch_sub(1, std::memory_order_acq_rel) == (kRevoked | 1)) let_go_(metadata, remote_face);
    }

    /// No acquire() succeeds from here on; lets go now, or with the last release.
    void
    revoke() {
        const uint64_t before = state_.fetch_or(kRevoked, std::memory_order_acq_rel);
        if (before == 0) let_go_(metadata, remote_face);
    }

    nixlBackendMD *const metadata;
    nixlBackendMD *const remote_face;
    const std::string public_data; ///< the key peers need

private:
    static constexpr uint64_t kRevoked = uint64_t{1} << 63;
    std::atomic<uint64_t> state_{0}; // users, and kRevoked
    const std::function<void(nixlBackendMD *, nixlBackendMD *)> let_go_;
};

/// Revokes its mapping when the last window on it goes. Shared by windows; made with the mapping.
class MappingOwner {
public:
    explicit MappingOwner(std::shared_ptr<Mapping> mapping) : mapping_(std::move(mapping)) {}
    ~MappingOwner() {
        mapping_->revoke();
    }

    MappingOwner(const MappingOwner &) = delete;
    MappingOwner &
    operator=(const MappingOwner &) = delete;

    const std::shared_ptr<Mapping> &
    mapping() const noexcept {
        return mapping_;
    }

private:
    const std::shared_ptr<Mapping> mapping_;
};

class Window {
public:
    Window(const nixlBasicDesc &range, std::shared_ptr<MappingOwner> owner)
        : range(range),
          mapping(owner->mapping()),
          owner_(std::move(owner)) {}

    /// Ends the window: new uses are refused. Call at most once.
    void
    revoke() {
        revoked_.store(true, std::memory_order_release);
        owner_.reset();
    }

    bool
    revoked() const noexcept {
        return revoked_.load(std::memory_order_acquire);
    }

    const nixlBasicDesc range;
    const std::shared_ptr<Mapping> mapping;

private:
    std::atomic<bool> revoked_{false};
    std::shared_ptr<MappingOwner> owner_; // touched by the constructor, revoke() and the destructor only
};

} // namespace nx::memory
