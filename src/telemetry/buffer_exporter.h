// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The exporter BUFFER: writes the events into a ring file in NIXL_TELEMETRY_DIR. Part of the library, behind the
// interface of exporter plugins.
#pragma once

#include "telemetry/telemetry_plugin.h"

namespace nx::telemetry {

/// Lives as long as the process. create_exporter throws what exporters throw: nixlTelemetryBindFailed if the file is in
/// use by another agent, else std::runtime_error with RingFile's sentence.
const nixlTelemetryPlugin &
bufferPlugin();

} // namespace nx::telemetry
