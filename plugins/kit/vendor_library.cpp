// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/vendor_library.h"

#include <cstdlib>
#include <dlfcn.h>
#include <filesystem>
#include <fstream>
#include <link.h>
#include <memory>
#include <sstream>

#include "nixlx/engine.h"

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

/// Of the first Python package beside ours that has it. Empty: none does.
std::string
fileOfPackage(const VendorSearch &search) {
    auto folder = ownFolder();
    for (int level = 0; level < kLevelsToPackages && !folder.empty(); ++level, folder = folder.parent_path()) {
        for (const std::string &wheel : search.wheel_folders) {
            const auto candidate = folder / wheel / search.soname;
            std::error_code error;
            if (std::filesystem::exists(candidate, error)) return candidate.string();
        }
    }
    return {};
}

struct Opened {
    void *handle;
    VendorLibrary::Origin origin;
};

/// `tried` collects the loader's complaints.
Opened
open(const VendorSearch &search, std::string &tried) {
    using Origin = VendorLibrary::Origin;
    const int flags = RTLD_NOW | RTLD_LOCAL | (search.deep_bind ? RTLD_DEEPBIND : 0);
    const auto open = [&](const std::string &name) {
        void *handle = dlopen(name.c_str(), flags);
        if (handle) return handle;
        const char *error = dlerror();
        tried += (tried.empty() ? "" : "; ") + std::string(error ? error : name);
        return handle;
    };
    if (!search.path.empty()) return {open(search.path), Origin::kNamed};
    if (void *handle = dlopen(search.soname.c_str(), flags | RTLD_NOLOAD)) return {handle, Origin::kProcess};

    const std::string of_package = fileOfPackage(search);
    const std::string of_system =
        of_package.empty() || !search.prefers_package ? std::string() : fileOfSystem(search.soname);
    const bool package_first = !of_system.empty() && search.prefers_package(of_system, of_package);
    if (package_first) {
        if (void *handle = open(of_package)) return {handle, Origin::kPackage};
    }
    if (void *handle = open(search.soname)) return {handle, Origin::kSystem};
    if (of_package.empty() || package_first) return {nullptr, Origin::kSystem};
    return {open(of_package), Origin::kPackage};
}

} // namespace

std::string
fileOfSystem(const std::string &soname, const std::string &table) {
    const auto exists = [](const std::string &file) {
        std::error_code error;
        return std::filesystem::exists(file, error);
    };
    std::istringstream folders(nixlx::configValue("LD_LIBRARY_PATH").value_or(""));
    for (std::string folder; std::getline(folders, folder, ':');) {
        const std::string file = (folder.empty() ? "." : folder) + "/" + soname;
        if (exists(file)) return file;
    }
    // The table ends with its paths, each followed by a zero.
    std::ostringstream contents;
    contents << std::ifstream(table, std::ios::binary).rdbuf(); // nothing, if it cannot be read
    const std::string bytes = contents.str();
    const std::string end = "/" + soname + '\0';
    for (size_t at = bytes.find(end); at != std::string::npos; at = bytes.find(end, at + 1)) {
        const size_t before = bytes.rfind('\0', at);
        const size_t begin = before == std::string::npos ? 0 : before + 1;
        std::string file = bytes.substr(begin, at + end.size() - 1 - begin);
        if (file.starts_with('/') && exists(file)) return file;
    }
    return {};
}

Result<VendorLibrary>
VendorLibrary::load(const VendorSearch &search) {
    std::string tried;
    const Opened opened = open(search, tried);
    if (opened.handle) return VendorLibrary(search.name, opened.handle, fileOf(opened.handle), opened.origin);
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
