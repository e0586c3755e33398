// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What makes TLS with a shared key a plugin.
#include "nixlx/security.h"
#include "tls/security.h"

namespace {

nixlx::Security *
open(const nixlx::SecurityParams *params) {
    auto security = nx::tls::Security::create(*params);
    if (security.ok()) return (*security).release();
    nixlx::fail(security.code(), security.message());
    return nullptr;
}

} // namespace

const nixlx_security_t *
nixlx_plugin_security_init() {
    static constexpr nixlx_security_t security = {.api_version = NIXLX_SECURITY_API_VERSION, .open = open};
    return &security;
}

extern "C" const nixlx_plugin_descriptor_t nixlx_plugin_descriptor = {
    .magic = NIXLX_PLUGIN_MAGIC,
    .struct_size = sizeof(nixlx_plugin_descriptor_t),
    .api_version = NIXLX_PLUGIN_API_VERSION,
    .capabilities = 0,
    .kind = "security",
    .name = "tls",
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
