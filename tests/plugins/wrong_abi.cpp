// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A plugin whose descriptor names another C++ library. Its code ends the process, so that a test which loads it before
// reading the descriptor cannot pass.
#include <cstdlib>

#include "backend/backend_plugin.h"
#include "nixlx/engine.h"

namespace {
[[gnu::constructor]] void
codeRan() {
    std::abort();
}
} // namespace

extern "C" const nixlx_plugin_descriptor_t nixlx_plugin_descriptor = {
    .magic = NIXLX_PLUGIN_MAGIC,
    .struct_size = sizeof(nixlx_plugin_descriptor_t),
    .api_version = NIXLX_PLUGIN_API_VERSION,
    .capabilities = 0,
    .kind = "backend",
    .name = "WRONG_ABI",
    .version = "1.0",
    .abi = "itanium some other library",
    .build_id = "",
    .conflicts = "",
    .partners = {},
    .create = nullptr,
    .options = nullptr,
    .option_size = sizeof(nixlx_option),
    .option_count = 0,
};
