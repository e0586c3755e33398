// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "posix/cached_writes.h"

#include <algorithm>
#include <exception>

namespace nx::posix {

Result<std::unique_ptr<Queue>>
CachedWrites::create(std::unique_ptr<Queue> others) {
    try {
        std::unique_ptr<CachedWrites> queue(new CachedWrites(std::move(others)));
        queue->start();
        return std::unique_ptr<Queue>(std::move(queue));
    }
    catch (const std::exception &e) {
        return {NIXL_ERR_BACKEND, "threads for writes: " + std::string(e.what())};
    }
}

CachedWrites::CachedWrites(std::unique_ptr<Queue> others)
    : others_(std::move(others)),
      either_(either(others_->descriptor(), bell_.descriptor())) {
    done_.reserve(depth());
    for (Lane &lane : lanes_) {
        const MutexLock lock(lane.mutex);
        lane.waiting.reserve(depth());
        lane.taken.reserve(depth());
    }
}

void
CachedWrites::start() {
    for (size_t i = 0; i < kLanes; ++i) {
        lanes_[i].thread = Thread("nixl-posix-" + std::to_string(i), [this, i] { run(lanes_[i]); });
    }
}

CachedWrites::~CachedWrites() {
    for (Lane &lane : lanes_) {
        {
            const MutexLock lock(lane.mutex);
            lane.stopping = true;
        }
        lane.changed.notifyOne();
        lane.thread.join();
    }
}

size_t
CachedWrites::submit(std::span<const Operation> operations) noexcept {
    size_t taken = 0;
    while (taken < operations.size()) {
        const auto isOurs = [](const Operation &each) { return each.cached && each.kind == Operation::Kind::kWrite; };
        const auto rest = operations.subspan(taken);
        const bool ours = isOurs(rest.front());
        const auto end =
            std::find_if(rest.begin(), rest.end(), [&](const Operation &each) { return isOurs(each) != ours; });
        const auto alike = rest.first(static_cast<size_t>(end - rest.begin()));
        const size_t count = ours ? give(alike) : others_->submit(alike);
        taken += count;
        if (count < alike.size()) break;
    }
    return taken;
}

size_t
CachedWrites::give(std::span<const Operation> operations) noexcept {
    for (size_t i = 0; i < operations.size();) {
        const int fd = operations[i].fd;
        Lane &lane = lanes_[static_cast<unsigned>(fd) % kLanes];
        {
            const MutexLock lock(lane.mutex);
            for (; i < operations.size() && operations[i].fd == fd; ++i) lane.waiting.push_back(operations[i]);
        }
        lane.changed.notifyOne();
    }
    return operations.size();
}

size_t
CachedWrites::reap(std::span<Completion> completions) noexcept {
    size_t count = others_->reap(completions);
    const MutexLock lock(done_mutex_);
    const size_t more = std::min(completions.size() - count, done_.size());
    std::copy_n(done_.end() - static_cast<ptrdiff_t>(more), more, completions.begin() + static_cast<ptrdiff_t>(count));
    done_.resize(done_.size() - more);
    return count + more;
}

void
CachedWrites::run(Lane &lane) noexcept {
    for (;;) {
        {
            const MutexLock lock(lane.mutex);
            while (lane.waiting.empty() && !lane.stopping) lane.changed.wait(lane.mutex);
            if (lane.waiting.empty()) return;
            lane.taken.swap(lane.waiting);
        }
        for (const Operation &operation : lane.taken) {
            const int64_t result = perform(operation);
            {
                const MutexLock lock(done_mutex_);
                done_.push_back({operation.tag, result});
            }
            bell_.ring();
        }
        lane.taken.clear();
    }
}

} // namespace nx::posix
