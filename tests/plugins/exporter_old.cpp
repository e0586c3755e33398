// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// An exporter of the older API version.
#include "telemetry/telemetry_plugin.h"

nixlTelemetryPlugin *
nixl_telemetry_plugin_init() {
    static nixlTelemetryPlugin plugin(nixl_telemetry_plugin_api_version::V1, nullptr, "old", "1.0");
    return &plugin;
}
