// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Another queue, and beside it threads of ours for writes into the page cache. Many file systems (ext4) cannot say of
// such a write that it will not wait, so io_uring gives each one to a thread of the kernel, which costs several times
// what the write does. Here a file's writes are one thread's, in lanes, and handed over many at a time; a file that
// hangs holds up its lane. One caller at a time; the threads take work and leave completions under mutexes.
#pragma once

#include <array>
#include <vector>

#include "base/fd.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "kit/bell.h"
#include "posix/queue.h"

namespace nx::posix {

class CachedWrites final : public Queue {
public:
    /// BACKEND: the system refuses threads or descriptors.
    static Result<std::unique_ptr<Queue>>
    create(std::unique_ptr<Queue> others);
    ~CachedWrites() override;

    const char *
    name() const noexcept override {
        return others_->name();
    }
    size_t
    depth() const noexcept override {
        return others_->depth();
    }
    size_t
    submit(std::span<const Operation> operations) noexcept override;
    size_t
    reap(std::span<Completion> completions) noexcept override;
    int
    descriptor() const noexcept override {
        return either_.get();
    }
    bool
    arm() noexcept override {
        return others_->arm() && bell_.arm();
    }

private:
    static constexpr size_t kLanes = 4;

    // Vectors have room for depth() from the beginning.
    struct Lane {
        Mutex mutex;
        CondVar changed;
        std::vector<Operation> waiting NX_GUARDED_BY(mutex);
        bool stopping NX_GUARDED_BY(mutex) = false;
        std::vector<Operation> taken; ///< the thread's
        Thread thread;
    };

    explicit CachedWrites(std::unique_ptr<Queue> others);
    void
    start();
    void
    run(Lane &lane) noexcept;
    size_t
    give(std::span<const Operation> operations) noexcept;

    const std::unique_ptr<Queue> others_;
    kit::Bell bell_;
    const Fd either_;
    Mutex done_mutex_;
    std::vector<Completion> done_ NX_GUARDED_BY(done_mutex_);
    std::array<Lane, kLanes> lanes_; ///< last: their threads use the others
};

} // namespace nx::posix
