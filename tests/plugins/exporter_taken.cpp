// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// An exporter whose address is always taken.
#include "telemetry/telemetry_plugin.h"

nixlTelemetryPlugin *
nixl_telemetry_plugin_init() {
    static nixlTelemetryPlugin plugin(
        nixl_telemetry_plugin_api_version::V2,
        [](const nixlTelemetryExporterInitParams &) -> std::unique_ptr<nixlTelemetryExporter> {
            throw nixlTelemetryBindFailed("port 9090 is taken");
        },
        "taken", "1.0");
    return &plugin;
}
