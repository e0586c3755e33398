// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "telemetry/telemetry_exporter.h"

// Here, so that these classes have one virtual table and one type for all plugins.
nixlTelemetryBindFailed::~nixlTelemetryBindFailed() = default;
nixlTelemetryExporter::~nixlTelemetryExporter() = default;
