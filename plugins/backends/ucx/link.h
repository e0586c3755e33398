// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// How engines of one host meet. Each listens on a Unix socket with a random abstract name; who wants to reach it over
// shared memory connects and is sent an offer: the addresses of workers that serve this link alone. Nothing else is
// ever exchanged. Either side learns of the other's end at once, with its process or without: UCX notices a closed
// engine never, and its look after dead processes is off for peers of the host.
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace nx::ucx {

/// Owned by one caller.
class LinkListener {
public:
    static Result<LinkListener>
    create();

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

    /// The next who has connected; none: nobody has, or it was a process of another user, which is sent away. BACKEND:
    /// the system refuses. Does not block.
    Result<Fd>
    accept();

private:
    LinkListener(std::string name, Fd socket) : name_(std::move(name)), socket_(std::move(socket)) {}

    std::string name_;
    Fd socket_;
};

/// REMOTE_DISCONNECT: nobody listens there any more. NOT_FOUND: it cannot be reached, or is not of this user.
/// INVALID_PARAM: `name` is not that of a listener. Does not block.
Result<Fd>
connectLink(std::string_view name);

/// Does not block. BACKEND: the other side is gone, or the system refuses.
Status
sendOffer(const Fd &link, const std::vector<std::string> &addresses);

/// Waits for it. The addresses are checked; none: the other side has no shared memory to offer. NOT_FOUND: the other
/// side is gone or says nothing for so long. MISMATCH: it sent something else.
Result<std::vector<std::string>>
receiveOffer(const Fd &link, std::chrono::milliseconds limit);

/// Readable when the process on the other side has ended, even if a child of it keeps the link open. None: this system
/// cannot tell.
Fd
processOf(int link);

/// Ends this side of the link for the other one, even if a child of this process keeps it open.
void
endLink(const Fd &link) noexcept;

/// The other side has ended the link, or is gone.
bool
hasEnded(const Fd &link) noexcept;

/// The other side lives, and the system forbids to copy from its memory.
bool
refusesCopies(const Fd &link) noexcept;

/// The other side is gone.
bool
isClosed(const Fd &link) noexcept;

} // namespace nx::ucx
