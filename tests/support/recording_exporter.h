// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The test exporter "recording": an exporter plugin that writes down what it is given.
#pragma once

#include <string>
#include <vector>

#include "support/plugin_control.h"

namespace nx::test {

/// Applies to all exporters of the process. Self-synchronised.
class RecordingExporterControl {
public:
    virtual void
    reset() = 0;

    /// Since reset(): "agent_tx_bytes 4096" for an event, "begin" and "end" of a batch, "created AGENT 16",
    /// "destroyed", "init" and "fini" of the plugin.
    virtual std::vector<std::string>
    calls() const = 0;

protected:
    ~RecordingExporterControl() = default;
};

inline RecordingExporterControl &
recordingExporter() {
    return pluginControl<RecordingExporterControl>("libtelemetry_exporter_recording.so",
                                                   "nx_test_recording_exporter_control");
}

} // namespace nx::test
