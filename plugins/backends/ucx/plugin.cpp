// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What makes the engine a plugin.
#include "kit/nixl14.h"
#include "ucx/engine.h"
#include "ucx/options.h"

namespace {
constexpr uint8_t kBoth = NIXLX_MEMORY(DRAM_SEG) | NIXLX_MEMORY(VRAM_SEG);
} // namespace

extern "C" const nixlx_plugin_descriptor_t NIXLX_PLUGIN_SYMBOL(nixlx_plugin_descriptor) = {
    .magic = NIXLX_PLUGIN_MAGIC,
    .struct_size = sizeof(nixlx_plugin_descriptor_t),
    .api_version = NIXLX_PLUGIN_API_VERSION,
    .capabilities = NIXLX_CAP_MERGE_RANGES | NIXLX_CAP_LOCAL,
    .kind = "backend",
    .name = "UCX",
    .version = "1.0.0",
    .abi = NIXLX_ABI_TAG,
    .build_id = "",
    .conflicts = "",
    .partners = {kBoth, kBoth},
    .create = [](const nixlBackendInitParams *params) -> nixlx::Engine * { return new nx::ucx::Engine(params); },
    .options = nx::ucx::kOptionTable,
    .option_size = sizeof(nixlx_option),
    .option_count = nx::ucx::kOptionCount,
    .companion = "SHM",
};

extern "C" NIXL_PLUGIN_EXPORT nixlBackendPlugin *
NIXLX_PLUGIN_SYMBOL(nixl_plugin_init)() {
    // The options that NIXL 1.4 advertises; programs hand them back.
    return nx::kit::nixl14Plugin<NIXLX_PLUGIN_SYMBOL(nixlx_plugin_descriptor)>(
        {{"ucx_devices", ""}, {"num_workers", "1"}, {"ucx_error_handling_mode", "peer"}});
}
