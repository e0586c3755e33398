// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// How engines of one host meet. Each listens on a Unix socket (kit/local_socket.h); who wants to reach it over shared
// memory connects and is sent an offer: the addresses of workers that serve this link alone. Nothing else is ever
// exchanged. Either side learns of the other's end at once, with its process or without: UCX notices a closed engine
// never, and its look after dead processes is off for peers of the host.
#pragma once

#include <chrono>
#include <string>
#include <sys/socket.h>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "kit/local_socket.h"

namespace nx::ucx {

inline constexpr kit::LocalSocketKind kLinks{"nixl-ucx-", SOCK_SEQPACKET};

/// Does not block. BACKEND: the other side is gone, or the system refuses.
Status
sendOffer(const Fd &link, const std::vector<std::string> &addresses);

/// Waits for it. The addresses are checked; none: the other side has no shared memory to offer. NOT_FOUND: the other
/// side is gone or says nothing for so long. MISMATCH: it sent something else.
Result<std::vector<std::string>>
receiveOffer(const Fd &link, std::chrono::milliseconds limit);

} // namespace nx::ucx
