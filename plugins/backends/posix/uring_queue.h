// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A queue of the kernel's io_uring. Owned by one caller at a time.
#pragma once

#include <liburing.h>

#include "posix/queue.h"

namespace nx::posix {

class UringQueue final : public Queue {
public:
    /// BACKEND: the kernel refuses io_uring, or what is needed of it; found out by using it.
    static Result<std::unique_ptr<Queue>>
    create(unsigned depth);
    ~UringQueue() override;

    const char *
    name() const noexcept override {
        return "io_uring";
    }
    size_t
    depth() const noexcept override {
        return depth_;
    }
    size_t
    submit(std::span<const Operation> operations) noexcept override;
    size_t
    reap(std::span<Completion> completions) noexcept override;
    int
    descriptor() const noexcept override {
        return ring_.ring_fd;
    }
    bool
    arm() noexcept override;

private:
    UringQueue() = default;
    Status
    open(unsigned depth);
    Status
    tryIt();
    void
    flush() noexcept;

    io_uring ring_{};
    bool is_open_ = false;
    size_t depth_ = 0;
    size_t in_flight_ = 0;
    size_t unsubmitted_ = 0; ///< taken, and not seen by the kernel yet
};

} // namespace nx::posix
