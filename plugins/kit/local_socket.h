// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// How processes of one host and one user meet: a Unix socket with a random abstract name, which their agents' metadata
// tells. Either side learns of the other's end at once, with its process or without. Plain functions; a listener is
// owned by one caller.
#pragma once

#include <string>
#include <string_view>
#include <sys/types.h>

#include "base/error.h"
#include "base/fd.h"

namespace nx::kit {

/// What sockets of one kind have in common: how their names begin ("nixl-ucx-"), so that no peer can make us connect
/// to something else, and their type (SOCK_STREAM, SOCK_SEQPACKET).
struct LocalSocketKind {
    std::string_view prefix;
    int type;
};

class LocalListener {
public:
    /// BACKEND: the system refuses.
    static Result<LocalListener>
    create(LocalSocketKind kind);

    /// What peers are told.
    const std::string &
    name() const noexcept {
        return name_;
    }

    /// Readable when somebody has connected.
    int
    get() const noexcept {
        return socket_.get();
    }

    /// The next who has connected, non-blocking; none: nobody has, or it was a process of another user, which is sent
    /// away. BACKEND: the system refuses. Does not block.
    Result<Fd>
    accept();

private:
    LocalListener(std::string name, Fd socket) : name_(std::move(name)), socket_(std::move(socket)) {}

    std::string name_;
    Fd socket_;
};

/// MISMATCH: it cannot be the name of a listener of this kind.
Status
checkLocalName(LocalSocketKind kind, std::string_view name);

/// A non-blocking socket. REMOTE_DISCONNECT: nobody listens there any more. NOT_FOUND: it cannot be reached, or is not
/// of this user. MISMATCH: see checkLocalName. Does not block.
Result<Fd>
connectLocal(LocalSocketKind kind, std::string_view name);

/// The process on the other side; 0: not known, or of another namespace.
pid_t
processNumber(int socket) noexcept;

/// Readable when the process on the other side has ended, even if a child of it keeps the socket open. None: this
/// system cannot tell.
Fd
processOf(int socket);

/// Ends this side for the other one, even if a child of this process keeps the socket open.
void
endSocket(const Fd &socket) noexcept;

/// The other side has ended the connection, in its direction at least, or is gone.
bool
hasEnded(const Fd &socket) noexcept;

/// The other side is gone.
bool
isClosed(const Fd &socket) noexcept;

/// The other side lives, and the system forbids to copy from its memory.
bool
refusesCopies(const Fd &socket) noexcept;

/// Processes with equal identities may share memory: same boot of a machine, same namespaces, same user.
std::string
hostIdentity();

} // namespace nx::kit
