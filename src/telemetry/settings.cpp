// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "telemetry/settings.h"

#include <algorithm>
#include <fnmatch.h>

#include "base/config.h"
#include "utils/common/nixl_log.h"

namespace nx::telemetry {

namespace {

constexpr char kExporterVariable[] = "NIXL_TELEMETRY_EXPORTER";
constexpr uint64_t kQueueEventsMax = uint64_t{1} << 24; // 256 MiB
constexpr uint64_t kIntervalMsMax = 3600 * 1000;

/// The option's value, or `otherwise` if it is not set.
Result<uint64_t>
number(const char *name, uint64_t otherwise, uint64_t least, uint64_t most) {
    auto value = configUnsigned(name);
    if (!value.ok()) return std::move(value).status();
    const uint64_t found = value->value_or(otherwise);
    if (found >= least && found <= most) return found;
    return {NIXL_ERR_INVALID_PARAM,
            std::string(name) + " is " + std::to_string(found) + "; it must be from " + std::to_string(least) + " to " +
                std::to_string(most)};
}

Result<std::string>
text(const char *name) {
    auto value = configString(name);
    if (!value.ok()) return std::move(value).status();
    return value->value_or("");
}

/// `globs`: separated by commas; none means all.
nixl_telemetry_metric_mask_t
enabledMetrics(const std::string &globs) {
    nixl_telemetry_metric_mask_t enabled{};
    bool any_glob = false;
    for (size_t start = 0; start <= globs.size();) {
        const size_t end = std::min(globs.find(',', start), globs.size());
        std::string glob = globs.substr(start, end - start);
        start = end + 1;
        std::erase(glob, ' ');
        if (glob.empty()) continue;
        any_glob = true;
        bool matched = false;
        for (size_t i = 0; i < enabled.size(); ++i) {
            const auto name = nixlEnumStrings::telemetryEventTypeStr(static_cast<nixl_telemetry_event_type_t>(i));
            if (::fnmatch(glob.c_str(), name.c_str(), 0) != 0) continue;
            enabled[i] = matched = true;
        }
        if (!matched) {
            NIXL_WARN << TELEMETRY_ENABLED_METRICS_VAR << ": no event has a name like " << nx::quoted(glob)
                      << "; docs/telemetry.md lists them";
        }
    }
    if (!any_glob) enabled.fill(true);
    return enabled;
}

} // namespace

Result<Settings>
readSettings() {
    Settings settings;
    auto queue_events = number(TELEMETRY_BUFFER_SIZE_VAR, settings.queue_events, 1, kQueueEventsMax);
    if (!queue_events.ok()) return std::move(queue_events).status();
    auto interval_ms = number(TELEMETRY_RUN_INTERVAL_VAR, settings.interval.count(), 0, kIntervalMsMax);
    if (!interval_ms.ok()) return std::move(interval_ms).status();
    auto globs = text(TELEMETRY_ENABLED_METRICS_VAR);
    if (!globs.ok()) return std::move(globs).status();
    auto directory = text(kDirectoryVariable);
    if (!directory.ok()) return std::move(directory).status();
    auto exporter = text(kExporterVariable);
    if (!exporter.ok()) return std::move(exporter).status();

    settings.queue_events = *queue_events;
    settings.interval = std::chrono::milliseconds(*interval_ms);
    settings.enabled = enabledMetrics(*globs);
    settings.exporter = *std::move(exporter);
    if (settings.exporter.empty()) settings.exporter = directory->empty() ? kNoExporter : kBufferExporter;
    return settings;
}

} // namespace nx::telemetry
