// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The test backend "RECORDING": a loopback engine that writes down every call, in order, with its arguments.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nixlx/engine.h"
#include "support/plugin_control.h"

namespace nx::test {

/// One call of one engine.
struct RecordedCall {
    std::string agent;                   ///< the engine's
    std::string function;                ///< "registerMem", "prepare", ...
    std::string arguments;               ///< "DRAM_SEG 4096+64 device 0", "B 'note'" ..., see recording_backend.cpp
    std::vector<nixlx::Run> runs;        ///< of prepare
    nixl_status_t status = NIXL_SUCCESS; ///< IN_PROG: not over, or it threw
};

/// Applies to all engines of the process. Self-synchronised.
class RecordingControl {
public:
    virtual void
    reset() = 0;

    /// The calls since reset().
    virtual std::vector<RecordedCall>
    calls() const = 0;

protected:
    ~RecordingControl() = default;
};

inline RecordingControl &
recording() {
    return pluginControl<RecordingControl>("libplugin_RECORDING.so", "nx_test_recording_control");
}

/// The calls of `function`.
inline std::vector<RecordedCall>
recordedCalls(const std::string &function) {
    std::vector<RecordedCall> calls = recording().calls();
    std::erase_if(calls, [&](const RecordedCall &call) { return call.function != function; });
    return calls;
}

} // namespace nx::test
