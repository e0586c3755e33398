// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What a TCPStore may answer: each question ends with a value or a sentence, a failure closes the connection, and no
// more is kept than has come.
#include "tcpstore/connection.h"

#include <algorithm>
#include <sys/socket.h>

#include "fuzz/invariant.h"

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace nx::tcpstore;
    static const Endpoint endpoint{"double", "1"};
    static const std::atomic<Connection::Time> end{Connection::Time::max()};
    static const auto wake = *nx::WakeFd::create();
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0) return 0;
    const nx::Fd other(ends[1]);
    Connection connection(endpoint, end, wake);
    connection.use(nx::Fd(ends[0]));
    if (::send(other.get(), data, std::min<size_t>(size, 65536), 0) < 0 && size > 0) return 0;
    ::shutdown(other.get(), SHUT_WR);
    const auto soon = Connection::Clock::now() + std::chrono::seconds(10);
    while (connection.isOpen()) {
        const auto there = connection.has("key", soon);
        NX_INVARIANT(there.ok() == connection.isOpen());
        if (!there.ok()) break;
        const auto value = connection.get("key", 1 << 20, soon);
        NX_INVARIANT(value.ok() == connection.isOpen());
        NX_INVARIANT(!value.ok() || value->size() < size);
        NX_INVARIANT(value.ok() || value.message().starts_with("TCPStore at double:1: "));
        if (value.ok()) (void)connection.remove("key", soon);
    }
    return 0;
}
