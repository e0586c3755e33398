// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// One row per event type; every name that leaves the process comes from here.
#include "telemetry_event.h"

namespace {

struct Row {
    const char *name;
    const char *error_label; ///< empty: no error
    nixlTelemetryMetricDescriptor metrics;
};

constexpr nixlTelemetryMetricDescriptor kErrors = {
    telemetry_error_family_name, "Failed calls and transfers, by status", "", "", "", ""};

constexpr std::array<Row, nixl_telemetry_event_type_count> kRows = {{
    {"agent_tx_bytes",
     "",
     {"agent_tx_bytes_total", "Bytes written to remote memory", "agent_tx_last_bytes", "Bytes of the last write", "",
      ""}},
    {"agent_rx_bytes",
     "",
     {"agent_rx_bytes_total", "Bytes read from remote memory", "agent_rx_last_bytes", "Bytes of the last read", "",
      ""}},
    {"agent_tx_requests_num", "", {"agent_tx_requests_num_total", "Finished writes", "", "", "", ""}},
    {"agent_rx_requests_num", "", {"agent_rx_requests_num_total", "Finished reads", "", "", "", ""}},
    {"agent_memory_registered",
     "",
     {"agent_memory_registered_total", "Bytes of memory registered", "agent_memory_registered_last_bytes",
      "Bytes of the last registration", "", ""}},
    {"agent_memory_deregistered",
     "",
     {"agent_memory_deregistered_total", "Bytes of memory deregistered", "agent_memory_deregistered_last_bytes",
      "Bytes of the last deregistration", "", ""}},
    {"agent_xfer_time",
     "",
     {"agent_xfer_time_total", "Microseconds from post to completion, summed", "agent_xfer_time",
      "Microseconds from post to completion of the last transfer", "agent_xfer_time_us",
      "Microseconds from post to completion"}},
    {"agent_xfer_post_time",
     "",
     {"agent_xfer_post_time_total", "Microseconds spent posting, summed", "agent_xfer_post_time",
      "Microseconds spent posting the last transfer", "agent_xfer_post_time_us", "Microseconds spent posting"}},
    {"agent_err_not_posted", "not_posted", kErrors},
    {"agent_err_invalid_param", "invalid_param", kErrors},
    {"agent_err_backend", "backend", kErrors},
    {"agent_err_not_found", "not_found", kErrors},
    {"agent_err_mismatch", "mismatch", kErrors},
    {"agent_err_not_allowed", "not_allowed", kErrors},
    {"agent_err_repost_active", "repost_active", kErrors},
    {"agent_err_unknown", "unknown", kErrors},
    {"agent_err_not_supported", "not_supported", kErrors},
    {"agent_err_remote_disconnect", "remote_disconnect", kErrors},
    {"agent_err_canceled", "canceled", kErrors},
    {"agent_err_no_telemetry", "no_telemetry", kErrors},
    {"agent_telemetry_events_dropped",
     "",
     {"agent_telemetry_events_dropped_total", "Telemetry events lost because the queue was full", "", "", "", ""}},
    {"agent_err_timeout", "timeout", kErrors},
    {"agent_err_stale", "stale", kErrors},
    {"agent_err_integrity", "integrity", kErrors},
    {"agent_err_no_memory", "no_memory", kErrors},
    {"agent_err_forked", "forked", kErrors},
}};

constexpr Row kNone = {"BAD_TELEMETRY_EVENT", "", {}};

const Row &
row(nixl_telemetry_event_type_t type) {
    const auto index = static_cast<size_t>(type);
    return index < kRows.size() ? kRows[index] : kNone;
}

} // namespace

nixl_telemetry_event_type_t
nixlTelemetryEventTypeForStatus(nixl_status_t status) noexcept {
    using Type = nixl_telemetry_event_type_t;
    switch (status) {
    case NIXL_ERR_NOT_POSTED: return Type::AGENT_ERR_NOT_POSTED;
    case NIXL_ERR_INVALID_PARAM: return Type::AGENT_ERR_INVALID_PARAM;
    case NIXL_ERR_BACKEND: return Type::AGENT_ERR_BACKEND;
    case NIXL_ERR_NOT_FOUND: return Type::AGENT_ERR_NOT_FOUND;
    case NIXL_ERR_MISMATCH: return Type::AGENT_ERR_MISMATCH;
    case NIXL_ERR_NOT_ALLOWED: return Type::AGENT_ERR_NOT_ALLOWED;
    case NIXL_ERR_REPOST_ACTIVE: return Type::AGENT_ERR_REPOST_ACTIVE;
    case NIXL_ERR_NOT_SUPPORTED: return Type::AGENT_ERR_NOT_SUPPORTED;
    case NIXL_ERR_REMOTE_DISCONNECT: return Type::AGENT_ERR_REMOTE_DISCONNECT;
    case NIXL_ERR_CANCELED: return Type::AGENT_ERR_CANCELED;
    case NIXL_ERR_NO_TELEMETRY: return Type::AGENT_ERR_NO_TELEMETRY;
    case NIXL_ERR_TIMEOUT: return Type::AGENT_ERR_TIMEOUT;
    case NIXL_ERR_STALE: return Type::AGENT_ERR_STALE;
    case NIXL_ERR_INTEGRITY: return Type::AGENT_ERR_INTEGRITY;
    case NIXL_ERR_NO_MEMORY: return Type::AGENT_ERR_NO_MEMORY;
    case NIXL_ERR_FORKED: return Type::AGENT_ERR_FORKED;
    case NIXL_ERR_UNKNOWN:
    case NIXL_SUCCESS:
    case NIXL_IN_PROG: break;
    }
    return Type::AGENT_ERR_UNKNOWN;
}

namespace nixlEnumStrings {

std::string
telemetryEventTypeStr(const nixl_telemetry_event_type_t &type) {
    return row(type).name;
}

std::string
telemetryErrorStatusLabel(const nixl_telemetry_event_type_t &type) {
    return row(type).error_label;
}

} // namespace nixlEnumStrings

const nixlTelemetryMetricDescriptor &
telemetryMetricDescriptor(nixl_telemetry_event_type_t type) noexcept {
    return row(type).metrics;
}
