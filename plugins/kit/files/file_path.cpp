// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/files/file_path.h"

#include <algorithm>
#include <array>
#include <fcntl.h>
#include <utility>

namespace nx::kit {
namespace {

constexpr std::array<std::pair<std::string_view, int>, 2> kModes = {{{"ro", O_RDONLY}, {"rw", O_RDWR}}};
constexpr std::string_view kAtomic = "atomic";
constexpr std::array<std::pair<std::string_view, int>, 5> kWords = {
    {{"direct", O_DIRECT}, {"sync", O_SYNC}, {"noatime", O_NOATIME}, {"create", O_CREAT}, {kAtomic, 0}}};

template<class Table>
const int *
find(const Table &table, std::string_view word) {
    const auto found = std::find_if(table.begin(), table.end(), [&](const auto &entry) { return entry.first == word; });
    return found == table.end() ? nullptr : &found->second;
}

bool
looksLikePath(std::string_view text) {
    const auto letters = text.substr(0, text.find_first_not_of("abcdefghijklmnopqrstuvwxyz"));
    return find(kModes, letters) || text.substr(0, text.find('/')).find(':') != text.npos;
}

Status
refused(std::string_view text, const std::string &why) {
    return {NIXL_ERR_INVALID_PARAM,
            quoted(text) + " names no file: " + why +
                "; say <ro|rw>[,direct|sync|noatime|create|atomic]:<path>, or nothing where the device id is an open "
                "descriptor"};
}

} // namespace

Result<std::optional<FilePath>>
parseFilePath(std::string_view meta_info) {
    if (!looksLikePath(meta_info)) return std::optional<FilePath>();
    const auto colon = meta_info.find(':');
    if (colon == meta_info.npos) return refused(meta_info, "there is no ':' before a path");
    auto words = meta_info.substr(0, colon);
    const auto next = [&words] {
        const auto word = words.substr(0, words.find(','));
        words.remove_prefix(std::min(word.size() + 1, words.size()));
        return word;
    };
    const auto mode = next();
    const int *const access = find(kModes, mode);
    if (!access) return refused(meta_info, "the mode " + quoted(mode) + " is neither ro nor rw");
    FilePath file{.flags = O_CLOEXEC | *access, .atomic = false, .path = std::string(meta_info.substr(colon + 1))};
    for (bool more = mode.size() < colon; more;) {
        more = words.find(',') != words.npos;
        const auto word = next();
        const int *const flag = find(kWords, word);
        if (!flag) return refused(meta_info, "the word " + quoted(word) + " is unknown");
        file.flags |= *flag;
        file.atomic = file.atomic || word == kAtomic;
    }
    if (file.atomic && *access == O_RDONLY) {
        return refused(meta_info, "'atomic' is about what is written, it goes with rw");
    }
    if (file.path.empty()) return refused(meta_info, "the path is empty");
    if (file.path.find('\0') != file.path.npos) return refused(meta_info, "there is a zero byte in the path");
    return std::optional(std::move(file));
}

} // namespace nx::kit
