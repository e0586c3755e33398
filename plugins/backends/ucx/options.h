// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The backend's options: what createBackend was given, what the environment or the configuration file says, and the
// settings of UCX that follow from both. Plain data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "nixl_types.h"
#include "nixlx/engine.h"
#include "ucx/driver.h"

namespace nx::ucx {

struct Options {
    std::vector<std::string> devices; ///< "mlx5_0:1"; empty: all
    uint64_t num_workers = 1;         ///< shared by the calling threads
    uint64_t num_threads = 0;         ///< with a worker each, for large requests
    uint64_t split_batch_size = 1024; ///< blocks from which a request is split over the threads
    bool detect_death = true;
    bool close_by_force = false;
    bool links_serve_dram = true; ///< false: that of peers of this host is a companion's
    std::vector<Setting> engine_config;
    LibrarySearch library;

    /// INVALID_PARAM: a value that cannot be read. Throws what nixlx::configValue throws.
    static Result<Options>
    read(const nixl_b_params_t *params);
};

/// The rows of the plugin's option table.
inline constexpr uint32_t kOptionCount = 10;
extern const nixlx_option kOptionTable[kOptionCount];

/// What devices for direct access to memory the host has.
struct RdmaDevices {
    bool any = false;
    bool efa = false; ///< Amazon's, whose addresses do not fit into UCX's older format

    static RdmaDevices
    find(const std::string &folder = "/sys/class/infiniband");
};

/// Settings of the context that every peer meets, also one of NIXL 1.4. `minor_version` of the UCX in use.
std::vector<Setting>
plainSettings(const Options &options, unsigned minor_version, const RdmaDevices &devices = RdmaDevices::find());

/// False where the user's choice of transports (UCX_TLS, or TLS in engine_config) leaves shared memory out.
bool
allowsSharedMemory(const Options &options);

/// Settings of the context for peers of ours on the same host.
std::vector<Setting>
localSettings(const Options &options, unsigned minor_version);

/// The N of "worker_id=N", a request's custom parameter; nothing for a text without it. INVALID_PARAM: not a number
/// below `worker_count`.
Result<std::optional<size_t>>
requestedWorker(const std::string &custom_param, size_t worker_count);

} // namespace nx::ucx
