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

/// What tells a later blob of an agent from an earlier one. Blobs that are signed have it.
struct Edition {
    uint64_t epoch = 0;      ///< of this start: rises whenever what it has to publish changes
    uint64_t started_ms = 0; ///< when the start began, by its clock, since 1970
    bool whole = true;       ///< all that there was to publish, not a part
};

struct Trailer {
    uint32_t version = 1;
    Incarnation incarnation{};
    uint64_t features = 0;
    std::vector<Connection> peer_info; ///< connection info that only peers of ours read
    std::optional<Edition> edition{};
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

/// Puts a signature of all bytes of `blob` behind them.
void
appendSignature(std::string &blob, std::string_view signature);

/// A blob that has a signature, before anything in it is believed.
struct Signed {
    std::string_view agent;   ///< who is said to have signed
    std::string_view content; ///< what is signed
    std::string_view signature;
};

/// Reads the first field and the last two. Nothing: it has no signature. MISMATCH: it is cut, or no metadata.
Result<std::optional<Signed>>
findSignature(std::string_view blob);

} // namespace nx::wire
