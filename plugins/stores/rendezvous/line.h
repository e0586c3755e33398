// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A connection that carries messages, either way, and never blocks. Confined to its loop.
#pragma once

#include <deque>
#include <functional>
#include <memory>

#include "base/fd.h"
#include "loop/loop.h"
#include "rendezvous/messages.h"

namespace nx::rendezvous {

class Line : public std::enable_shared_from_this<Line> {
public:
    using Time = Loop::Clock::time_point;

    struct Owner {
        std::function<void(Line &, const Message &)> message; ///< may close the line
        /// It ended by itself, and is closed. Not called for close().
        std::function<void(Line &, const Status &why)> end;
        std::function<void(Line &)> arrived; ///< bytes have; may be empty, may close the line
    };

    /// `connecting`: the socket is not connected yet. `polite`: nothing is read while the other side does not take what
    /// was sent to it, so that it cannot make answers pile up.
    static Result<std::shared_ptr<Line>>
    open(Loop &loop, Fd socket, bool connecting, bool polite, Owner owner);
    ~Line();
    Line(const Line &) = delete;
    Line &
    operator=(const Line &) = delete;

    void
    send(const Message &message);
    void
    close();

    bool
    isOpen() const noexcept {
        return static_cast<bool>(socket_);
    }

    int
    fd() const noexcept {
        return socket_.get();
    }

    /// When bytes came last, or were taken by the other side while it had some to take.
    Time
    heard() const noexcept {
        return heard_;
    }

    /// Memory of what arrived and is no whole message yet.
    size_t
    buffered() const noexcept {
        return in_.buffered();
    }

private:
    Line(Loop &loop, Fd socket, bool connecting, bool polite, Owner owner);

    void
    onReady(uint32_t events);
    void
    read();
    void
    giveOut();
    void
    write();
    void
    watchSocket();
    void
    end(const Status &why);

    Loop &loop_;
    Fd socket_;
    bool connecting_;
    const bool polite_;
    const Owner owner_;
    Reader in_;
    std::deque<Blob> out_;
    size_t out_sent_ = 0; ///< of the first
    size_t out_bytes_ = 0;
    uint32_t events_ = 0;
    Time heard_ = Loop::Clock::now();
};

} // namespace nx::rendezvous
