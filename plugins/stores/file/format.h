// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What the store writes. Names of agents and labels become names of files: whatever bytes a name has, it stays inside
// its folder, is told from every other name, and is none of the store's own files (which begin with a dot). Every file
// begins with the start of the agent that wrote it, as a line. Pure functions.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"

namespace nx::file_store {

/// Letters, digits, '-', '_' and '.' (not in front) as they are, every other byte as %XX, then `suffix`. INVALID_PARAM:
/// the result is longer than a file name may be. `what` it names, for the sentence.
Result<std::string>
fileNameOf(std::string_view name, std::string_view suffix, const std::string &what);

inline constexpr size_t kStartDigits = 32; ///< a start (an incarnation), in hexadecimal

/// The start that `bytes` begin with. MISMATCH: they do not begin with one and the end of its line. `file` they are
/// from, for the sentence.
Result<std::string_view>
startIn(std::string_view bytes, const std::string &file);

/// What is before the host in a lease, at the beginning of a line.
inline constexpr char kHostWord[] = "host ";

/// The host of which a lease is; empty: it does not say.
std::string_view
hostIn(std::string_view lease);

} // namespace nx::file_store
