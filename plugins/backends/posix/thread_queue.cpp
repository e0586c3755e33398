// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "posix/thread_queue.h"

#include <algorithm>
#include <exception>

namespace nx::posix {

Result<std::unique_ptr<Queue>>
ThreadQueue::create(unsigned thread_count) {
    try {
        std::unique_ptr<ThreadQueue> queue(new ThreadQueue(thread_count));
        queue->start();
        return std::unique_ptr<Queue>(std::move(queue));
    }
    catch (const std::exception &e) {
        return {NIXL_ERR_BACKEND, "threads for files: " + std::string(e.what())};
    }
}

ThreadQueue::ThreadQueue(unsigned thread_count) : depth_(thread_count) {
    waiting_.reserve(depth_);
    done_.reserve(depth_);
    threads_.reserve(depth_);
}

void
ThreadQueue::start() {
    for (size_t i = 0; i < depth_; ++i) {
        threads_.emplace_back("nixl-posix-" + std::to_string(i), [this] { run(); });
    }
}

ThreadQueue::~ThreadQueue() {
    {
        const MutexLock lock(mutex_);
        stopping_ = true;
    }
    changed_.notifyAll();
    for (Thread &thread : threads_) thread.join();
}

size_t
ThreadQueue::submit(std::span<const Operation> operations) noexcept {
    size_t taken = 0;
    {
        const MutexLock lock(mutex_);
        taken = std::min(operations.size(), depth_ - in_flight_);
        waiting_.insert(waiting_.end(), operations.begin(), operations.begin() + static_cast<ptrdiff_t>(taken));
        in_flight_ += taken;
    }
    for (size_t i = 0; i < taken; ++i) changed_.notifyOne();
    return taken;
}

size_t
ThreadQueue::reap(std::span<Completion> completions) noexcept {
    const MutexLock lock(mutex_);
    const size_t count = std::min(completions.size(), done_.size());
    const auto end = done_.begin() + static_cast<ptrdiff_t>(count);
    std::copy(done_.begin(), end, completions.begin());
    done_.erase(done_.begin(), end);
    in_flight_ -= count;
    return count;
}

void
ThreadQueue::run() noexcept {
    for (;;) {
        Operation operation;
        {
            const MutexLock lock(mutex_);
            while (waiting_.empty() && !stopping_) changed_.wait(mutex_);
            if (waiting_.empty()) return;
            operation = waiting_.front();
            waiting_.erase(waiting_.begin());
        }
        const int64_t result = perform(operation);
        {
            const MutexLock lock(mutex_);
            done_.push_back({operation.tag, result});
        }
        bell_.ring();
    }
}

} // namespace nx::posix
