// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Configuration of an agent. Field order is part of the binary contract.
#pragma once

#include <chrono>
#include <cstdint>

#include "nixl_types.h"

struct nixlAgentConfig {
    static constexpr bool kDefaultUseProgThread = false;
    static constexpr bool kDefaultUseListenThread = false;
    static constexpr uint16_t kDefaultListenPort = default_comm_port;
    static constexpr nixl_thread_sync_t kDefaultSyncMode = nixl_thread_sync_t::NIXL_THREAD_SYNC_DEFAULT;
    static constexpr bool kDefaultCaptureTelemetry = false;
    static constexpr uint64_t kDefaultPthrDelayUs = 0;
    static constexpr uint64_t kDefaultLthrDelayUs = 100000;
    static constexpr std::chrono::microseconds kDefaultEtcdWatchTimeout{5000000};

    bool useProgThread = kDefaultUseProgThread;       ///< backends make progress on a thread of their own
    bool useListenThread = kDefaultUseListenThread;   ///< listen for other agents' metadata
    uint16_t listenPort = kDefaultListenPort;         ///< 0 lets the system choose
    nixl_thread_sync_t syncMode = kDefaultSyncMode;   ///< accepted; every mode is thread-safe
    bool captureTelemetry = kDefaultCaptureTelemetry; ///< measure each transfer
    uint64_t pthrDelay = kDefaultPthrDelayUs;         ///< accepted; the progress thread sleeps until there is work
    uint64_t lthrDelay = kDefaultLthrDelayUs;         ///< accepted; the listener sleeps until there is work
    std::chrono::microseconds etcdWatchTimeout = kDefaultEtcdWatchTimeout;

    nixlAgentConfig() = default;

    /// The positional form of older programs. `num_workers` is ignored, as it was.
    explicit nixlAgentConfig(const bool use_prog_thread,
                             const bool use_listen_thread = kDefaultUseListenThread,
                             const uint16_t port = kDefaultListenPort,
                             const nixl_thread_sync_t sync_mode = kDefaultSyncMode,
                             unsigned int num_workers = 1,
                             const uint64_t pthr_delay_us = kDefaultPthrDelayUs,
                             const uint64_t lthr_delay_us = kDefaultLthrDelayUs,
                             const bool capture_telemetry = kDefaultCaptureTelemetry,
                             const std::chrono::microseconds etcd_watch_timeout = kDefaultEtcdWatchTimeout) noexcept
        : useProgThread(use_prog_thread),
          useListenThread(use_listen_thread),
          listenPort(port),
          syncMode(sync_mode),
          captureTelemetry(capture_telemetry),
          pthrDelay(pthr_delay_us),
          lthrDelay(lthr_delay_us),
          etcdWatchTimeout(etcd_watch_timeout) {
        (void)num_workers;
    }
};
