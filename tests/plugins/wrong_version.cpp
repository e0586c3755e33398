// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A plugin of another API version.
#include "backend/backend_plugin.h"

nixlBackendPlugin *
nixl_plugin_init() {
    static nixlBackendPlugin plugin{};
    plugin.api_version = NIXL_PLUGIN_API_VERSION + 6;
    return &plugin;
}
