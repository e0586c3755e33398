// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// How engines of one host meet. Each listens on a Unix socket with a random abstract name; who wants to reach it over
// shared memory connects and is sent an offer: the addresses of workers that serve this link alone. Nothing else is
// ever exchanged. Either side reads end-of-file when the other is gone, with its process or without: UCX itself
// notices a dead process after about a second and a closed engine never.
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

    /// The next who has connected; none: nobody has. Processes of other users are sent away. Does not block.
    Fd
    accept();

private:
    LinkListener(std::string name, Fd socket) : name_(std::move(name)), socket_(std::move(socket)) {}

    std::string name_;
    Fd socket_;
};

/// NOT_FOUND: nobody listens there any more, or it cannot be reached. INVALID_PARAM: `name` is not one of a listener.
/// Does not block.
Result<Fd>
connectLink(std::string_view name);

/// Does not block. BACKEND: the other side is gone, or the system refuses.
Status
sendOffer(const Fd &link, const std::vector<std::string> &addresses);

/// Waits for it. The addresses are checked; none: the other side has no shared memory to offer. NOT_FOUND: the other
/// side is gone or says nothing for so long. MISMATCH: it sent something else.
Result<std::vector<std::string>>
receiveOffer(const Fd &link, std::chrono::milliseconds limit);

/// The other side has ended the link, or is gone.
bool
hasEnded(const Fd &link) noexcept;

/// The other side is gone.
bool
isClosed(const Fd &link) noexcept;

} // namespace nx::ucx
