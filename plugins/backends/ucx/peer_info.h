// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What engines of ours tell each other beyond NIXL 1.4: where the process runs and how its same-host context is
// reached; and the public data of a registration with the keys of both contexts. Pure functions, except the first.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace nx::ucx {

/// UCX takes an address without its length, so nonsense ends the process: an address that cannot be one is refused.
inline constexpr size_t kAddressBytesMin = 10, kAddressBytesMax = 64 << 10;
inline constexpr size_t kKeyBytesMin = 8, kKeyBytesMax = 64 << 10;
inline constexpr size_t kPeerWorkersMax = 128;

/// Processes with equal identities may share memory: same boot of a machine, same namespaces, same user.
std::string
hostIdentity();

struct PeerInfo {
    std::string host;                         ///< hostIdentity() of the peer
    std::string beacon;                       ///< lit while the peer's engine lives; empty: there is none
    std::vector<std::string> local_addresses; ///< of the same-host context's workers; empty: there is none
};

std::string
encodePeerInfo(const PeerInfo &info);

/// MISMATCH: not a peer info.
Result<PeerInfo>
decodePeerInfo(std::string_view bytes);

/// INVALID_PARAM: `address` cannot be a worker's address.
Status
checkAddress(std::string_view address);

struct Keys {
    std::string plain;
    std::string local; ///< empty: none
};

/// The plain key, read by everybody, and behind it what only readers of ours look for: UCX ignores trailing bytes.
std::string
encodeKeys(const Keys &keys);

/// Bytes without a sound tail of ours are a plain key. INVALID_PARAM: it cannot be one.
Result<Keys>
decodeKeys(std::string_view bytes);

} // namespace nx::ucx
