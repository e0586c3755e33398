// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What is registered, of this agent or of a peer: an immutable snapshot that a change replaces by a new one.
#pragma once

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "base/snapshot.h"
#include "memory/range_index.h"

namespace nx::agent {

using SectionKey = std::pair<nixl_mem_t, size_t>; ///< kind of memory, order of the backend

/// The windows. Never holds an empty index.
using Sections = std::map<SectionKey, memory::RangeIndex>;

inline std::vector<std::shared_ptr<memory::Window>>
windowsOf(const Sections &sections) {
    std::vector<std::shared_ptr<memory::Window>> windows;
    for (const auto &[key, index] : sections) {
        index.forEach([&](const auto &entry) { windows.push_back(entry.window); });
    }
    return windows;
}

} // namespace nx::agent
