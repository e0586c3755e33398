// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "rendezvous/settings.h"

#include <cerrno>
#include <charconv>
#include <netinet/in.h>
#include <optional>
#include <sys/socket.h>

namespace nx::rendezvous {

namespace {

constexpr int kBacklog = 1024;

/// 0 to 65535; nothing: it is no port.
std::optional<uint16_t>
portIn(std::string_view text) {
    uint16_t port = 0;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), port);
    if (failure != std::errc{} || end != text.data() + text.size() || text.empty()) return {};
    return port;
}

/// NOT_ALLOWED: the port is taken.
Result<Fd>
listenOn(const SocketAddress &address) {
    const int family = address.get()->sa_family;
    Fd socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) return {NIXL_ERR_BACKEND, withErrno("socket", errno)};
    const int yes = 1, no = 0;
    (void)::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (family == AF_INET6) (void)::setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    if (::bind(socket.get(), address.get(), address.size) != 0 || ::listen(socket.get(), kBacklog) != 0) {
        return {errno == EADDRINUSE ? NIXL_ERR_NOT_ALLOWED : NIXL_ERR_BACKEND, withErrno("listening", errno)};
    }
    return socket;
}

/// An empty host: all addresses. "::" takes IPv4, too; a machine without IPv6 has the other one only.
Result<Fd>
listenAt(const std::string &host, uint16_t port) {
    const auto address = SocketAddress::numeric(host.empty() ? "::" : host, port);
    if (!address.ok()) return {address.code(), address.message()};
    auto socket = listenOn(*address);
    if (!host.empty() || socket.ok() || socket.code() == NIXL_ERR_NOT_ALLOWED) return socket;
    return listenOn(*SocketAddress::numeric("0.0.0.0", port));
}

} // namespace

Result<Endpoint>
endpointIn(const std::string &text) {
    const auto colon = text.rfind(':');
    const auto port = colon == std::string::npos ? std::nullopt : portIn(std::string_view(text).substr(colon + 1));
    if (port) {
        auto endpoint = Endpoint::make(text.substr(0, colon), *port);
        if (endpoint.ok()) return endpoint;
    }
    return {NIXL_ERR_INVALID_PARAM,
            quoted(text, 200) + " is no address of a rendezvous; write for example rendezvous://10.0.0.1:7000"};
}

Result<std::vector<Endpoint>>
endpointsIn(const std::string &text) {
    std::vector<Endpoint> endpoints;
    for (size_t at = 0; at <= text.size();) {
        const auto end = std::min(text.find(',', at), text.size());
        auto endpoint = endpointIn(text.substr(at, end - at));
        if (!endpoint.ok()) return std::move(endpoint).status();
        endpoints.push_back(*std::move(endpoint));
        at = end + 1;
    }
    return endpoints;
}

Result<Place>
placeFor(const std::string &option, const std::string &address) {
    if (option.empty()) return Place();
    const auto colon = option.rfind(':');
    const bool bare = colon == std::string::npos;
    const auto port = portIn(bare ? std::string_view(option) : std::string_view(option).substr(colon + 1));
    std::string host = bare ? address : option.substr(0, colon);
    const auto context = "NIXL_RENDEZVOUS_LISTEN is " + quoted(option, 200);
    if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
    if (!port || (!bare && host.empty())) {
        return {NIXL_ERR_INVALID_PARAM, context + "; write a port, or a numeric address and a port: 10.0.0.1:7000"};
    }
    auto socket = listenAt(host, *port);
    if (socket.code() == NIXL_ERR_NOT_ALLOWED) socket = listenAt(host, 0);
    if (!socket.ok()) return std::move(socket).status().withContext(context);
    SocketAddress bound;
    bound.size = sizeof bound.storage;
    if (::getsockname((*socket).get(), reinterpret_cast<sockaddr *>(&bound.storage), &bound.size) != 0) {
        return {NIXL_ERR_BACKEND, withErrno(context + ": getsockname", errno)};
    }
    const auto text = bound.text();
    const bool everywhere = text.starts_with("[::]:") || text.starts_with("0.0.0.0:");
    return Place{*std::move(socket), everywhere ? text.substr(text.rfind(':')) : text};
}

} // namespace nx::rendezvous
