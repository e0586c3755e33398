// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Many questions about paths at once. Each may take a round trip to a server, so several threads ask. A plain function.
#pragma once

#include <functional>
#include <string>
#include <sys/stat.h>
#include <vector>

#include "backend/backend_aux.h"
#include "nixl_descriptors.h"

namespace nx::kit {

/// stat(2): 0 or an errno. Any thread.
using LookAtPath = std::function<int(const std::string &path, struct stat &info)>;

/// See Files::query.
nixl_status_t
queryPaths(const nixl_reg_dlist_t &names, const LookAtPath &look, std::vector<nixl_query_resp_t> &answers);

} // namespace nx::kit
