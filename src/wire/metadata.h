// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The metadata blob: what an agent tells its peers (docs/wire.md). The fields are NIXL's; a trailer of ours stands
// behind the last of them, where readers of NIXL do not look. Pure functions.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "nixl_descriptors.h"

namespace nx::wire {

using Incarnation = std::array<uint8_t, 16>; ///< random, one per agent start

struct Connection {
    std::string backend;
    std::string info;
};

struct Section {
    std::string backend;
    nixl_mem_t memory = DRAM_SEG;
    std::vector<nixlBlobDesc> descs; ///< metaInfo: the key a peer needs
};

/// Bit of Trailer::features: who sends this blob to a listener understands the answer (wire/frame.h).
inline constexpr uint64_t kFeatureAnswers = 1;

struct Trailer {
    uint32_t version = 1;
    Incarnation incarnation{};
    uint64_t features = 0;
    std::vector<Connection> peer_info; ///< connection info that only peers of ours read
};

struct Metadata {
    std::string agent;
    std::vector<Connection> connections;
    std::vector<Section> sections;
    std::optional<Trailer> trailer; ///< absent in blobs of NIXL
};

std::string
encodeMetadata(const Metadata &metadata);

/// NOT_SUPPORTED if a reader would refuse it for a count or a length in it (wire/limits.h); the sentence names it.
Status
checkLimits(const Metadata &metadata);

/// False: it is no metadata at all, whatever is missing from it otherwise.
bool
startsAsMetadata(std::string_view blob) noexcept;

/// Reads the whole blob or fails with MISMATCH and the offset and field at fault. Costs memory in proportion to the
/// blob. A trailer that is damaged or of a later version is taken for absent.
Result<Metadata>
decodeMetadata(std::string_view blob);

} // namespace nx::wire
