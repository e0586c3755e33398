// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A stream socket as a carrier of a session. Plain function.
#pragma once

#include "kit/peer/session.h"

namespace nx::kit {

/// Moves bytes of a stream of the session through a connected, non-blocking socket, both ways, until the socket has and
/// takes no more or some `limit` bytes have gone one way. True: it would go on. When the other side is gone, the
/// session knows (linkLost), after all that it sent was taken. Nothing is lent to the socket between calls, so that
/// what has ended is quiet. Does not block, raises no signal, allocates nothing itself.
bool
pump(Session &session, size_t stream, int socket, size_t limit);

} // namespace nx::kit
