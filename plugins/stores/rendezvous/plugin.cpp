// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What makes the rendezvous a plugin.
#include "rendezvous/directory.h"
#include "base/plain_plugin.h"
#include "nixlx/directory.h"

const nixlx_store_t *
nixlx_plugin_store_init() {
    static constexpr nixlx_store_t store = {.api_version = NIXLX_DIRECTORY_API_VERSION,
                                            .open = [](const nixlx::DirectoryParams *params) -> nixlx::Directory * {
                                                return nx::madeOrFail(nx::rendezvous::Directory::open(*params));
                                            }};
    return &store;
}

extern "C" constinit const nixlx_plugin_descriptor_t nixlx_plugin_descriptor =
    nx::plainDescriptor("store", "rendezvous");
