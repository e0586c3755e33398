// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What metadata blobs and notifications may hold at most. What is beyond a limit is refused by the peer that reads it.
#pragma once

#include <cstddef>

namespace nx::wire {

inline constexpr size_t kBlobBytesMax = size_t{64} << 20;
inline constexpr size_t kNameBytesMax = 4096; ///< agent and backend names
inline constexpr size_t kConnectionsMax = 1024;
inline constexpr size_t kSectionsMax = 4096;
inline constexpr size_t kDescriptorsMax = size_t{1} << 20; ///< in all sections together
inline constexpr size_t kNotificationBytesMax = size_t{128} << 20;

} // namespace nx::wire
