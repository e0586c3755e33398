// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The events of one agent on their way to an exporter: callers put them into a bounded queue, a thread hands them over.
// The thread sleeps while there are none; the first one wakes it, and an interval later it hands over all that have
// gathered. Nothing is lost silently: what the queue or the exporter had no room for is counted, and the next batch
// begins with one event that says how many. Self-synchronised.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "base/thread.h"
#include "nixl_types.h"
#include "telemetry/settings.h"
#include "telemetry/telemetry_exporter.h"

namespace nx::telemetry {

class Recorder {
public:
    /// Appends events that others have gathered; called by the thread before each batch.
    using Gather = std::function<void(std::vector<nixlTelemetryEvent> &)>;

    /// The exporter is used, and at the end destroyed, by one thread at a time. Throws std::system_error if the thread
    /// cannot be started.
    Recorder(const Settings &settings, std::shared_ptr<nixlTelemetryExporter> exporter, Gather gather);

    /// Hands over what is queued.
    ~Recorder();

    Recorder(const Recorder &) = delete;
    Recorder &
    operator=(const Recorder &) = delete;

    void
    add(nixl_telemetry_event_type_t type, uint64_t value) noexcept;

    /// The four events of a transfer that succeeded, all or none of them.
    void
    addTransfer(nixl_xfer_op_t operation, const nixl_xfer_telem_t &transfer) noexcept;

private:
    void
    push(std::span<const nixlTelemetryEvent> events) noexcept;
    void
    run();
    /// False: the recorder ends; what is queued is to be handed over nevertheless.
    bool
    waitForEvents() NX_EXCLUDES(mutex_);
    void
    flush() NX_EXCLUDES(mutex_);
    bool
    hand(const nixlTelemetryEvent &event) noexcept;

    bool
    enabled(nixl_telemetry_event_type_t type) const noexcept {
        const auto index = static_cast<size_t>(type);
        return index < enabled_.size() && enabled_[index];
    }

    // Constant:
    const nixl_telemetry_metric_mask_t enabled_;
    const size_t capacity_;
    const std::chrono::milliseconds interval_;
    const std::shared_ptr<nixlTelemetryExporter> exporter_;
    const Gather gather_;

    Mutex mutex_; // held for a few instructions and taken last
    CondVar wake_;
    std::vector<nixlTelemetryEvent> filling_ NX_GUARDED_BY(mutex_);
    uint64_t dropped_ NX_GUARDED_BY(mutex_) = 0;
    bool asleep_ NX_GUARDED_BY(mutex_) = false; ///< the thread waits for the first event
    bool stop_ NX_GUARDED_BY(mutex_) = false;

    // Confined to the thread:
    std::vector<nixlTelemetryEvent> draining_;
    uint64_t refused_ = 0; ///< events that the exporter did not take and that were not reported yet

    Thread thread_; ///< last: it uses all of the above
};

} // namespace nx::telemetry
