// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The smallest complete exporter: writes every event as a line into the file that the option OUTSIDE_EVENTS names.
#include <fstream>

#include <nixlx/engine.h>
#include <telemetry/telemetry_plugin.h>

namespace {

class Exporter final : public nixlTelemetryExporter {
public:
    explicit Exporter(const nixlTelemetryExporterInitParams &params)
        : nixlTelemetryExporter(params),
          file_(nixlx::configValue("OUTSIDE_EVENTS").value()) {}

    nixl_status_t
    exportEvent(const nixlTelemetryEvent &event) override {
        file_ << nixlEnumStrings::telemetryEventTypeStr(event.eventType_) << " " << event.value_ << std::endl;
        return file_ ? NIXL_SUCCESS : NIXL_ERR_BACKEND;
    }

private:
    std::ofstream file_;
};

} // namespace

nixlTelemetryPlugin *
nixl_telemetry_plugin_init() {
    return nixlTelemetryPluginCreator<Exporter>::create(nixl_telemetry_plugin_api_version::V2, "outside", "0.1");
}

void
nixl_telemetry_plugin_fini() {}
