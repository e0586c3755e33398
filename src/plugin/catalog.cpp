// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "plugin/catalog.h"

#include <algorithm>
#include <cerrno>
#include <dlfcn.h>
#include <filesystem>
#include <fstream>
#include <set>
#include <string_view>
#include <sys/stat.h>
#include <unistd.h>

#include "base/config.h"

namespace nx::plugin {

namespace {

namespace fs = std::filesystem;

std::string
trimmed(std::string_view text) {
    constexpr char kBlanks[] = " \t\r";
    const auto first = text.find_first_not_of(kBlanks);
    if (first == std::string_view::npos) return {};
    return std::string(text.substr(first, text.find_last_not_of(kBlanks) - first + 1));
}

bool
isDirectory(const std::string &path) {
    struct stat info;
    return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

/// The plugin's name in a file name of this kind; empty if it is none.
std::string
nameOf(const Kind &kind, std::string_view file) {
    const std::string_view prefix = kind.prefix;
    const std::string_view suffix = kind.suffix;
    if (file.size() <= prefix.size() + suffix.size()) return {};
    if (!file.starts_with(prefix) || !file.ends_with(suffix)) return {};
    return std::string(file.substr(prefix.size(), file.size() - prefix.size() - suffix.size()));
}

/// The plugins of this kind in it; none if it is not there.
std::set<std::string>
namesIn(const Kind &kind, const std::string &directory) {
    std::set<std::string> names;
    std::error_code failure;
    fs::directory_iterator entry(directory, failure);
    for (; !failure && entry != fs::directory_iterator(); entry.increment(failure)) {
        if (auto name = nameOf(kind, entry->path().filename().native()); !name.empty()) names.insert(std::move(name));
    }
    return names;
}

} // namespace

Result<std::map<std::string, std::string>>
readPluginList(const std::string &path) {
    errno = 0;
    std::ifstream in(path);
    if (!in) return {NIXL_ERR_NOT_FOUND, withErrno("plugin list " + nx::quoted(path, 300), errno)};
    std::map<std::string, std::string> listed;
    std::string line;
    for (size_t number = 1; std::getline(in, line); ++number) {
        const std::string content = trimmed(std::string_view(line).substr(0, line.find('#')));
        if (content.empty()) continue;
        const auto equals = content.find('=');
        const std::string name = trimmed(content.substr(0, equals));
        const std::string file = equals == std::string::npos ? "" : trimmed(content.substr(equals + 1));
        if (name.empty() || file.empty()) {
            return {NIXL_ERR_MISMATCH,
                    "plugin list " + nx::quoted(path, 300) + ", line " + std::to_string(number) +
                        ": expected NAME=path, found " + nx::quoted(content)};
        }
        listed[name] = file;
    }
    if (in.bad()) return {NIXL_ERR_NOT_FOUND, withErrno("plugin list " + nx::quoted(path, 300), errno)};
    return listed;
}

Result<std::string>
defaultPluginDirectory() {
    auto configured = configString("NIXL_PLUGIN_DIR");
    if (!configured.ok()) return std::move(configured).status();
    if (*configured) return **std::move(configured);
    Dl_info info;
    std::error_code failure;
    if (::dladdr(reinterpret_cast<const void *>(&defaultPluginDirectory), &info) == 0 || !info.dli_fname) {
        return {NIXL_ERR_NOT_FOUND, "the folder of the NIXL library is unknown; set NIXL_PLUGIN_DIR"};
    }
    const auto library = fs::canonical(info.dli_fname, failure);
    if (failure) {
        return {NIXL_ERR_NOT_FOUND,
                "the folder of the NIXL library " + nx::quoted(info.dli_fname, 300) +
                    " is unknown; set NIXL_PLUGIN_DIR"};
    }
    return (library.parent_path() / "plugins").string();
}

Result<std::map<std::string, std::string>>
configuredPluginList() {
    auto path = configString("NIXL_PLUGIN_LIST");
    if (!path.ok()) return std::move(path).status();
    if (!*path || (*path)->empty()) return std::map<std::string, std::string>{};
    return readPluginList(**path);
}

std::vector<std::string>
Catalog::names() const {
    std::set<std::string> names;
    for (const auto &[name, file] : listed_) names.insert(name);
    for (const auto &directory : directories_) names.merge(namesIn(kind_, directory));
    return {names.begin(), names.end()};
}

Result<std::string>
Catalog::find(const std::string &name) const {
    // The name becomes part of a path.
    if (name.empty() || name.find('/') != std::string::npos || name.find('\0') != std::string::npos) {
        return {NIXL_ERR_NOT_FOUND, nx::quoted(name) + " is no plugin name"};
    }
    const std::string file = fileName(kind_, name);
    if (const auto it = listed_.find(name); it != listed_.end()) {
        if (::access(it->second.c_str(), F_OK) == 0) return it->second;
        return {NIXL_ERR_NOT_FOUND,
                "Plugin file does not exist: " + nx::quoted(it->second, 300) + ", which the plugin " +
                    "list (NIXL_PLUGIN_LIST) names for " + nx::quoted(name)};
    }
    std::string searched;
    for (const auto &directory : directories_) {
        const std::string path = directory + "/" + file;
        if (::access(path.c_str(), F_OK) == 0) return path;
        searched += (searched.empty() ? "" : ", ") + nx::quoted(directory, 300);
        if (!isDirectory(directory)) {
            searched += ", which does not exist";
        } else if (namesIn(kind_, directory).empty()) {
            searched += ", which holds no plugins";
        }
    }
    return {NIXL_ERR_NOT_FOUND,
            "Plugin file does not exist: " + nx::quoted(file, 300) + " is not in " +
                (searched.empty() ? "any directory (none is searched)" : searched) +
                "; NIXL_PLUGIN_DIR names the directory of plugins"};
}

Status
Catalog::addDirectory(const std::string &directory) {
    if (!isDirectory(directory)) {
        return {NIXL_ERR_NOT_FOUND, "plugin directory " + nx::quoted(directory, 300) + " does not exist"};
    }
    if (std::find(directories_.begin(), directories_.end(), directory) == directories_.end()) {
        directories_.insert(directories_.begin(), directory);
    }
    return {};
}

} // namespace nx::plugin
