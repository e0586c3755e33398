// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "base/config.h"

#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <sstream>
#include <strings.h>
#include <unistd.h>

#define TOML_HEADER_ONLY 1
#include <toml++/toml.h>

#include "base/mutex.h"
#include "nixlx/engine.h"

namespace nx {

namespace {

struct File {
    Status status;
    std::map<std::string, std::string> values;
};

std::string
findFile() {
    if (auto named = environment("NIXL_CONFIG_FILE")) return *named;
    if (auto home = environment("HOME")) {
        const auto path = *home + "/.nixl.cfg";
        if (access(path.c_str(), F_OK) == 0) return path;
    }
    if (access("/etc/nixl.cfg", F_OK) == 0) return "/etc/nixl.cfg";
    return {};
}

std::string
nodeText(const toml::node &node) {
    if (auto text = node.value<std::string>(); text && node.is_string()) return *text;
    std::ostringstream out;
    node.visit([&](const auto &value) { out << value; });
    return out.str();
}

File
readFile(const std::string &path) {
    File file;
    if (path.empty()) return file;
    // A folder can be opened like a file and reads as an empty one.
    if (std::error_code ignored; std::filesystem::is_directory(path, ignored)) {
        file.status = Status(NIXL_ERR_MISMATCH, "configuration file " + nx::quoted(path, 200) + " is a folder");
        return file;
    }
    try {
        const toml::table table = toml::parse_file(path);
        for (const auto &[key, node] : table) file.values.emplace(std::string(key.str()), nodeText(node));
    }
    catch (const toml::parse_error &error) {
        std::ostringstream where;
        where << "configuration file " << nx::quoted(path, 200) << ": " << error.description();
        if (error.source().begin.line) where << " (line " << error.source().begin.line << ")";
        file.status = Status(NIXL_ERR_MISMATCH, where.str());
    }
    return file;
}

struct Store {
    Mutex mutex;
    std::optional<File> file NX_GUARDED_BY(mutex);
};

Store &
store() {
    static Store instance;
    return instance;
}

template<class T>
Result<std::optional<T>>
typed(const std::string &name, std::optional<T> (*parse)(const std::string &), const char *kind) {
    auto text = configString(name);
    if (!text.ok()) return std::move(text).status();
    if (!*text) return std::optional<T>{};
    auto value = parse(**text);
    if (!value) return {NIXL_ERR_MISMATCH, name + " is " + nx::quoted(**text) + ", which is not " + kind};
    return value;
}

template<class T>
std::optional<T>
parseNumber(const char *first, const char *last, int base) {
    T value{};
    const auto [end, failure] = std::from_chars(first, last, value, base);
    if (failure != std::errc{} || end != last || first == last) return {};
    return value;
}

} // namespace

std::optional<std::string>
environment(const std::string &name) {
    const char *value = secure_getenv(name.c_str());
    if (!value) return {};
    return std::string(value);
}

Result<std::optional<std::string>>
configString(const std::string &name) {
    if (auto value = environment(name)) return value;
    auto &s = store();
    const MutexLock lock(s.mutex);
    if (!s.file) s.file = readFile(findFile());
    if (!s.file->status.ok()) return {s.file->status.code(), s.file->status.message()};
    const auto it = s.file->values.find(name);
    if (it == s.file->values.end()) return std::optional<std::string>{};
    return std::optional<std::string>(it->second);
}

Result<std::optional<bool>>
configBool(const std::string &name) {
    return typed<bool>(name, parseBool, "a truth value (yes, no, on, off, true, false, 1, 0, enable, disable)");
}

Result<std::optional<uint64_t>>
configUnsigned(const std::string &name) {
    return typed<uint64_t>(name, parseUnsigned, "a whole number of 0 or more (decimal or 0x)");
}

std::optional<bool>
parseBool(const std::string &text) {
    for (const char *yes : {"y", "yes", "on", "1", "true", "enable"}) {
        if (strcasecmp(yes, text.c_str()) == 0) return true;
    }
    for (const char *no : {"n", "no", "off", "0", "false", "disable"}) {
        if (strcasecmp(no, text.c_str()) == 0) return false;
    }
    return {};
}

std::optional<uint64_t>
parseUnsigned(const std::string &text) {
    const char *first = text.data();
    const char *last = first + text.size();
    if (text.starts_with("0x") || text.starts_with("0X")) return parseNumber<uint64_t>(first + 2, last, 16);
    return parseNumber<uint64_t>(first, last, 10);
}

std::optional<int64_t>
parseSigned(const std::string &text) {
    return parseNumber<int64_t>(text.data(), text.data() + text.size(), 10);
}

void
setConfigFileForTest(const std::string &path) {
    auto &s = store();
    const MutexLock lock(s.mutex);
    s.file = readFile(path);
}

} // namespace nx

namespace nixlx {

std::optional<std::string>
configValue(const std::string &name) {
    auto value = nx::configString(name);
    if (!value.ok()) throw std::runtime_error(value.message());
    return *std::move(value);
}

} // namespace nixlx
