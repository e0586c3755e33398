// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/link.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <poll.h>
#include <random>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "ucx/peer_info.h"

namespace nx::ucx {

namespace {

// Peers name listeners to us: with this prefix none of them can make us connect to something else.
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
    return Fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

/// Who is on the other side; a process number of 0: unknown.
ucred
otherSide(int link) {
    ucred other{};
    socklen_t size = sizeof other;
    if (::getsockopt(link, SOL_SOCKET, SO_PEERCRED, &other, &size) != 0) other.pid = 0;
    return other;
}

bool
isOfThisUser(const Fd &link) {
    const ucred other = otherSide(link.get());
    return other.pid != 0 && other.uid == ::geteuid();
}

} // namespace

Result<LinkListener>
LinkListener::create() {
    static const char digits[] = "0123456789abcdef";
    std::string name(kPrefix);
    std::random_device random;
    for (size_t i = 0; i < kRandomDigits; ++i) name += digits[random() & 15];

    Fd socket = openSocket();
    sockaddr_un address;
    const socklen_t size = fillAddress(address, name);
    if (!socket || ::bind(socket.get(), reinterpret_cast<sockaddr *>(&address), size) != 0 ||
        ::listen(socket.get(), kBacklog) != 0) {
        return {NIXL_ERR_BACKEND, withErrno("opening a Unix socket", errno)};
    }
    return LinkListener(std::move(name), std::move(socket));
}

Result<Fd>
LinkListener::accept() {
    Fd link(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!link && errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) {
        return {NIXL_ERR_BACKEND, withErrno("meeting an engine of this host", errno)};
    }
    if (link && !isOfThisUser(link)) return Fd();
    return link;
}

Result<Fd>
connectLink(std::string_view name) {
    const auto isDigit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
    if (name.size() != kPrefix.size() + kRandomDigits || !name.starts_with(kPrefix) ||
        !std::all_of(name.begin() + kPrefix.size(), name.end(), isDigit)) {
        return {NIXL_ERR_INVALID_PARAM, "not the name of a listener for links"};
    }
    Fd socket = openSocket();
    sockaddr_un address;
    const socklen_t size = fillAddress(address, name);
    if (!socket || ::connect(socket.get(), reinterpret_cast<sockaddr *>(&address), size) != 0) {
        // It listens from its start to its end.
        if (socket && errno == ECONNREFUSED) return {NIXL_ERR_REMOTE_DISCONNECT, "its process has ended"};
        return {NIXL_ERR_NOT_FOUND, withErrno("connecting to its engine", errno)};
    }
    if (!isOfThisUser(socket)) return {NIXL_ERR_NOT_FOUND, "another user's process listens in its engine's place"};
    if (::kill(otherSide(socket.get()).pid, 0) != 0 && errno == ESRCH) { // a child of it holds the socket
        return {NIXL_ERR_REMOTE_DISCONNECT, "its process has ended"};
    }
    return socket;
}

Status
sendOffer(const Fd &link, const std::vector<std::string> &addresses) {
    const std::string bytes = encodeOffer(addresses);
    if (::send(link.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size())) return {};
    return {NIXL_ERR_BACKEND, withErrno("answering an engine of this host", errno)};
}

Result<std::vector<std::string>>
receiveOffer(const Fd &link, std::chrono::milliseconds limit) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    pollfd fd{link.get(), POLLIN, 0};
    for (int ready = -1; ready <= 0;) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
        ready = ::poll(&fd, 1, static_cast<int>(std::max<int64_t>(left.count(), 0)));
        const bool interrupted = ready < 0 && errno == EINTR;
        if (ready <= 0 && !interrupted) return {NIXL_ERR_NOT_FOUND, "its process does not answer"};
    }
    std::string bytes(kOfferBytesMax, '\0');
    const ssize_t size = ::recv(link.get(), bytes.data(), bytes.size(), 0);
    if (size <= 0) return {NIXL_ERR_NOT_FOUND, "its engine has ended"};
    bytes.resize(static_cast<size_t>(size));
    return decodeOffer(bytes);
}

Fd
processOf(int link) {
    const pid_t process = otherSide(link).pid;
    return process == 0 ? Fd() : Fd(static_cast<int>(::syscall(SYS_pidfd_open, process, 0)));
}

bool
refusesCopies(const Fd &link) noexcept {
    char byte = 0;
    const iovec here{&byte, 1}, nowhere{nullptr, 1}; // what is allowed fails with EFAULT
    return !hasEnded(link) && ::process_vm_readv(otherSide(link.get()).pid, &here, 1, &nowhere, 1, 0) < 0 &&
        errno == EPERM;
}

void
endLink(const Fd &link) noexcept {
    ::shutdown(link.get(), SHUT_RDWR);
}

bool
hasEnded(const Fd &link) noexcept {
    pollfd fd{link.get(), POLLRDHUP, 0};
    return ::poll(&fd, 1, 0) > 0;
}

bool
isClosed(const Fd &link) noexcept {
    pollfd fd{link.get(), 0, 0};
    return ::poll(&fd, 1, 0) > 0; // POLLHUP
}

} // namespace nx::ucx
