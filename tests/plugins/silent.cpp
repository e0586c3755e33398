// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A plugin that creates no engine: it returns null, or throws when the parameter "throw" is there. It has none of the
// optional functions.
#include <stdexcept>

#include "backend/backend_plugin.h"

nixlBackendPlugin *
nixl_plugin_init() {
    static nixlBackendPlugin plugin{};
    plugin.api_version = NIXL_PLUGIN_API_VERSION;
    plugin.create_engine = [](const nixlBackendInitParams *params) -> nixlBackendEngine * {
        if (params->customParams && params->customParams->contains("throw")) throw std::runtime_error("no device");
        return nullptr;
    };
    return &plugin;
}
