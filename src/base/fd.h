// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// An owned file descriptor, closed when it goes. Every descriptor of ours is close-on-exec.
#pragma once

#include <utility>

#include "base/error.h"

namespace nx {

class Fd {
public:
    Fd() noexcept = default;
    explicit Fd(int fd) noexcept : fd_(fd) {}
    Fd(Fd &&other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Fd &
    operator=(Fd &&other) noexcept;
    ~Fd();

    int
    get() const noexcept {
        return fd_;
    }

    explicit
    operator bool() const noexcept {
        return fd_ >= 0;
    }

    void
    reset() noexcept;

    /// The caller closes it.
    int
    release() noexcept {
        return std::exchange(fd_, -1);
    }

private:
    int fd_ = -1;
};

/// A non-blocking eventfd: the way to wake a thread that sleeps in poll.
class WakeFd {
public:
    static Result<WakeFd>
    create();

    int
    get() const noexcept {
        return fd_.get();
    }

    /// Makes the descriptor readable. Any thread; never blocks.
    void
    wake() const noexcept;

    /// Makes it unreadable again.
    void
    drain() const noexcept;

private:
    explicit WakeFd(Fd fd) noexcept : fd_(std::move(fd)) {}
    Fd fd_;
};

} // namespace nx
