// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What engines of ours tell each other beyond NIXL 1.4: where the process runs and how those of its host meet it; what
// they are offered there; and the public data of a registration with the keys of both contexts. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace nx::ucx {

inline constexpr size_t kOfferWorkersMax = 64;
inline constexpr size_t kOfferBytesMax = size_t{128} << 10;

struct PeerInfo {
    static constexpr uint64_t kKeepsCredits = 1; ///< answers questions, see kit/credits.h

    std::string host;      ///< kit::hostIdentity() of the peer
    std::string link;      ///< the name of its listener (kLinks); empty: it has none
    uint64_t features = 0; ///< bits; unknown ones mean nothing
};

std::string
encodePeerInfo(const PeerInfo &info);

/// MISMATCH: not a peer info.
Result<PeerInfo>
decodePeerInfo(std::string_view bytes);

/// The addresses of workers, see link.h.
std::string
encodeOffer(const std::vector<std::string> &addresses);

/// MISMATCH: not an offer. The addresses in it are checked.
Result<std::vector<std::string>>
decodeOffer(std::string_view bytes);

struct Keys {
    std::string plain;
    std::string local; ///< empty: none
};

/// The plain key, read by everybody, and behind it what only readers of ours look for: UCX ignores trailing bytes.
std::string
encodeKeys(const Keys &keys);

/// Bytes without a sound tail of ours are a plain key. INVALID_PARAM: a key is none, see checkKey, which gets
/// `refused_domains` for the plain one. The other is checked for nothing but its form: its address comes later.
Result<Keys>
decodeKeys(std::string_view bytes, uint64_t refused_domains = 0);

} // namespace nx::ucx
