// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Sets of kinds of memory, as plugin descriptors have them: a bit for each kind, NIXLX_MEMORY().
#pragma once

#include <cstdint>
#include <iterator>

#include "nixlx/engine.h"

namespace nx {

using MemorySet = uint8_t;
inline constexpr size_t kMemoryKinds = std::size(decltype(nixlx_plugin_descriptor_t::partners){});

inline bool
contains(MemorySet set, nixl_mem_t kind) noexcept {
    return static_cast<size_t>(kind) < kMemoryKinds && set & NIXLX_MEMORY(kind);
}

inline MemorySet
setOf(const nixl_mem_list_t &list) noexcept {
    unsigned set = 0;
    for (const nixl_mem_t kind : list) {
        if (static_cast<size_t>(kind) < kMemoryKinds) set |= NIXLX_MEMORY(kind);
    }
    return static_cast<MemorySet>(set);
}

inline nixl_mem_list_t
listOf(MemorySet set) {
    nixl_mem_list_t list;
    for (size_t kind = 0; kind < kMemoryKinds; ++kind) {
        if (contains(set, static_cast<nixl_mem_t>(kind))) list.push_back(static_cast<nixl_mem_t>(kind));
    }
    return list;
}

/// All kinds that a backend has to do with, on either side.
template<class Partners>
MemorySet
memoriesOf(const Partners &partners) noexcept {
    unsigned set = 0;
    for (size_t kind = 0; kind < kMemoryKinds; ++kind) {
        if (partners[kind]) set |= NIXLX_MEMORY(kind) | partners[kind];
    }
    return static_cast<MemorySet>(set);
}

} // namespace nx
