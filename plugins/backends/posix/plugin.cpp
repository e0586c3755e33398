// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What makes the engine a plugin.
#include "kit/nixl14.h"
#include "posix/engine.h"

namespace {
constexpr uint8_t kFiles = NIXLX_MEMORY(FILE_SEG) | NIXLX_MEMORY(BLK_SEG), kMemory = NIXLX_MEMORY(DRAM_SEG);
} // namespace

extern "C" const nixlx_plugin_descriptor_t NIXLX_PLUGIN_SYMBOL(nixlx_plugin_descriptor) = {
    .magic = NIXLX_PLUGIN_MAGIC,
    .struct_size = sizeof(nixlx_plugin_descriptor_t),
    .api_version = NIXLX_PLUGIN_API_VERSION,
    .capabilities = NIXLX_CAP_LOCAL,
    .kind = "backend",
    .name = "POSIX",
    .version = "1.0.0",
    .abi = NIXLX_ABI_TAG,
    .build_id = "",
    .conflicts = "",
    .partners = {kFiles, 0, kMemory, 0, kMemory}, // DRAM, VRAM, BLK, OBJ, FILE
    .create = nx::posix::Engine::create,
    .options = nx::posix::kOptionTable,
    .option_size = sizeof(nixlx_option),
    .option_count = nx::posix::kOptionCount,
};

extern "C" NIXL_PLUGIN_EXPORT nixlBackendPlugin *
NIXLX_PLUGIN_SYMBOL(nixl_plugin_init)() {
    return nx::kit::nixl14Plugin<NIXLX_PLUGIN_SYMBOL(nixlx_plugin_descriptor)>();
}
