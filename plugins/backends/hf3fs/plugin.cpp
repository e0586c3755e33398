// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What makes the engine the plugin HF3FS.
#include "hf3fs/engine.h"
#include "kit/nixl14.h"

namespace {

constexpr uint8_t kMemory = NIXLX_MEMORY(DRAM_SEG), kFiles = NIXLX_MEMORY(FILE_SEG);

} // namespace

extern "C" const nixlx_plugin_descriptor_t NIXLX_PLUGIN_SYMBOL(nixlx_plugin_descriptor) = {
    .magic = NIXLX_PLUGIN_MAGIC,
    .struct_size = sizeof(nixlx_plugin_descriptor_t),
    .api_version = NIXLX_PLUGIN_API_VERSION,
    .capabilities = NIXLX_CAP_LOCAL,
    .kind = "backend",
    .name = "HF3FS",
    .version = "1.0.0",
    .abi = NIXLX_ABI_TAG,
    .build_id = "",
    .conflicts = "",
    .partners = {kFiles, 0, 0, 0, kMemory}, // DRAM, VRAM, BLK, OBJ, FILE
    .create = nx::hf3fs::Engine::create,
    .options = nx::hf3fs::kOptions,
    .option_size = sizeof(nixlx_option),
    .option_count = nx::hf3fs::kOptionCount,
};

extern "C" NIXL_PLUGIN_EXPORT nixlBackendPlugin *
NIXLX_PLUGIN_SYMBOL(nixl_plugin_init)() {
    return nx::kit::nixl14Plugin<NIXLX_PLUGIN_SYMBOL(nixlx_plugin_descriptor)>();
}
