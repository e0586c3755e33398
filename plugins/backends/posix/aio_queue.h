// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A queue of Linux AIO, by its system calls: a library would add nothing to these. It is asynchronous for direct I/O;
// of files in the page cache its submit() does the work, and may wait for the disk. Owned by one caller at a time.
#pragma once

#include <linux/aio_abi.h>
#include <vector>

#include "base/fd.h"
#include "posix/queue.h"

namespace nx::posix {

class AioQueue final : public Queue {
public:
    /// BACKEND: the kernel refuses it.
    static Result<std::unique_ptr<Queue>>
    create(unsigned depth);
    ~AioQueue() override;

    const char *
    name() const noexcept override {
        return "Linux AIO";
    }
    size_t
    depth() const noexcept override {
        return blocks_.size();
    }
    size_t
    submit(std::span<const Operation> operations) noexcept override;
    size_t
    reap(std::span<Completion> completions) noexcept override;
    int
    descriptor() const noexcept override {
        return wake_.get();
    }
    bool
    arm() noexcept override;

private:
    AioQueue(unsigned depth, WakeFd wake);
    void
    collect() noexcept;

    aio_context_t context_ = 0;
    const WakeFd wake_;
    std::vector<iocb> blocks_;     ///< by tag
    std::vector<Completion> done_; ///< to be reaped; room for all from the beginning
    size_t in_flight_ = 0;         ///< in the kernel or in done_
};

} // namespace nx::posix
