// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Registrations: LocalMemory of this agent, RemoteMemory of a peer. Immutable after creation, except for the keys of a
// RemoteRegion, each of which is guarded by its worker's lock.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "backend/backend_aux.h"
#include "ucx/connection.h"
#include "ucx/driver.h"
#include "ucx/peer_info.h"

namespace nx::ucx {

class Runtime;

class LocalMemory final : public nixlBackendMD {
public:
    /// Registers with both contexts. A range of length zero needs no UCX. BACKEND: UCX refuses, or takes memory that is
    /// given as VRAM for host memory. The runtime is started and outlives it.
    static Result<std::unique_ptr<LocalMemory>>
    create(Runtime &runtime, const nixlBasicDesc &range, nixl_mem_t memory);
    ~LocalMemory() override;

    /// Null if the range is not registered there.
    const Mapping *
    mapping(Fabric fabric) const noexcept {
        return mappings_[static_cast<size_t>(fabric)].get();
    }

    size_t
    length() const noexcept {
        return length_;
    }

    /// What peers need, see encodeKeys.
    const std::string &
    publicData() const noexcept {
        return public_data_;
    }

    /// Gives the registrations back, but for those that a worker keeps; the object is good for nothing but deletion
    /// then.
    void
    unmap() noexcept;

private:
    LocalMemory(Runtime &runtime, size_t length) : nixlBackendMD(true), runtime_(&runtime), length_(length) {}

    void
    hold(Fabric fabric, Mapping mapping);

    Runtime *runtime_; ///< null after unmap
    const size_t length_;
    std::array<std::shared_ptr<const Mapping>, kFabricCount> mappings_;
    std::string public_data_;
};

/// The keys of a peer's range. Shared by the RemoteMemory and the requests that use it.
class RemoteRegion {
public:
    RemoteRegion(Runtime &runtime, std::shared_ptr<Connection> connection, Keys keys);
    ~RemoteRegion();
    RemoteRegion(const RemoteRegion &) = delete;
    RemoteRegion &
    operator=(const RemoteRegion &) = delete;

    /// The one it was loaded for: after the peer is loaded again, that is no longer the peer's current one.
    const std::shared_ptr<Connection> &
    connection() const noexcept {
        return connection_;
    }

    bool
    reachable(Fabric fabric) const noexcept {
        return fabric == Fabric::kPlain || !keys_.local.empty();
    }

    /// Lock of that worker held.
    Result<ucp_rkey *>
    key(Fabric fabric, size_t worker, Endpoint &endpoint);

private:
    Runtime &runtime_;
    const std::shared_ptr<Connection> connection_; ///< its endpoints outlive the keys
    const Keys keys_;
    std::array<std::vector<ucp_rkey *>, kFabricCount> unpacked_;
};

class RemoteMemory final : public nixlBackendMD {
public:
    explicit RemoteMemory(std::shared_ptr<RemoteRegion> region) : nixlBackendMD(false), region_(std::move(region)) {}

    const std::shared_ptr<RemoteRegion> &
    region() const noexcept {
        return region_;
    }

private:
    const std::shared_ptr<RemoteRegion> region_;
};

} // namespace nx::ucx
