// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "support/recording_exporter.h"

#include <mutex>

#include "telemetry/telemetry_plugin.h"

namespace nx::test {
namespace {

class Control final : public RecordingExporterControl {
public:
    void
    reset() override {
        std::lock_guard lock(mutex_);
        calls_.clear();
    }

    std::vector<std::string>
    calls() const override {
        std::lock_guard lock(mutex_);
        return calls_;
    }

    void
    note(std::string call) {
        std::lock_guard lock(mutex_);
        calls_.push_back(std::move(call));
    }

private:
    mutable std::mutex mutex_;
    std::vector<std::string> calls_;
};

Control control;

class Exporter final : public nixlTelemetryExporter {
public:
    explicit Exporter(const nixlTelemetryExporterInitParams &params) : nixlTelemetryExporter(params) {
        control.note("created " + params.agentName + " " + std::to_string(getMaxEventsBuffered()));
    }
    ~Exporter() override {
        control.note("destroyed");
    }

    nixl_status_t
    exportEvent(const nixlTelemetryEvent &event) override {
        control.note(nixlEnumStrings::telemetryEventTypeStr(event.eventType_) + " " + std::to_string(event.value_));
        return NIXL_SUCCESS;
    }

private:
    void
    onBatchBegin() noexcept override {
        control.note("begin");
    }
    void
    onBatchEnd() noexcept override {
        control.note("end");
    }
};

} // namespace
} // namespace nx::test

extern "C" NIXL_TELEMETRY_PLUGIN_EXPORT nx::test::RecordingExporterControl *
nx_test_recording_exporter_control() {
    return &nx::test::control;
}

nixlTelemetryPlugin *
nixl_telemetry_plugin_init() {
    nx::test::control.note("init");
    return nixlTelemetryPluginCreator<nx::test::Exporter>::create(nixl_telemetry_plugin_api_version::V2, "recording",
                                                                  "1.0");
}

void
nixl_telemetry_plugin_fini() {
    nx::test::control.note("fini");
}
