// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What becomes of connections to a peer's listeners, tried before UCX does: UCX connects in the background, believes
// all of a peer's addresses, and tells of a failure with the first transfer only. Free of state.
//
// The connections end at once; UCX at the other side does not mind.
#pragma once

#include <string>
#include <sys/socket.h>
#include <vector>

#include "base/error.h"
#include "ucx/address.h"

namespace nx::ucx {

/// BACKEND: each of them refuses connections, so whoever listened there has ended. One that takes a connection, says
/// nothing or cannot be reached proves nothing, nor does an ambiguous one. Waits for the answer of one, 150 ms at most.
Status
probeListeners(std::vector<TcpListener> listeners);

struct TcpPaths {
    /// Do not take a connection, or may be somebody else's, while another does and is not; otherwise empty.
    std::vector<TcpListener> unusable;
    std::vector<sockaddr_storage> sources; ///< the addresses here from which the system connects to the others
};

/// Waits for the answer of each, 150 ms at most, and 20 ms at most after the first that takes a connection.
TcpPaths
tryPaths(const std::vector<TcpListener> &listeners);

/// The names of those network devices of `own`, the listeners here, with an address in `sources`; sorted. Empty: it
/// has no others, but for the loopback device.
std::vector<std::string>
devicesToUse(const std::vector<TcpListener> &own, const std::vector<sockaddr_storage> &sources);

} // namespace nx::ucx
