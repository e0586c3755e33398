// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What strangers and peers may cost. Tests make them small. Plain data.
#pragma once

#include <chrono>
#include <cstddef>

namespace nx::metadata {

/// Of those who wait for outcomes: beyond it a time point would overflow.
inline constexpr std::chrono::hours kLongestWait{24 * 365};

struct Limits {
    /// Connections that others opened to us and that never sent a whole message. One more, and the oldest goes of the
    /// network that has most of them.
    size_t unproven_guests = 256;
    /// With a key: what such a connection may send before it has proven that it has the key.
    size_t unproven_bytes = size_t{16} << 10;
    /// Those that did. One more, and the one goes that was quiet for longest, of the network that has most of them.
    size_t proven_guests = 256;
    /// Memory of what arrives and is not dealt with, and of the metadata that is sent (each version once, however many
    /// take it), all connections together. Beyond it the guest that costs most goes, of the network that costs most.
    size_t buffered_bytes = size_t{256} << 20;
    /// Memory of metadata that waits for a backend in common, all guests together. Beyond it, no more waits.
    size_t held_bytes = size_t{64} << 20;
    /// Calls to one address that have no outcome yet.
    size_t calls = 1024;

    using Time = std::chrono::milliseconds;
    Time connect{2000};  ///< to a peer, with all tries
    Time address{1000};  ///< one try at one address
    Time first{5000};    ///< from a guest's connection to its first whole message
    Time prove{2000};    ///< with a key: from a connection's beginning to the proof of both ends
    Time frame{5000};    ///< from a frame's first byte to its last; a second more for each MiB
    Time write{5000};    ///< a receiver takes nothing
    Time answer{5000};   ///< to "send me yours", and to a load by who has answered one before
    Time confirm{1000};  ///< to the first load; agents of NIXL 1.4 never do
    Time settle{4000};   ///< from our start: what guests send waits for the backend it needs; less than `answer`
    Time shutdown{1000}; ///< to hand over what is on its way
};

} // namespace nx::metadata
