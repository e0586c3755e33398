// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The test backend "LEGACY": the loopback engine without a descriptor, that is, a plugin as NIXL 1.4 knows it. What the
// contract tests find through it is the agent's way with such plugins.
#include "backend/backend_plugin.h"
#include "loopback/engine.h"

extern "C" NIXL_PLUGIN_EXPORT nixlBackendPlugin *
nixl_plugin_init() {
    return nixlBackendPluginCreator<nx::loopback::Engine>::create(NIXL_PLUGIN_API_VERSION, "LEGACY", "1.0.0", {},
                                                                  {DRAM_SEG, VRAM_SEG, BLK_SEG, OBJ_SEG, FILE_SEG});
}
