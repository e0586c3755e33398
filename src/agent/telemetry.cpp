// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Joins the agent, the recorder of its events and the exporter that was asked for.
#include <stdexcept>

#include "agent/agent_state.h"
#include "base/config.h"
#include "telemetry/buffer_exporter.h"
#include "utils/common/nixl_log.h"

using nx::telemetry::Recorder;
using nx::telemetry::Settings;

bool
nx::agent::telemetryWanted(const nixlAgentConfig &config) {
    const auto wanted = configBool("NIXL_TELEMETRY_ENABLE");
    if (!wanted.ok()) throw std::runtime_error("agent: " + wanted.message());
    if (*wanted && !**wanted && config.captureTelemetry) {
        NIXL_WARN << "ignoring telemetry requested through agent config: NIXL_TELEMETRY_ENABLE says no";
    }
    return wanted->value_or(config.captureTelemetry);
}

namespace {

/// The plugin stays loaded until the exporter is gone.
std::shared_ptr<nixlTelemetryExporter>
createExporter(const std::string &agent, const Settings &settings) {
    std::shared_ptr<const nx::plugin::ExporterPlugin> loaded;
    if (settings.exporter != nx::telemetry::kBufferExporter) {
        auto found = nx::plugin::Manager::instance().loadExporter(settings.exporter);
        if (!found.ok()) throw std::runtime_error(found.message());
        loaded = *std::move(found);
    }
    const nixlTelemetryPlugin &plugin = loaded ? *loaded->object() : nx::telemetry::bufferPlugin();
    if (!plugin.create_exporter) throw std::runtime_error("the plugin has no create_exporter");
    nixlTelemetryExporterInitParams params;
    params.agentName = agent;
    params.maxEventsBuffered = settings.queue_events;
    auto exporter = plugin.create_exporter(params);
    if (!exporter) throw std::runtime_error("the plugin created no exporter and gave no reason");
    return {exporter.release(), [loaded](nixlTelemetryExporter *gone) { delete gone; }};
}

} // namespace

std::unique_ptr<Recorder>
nixlAgentData::makeRecorder() const {
    if (!measures) return nullptr;
    const auto settings = nx::telemetry::readSettings();
    if (!settings.ok()) throw std::runtime_error("agent: telemetry: " + settings.message());
    if (settings->exporter == nx::telemetry::kNoExporter) return nullptr;
    const std::string prefix = "agent " + nx::quoted(name) + ": telemetry exporter " + nx::quoted(settings->exporter);
    try {
        return std::make_unique<Recorder>(*settings, createExporter(name, *settings),
                                          [this](std::vector<nixlTelemetryEvent> &events) {
                                              const auto all = backends.all();
                                              for (const auto &backend : *all) {
                                                  if (!backend->legacy()) continue;
                                                  (void)backend->call("getTelemetryEvents", [&](auto &) {
                                                      const auto own = backend->legacy()->engine().getTelemetryEvents();
                                                      events.insert(events.end(), own.begin(), own.end());
                                                  });
                                              }
                                          });
    }
    catch (const nixlTelemetryBindFailed &taken) {
        NIXL_WARN << prefix << ": " << taken.what() << "; this agent goes on without it";
        return nullptr;
    }
    catch (const std::exception &failure) {
        throw std::runtime_error(prefix + ": " + failure.what());
    }
    catch (...) {
        throw std::runtime_error(prefix + ": its constructor threw something that is no std::exception");
    }
}

void
nixlAgentData::recordError(nixl_status_t status) const noexcept {
    if (recorder) recorder->add(nixlTelemetryEventTypeForStatus(status), 1);
}

void
nixlAgentData::record(nixl_telemetry_event_type_t type, const nixl_reg_dlist_t &descs) const noexcept {
    if (!recorder) return;
    uint64_t bytes = 0;
    for (const auto &range : descs) bytes += range.len;
    recorder->add(type, bytes);
}
