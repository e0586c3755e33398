// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A queue of threads that call preadv and pwritev, for where the kernel offers nothing better. One caller at a time;
// its threads take work and leave completions under a mutex.
#pragma once

#include <vector>

#include "base/mutex.h"
#include "base/thread.h"
#include "kit/bell.h"
#include "posix/queue.h"

namespace nx::posix {

class ThreadQueue final : public Queue {
public:
    /// BACKEND: the system refuses threads.
    static Result<std::unique_ptr<Queue>>
    create(unsigned thread_count);
    ~ThreadQueue() override;

    const char *
    name() const noexcept override {
        return "threads";
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
        return bell_.descriptor();
    }
    bool
    arm() noexcept override {
        return bell_.arm();
    }

private:
    explicit ThreadQueue(unsigned thread_count);
    void
    start();
    void
    run() noexcept;

    const size_t depth_; ///< a thread for each: who waits in here would wait behind a file that hangs
    kit::Bell bell_;
    Mutex mutex_;
    CondVar changed_;
    // With room for depth_ from the beginning.
    std::vector<Operation> waiting_ NX_GUARDED_BY(mutex_);
    std::vector<Completion> done_ NX_GUARDED_BY(mutex_);
    size_t in_flight_ NX_GUARDED_BY(mutex_) = 0; ///< submitted and not reaped
    bool stopping_ NX_GUARDED_BY(mutex_) = false;
    std::vector<Thread> threads_; ///< last: they use the others
};

} // namespace nx::posix
