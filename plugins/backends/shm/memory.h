// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What is registered here, and what peers have registered. Plain values.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "backend/backend_aux.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/mutex.h"
#include "kit/peer/layout.h"
#include "nixlx/memory.h"
#include "shm/link.h"

namespace nx::shm {

/// The blocks of shareable memory (nixlx/memory.h) in which something is registered. Self-synchronised.
class Blocks {
public:
    struct Open {
        Fd descriptor;
        uint64_t bytes;
    };

    /// One registration more.
    void
    add(const nixlx::SharedBlock &block);
    /// One less.
    void
    remove(uint64_t id) noexcept;

    /// For a peer; none: nothing is registered there, or the system refuses a descriptor.
    std::optional<Open>
    open(uint64_t id) const;

private:
    struct Use {
        uint64_t base;
        size_t registrations = 0;
    };

    mutable Mutex mutex_;
    std::map<uint64_t, Use> uses_ NX_GUARDED_BY(mutex_);
};

/// A registration of this agent.
struct LocalMemory final : nixlBackendMD {
    LocalMemory(kit::WindowKey key, const nixlBasicDesc &range, uint64_t block)
        : nixlBackendMD(true),
          key(key),
          range(range),
          block(block) {}

    const kit::WindowKey key;
    const nixlBasicDesc range;
    const uint64_t block; ///< of shareable memory that it lies in; 0: none
    bool shut = false;    ///< to peers, for good unless they are let in; owned by who deregisters it
};

/// A registration of a peer, or of this agent for itself.
struct RemoteMemory final : nixlBackendMD {
    RemoteMemory(std::shared_ptr<Link> link, kit::WindowKey key, uint64_t address, uint64_t length)
        : nixlBackendMD(false),
          link(std::move(link)),
          key(key),
          address(address),
          length(length) {}

    const std::shared_ptr<Link> link; ///< null: of this agent itself
    const kit::WindowKey key;
    const uint64_t address;
    const uint64_t length;
    std::shared_ptr<const PeerBlock> block; ///< that it lies in; null: it is not mapped
    std::byte *here = nullptr;              ///< where its first byte is mapped; null: the kernel copies
};

std::string
encodeKey(kit::WindowKey key);

/// MISMATCH: not a key.
Result<kit::WindowKey>
decodeKey(std::string_view bytes);

} // namespace nx::shm
