// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "file/format.h"

#include <climits>

namespace nx::file_store {

Result<std::string>
fileNameOf(std::string_view name, std::string_view suffix, const std::string &what) {
    static constexpr char kDigits[] = "0123456789ABCDEF";
    std::string file;
    for (const char byte : name) {
        const bool plain = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
            (byte >= '0' && byte <= '9') || byte == '-' || byte == '_' || (byte == '.' && !file.empty());
        if (plain) {
            file += byte;
        } else {
            const auto value = static_cast<unsigned char>(byte);
            ((file += '%') += kDigits[value >> 4]) += kDigits[value & 15];
        }
    }
    if (name.empty()) file = "%"; // nothing else is written so
    file += suffix;
    if (file.size() > NAME_MAX) {
        return {NIXL_ERR_INVALID_PARAM,
                what + " " + quoted(name) + " is too long for a folder of files: it needs " +
                    std::to_string(file.size()) + " characters, and a file name has at most " +
                    std::to_string(NAME_MAX)};
    }
    return file;
}

Result<std::string_view>
startIn(std::string_view bytes, const std::string &file) {
    const auto start = bytes.substr(0, kStartDigits);
    if (bytes.size() > kStartDigits && bytes[kStartDigits] == '\n' &&
        start.find_first_not_of("0123456789abcdef") == std::string_view::npos) {
        return start;
    }
    return {NIXL_ERR_MISMATCH, quoted(file) + " does not begin with the number of a start"};
}

std::string_view
hostIn(std::string_view lease) {
    const auto at = lease.find(std::string("\n") + kHostWord);
    if (at == std::string_view::npos) return {};
    const auto host = lease.substr(at + 1 + std::string_view(kHostWord).size());
    return host.substr(0, host.find('\n'));
}

} // namespace nx::file_store
