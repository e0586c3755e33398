// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/local_socket.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <poll.h>
#include <random>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

namespace nx::kit {

namespace {

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
openSocket(int type) {
    return Fd(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

/// Who is on the other side; a process number of 0: unknown.
ucred
otherSide(int socket) {
    ucred other{};
    socklen_t size = sizeof other;
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &other, &size) != 0) other.pid = 0;
    return other;
}

bool
isOfThisUser(const Fd &socket) {
    const ucred other = otherSide(socket.get());
    return other.pid != 0 && other.uid == ::geteuid();
}

} // namespace

Result<LocalListener>
LocalListener::create(LocalSocketKind kind) {
    static const char digits[] = "0123456789abcdef";
    std::string name(kind.prefix);
    std::random_device random;
    for (size_t i = 0; i < kRandomDigits; ++i) name += digits[random() & 15];

    Fd socket = openSocket(kind.type);
    sockaddr_un address;
    const socklen_t size = fillAddress(address, name);
    if (!socket || ::bind(socket.get(), reinterpret_cast<sockaddr *>(&address), size) != 0 ||
        ::listen(socket.get(), kBacklog) != 0) {
        return {NIXL_ERR_BACKEND, withErrno("opening a Unix socket", errno)};
    }
    return LocalListener(std::move(name), std::move(socket));
}

Result<Fd>
LocalListener::accept() {
    Fd socket(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket && errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) {
        return {NIXL_ERR_BACKEND, withErrno("meeting an engine of this host", errno)};
    }
    if (socket && !isOfThisUser(socket)) return Fd();
    return socket;
}

Status
checkLocalName(LocalSocketKind kind, std::string_view name) {
    const auto isDigit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
    if (name.size() == kind.prefix.size() + kRandomDigits && name.starts_with(kind.prefix) &&
        std::all_of(name.begin() + static_cast<ptrdiff_t>(kind.prefix.size()), name.end(), isDigit)) {
        return {};
    }
    return {NIXL_ERR_MISMATCH, quoted(name) + " is not the name of a socket of this backend"};
}

Result<Fd>
connectLocal(LocalSocketKind kind, std::string_view name) {
    if (Status checked = checkLocalName(kind, name); !checked.ok()) return checked;
    Fd socket = openSocket(kind.type);
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

pid_t
processNumber(int socket) noexcept {
    return otherSide(socket).pid;
}

Fd
processOf(int socket) {
    const pid_t process = processNumber(socket);
    return process == 0 ? Fd() : Fd(static_cast<int>(::syscall(SYS_pidfd_open, process, 0)));
}

void
endSocket(const Fd &socket) noexcept {
    ::shutdown(socket.get(), SHUT_RDWR);
}

bool
hasEnded(const Fd &socket) noexcept {
    pollfd fd{socket.get(), POLLRDHUP, 0};
    return ::poll(&fd, 1, 0) > 0;
}

bool
isClosed(const Fd &socket) noexcept {
    pollfd fd{socket.get(), 0, 0};
    return ::poll(&fd, 1, 0) > 0; // POLLHUP
}

bool
refusesCopies(const Fd &socket) noexcept {
    char byte = 0;
    const iovec here{&byte, 1}, nowhere{nullptr, 1}; // what is allowed fails with EFAULT
    return !hasEnded(socket) && ::process_vm_readv(otherSide(socket.get()).pid, &here, 1, &nowhere, 1, 0) < 0 &&
        errno == EPERM;
}

std::string
hostIdentity() {
    std::string identity;
    std::ifstream("/proc/sys/kernel/random/boot_id") >> identity;
    if (identity.empty()) { // no other process is known to be of this host
        std::random_device random;
        for (int i = 0; i < 4; ++i) identity += std::to_string(random());
    }
    for (const char *kind : {"net", "ipc", "pid", "mnt", "user"}) {
        std::error_code error;
        identity += '/';
        identity += std::filesystem::read_symlink(std::string("/proc/self/ns/") + kind, error).string();
    }
    return identity + "/" + std::to_string(geteuid());
}

} // namespace nx::kit
