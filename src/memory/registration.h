// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What a range of registered memory is backed by. A Mapping is one registration inside a backend; a Window is one range
// that the user (or a peer) registered, and several windows may share a mapping. Both outlive their removal: who
// resolved against them earlier finds them revoked instead of gone.
//
// Nothing is counted while memory is only used. Whoever removes windows makes a RemovedWindows of them and hands it to
// all that still use one of them; the last to drop it lets the backends go.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "nixl_descriptors.h"

class nixlBackendMD;

namespace nx::memory {

/// Immutable, except that it ends.
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

    Mapping(const Mapping &) = delete;
    Mapping &
    operator=(const Mapping &) = delete;

    nixlBackendMD *const metadata;
    nixlBackendMD *const remote_face;
    const std::string public_data; ///< the key peers need

private:
    friend class MappingOwner;
    friend class RemovedWindows;
    const std::function<void(nixlBackendMD *, nixlBackendMD *)> let_go_;
    std::atomic<bool> abandoned_{false};
};

/// Lets go of its mapping when the last window on it goes. Shared by windows; made with the mapping.
class MappingOwner {
public:
    explicit MappingOwner(std::shared_ptr<Mapping> mapping) : mapping_(std::move(mapping)) {}
    ~MappingOwner() {
        if (!mapping_->abandoned_) mapping_->let_go_(mapping_->metadata, mapping_->remote_face);
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

/// Takes over what a backend has given out: without memory to remember it, it goes back at once.
template<class LetGo>
std::shared_ptr<MappingOwner>
ownMapping(nixlBackendMD *metadata, nixlBackendMD *remote_face, const std::string &public_data, LetGo let_go) {
    try {
        return std::make_shared<MappingOwner>(std::make_shared<Mapping>(metadata, remote_face, public_data, let_go));
    }
    catch (...) {
        let_go(metadata, remote_face);
        throw;
    }
}

class Window {
public:
    Window(const nixlBasicDesc &range, std::shared_ptr<MappingOwner> owner)
        : range(range),
          mapping(owner->mapping()),
          owner_(std::move(owner)) {}

    bool
    revoked() const noexcept {
        return revoked_.load(std::memory_order_acquire);
    }

    const nixlBasicDesc range;
    const std::shared_ptr<Mapping> mapping;

private:
    friend class RemovedWindows;
    friend std::vector<nixlBackendMD *>
    lastRegistrations(std::span<const std::shared_ptr<Window>> windows);

    std::atomic<bool> revoked_{false};
    std::shared_ptr<MappingOwner> owner_; // touched by the constructor, RemovedWindows and the destructor only
};

/// What the backend has registered for these windows and for no other.
inline std::vector<nixlBackendMD *>
lastRegistrations(std::span<const std::shared_ptr<Window>> windows) {
    std::unordered_map<const MappingOwner *, long> counts;
    std::vector<nixlBackendMD *> registrations;
    for (const auto &window : windows) {
        if (++counts[window->owner_.get()] == window->owner_.use_count()) {
            registrations.push_back(window->mapping->metadata);
        }
    }
    return registrations;
}

/// Windows that are taken away together: revoked from the beginning, and given up at the end of this object.
class RemovedWindows {
public:
    explicit RemovedWindows(std::vector<std::shared_ptr<Window>> windows) : windows_(std::move(windows)) {
        for (const auto &window : windows_) window->revoked_.store(true, std::memory_order_release);
    }
    ~RemovedWindows() {
        if (taken_back_) return;
        for (const auto &window : windows_) window->owner_.reset();
    }

    RemovedWindows(const RemovedWindows &) = delete;
    RemovedWindows &
    operator=(const RemovedWindows &) = delete;

    /// They are not removed after all. By who removed them, who still has this.
    void
    takeBack() noexcept {
        taken_back_ = true;
        for (const auto &window : windows_) window->revoked_.store(false, std::memory_order_release);
    }

    /// The backend is never told: it may use the memory as long as it exists itself.
    void
    abandon() const noexcept {
        for (const auto &window : windows_) window->mapping->abandoned_.store(true);
    }

private:
    const std::vector<std::shared_ptr<Window>> windows_;
    bool taken_back_ = false;
};

} // namespace nx::memory
