// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Names as parts of a key that has "/" between its parts. Pure functions.
#pragma once

#include <string>
#include <string_view>

namespace nx::wire {

/// The name as it is, but for what would let two keys be one: "/" is %2F, and what looks like that already, %2F and
/// %25, has its "%" as %25.
std::string
keyName(std::string_view name);

} // namespace nx::wire
