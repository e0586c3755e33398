// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Whether a peer on the network has ended already, asked when it is loaded: UCX connects in the background, and tells
// of it with the first transfer only. Free of state.
#pragma once

#include <sys/socket.h>
#include <vector>

#include "base/error.h"

namespace nx::ucx {

/// BACKEND: each of them refuses connections, so whoever listened there has ended. One that takes a connection, says
/// nothing or cannot be reached proves nothing. The connections end at once; UCX at the other side does not mind. Waits
/// for the answer of one, 150 ms at most.
Status
probeListeners(const std::vector<sockaddr_storage> &listeners);

} // namespace nx::ucx
