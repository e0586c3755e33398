// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// NIXL's options: environment variable first, then the configuration file ($NIXL_CONFIG_FILE, else ~/.nixl.cfg, else
// /etc/nixl.cfg; TOML, top-level keys of the same names). The file is read once, at the first look. The only file of
// the project that reads the environment. Self-synchronised.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/error.h"

namespace nx {

/// The environment variable, if set. Under elevated privileges (setuid) the environment is ignored.
std::optional<std::string>
environment(const std::string &name);

/// MISMATCH: the configuration file cannot be read or parsed.
Result<std::optional<std::string>>
configString(const std::string &name);

/// y, yes, on, 1, true, enable and their opposites in any case. MISMATCH otherwise.
Result<std::optional<bool>>
configBool(const std::string &name);

/// Decimal or 0x. MISMATCH: not a number or too large.
Result<std::optional<uint64_t>>
configUnsigned(const std::string &name);

/// The conversions behind them, for values that come from elsewhere; nothing if the text is not one.
std::optional<bool>
parseBool(const std::string &text);
std::optional<uint64_t>
parseUnsigned(const std::string &text);
/// Decimal with an optional minus.
std::optional<int64_t>
parseSigned(const std::string &text);

/// For tests: reads this file instead from now on; "" = none. Never while other threads read options.
void
setConfigFileForTest(const std::string &path);

} // namespace nx
