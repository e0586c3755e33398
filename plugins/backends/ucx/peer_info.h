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

/// MISMATCH: not a peer info. The addresses in it are checked.
Result<PeerInfo>
decodePeerInfo(std::string_view bytes);

struct Keys {
    std::string plain;
    std::string local; ///< empty: none
};

/// The plain key, read by everybody, and behind it what only readers of ours look for: UCX ignores trailing bytes.
std::string
encodeKeys(const Keys &keys);

/// See segmentDomains; those of the addresses that belong to the keys.
struct RefusedDomains {
    uint64_t plain = 0;
    uint64_t local = 0;
};

/// Bytes without a sound tail of ours are a plain key. INVALID_PARAM: a key is none, see checkKey.
Result<Keys>
decodeKeys(std::string_view bytes, const RefusedDomains &refused = {});

} // namespace nx::ucx
