// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What makes the rendezvous a plugin.
#include "rendezvous/directory.h"
#include "nixlx/directory.h"

namespace {

nixlx::Directory *
open(const nixlx::DirectoryParams *params) {
    auto directory = nx::rendezvous::Directory::open(*params);
    if (directory.ok()) return (*directory).release();
    nixlx::fail(directory.code(), directory.message());
    return nullptr;
}

} // namespace

const nixlx_store_t *
nixlx_plugin_store_init() {
    static constexpr nixlx_store_t store = {.api_version = NIXLX_DIRECTORY_API_VERSION, .open = open};
    return &store;
}

extern "C" const nixlx_plugin_descriptor_t nixlx_plugin_descriptor = {
    .magic = NIXLX_PLUGIN_MAGIC,
    .struct_size = sizeof(nixlx_plugin_descriptor_t),
    .api_version = NIXLX_PLUGIN_API_VERSION,
    .capabilities = 0,
    .kind = "store",
    .name = "rendezvous",
    .version = "1.0.0",
    .abi = NIXLX_ABI_TAG,
    .build_id = "",
    .conflicts = "",
    .partners = {},
    .create = nullptr,
    .options = nullptr,
    .option_size = sizeof(nixlx_option),
    .option_count = 0,
};
