// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// An exporter that cannot be created: an agent named "silent" gets none without a reason, "odd" an exception that is no
// std::exception, every other one a sentence.
#include "telemetry/telemetry_plugin.h"

nixlTelemetryPlugin *
nixl_telemetry_plugin_init() {
    static nixlTelemetryPlugin plugin(
        nixl_telemetry_plugin_api_version::V2,
        [](const nixlTelemetryExporterInitParams &params) -> std::unique_ptr<nixlTelemetryExporter> {
            if (params.agentName == "silent") return nullptr;
            if (params.agentName == "odd") throw 7;
            throw std::runtime_error("the collector is on holiday");
        },
        "failing", "1.0");
    return &plugin;
}
