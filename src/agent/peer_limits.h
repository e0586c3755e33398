// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What the metadata of peers may cost an agent (docs/wire.md). Pure.
#pragma once

#include <cstddef>

#include "base/error.h"
#include "wire/limits.h"

namespace nx::agent {

/// Defaults are the promise; tests make them small.
struct PeerLimits {
    size_t peers = 16'384;
    size_t windows = wire::kDescriptorsMax;  ///< of one peer: its ranges, over all backends
    size_t bytes = wire::kBlobBytesMax;      ///< of one peer
    size_t total_bytes = size_t{1024} << 20; ///< of all peers
};

/// What is held of one peer. Bytes are counted as the peer sends them: connection infos, ranges and keys.
struct Holding {
    size_t windows = 0;
    size_t bytes = 0;
};

/// NO_MEMORY: a peer's metadata is to grow to `held`, and it would be too much. `peer_count` and `others_bytes`: of the
/// other peers.
Status
admit(const PeerLimits &limits, const Holding &held, size_t peer_count, size_t others_bytes);

} // namespace nx::agent
