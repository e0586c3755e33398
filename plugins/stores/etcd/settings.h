// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Where etcd is and how to be let in. Plain data.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace nx::etcd {

struct Settings {
    std::vector<std::string> endpoints; ///< "http://127.0.0.1:2379"; at least one
    std::string space;                  ///< what all keys begin with
    std::string user;                   ///< empty: without
    std::string password;
    // Files; empty: the system's, and none.
    std::string authorities;
    std::string certificate;
    std::string key;
};

/// "http://a:2379,b:2379" and the options NIXL_ETCD_*. INVALID_PARAM: the address has no endpoint, or one that is none.
Result<Settings>
settingsFor(const std::string &address);

} // namespace nx::etcd
