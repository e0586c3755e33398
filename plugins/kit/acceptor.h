// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Lets in who connects to a listener, one at a time, so that what else the loop is to do comes in between, however many
// connect. Confined to the loop's thread, or to whoever has the loop before it runs and after.
#pragma once

#include <functional>
#include <string>

#include "kit/local_socket.h"
#include "loop/loop.h"

namespace nx::kit {

class Acceptor {
public:
    /// Gets the socket of each. It may throw.
    using Met = std::function<void(Fd socket)>;

    /// `loop` outlives it. `owner` is named in the log: "ucx: agent 'x'".
    Acceptor(Loop &loop, LocalListener listener, std::string owner, Met met)
        : loop_(loop),
          listener_(std::move(listener)),
          owner_(std::move(owner)),
          met_(std::move(met)) {}
    Acceptor(const Acceptor &) = delete;
    Acceptor &
    operator=(const Acceptor &) = delete;

    /// What peers are told. Any thread.
    const std::string &
    name() const noexcept {
        return listener_.name();
    }

    /// From now on. When the system refuses a socket or its memory it goes on 100 ms later.
    void
    start();

    /// From now on nobody is met; who connects waits in vain.
    void
    stop();

private:
    void
    meet();

    Loop &loop_;
    LocalListener listener_;
    const std::string owner_;
    const Met met_;
    bool stopped_ = false;
};

} // namespace nx::kit
