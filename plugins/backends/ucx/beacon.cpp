// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/beacon.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <poll.h>
#include <random>
#include <sys/socket.h>
#include <sys/un.h>

namespace nx::ucx {

namespace {

// Peers name beacons to us: with this prefix none of them can make us connect to something else.
constexpr std::string_view kPrefix = "nixl-ucx-";
constexpr size_t kRandomDigits = 32;
constexpr int kBacklog = 4096;

socklen_t
fillAddress(sockaddr_un &address, std::string_view name) {
    address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path + 1, name.data(), name.size()); // a leading zero: abstract
    return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
}

Fd
openSocket() {
    return Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

} // namespace

Result<Beacon>
Beacon::create() {
    static const char digits[] = "0123456789abcdef";
    std::string name(kPrefix);
    std::random_device random;
    for (size_t i = 0; i < kRandomDigits; ++i) name += digits[random() & 15];

    Fd listener = openSocket();
    sockaddr_un address;
    const socklen_t size = fillAddress(address, name);
    if (!listener || ::bind(listener.get(), reinterpret_cast<sockaddr *>(&address), size) != 0 ||
        ::listen(listener.get(), kBacklog) != 0) {
        return {NIXL_ERR_BACKEND, withErrno("opening a Unix socket", errno)};
    }
    return Beacon(std::move(name), std::move(listener));
}

void
Beacon::accept() {
    Fd first(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!first) return;
    std::erase_if(watchers_, [](const Fd &watcher) {
        pollfd fd{watcher.get(), POLLIN, 0};
        return ::poll(&fd, 1, 0) > 0;
    });
    watchers_.push_back(std::move(first));
    for (;;) {
        Fd next(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (!next) return;
        watchers_.push_back(std::move(next));
    }
}

Result<Fd>
watchBeacon(std::string_view name) {
    const auto isDigit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
    if (name.size() != kPrefix.size() + kRandomDigits || !name.starts_with(kPrefix) ||
        !std::all_of(name.begin() + kPrefix.size(), name.end(), isDigit)) {
        return {NIXL_ERR_INVALID_PARAM, "not the name of a beacon"};
    }
    Fd socket = openSocket();
    sockaddr_un address;
    const socklen_t size = fillAddress(address, name);
    if (!socket || ::connect(socket.get(), reinterpret_cast<sockaddr *>(&address), size) != 0) {
        return {NIXL_ERR_NOT_FOUND, withErrno("connecting to a beacon", errno)};
    }
    return socket;
}

} // namespace nx::ucx
