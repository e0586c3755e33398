// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What makes TLS with a shared key a plugin.
#include "base/plain_plugin.h"
#include "nixlx/security.h"
#include "tls/security.h"

const nixlx_security_t *
nixlx_plugin_security_init() {
    static constexpr nixlx_security_t security = {.api_version = NIXLX_SECURITY_API_VERSION,
                                                  .open = [](const nixlx::SecurityParams *params) -> nixlx::Security * {
                                                      return nx::madeOrFail(nx::tls::Security::create(*params));
                                                  }};
    return &security;
}

extern "C" constinit const nixlx_plugin_descriptor_t nixlx_plugin_descriptor = nx::plainDescriptor("security", "tls");
