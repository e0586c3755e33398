// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The test backend "LEGACY": the loopback engine without a descriptor, that is, a plugin as NIXL 1.4 knows it. What the
// contract tests find through it is the agent's way with such plugins.
#include "kit/nixl14.h"
#include "loopback/engine.h"

namespace {

constexpr nixlx_plugin_descriptor_t kDescriptor = {
    .magic = NIXLX_PLUGIN_MAGIC,
    .struct_size = sizeof(nixlx_plugin_descriptor_t),
    .api_version = NIXLX_PLUGIN_API_VERSION,
    .capabilities = NIXLX_CAP_LOCAL,
    .kind = "backend",
    .name = "LEGACY",
    .version = "1.0.0",
    .abi = NIXLX_ABI_TAG,
    .build_id = "",
    .conflicts = "",
    .partners = {31, 31, 31, 31, 31},
    .create = [](const nixlBackendInitParams *params) -> nixlx::Engine * { return new nx::loopback::Engine(params); },
    .options = nullptr,
    .option_size = sizeof(nixlx_option),
    .option_count = 0,
};

} // namespace

extern "C" NIXL_PLUGIN_EXPORT nixlBackendPlugin *
nixl_plugin_init() {
    return nx::kit::nixl14Plugin<kDescriptor>();
}
