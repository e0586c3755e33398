// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Telemetry events: 16 bytes each, the layout of the ring file and of exporter plugins.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "nixl_types.h"

#pragma GCC visibility push(default)

#define TELEMETRY_BUFFER_SIZE_VAR "NIXL_TELEMETRY_BUFFER_SIZE"
#define TELEMETRY_RUN_INTERVAL_VAR "NIXL_TELEMETRY_RUN_INTERVAL"
#define TELEMETRY_ENABLED_METRICS_VAR "NIXL_TELEMETRY_ENABLED_METRICS"

inline constexpr int TELEMETRY_VERSION = 4;

enum class nixl_telemetry_event_type_t : uint32_t {
    AGENT_TX_BYTES = 0,
    AGENT_RX_BYTES = 1,
    AGENT_TX_REQUESTS_NUM = 2,
    AGENT_RX_REQUESTS_NUM = 3,
    AGENT_MEMORY_REGISTERED = 4,
    AGENT_MEMORY_DEREGISTERED = 5,
    AGENT_XFER_TIME = 6,      ///< microseconds
    AGENT_XFER_POST_TIME = 7, ///< microseconds
    AGENT_ERR_NOT_POSTED = 8,
    AGENT_ERR_INVALID_PARAM = 9,
    AGENT_ERR_BACKEND = 10,
    AGENT_ERR_NOT_FOUND = 11,
    AGENT_ERR_MISMATCH = 12,
    AGENT_ERR_NOT_ALLOWED = 13,
    AGENT_ERR_REPOST_ACTIVE = 14,
    AGENT_ERR_UNKNOWN = 15,
    AGENT_ERR_NOT_SUPPORTED = 16,
    AGENT_ERR_REMOTE_DISCONNECT = 17,
    AGENT_ERR_CANCELED = 18,
    AGENT_ERR_NO_TELEMETRY = 19,
    AGENT_TELEMETRY_EVENTS_DROPPED = 20,
    // Beyond 1.4:
    AGENT_ERR_TIMEOUT = 21,
    AGENT_ERR_STALE = 22,
    AGENT_ERR_INTEGRITY = 23,
    AGENT_ERR_NO_MEMORY = 24,
    AGENT_ERR_FORKED = 25
};

inline constexpr size_t nixl_telemetry_event_type_count = 26;
using nixl_telemetry_metric_mask_t = std::array<bool, nixl_telemetry_event_type_count>;

struct nixlTelemetryEvent {
    nixl_telemetry_event_type_t eventType_;
    uint64_t value_;

    nixlTelemetryEvent() noexcept = default;
    nixlTelemetryEvent(nixl_telemetry_event_type_t type, uint64_t value) noexcept : eventType_(type), value_(value) {}
};

/// The error event of a failure status; AGENT_ERR_UNKNOWN for one without an event of its own.
nixl_telemetry_event_type_t
nixlTelemetryEventTypeForStatus(nixl_status_t status) noexcept;

namespace nixlEnumStrings {
/// "agent_tx_bytes" and so on.
std::string
telemetryEventTypeStr(const nixl_telemetry_event_type_t &type);
/// "backend" for AGENT_ERR_BACKEND and so on; empty for an event that is no error.
std::string
telemetryErrorStatusLabel(const nixl_telemetry_event_type_t &type);
} // namespace nixlEnumStrings

/// Name of the counter that all error events share, told apart by the label `status`.
inline constexpr const char *telemetry_error_family_name = "agent_errors_total";

/// The metrics of one event type, for exporters. A metric without a name does not exist for the type. `counterName`
/// sums the values (of an error event: counts them), `gaugeName` keeps the last one, `histogramName` sorts them.
struct nixlTelemetryMetricDescriptor {
    const char *counterName = "";
    const char *counterHelp = "";
    const char *gaugeName = "";
    const char *gaugeHelp = "";
    const char *histogramName = "";
    const char *histogramHelp = "";
};

/// The strings live as long as the process. All empty for a value outside the enum.
const nixlTelemetryMetricDescriptor &
telemetryMetricDescriptor(nixl_telemetry_event_type_t type) noexcept;

#pragma GCC visibility pop
