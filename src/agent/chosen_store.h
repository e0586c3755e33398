// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Which store agents meet at: the options of NIXL 1.4 choose it, NIXL_<STORE>_ENDPOINTS or NIXL_<STORE>_ENDPOINT of a
// store that is installed; else NIXL_METADATA_STORE, a URL. Pure functions of the options.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/error.h"

namespace nx::agent {

struct ChosenStore {
    std::string store;   ///< the plugin's name
    std::string address; ///< in the store's words
    std::string setting; ///< what chose it, for people: "NIXL_METADATA_STORE is 'file:///run/nixl'"
};

/// Nothing: none is chosen. MISMATCH: two are, or what chooses it cannot be read.
Result<std::optional<ChosenStore>>
chosenStore(const std::vector<std::string> &installed);

} // namespace nx::agent
