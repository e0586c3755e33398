// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "telemetry/recorder.h"

#include <new>
#include <utility>

namespace nx::telemetry {

using Type = nixl_telemetry_event_type_t;

Recorder::Recorder(const Settings &settings, std::shared_ptr<nixlTelemetryExporter> exporter, Gather gather)
    : enabled_(settings.enabled),
      capacity_(settings.queue_events),
      interval_(settings.interval),
      exporter_(std::move(exporter)),
      gather_(std::move(gather)) {
    filling_.reserve(capacity_);
    draining_.reserve(capacity_);
    thread_ = Thread("nixl-telemetry", [this] { run(); });
}

Recorder::~Recorder() {
    {
        const MutexLock lock(mutex_);
        stop_ = true;
    }
    wake_.notifyOne();
    thread_.join();
}

void
Recorder::add(nixl_telemetry_event_type_t type, uint64_t value) noexcept {
    if (!enabled(type)) return;
    const nixlTelemetryEvent event(type, value);
    push({&event, 1});
}

void
Recorder::addTransfer(nixl_xfer_op_t operation, const nixl_xfer_telem_t &transfer) noexcept {
    const bool write = operation == NIXL_WRITE;
    const std::array<nixlTelemetryEvent, 4> all = {{
        {Type::AGENT_XFER_POST_TIME, static_cast<uint64_t>(transfer.postDuration.count())},
        {Type::AGENT_XFER_TIME, static_cast<uint64_t>(transfer.xferDuration.count())},
        {write ? Type::AGENT_TX_BYTES : Type::AGENT_RX_BYTES, transfer.totalBytes},
        {write ? Type::AGENT_TX_REQUESTS_NUM : Type::AGENT_RX_REQUESTS_NUM, 1},
    }};
    std::array<nixlTelemetryEvent, 4> wanted;
    size_t count = 0;
    for (const auto &event : all) {
        if (enabled(event.eventType_)) wanted[count++] = event;
    }
    if (count > 0) push({wanted.data(), count});
}

void
Recorder::push(std::span<const nixlTelemetryEvent> events) noexcept {
    bool wake;
    {
        const MutexLock lock(mutex_);
        if (events.size() > capacity_ - filling_.size()) {
            dropped_ += events.size();
        } else {
            filling_.insert(filling_.end(), events.begin(), events.end()); // within what is reserved
        }
        wake = std::exchange(asleep_, false);
    }
    if (wake) wake_.notifyOne();
}

void
Recorder::run() {
    for (bool go_on = true; go_on;) {
        go_on = waitForEvents();
        flush();
    }
}

bool
Recorder::waitForEvents() {
    const MutexLock lock(mutex_);
    asleep_ = filling_.empty() && dropped_ == 0;
    while (!stop_ && asleep_) wake_.wait(mutex_);
    const auto due = std::chrono::steady_clock::now() + interval_;
    while (!stop_ && wake_.waitUntil(mutex_, due)) {}
    return !stop_;
}

void
Recorder::flush() {
    draining_.clear();
    uint64_t lost;
    {
        const MutexLock lock(mutex_);
        filling_.swap(draining_);
        lost = std::exchange(dropped_, 0);
    }
    try {
        gather_(draining_);
    }
    catch (const std::bad_alloc &) { // these events are lost with the memory for them
    }
    lost += std::exchange(refused_, 0);
    if (draining_.empty() && lost == 0) return;
    exporter_->withBatch([&] {
        const nixlTelemetryEvent report(Type::AGENT_TELEMETRY_EVENTS_DROPPED, lost);
        if (lost > 0 && enabled(report.eventType_) && !hand(report)) refused_ += lost;
        for (const auto &event : draining_) {
            if (enabled(event.eventType_) && !hand(event)) ++refused_;
        }
    });
}

bool
Recorder::hand(const nixlTelemetryEvent &event) noexcept {
    try {
        return exporter_->exportEvent(event) >= 0;
    }
    catch (...) { // an exporter's failure loses the event and nothing else
        return false;
    }
}

} // namespace nx::telemetry
