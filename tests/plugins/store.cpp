// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A store plugin that opens nothing, and with STORE_major, STORE_undescribed or STORE_older one that must be refused:
// the first two before their code runs, which ends the process.
#include <cstdlib>

#include "nixlx/directory.h"

namespace {

#if defined(STORE_major) || defined(STORE_undescribed)
[[gnu::constructor]] void
codeRan() {
    std::abort();
}
#endif

#ifdef STORE_older
constexpr uint32_t kInterface = NIXLX_DIRECTORY_API_VERSION - 1;
#else
constexpr uint32_t kInterface = NIXLX_DIRECTORY_API_VERSION;
#endif

const nixlx_store_t kStore = {kInterface, [](const nixlx::DirectoryParams *) -> nixlx::Directory * { return nullptr; }};

} // namespace

const nixlx_store_t *
nixlx_plugin_store_init() {
    return &kStore;
}

#ifndef STORE_undescribed
#ifdef STORE_major
constexpr uint32_t kVersion = NIXLX_PLUGIN_API_VERSION + (1u << 16);
#else
constexpr uint32_t kVersion = NIXLX_PLUGIN_API_VERSION;
#endif

extern "C" const nixlx_plugin_descriptor_t nixlx_plugin_descriptor = {
    .magic = NIXLX_PLUGIN_MAGIC,
    .struct_size = sizeof(nixlx_plugin_descriptor_t),
    .api_version = kVersion,
    .capabilities = 0,
    .kind = "store",
    .name = STORE_NAME,
    .version = "1.0.0",
    .abi = NIXLX_ABI_TAG,
    .build_id = "test",
    .conflicts = "",
    .partners = {},
    .create = nullptr,
    .options = nullptr,
    .option_size = sizeof(nixlx_option),
    .option_count = 0,
};
#endif
