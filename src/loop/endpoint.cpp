// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "loop/endpoint.h"

#include <arpa/inet.h>
#include <csignal>
#include <cstring>
#include <netinet/in.h>

namespace nx {

namespace {

constexpr size_t kHostBytesMax = 253; // of a host name
constexpr std::chrono::milliseconds kLookupInterval{5};

bool
isHostByte(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
        c == '_' || c == ':' || c == '%';
}

std::string
joined(const std::string &host, uint16_t port) {
    const bool colons = host.find(':') != std::string::npos;
    return (colons ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

addrinfo
hints(int flags) {
    addrinfo wanted{};
    wanted.ai_family = AF_UNSPEC;
    wanted.ai_socktype = SOCK_STREAM;
    wanted.ai_flags = flags;
    return wanted;
}

std::vector<SocketAddress>
addressesOf(const addrinfo *list) {
    std::vector<SocketAddress> addresses;
    for (const auto *entry = list; entry; entry = entry->ai_next) {
        if (entry->ai_addrlen > sizeof(sockaddr_storage)) continue;
        SocketAddress address;
        std::memcpy(&address.storage, entry->ai_addr, entry->ai_addrlen);
        address.size = entry->ai_addrlen;
        addresses.push_back(address);
    }
    return addresses;
}

} // namespace

std::string
Endpoint::text() const {
    return joined(host, port);
}

Result<Endpoint>
Endpoint::make(const std::string &host, int port) {
    if (port < 1 || port > UINT16_MAX) {
        return {NIXL_ERR_INVALID_PARAM, "port " + std::to_string(port) + " is none; give one of 1 to 65535"};
    }
    std::string bare = host;
    if (bare.size() > 2 && bare.front() == '[' && bare.back() == ']') bare = bare.substr(1, bare.size() - 2);
    if (bare.empty() || bare.size() > kHostBytesMax || !std::all_of(bare.begin(), bare.end(), isHostByte)) {
        return {NIXL_ERR_INVALID_PARAM, "host " + quoted(host) + " is neither an address nor the name of a host"};
    }
    return Endpoint{std::move(bare), static_cast<uint16_t>(port)};
}

std::string
SocketAddress::host() const {
    char text[INET6_ADDRSTRLEN] = "";
    if (storage.ss_family == AF_INET) {
        ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in &>(storage).sin_addr, text, sizeof text);
    } else if (storage.ss_family == AF_INET6) {
        const auto &address = reinterpret_cast<const sockaddr_in6 &>(storage).sin6_addr;
        if (IN6_IS_ADDR_V4MAPPED(&address)) {
            ::inet_ntop(AF_INET, address.s6_addr + 12, text, sizeof text);
        } else {
            ::inet_ntop(AF_INET6, &address, text, sizeof text);
        }
    }
    return text;
}

uint16_t
SocketAddress::port() const noexcept {
    return ntohs(storage.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6 &>(storage).sin6_port
                                               : reinterpret_cast<const sockaddr_in &>(storage).sin_port);
}

std::string
SocketAddress::text() const {
    return joined(host(), port());
}

Result<SocketAddress>
SocketAddress::numeric(const std::string &host, uint16_t port) {
    const auto wanted = hints(AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE);
    addrinfo *found = nullptr;
    const int error = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &wanted, &found);
    if (error != 0) {
        return {NIXL_ERR_INVALID_PARAM,
                quoted(host) + " is no numeric address of IPv4 or IPv6: " + ::gai_strerror(error)};
    }
    const auto addresses = addressesOf(found);
    ::freeaddrinfo(found);
    return addresses.front();
}

std::string
SocketAddress::network() const {
    const auto bytes = [](const void *start, size_t count) {
        return std::string(static_cast<const char *>(start), count);
    };
    if (storage.ss_family == AF_INET) {
        return bytes(&reinterpret_cast<const sockaddr_in &>(storage).sin_addr, sizeof(in_addr));
    }
    const auto &address = reinterpret_cast<const sockaddr_in6 &>(storage).sin6_addr;
    if (IN6_IS_ADDR_V4MAPPED(&address)) return bytes(address.s6_addr + 12, sizeof(in_addr));
    return bytes(address.s6_addr, sizeof address / 2);
}

// ---- Lookup --------------------------------------------------------------------------------------------------------

/// What the C library works on; it must stay in place until the library is done with it.
struct Lookup::Request {
    std::string host, service;
    addrinfo wanted = hints(AI_ADDRCONFIG);
    gaicb work{};

    Status
    start() {
        work.ar_name = host.c_str();
        work.ar_service = service.c_str();
        work.ar_request = &wanted;
        gaicb *list[] = {&work};
        // The library's threads inherit our mask: a program's signals belong to its own threads.
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        const int error = ::getaddrinfo_a(GAI_NOWAIT, list, 1, nullptr);
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        if (error != 0) return {NIXL_ERR_BACKEND, std::string("getaddrinfo_a: ") + ::gai_strerror(error)};
        return {};
    }

    ~Request() {
        if (work.ar_result) ::freeaddrinfo(work.ar_result);
    }
};

Lookup::Lookup(Loop &loop, const Endpoint &endpoint, Done done)
    : loop_(loop),
      endpoint_(endpoint),
      done_(std::move(done)) {
    timer_ = loop_.after(std::chrono::milliseconds(0), [this] { poll(); });
}

Lookup::~Lookup() {
    loop_.cancel(timer_);
    if (!request_) return;
    // The library is still at it and cannot be stopped: its memory is left to it. Rare, small, and the end of a name
    // server that does not answer.
    if (::gai_error(&request_->work) == EAI_INPROGRESS && ::gai_cancel(&request_->work) == EAI_NOTCANCELED) {
        static_cast<void>(request_.release());
    }
}

void
Lookup::poll() {
    timer_ = 0;
    int error;
    if (!request_) {
        const auto wanted = hints(AI_NUMERICHOST | AI_NUMERICSERV);
        addrinfo *found = nullptr;
        error = ::getaddrinfo(endpoint_.host.c_str(), std::to_string(endpoint_.port).c_str(), &wanted, &found);
        if (error == 0) {
            auto addresses = addressesOf(found);
            ::freeaddrinfo(found);
            return done_(std::move(addresses));
        }
        request_ = std::make_unique<Request>();
        request_->host = endpoint_.host;
        request_->service = std::to_string(endpoint_.port);
        if (auto status = request_->start(); !status.ok()) {
            request_.reset();
            return done_(std::move(status));
        }
    }
    error = ::gai_error(&request_->work);
    if (error == EAI_INPROGRESS) {
        timer_ = loop_.after(kLookupInterval, [this] { poll(); });
        return;
    }
    const auto request = std::move(request_);
    if (error != 0) {
        return done_(Status(NIXL_ERR_NOT_FOUND,
                            "host '" + endpoint_.host + "' was not found: " +
                                (error == EAI_SYSTEM ? withErrno("getaddrinfo", errno) : ::gai_strerror(error))));
    }
    done_(addressesOf(request->work.ar_result));
}

} // namespace nx
