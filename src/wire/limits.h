// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What a metadata blob may hold at most. A blob beyond a limit is refused by the peer that reads it.
#pragma once

#include <cstddef>

namespace nx::wire {

inline constexpr size_t kBlobBytesMax = size_t{64} << 20;
inline constexpr size_t kNameBytesMax = 4096; ///< agent and backend names
inline constexpr size_t kConnectionsMax = 1024;
inline constexpr size_t kSectionsMax = 4096;
inline constexpr size_t kDescriptorsMax = size_t{1} << 20; ///< in all sections together

} // namespace nx::wire
