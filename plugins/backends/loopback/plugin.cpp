// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What makes the engine a plugin: the entry point of NIXL 1.4 and the descriptor with the second face.
#include "backend/backend_plugin.h"
#include "loopback/engine.h"

extern "C" NIXL_PLUGIN_EXPORT nixlBackendPlugin *
NIXLX_PLUGIN_SYMBOL(nixl_plugin_init)() {
    return nixlBackendPluginCreator<nx::loopback::Engine>::create(NIXL_PLUGIN_API_VERSION, "LOOPBACK", "1.0.0", {},
                                                                  {DRAM_SEG, VRAM_SEG, BLK_SEG, OBJ_SEG, FILE_SEG});
}

extern "C" const nixlx_plugin_descriptor_t NIXLX_PLUGIN_SYMBOL(nixlx_plugin_descriptor) = {
    .magic = NIXLX_PLUGIN_MAGIC,
    .struct_size = sizeof(nixlx_plugin_descriptor_t),
    .api_version = NIXLX_PLUGIN_API_VERSION,
    .capabilities = NIXLX_CAP_TARGET_CHECKED,
    .kind = "backend",
    .name = "LOOPBACK",
    .version = "1.0.0",
    .abi = NIXLX_ABI_TAG,
    .build_id = "",
    .conflicts = "",
    .extend = [](nixlBackendEngine *engine) -> nixlx::Engine * { return static_cast<nx::loopback::Engine *>(engine); },
    .options = nullptr,
    .option_count = 0,
    .reserved = 0,
};
