// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/library_choice.h"

#include <array>
#include <charconv>
#include <fstream>
#include <sstream>
#include <string_view>

namespace nx::ucx {

namespace {

constexpr size_t kNumberMax = 3; ///< digits

/// "1.13.1" as numbers; all 0 for anything else.
std::array<unsigned, 3>
parsed(std::string_view text) {
    std::array<unsigned, 3> numbers{};
    const char *at = text.data(), *const last = text.data() + text.size();
    for (size_t i = 0; i < numbers.size(); ++i) {
        const auto [end, failure] = std::from_chars(at, last, numbers[i]);
        const bool ends = i + 1 == numbers.size();
        if (failure != std::errc{} || end - at > static_cast<ptrdiff_t>(kNumberMax) ||
            (ends ? end != last : end == last || *end != '.')) {
            return {};
        }
        at = end + 1;
    }
    return numbers;
}

std::string
orUnknown(const std::string &version) {
    return version.empty() ? "unknown version" : version;
}

} // namespace

std::string
versionIn(const std::string &file) {
    std::ostringstream contents;
    contents << std::ifstream(file, std::ios::binary).rdbuf(); // nothing, if it cannot be read
    const std::string bytes = contents.str();
    constexpr std::string_view kBegin = "1.";
    std::string found;
    for (size_t at = bytes.find(kBegin); at != std::string::npos; at = bytes.find(kBegin, at + 1)) {
        const size_t end = bytes.find_first_not_of("0123456789.", at);
        const std::string_view text = std::string_view(bytes).substr(at, end == std::string::npos ? end : end - at);
        const bool is_part = at > 0 && std::string_view("0123456789.").find(bytes[at - 1]) != std::string_view::npos;
        if (end == std::string::npos || bytes[end] != '\0' || is_part || parsed(text)[0] == 0) continue;
        if (!found.empty() && found != text) return {};
        found = text;
    }
    return found;
}

LibraryChoice
chooseLibrary(const std::string &of_system, const std::string &of_package, bool has_rdma_devices) {
    if (has_rdma_devices) return {false, "the system's, because this host has RDMA devices"};
    const std::string system = versionIn(of_system), package = versionIn(of_package);
    if (parsed(package) > parsed(system)) {
        return {true, "the Python package's, newer than the system's " + orUnknown(system)};
    }
    return {false, "the system's, not older than the Python package's " + orUnknown(package)};
}

} // namespace nx::ucx
