// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What every plugin exports that is no backend: its descriptor, which is data in the file, and what its open() makes.
// Pure functions.
#pragma once

#include <algorithm>
#include <memory>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "nixlx/engine.h"

namespace nx {

consteval nixlx_plugin_descriptor_t
plainDescriptor(std::string_view kind, std::string_view name) {
    nixlx_plugin_descriptor_t descriptor{};
    descriptor.magic = NIXLX_PLUGIN_MAGIC;
    descriptor.struct_size = sizeof descriptor;
    descriptor.api_version = NIXLX_PLUGIN_API_VERSION;
    const auto put = [](std::string_view text, auto &field) {
        std::copy_n(text.data(), text.size(), field); // no constant expression if it is too long
    };
    put(kind, descriptor.kind);
    put(name, descriptor.name);
    put("1.0.0", descriptor.version);
    put(NIXLX_ABI_TAG, descriptor.abi);
    descriptor.option_size = sizeof(nixlx_option);
    return descriptor;
}

/// The caller deletes it. Null, with its sentence, if there is none.
template<class T>
T *
madeOrFail(Result<std::unique_ptr<T>> made) {
    if (made.ok()) return (*made).release();
    nixlx::fail(made.code(), made.message());
    return nullptr;
}

} // namespace nx
