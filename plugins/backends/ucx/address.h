// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What UCX packs for peers: worker addresses and memory keys. UCX is given both without their length, trusts what is
// in them and reads past their end or ends the process on damaged ones, so they are checked here before it sees them.
// The formats are those of UCX 1.12 and later (docs/wire.md). Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <sys/socket.h>
#include <vector>

#include "base/error.h"

namespace nx::ucx {

inline constexpr size_t kAddressBytesMin = 10, kAddressBytesMax = 64 << 10;
inline constexpr size_t kKeyBytesMin = 9, kKeyBytesMax = 64 << 10;

/// INVALID_PARAM, with the offset and field at fault: not the address of a worker, whole and with values that UCX can
/// compute with. It need not be one that can be reached.
Status
checkAddress(std::string_view address);

/// The memory domains, as bits, whose keys UCX maps into this process unchecked. They hold what UCX allocated itself,
/// which engines of NIXL do not give away. `address` is checked.
uint64_t
segmentDomains(std::string_view address);

struct TcpListener {
    sockaddr_storage at{};
    /// This network namespace has the same address, and the worker is in another: connecting there stays here.
    bool ambiguous = false;
};

/// Where the worker accepts connections over TCP, as far as this process can try it: at the loopback device only where
/// `own`, the address of a worker here, is of the same host and network namespace. Empty where another network may lead
/// to the worker. Both are checked.
std::vector<TcpListener>
tcpListeners(std::string_view address, std::string_view own);

/// `address` without the network devices of these listeners, some but not all of what tcpListeners(address, own) gave:
/// UCX then does not connect to them.
std::string
withoutListeners(std::string_view address, std::string_view own, const std::vector<TcpListener> &left_out);

/// "192.0.2.2:4711, [2001:db8::2]:4712"
std::string
textOf(const std::vector<TcpListener> &listeners);

/// INVALID_PARAM likewise: not a packed memory key, or one of `refused_domains`. Bytes that later versions of UCX
/// append are let through, within bounds; UCX ignores them too.
Status
checkKey(std::string_view key, uint64_t refused_domains = 0);

} // namespace nx::ucx
