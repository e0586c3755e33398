// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/tcp_probe.h"

#include <algorithm>
#include <arpa/inet.h>
#include <cerrno>
#include <chrono>
#include <netinet/in.h>
#include <poll.h>
#include <string>

#include "base/fd.h"

namespace nx::ucx {

namespace {

using Clock = std::chrono::steady_clock;

// A round trip, and some patience with a busy host.
constexpr std::chrono::milliseconds kLimit{150};

std::string
textOf(const sockaddr_storage &listener) {
    char host[INET6_ADDRSTRLEN] = "";
    if (listener.ss_family == AF_INET) {
        const auto &ip = reinterpret_cast<const sockaddr_in &>(listener);
        ::inet_ntop(AF_INET, &ip.sin_addr, host, sizeof host);
        return host + (":" + std::to_string(ntohs(ip.sin_port)));
    }
    const auto &ip = reinterpret_cast<const sockaddr_in6 &>(listener);
    ::inet_ntop(AF_INET6, &ip.sin6_addr, host, sizeof host);
    return "[" + std::string(host) + "]:" + std::to_string(ntohs(ip.sin6_port));
}

/// What the kernel says at once or has said since: 0 or an errno.
int
outcomeOf(int socket) {
    int error = 0;
    socklen_t size = sizeof error;
    return ::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

} // namespace

Status
probeListeners(const std::vector<sockaddr_storage> &listeners) {
    std::vector<Fd> sockets;
    std::vector<pollfd> waiting;
    std::string refused;
    for (const sockaddr_storage &listener : listeners) {
        Fd socket(::socket(listener.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        const bool connected =
            socket && ::connect(socket.get(), reinterpret_cast<const sockaddr *>(&listener), sizeof listener) == 0;
        if (!socket || connected || (errno != EINPROGRESS && errno != ECONNREFUSED)) return {};
        if (errno == EINPROGRESS) waiting.push_back({socket.get(), POLLOUT, 0});
        sockets.push_back(std::move(socket));
        refused += (refused.empty() ? "" : ", ") + textOf(listener);
    }
    const auto deadline = Clock::now() + kLimit;
    while (!waiting.empty()) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
        const int ready = ::poll(waiting.data(), waiting.size(), static_cast<int>(std::max<int64_t>(left.count(), 0)));
        if (ready == 0 || (ready < 0 && errno != EINTR)) return {};
        for (size_t i = waiting.size(); ready > 0 && i-- > 0;) {
            if (waiting[i].revents == 0) continue;
            if (outcomeOf(waiting[i].fd) != ECONNREFUSED) return {};
            waiting.erase(waiting.begin() + static_cast<ptrdiff_t>(i));
        }
    }
    if (refused.empty()) return {};
    return {NIXL_ERR_BACKEND, "its process has ended: nothing listens at " + refused + " any more"};
}

} // namespace nx::ucx
