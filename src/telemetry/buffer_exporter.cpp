// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "telemetry/buffer_exporter.h"

#include "base/config.h"
#include "telemetry/ring_file.h"
#include "telemetry/settings.h"
#include "utils/common/nixl_log.h"

namespace nx::telemetry {

namespace {

RingFile
openRing(const nixlTelemetryExporterInitParams &params) {
    const auto directory = configString(kDirectoryVariable);
    if (!directory.ok()) throw std::runtime_error(directory.message());
    if (directory->value_or("").empty()) {
        throw std::runtime_error(std::string(kDirectoryVariable) + " is not set; it names the folder of the ring file");
    }
    auto ring = RingFile::open(**directory, params.agentName, params.maxEventsBuffered);
    if (ring.code() == NIXL_ERR_NOT_ALLOWED) throw nixlTelemetryBindFailed(ring.message());
    if (!ring.ok()) throw std::runtime_error(ring.message());
    return *std::move(ring);
}

class BufferExporter final : public nixlTelemetryExporter {
public:
    explicit BufferExporter(const nixlTelemetryExporterInitParams &params)
        : nixlTelemetryExporter(params),
          ring_(openRing(params)) {
        NIXL_INFO << "agent " << nx::quoted(params.agentName) << ": telemetry goes to "
                  << nx::quoted(ring_.path(), 300);
    }

    /// A full ring is normal where nobody reads.
    nixl_status_t
    exportEvent(const nixlTelemetryEvent &event) override {
        return ring_.put(event) ? NIXL_SUCCESS : NIXL_ERR_NO_MEMORY;
    }

private:
    void
    onBatchBegin() noexcept override {
        bool restarted = false;
        warnOnce(ring_.begin(restarted));
        if (restarted) {
            warnOnce(
                {NIXL_ERR_MISMATCH,
                 nx::quoted(ring_.path(), 300) + " was changed by somebody else; its events are lost, it begins anew"});
        }
    }

    void
    onBatchEnd() noexcept override {
        warnOnce(ring_.end());
    }

    /// The thread has no caller that could be told, and the next batch most likely fails likewise.
    void
    warnOnce(const Status &status) noexcept {
        if (status.ok() || std::exchange(warned_, true)) return;
        NIXL_WARN << "telemetry: " << status.message();
    }

    RingFile ring_;
    bool warned_ = false;
};

} // namespace

const nixlTelemetryPlugin &
bufferPlugin() {
    return *nixlTelemetryPluginCreator<BufferExporter>::create(nixl_telemetry_plugin_api_version::V2, kBufferExporter,
                                                               "4");
}

} // namespace nx::telemetry
