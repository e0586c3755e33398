// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What the options NIXL_TELEMETRY_* say about an agent's events (docs/telemetry.md). Plain data.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

#include "base/error.h"
#include "telemetry_event.h"

namespace nx::telemetry {

/// Where the exporter BUFFER writes.
inline constexpr char kDirectoryVariable[] = "NIXL_TELEMETRY_DIR";
/// The exporter that writes a ring file.
inline constexpr char kBufferExporter[] = "BUFFER";
/// Nobody takes the events: none are gathered.
inline constexpr char kNoExporter[] = "NOP";

struct Settings {
    std::string exporter = kNoExporter;
    size_t queue_events = 4096; ///< the most that wait for a flush
    std::chrono::milliseconds interval{100};
    nixl_telemetry_metric_mask_t enabled{};
};

/// MISMATCH: a value is none, INVALID_PARAM: it is out of range; the sentence names the option.
Result<Settings>
readSettings();

} // namespace nx::telemetry
