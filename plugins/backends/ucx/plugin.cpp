// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What makes the engine a plugin: the entry point of NIXL 1.4 and the descriptor with the second face.
#include "backend/backend_plugin.h"
#include "ucx/engine.h"
#include "ucx/options.h"

extern "C" NIXL_PLUGIN_EXPORT nixlBackendPlugin *
NIXLX_PLUGIN_SYMBOL(nixl_plugin_init)() {
    // The options that NIXL 1.4 advertises; programs hand them back. The whole table is in the descriptor.
    return nixlBackendPluginCreator<nx::ucx::Engine>::create(
        NIXL_PLUGIN_API_VERSION, "UCX", "1.0.0",
        {{"ucx_devices", ""}, {"num_workers", "1"}, {"ucx_error_handling_mode", "peer"}}, {DRAM_SEG, VRAM_SEG});
}

extern "C" const nixlx_plugin_descriptor_t NIXLX_PLUGIN_SYMBOL(nixlx_plugin_descriptor) = {
    .magic = NIXLX_PLUGIN_MAGIC,
    .struct_size = sizeof(nixlx_plugin_descriptor_t),
    .api_version = NIXLX_PLUGIN_API_VERSION,
    .capabilities = NIXLX_CAP_MERGE_RANGES,
    .kind = "backend",
    .name = "UCX",
    .version = "1.0.0",
    .abi = NIXLX_ABI_TAG,
    .build_id = "",
    .conflicts = "",
    .extend = [](nixlBackendEngine *engine) -> nixlx::Engine * { return static_cast<nx::ucx::Engine *>(engine); },
    .options = nx::ucx::kOptionTable,
    .option_count = nx::ucx::kOptionCount,
    .reserved = 0,
};
