// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What a telemetry exporter implements: it is given every event of one agent, in batches, from one thread at a time.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>

#include "nixl_types.h"
#include "telemetry_event.h"

#pragma GCC visibility push(default)

struct nixlTelemetryExporterInitParams {
    std::string agentName;
    size_t maxEventsBuffered = 0; ///< the most events one batch can have
};

/// Thrown by an exporter's constructor when the address it serves is taken: the process then runs without telemetry.
/// Any other exception makes the agent's constructor throw.
class nixlTelemetryBindFailed : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
    ~nixlTelemetryBindFailed() override;
};

class nixlTelemetryExporter {
private:
    const size_t maxEventsBuffered_;

public:
    explicit nixlTelemetryExporter(const nixlTelemetryExporterInitParams &init_params)
        : maxEventsBuffered_(init_params.maxEventsBuffered) {}

    nixlTelemetryExporter(const nixlTelemetryExporter &) = delete;
    nixlTelemetryExporter(nixlTelemetryExporter &&) = delete;
    void
    operator=(const nixlTelemetryExporter &) = delete;
    void
    operator=(nixlTelemetryExporter &&) = delete;
    virtual ~nixlTelemetryExporter();

    size_t
    getMaxEventsBuffered() const noexcept {
        return maxEventsBuffered_;
    }

    /// Takes one event. A failure loses this event only.
    virtual nixl_status_t
    exportEvent(const nixlTelemetryEvent &event) = 0;

    /// Calls `body()`, which exports the events of one batch; the end of the batch is told even if it throws.
    template<class Body>
    decltype(auto)
    withBatch(Body &&body) {
        struct Batch {
            explicit Batch(nixlTelemetryExporter &exporter) : exporter(exporter) {
                exporter.onBatchBegin();
            }
            ~Batch() {
                exporter.onBatchEnd();
            }
            nixlTelemetryExporter &exporter;
        } batch(*this);
        return std::forward<Body>(body)();
    }

private:
    virtual void
    onBatchBegin() noexcept {}
    virtual void
    onBatchEnd() noexcept {}
};

#pragma GCC visibility pop
