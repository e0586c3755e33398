// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What makes the engine the plugin OBJ.
#include "obj/engine.h"
#include "kit/nixl14.h"

namespace {

constexpr uint8_t kMemory = NIXLX_MEMORY(DRAM_SEG), kObjects = NIXLX_MEMORY(OBJ_SEG);

} // namespace

extern "C" const nixlx_plugin_descriptor_t NIXLX_PLUGIN_SYMBOL(nixlx_plugin_descriptor) = {
    .magic = NIXLX_PLUGIN_MAGIC,
    .struct_size = sizeof(nixlx_plugin_descriptor_t),
    .api_version = NIXLX_PLUGIN_API_VERSION,
    .capabilities = NIXLX_CAP_LOCAL,
    .kind = "backend",
    .name = "OBJ",
    .version = "1.0.0",
    .abi = NIXLX_ABI_TAG,
    .build_id = "",
    .conflicts = "",
    .partners = {kObjects, 0, 0, kMemory, 0}, // DRAM, VRAM, BLK, OBJ, FILE
    .create = nx::obj::Engine::create,
    .options = nx::obj::kOptions,
    .option_size = sizeof(nixlx_option),
    .option_count = nx::obj::kOptionCount,
};

extern "C" NIXL_PLUGIN_EXPORT nixlBackendPlugin *
NIXLX_PLUGIN_SYMBOL(nixl_plugin_init)() {
    return nx::kit::nixl14Plugin<NIXLX_PLUGIN_SYMBOL(nixlx_plugin_descriptor)>();
}
