// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What a telemetry exporter plugin exports: libtelemetry_exporter_<name>.so with nixl_telemetry_plugin_init and,
// optionally, nixl_telemetry_plugin_fini.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "telemetry/telemetry_exporter.h"

#pragma GCC visibility push(default)

#define NIXL_TELEMETRY_PLUGIN_EXPORT __attribute__((visibility("default")))

/// V2 is required.
enum class nixl_telemetry_plugin_api_version : unsigned { V1 = 1, V2 = 2 };

/// Throws what nixlTelemetryBindFailed describes.
using exporter_creator_fn_t =
    std::unique_ptr<nixlTelemetryExporter> (*)(const nixlTelemetryExporterInitParams &init_params);

class nixlTelemetryPlugin {
public:
    nixl_telemetry_plugin_api_version api_version;
    exporter_creator_fn_t create_exporter;

    nixlTelemetryPlugin(nixl_telemetry_plugin_api_version version,
                        exporter_creator_fn_t creator,
                        std::string_view name,
                        std::string_view plugin_version)
        : api_version(version),
          create_exporter(creator),
          name_(name),
          version_(plugin_version) {}

    std::string_view
    getName() const noexcept {
        return name_;
    }

    std::string_view
    getVersion() const noexcept {
        return version_;
    }

private:
    std::string name_;
    std::string version_;
};

/// Builds the plugin object of an exporter with a constructor `Exporter(const nixlTelemetryExporterInitParams &)`.
template<class Exporter> class nixlTelemetryPluginCreator {
public:
    static nixlTelemetryPlugin *
    create(nixl_telemetry_plugin_api_version api_version, std::string_view name, std::string_view version) {
        static nixlTelemetryPlugin plugin(
            api_version,
            [](const nixlTelemetryExporterInitParams &init_params) -> std::unique_ptr<nixlTelemetryExporter> {
                return std::make_unique<Exporter>(init_params);
            },
            name, version);
        return &plugin;
    }
};

extern "C" NIXL_TELEMETRY_PLUGIN_EXPORT nixlTelemetryPlugin *
nixl_telemetry_plugin_init();
extern "C" NIXL_TELEMETRY_PLUGIN_EXPORT void
nixl_telemetry_plugin_fini();

#pragma GCC visibility pop
