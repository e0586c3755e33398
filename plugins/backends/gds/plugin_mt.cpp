// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What makes the engine the plugin GDS_MT.
#include "gds/engine.h"
#include "kit/nixl14.h"

extern "C" const nixlx_plugin_descriptor_t NIXLX_PLUGIN_SYMBOL(nixlx_plugin_descriptor) = {
    .magic = NIXLX_PLUGIN_MAGIC,
    .struct_size = sizeof(nixlx_plugin_descriptor_t),
    .api_version = NIXLX_PLUGIN_API_VERSION,
    .capabilities = NIXLX_CAP_LOCAL,
    .kind = "backend",
    .name = "GDS_MT",
    .version = "1.0.0",
    .abi = NIXLX_ABI_TAG,
    .build_id = "",
    .conflicts = "GDS",
    .partners = {nx::gds::kFiles, nx::gds::kFiles, 0, 0, nx::gds::kMemory}, // DRAM, VRAM, BLK, OBJ, FILE
    .create = nx::gds::Engine::createThreaded,
    .options = nx::gds::kThreadOptions,
    .option_size = sizeof(nixlx_option),
    .option_count = nx::gds::kThreadOptionCount,
};

extern "C" NIXL_PLUGIN_EXPORT nixlBackendPlugin *
NIXLX_PLUGIN_SYMBOL(nixl_plugin_init)() {
    return nx::kit::nixl14Plugin<NIXLX_PLUGIN_SYMBOL(nixlx_plugin_descriptor)>();
}
