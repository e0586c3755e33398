// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Ring files: a refusal has a sentence; a reader that follows an accepted header stays inside the file and ends.
#include "nixlx/telemetry_ring.h"

#include <algorithm>
#include <cstring>

#include "fuzz/invariant.h"

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    nixlx::TelemetryRingHeader header;
    if (size > 0) std::memcpy(&header, data, std::min(size, sizeof header));
    const std::string problem = nixlx::telemetryRingProblem(header, size);
    if (!problem.empty()) {
        NX_INVARIANT(problem.size() < 200);
        return 0;
    }
    uint64_t taken = 0;
    for (; header.read_pos != header.write_pos; header.read_pos = (header.read_pos + 1) & header.mask) {
        const uint64_t offset = nixlx::telemetryRingOffset(header.read_pos);
        NX_INVARIANT(offset + sizeof(nixlTelemetryEvent) <= size);
        nixlTelemetryEvent event;
        std::memcpy(&event, data + offset, sizeof event);
        NX_INVARIANT(!nixlEnumStrings::telemetryEventTypeStr(event.eventType_).empty());
        NX_INVARIANT(++taken < header.capacity);
    }
    return 0;
}
