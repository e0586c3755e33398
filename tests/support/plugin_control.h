// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// How a test gets at the controls inside a test plugin: the plugin exports a C function that returns them.
#pragma once

#include <dlfcn.h>
#include <stdexcept>
#include <string>

namespace nx::test {

/// Where the test plugins of this build lie.
inline constexpr const char *kTestPluginDir = NX_BUILD_DIR "/test_plugins";

/// The controls of type `Control` that `function` of the plugin in `file` returns. Loads the plugin if it is not
/// loaded, and keeps it: the loader gives the agents the same copy. Throws std::runtime_error.
template<class Control>
Control &
pluginControl(const std::string &file, const char *function) {
    const std::string path = std::string(kTestPluginDir) + "/" + file;
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) throw std::runtime_error(dlerror());
    auto *get = reinterpret_cast<Control *(*)()>(dlsym(library, function));
    if (!get) throw std::runtime_error(dlerror());
    return *get();
}

} // namespace nx::test
