// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Agents and labels as names of files. Whatever bytes a name has, it stays inside its folder, is told from every other
// name, and is none of the store's own files (which begin with a dot). Pure functions.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"

namespace nx::file_store {

/// Letters, digits, '-', '_' and '.' (not in front) as they are, every other byte as %XX, then `suffix`. INVALID_PARAM:
/// the result is longer than a file name may be. `what` it names, for the sentence.
Result<std::string>
fileNameOf(std::string_view name, std::string_view suffix, const std::string &what);

} // namespace nx::file_store
