// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The ring file of the telemetry exporter BUFFER, for programs that read it: this header, then `capacity` events of 16
// bytes (nixlTelemetryEvent), all little-endian. The agent changes write_pos and the slots, one reader changes
// read_pos; each may live in its own process. docs/telemetry.md says how to read without missing or tearing an event.
#pragma once

#include <cstdint>
#include <string>

#include "telemetry_event.h"

namespace nixlx {

struct TelemetryRingHeader {
    uint64_t write_pos = 0; ///< the slot that the agent fills next
    uint64_t read_pos = 0;  ///< the slot that the reader takes next; equal to write_pos: the ring is empty
    int32_t version = TELEMETRY_VERSION;
    int32_t expected_version = TELEMETRY_VERSION;
    uint64_t capacity = 0; ///< slots, a power of two; one of them always stays free
    uint64_t mask = 0;     ///< capacity - 1; the slot after p is (p + 1) & mask
};
static_assert(sizeof(TelemetryRingHeader) == 40 && sizeof(nixlTelemetryEvent) == 16);

/// Where a slot begins in the file.
constexpr uint64_t
telemetryRingOffset(uint64_t slot) noexcept {
    return sizeof(TelemetryRingHeader) + slot * sizeof(nixlTelemetryEvent);
}

/// Why a file of `file_bytes` bytes that begins with `header` is no ring of this version; empty if it is one. Every
/// position of a header without problem lies inside the file.
inline std::string
telemetryRingProblem(const TelemetryRingHeader &header, uint64_t file_bytes) {
    if (file_bytes < sizeof header) return "it has " + std::to_string(file_bytes) + " bytes, less than a header";
    if (header.capacity < 2 || (header.capacity & (header.capacity - 1)) != 0 || header.mask != header.capacity - 1) {
        return "its capacity is " + std::to_string(header.capacity) + " with mask " + std::to_string(header.mask);
    }
    if (header.version != TELEMETRY_VERSION) {
        return "its version is " + std::to_string(header.version) + ", not " + std::to_string(TELEMETRY_VERSION);
    }
    if (header.capacity > file_bytes / sizeof(nixlTelemetryEvent) ||
        telemetryRingOffset(header.capacity) != file_bytes) {
        return "its capacity is " + std::to_string(header.capacity) + ", but it has " + std::to_string(file_bytes) +
            " bytes";
    }
    if (header.write_pos > header.mask || header.read_pos > header.mask) {
        return "its positions (write " + std::to_string(header.write_pos) + ", read " +
            std::to_string(header.read_pos) + ") lie outside";
    }
    return {};
}

} // namespace nixlx
