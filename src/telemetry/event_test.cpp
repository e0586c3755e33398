// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "telemetry_event.h"

#include <gtest/gtest.h>
#include <set>
#include <string>

#include "telemetry/telemetry_plugin.h"

namespace {

using Type = nixl_telemetry_event_type_t;

static_assert(sizeof(nixlTelemetryEvent) == 16 && offsetof(nixlTelemetryEvent, value_) == 8);
static_assert(static_cast<uint32_t>(Type::AGENT_TELEMETRY_EVENTS_DROPPED) == 20);

TEST(TelemetryEvent, EveryTypeHasItsOwnName) {
    std::set<std::string> names;
    for (size_t i = 0; i < nixl_telemetry_event_type_count; ++i) {
        names.insert(nixlEnumStrings::telemetryEventTypeStr(static_cast<Type>(i)));
    }
    EXPECT_EQ(names.size(), nixl_telemetry_event_type_count);
    EXPECT_EQ(nixlEnumStrings::telemetryEventTypeStr(Type::AGENT_TX_BYTES), "agent_tx_bytes");
    EXPECT_EQ(nixlEnumStrings::telemetryEventTypeStr(Type::AGENT_ERR_REPOST_ACTIVE), "agent_err_repost_active");
    EXPECT_EQ(nixlEnumStrings::telemetryEventTypeStr(Type::AGENT_TELEMETRY_EVENTS_DROPPED),
              "agent_telemetry_events_dropped");
    EXPECT_EQ(nixlEnumStrings::telemetryEventTypeStr(static_cast<Type>(99)), "BAD_TELEMETRY_EVENT");
}

TEST(TelemetryEvent, EveryFailureHasTheEventOfItsName) {
    for (int status = NIXL_ERR_NOT_POSTED; status >= NIXL_ERR_FORKED; --status) {
        const auto type = nixlTelemetryEventTypeForStatus(static_cast<nixl_status_t>(status));
        std::string expected = nixlEnumStrings::statusStr(static_cast<nixl_status_t>(status)).substr(9);
        for (char &c : expected) c = static_cast<char>(std::tolower(c));
        EXPECT_EQ(nixlEnumStrings::telemetryErrorStatusLabel(type), expected);
        EXPECT_EQ(nixlEnumStrings::telemetryEventTypeStr(type), "agent_err_" + expected);
        EXPECT_STREQ(telemetryMetricDescriptor(type).counterName, telemetry_error_family_name);
    }
    EXPECT_EQ(nixlTelemetryEventTypeForStatus(static_cast<nixl_status_t>(-30)), Type::AGENT_ERR_UNKNOWN);
    EXPECT_EQ(nixlEnumStrings::telemetryErrorStatusLabel(Type::AGENT_RX_BYTES), "");
}

TEST(TelemetryEvent, MetricsCarryTheNamesOfTheSeries) {
    const auto &time = telemetryMetricDescriptor(Type::AGENT_XFER_TIME);
    EXPECT_STREQ(time.counterName, "agent_xfer_time_total");
    EXPECT_STREQ(time.gaugeName, "agent_xfer_time");
    EXPECT_STREQ(time.histogramName, "agent_xfer_time_us");
    const auto &bytes = telemetryMetricDescriptor(Type::AGENT_MEMORY_REGISTERED);
    EXPECT_STREQ(bytes.counterName, "agent_memory_registered_total");
    EXPECT_STREQ(bytes.gaugeName, "agent_memory_registered_last_bytes");
    EXPECT_STREQ(bytes.histogramName, "");
    EXPECT_STREQ(telemetryMetricDescriptor(static_cast<Type>(99)).counterName, "");
}

TEST(TelemetryEvent, EveryMetricIsExplained) {
    for (size_t i = 0; i < nixl_telemetry_event_type_count; ++i) {
        const auto &metrics = telemetryMetricDescriptor(static_cast<Type>(i));
        EXPECT_STRNE(metrics.counterName, "");
        EXPECT_EQ(std::string(metrics.counterName).empty(), std::string(metrics.counterHelp).empty());
        EXPECT_EQ(std::string(metrics.gaugeName).empty(), std::string(metrics.gaugeHelp).empty());
        EXPECT_EQ(std::string(metrics.histogramName).empty(), std::string(metrics.histogramHelp).empty());
    }
}

class Exporter : public nixlTelemetryExporter {
public:
    using nixlTelemetryExporter::nixlTelemetryExporter;
    std::string calls;

    nixl_status_t
    exportEvent(const nixlTelemetryEvent &) override {
        calls += 'e';
        return NIXL_SUCCESS;
    }

private:
    void
    onBatchBegin() noexcept override {
        calls += '(';
    }
    void
    onBatchEnd() noexcept override {
        calls += ')';
    }
};

TEST(TelemetryExporter, EndsABatchEvenIfItsBodyThrows) {
    Exporter exporter({"agent", 7});
    EXPECT_EQ(exporter.getMaxEventsBuffered(), 7u);
    EXPECT_EQ(exporter.withBatch([&] { return exporter.exportEvent({Type::AGENT_TX_BYTES, 1}); }), NIXL_SUCCESS);
    EXPECT_THROW(exporter.withBatch([] { throw nixlTelemetryBindFailed("taken"); }), std::runtime_error);
    EXPECT_EQ(exporter.calls, "(e)()");
}

TEST(TelemetryPlugin, CreatorMakesExporters) {
    auto *plugin = nixlTelemetryPluginCreator<Exporter>::create(nixl_telemetry_plugin_api_version::V2, "test", "1.2");
    EXPECT_EQ(plugin->api_version, nixl_telemetry_plugin_api_version::V2);
    EXPECT_EQ(plugin->getName(), "test");
    EXPECT_EQ(plugin->getVersion(), "1.2");
    EXPECT_EQ(plugin->create_exporter({"agent", 3})->getMaxEventsBuffered(), 3u);
}

} // namespace
