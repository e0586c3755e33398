// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A plugin whose init function throws.
#include <stdexcept>

#include "backend/backend_plugin.h"

nixlBackendPlugin *
nixl_plugin_init() {
    throw std::runtime_error("the licence server is on fire");
}
