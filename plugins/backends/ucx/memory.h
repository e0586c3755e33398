// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Registrations: LocalMemory of this agent, RemoteMemory of a peer. Immutable after creation, except for the unpacked
// keys of a RemoteMemory, each of which is guarded by its worker's lock.
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
    /// Registers with every context that is there; VRAM makes that of the host. A range of length zero needs no UCX.
    /// BACKEND: UCX refuses, or takes memory that is given as VRAM for host memory. The runtime is started and outlives
    /// it.
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

    /// Registers it with the local context, too, once: where that is refused transfers take the network. Peers are not
    /// told. By who makes it, then by the runtime.
    void
    share();

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
    LocalMemory(Runtime &runtime, const nixlBasicDesc &range)
        : nixlBackendMD(true),
          runtime_(&runtime),
          address_(range.addr),
          length_(range.len) {}

    void
    hold(Fabric fabric, Mapping mapping);

    Runtime *runtime_; ///< null after unmap
    const uintptr_t address_;
    const size_t length_;
    bool share_tried_ = false;
    /// Constant once the runtime has it and that context.
    std::array<std::shared_ptr<const Mapping>, kFabricCount> mappings_;
    std::string public_data_;
};

/// The keys of a peer's range.
class RemoteMemory final : public nixlBackendMD {
public:
    RemoteMemory(Runtime &runtime, std::shared_ptr<Connection> connection, Keys keys);
    ~RemoteMemory() override;
    RemoteMemory(const RemoteMemory &) = delete;
    RemoteMemory &
    operator=(const RemoteMemory &) = delete;

    /// The one it was loaded for: after the peer is loaded again, that is no longer the peer's current one.
    const std::shared_ptr<Connection> &
    connection() const noexcept {
        return connection_;
    }

    bool
    reachable(Fabric fabric) const noexcept {
        return fabric == Fabric::kPlain || !keys_.local.empty();
    }

    /// Lock of that worker held. Unpacks it when it is first asked for.
    Result<ucp_rkey *>
    key(Fabric fabric, size_t worker, Endpoint &endpoint);

private:
    ucp_rkey *&
    unpacked(Fabric fabric, size_t worker) const noexcept {
        return unpacked_[worker * kFabricCount + static_cast<size_t>(fabric)];
    }

    Runtime &runtime_;
    const std::shared_ptr<Connection> connection_; ///< its endpoints outlive the keys
    const Keys keys_;
    const std::unique_ptr<ucp_rkey *[]> unpacked_; ///< null: not asked for yet
};

} // namespace nx::ucx
