// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The text by which a registration names a file that we open. Pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"

namespace nx::kit {

/// `<ro|rw>[,direct|sync|noatime|create|atomic]*:<path>`, what the metaInfo of a FILE registration may say.
struct FilePath {
    int flags = 0;       ///< of open(2); always O_CLOEXEC
    bool atomic = false; ///< with rw: each WRITE replaces the file as a whole; "create": the first one makes it
    std::string path;
};

/// Nothing: the text names no file, the device id is an open descriptor. That is so for an empty text, and, as in 1.4,
/// for a label ("b", "/data/cache.bin"), which does not begin with the word "ro" or "rw" and has no ':' before its
/// first '/'. INVALID_PARAM: it looks like such a path and is none, for example for an unknown word, which is named;
/// 1.4 would take the device id for a descriptor and write to whatever that is.
Result<std::optional<FilePath>>
parseFilePath(std::string_view meta_info);

} // namespace nx::kit
