// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What the store of files writes and reads: two names are never one file, and none is outside its folder or the store's
// own; bytes are a start or a refusal. The first byte says where the second name begins.
#include "file/format.h"

#include <algorithm>
#include <climits>

#include "fuzz/invariant.h"

namespace {

nx::Result<std::string>
fileOf(std::string_view name) {
    auto file = nx::file_store::fileNameOf(name, ".md", "the label");
    NX_INVARIANT(file.ok() || (file.code() == NIXL_ERR_INVALID_PARAM && file.message().size() < 500));
    if (!file.ok()) return file;
    NX_INVARIANT(file->size() > 3 && file->size() <= NAME_MAX && file->front() != '.' && file->ends_with(".md"));
    NX_INVARIANT(std::all_of(file->begin(), file->end(), [](char c) { return c > ' ' && c < 127 && c != '/'; }));
    return file;
}

} // namespace

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    const std::string_view bytes = nx::fuzz::text(data + 1, size - 1);
    const size_t cut = std::min<size_t>(data[0], bytes.size());
    const auto one = bytes.substr(0, cut), other = bytes.substr(cut);
    const auto file = fileOf(one), other_file = fileOf(other);
    if (file.ok() && other_file.ok()) NX_INVARIANT((*file == *other_file) == (one == other));

    const auto start = nx::file_store::startIn(bytes, "x.md");
    NX_INVARIANT(start.ok() || start.code() == NIXL_ERR_MISMATCH);
    if (start.ok()) {
        NX_INVARIANT(start->size() == nx::file_store::kStartDigits && bytes.starts_with(std::string(*start) + "\n"));
        NX_INVARIANT(start->find_first_not_of("0123456789abcdef") == std::string_view::npos);
    }
    const auto host = nx::file_store::hostIn(bytes);
    NX_INVARIANT(host.size() <= bytes.size() && host.find('\n') == std::string_view::npos);
    return 0;
}
