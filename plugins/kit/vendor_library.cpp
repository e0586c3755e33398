// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/vendor_library.h"

#include <cstdlib>
#include <dlfcn.h>
#include <filesystem>
#include <link.h>
#include <memory>

namespace nx::kit {

namespace {

constexpr int kLevelsToPackages = 4; // <site-packages>/<package>/.../plugins/libplugin_X.so

/// Folder of the file this code is in, which is the plugin's.
std::filesystem::path
ownFolder() {
    Dl_info info{};
    if (!dladdr(reinterpret_cast<const void *>(&ownFolder), &info) || !info.dli_fname) return {};
    std::error_code error;
    const auto file = std::filesystem::canonical(info.dli_fname, error);
    return error ? std::filesystem::path() : file.parent_path();
}

std::string
fileOf(void *handle) {
    link_map *map = nullptr;
    if (dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0 || !map || !map->l_name) return {};
    return map->l_name;
}

/// `tried` collects the loader's complaints.
void *
open(const VendorSearch &search, std::string &tried) {
    const int flags = RTLD_NOW | RTLD_LOCAL | (search.deep_bind ? RTLD_DEEPBIND : 0);
    const auto open = [&](const std::string &name) {
        void *handle = dlopen(name.c_str(), flags);
        if (handle) return handle;
        const char *error = dlerror();
        tried += (tried.empty() ? "" : "; ") + std::string(error ? error : name);
        return handle;
    };
    if (!search.path.empty()) return open(search.path);
    if (void *handle = dlopen(search.soname.c_str(), flags | RTLD_NOLOAD)) return handle;
    if (void *handle = open(search.soname)) return handle;
    auto folder = ownFolder();
    for (int level = 0; level < kLevelsToPackages && !folder.empty(); ++level, folder = folder.parent_path()) {
        for (const std::string &wheel : search.wheel_folders) {
            const auto candidate = folder / wheel / search.soname;
            std::error_code error;
            if (!std::filesystem::exists(candidate, error)) continue;
            if (void *handle = open(candidate.string())) return handle;
        }
    }
    return nullptr;
}

} // namespace

Result<VendorLibrary>
VendorLibrary::load(const VendorSearch &search) {
    std::string tried;
    void *handle = open(search, tried);
    if (handle) return VendorLibrary(search.name, handle, fileOf(handle));
    return {NIXL_ERR_BACKEND, "cannot load " + search.name + " (" + tried + "); " + search.advice};
}

Status
VendorLibrary::resolve(std::initializer_list<VendorSymbol> table, const std::string &needed) const {
    std::string missing;
    for (const VendorSymbol &symbol : table) {
        *symbol.function = dlsym(handle_, symbol.name);
        if (!*symbol.function && symbol.required) missing += (missing.empty() ? "" : ", ") + std::string(symbol.name);
    }
    if (missing.empty()) return {};
    return {NIXL_ERR_BACKEND, name_ + " at " + path_ + " lacks " + missing + "; " + needed + " is needed"};
}

} // namespace nx::kit
