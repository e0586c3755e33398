// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// One event loop: descriptors, timers, tasks from other threads. Sleeps in epoll; an idle loop uses no processor.
// Confined to the thread that calls run(), except post() and stop(). Callbacks may watch, unwatch and cancel anything,
// themselves included. A callback must not throw.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "base/mutex.h"

namespace nx {

class Loop {
public:
    using Clock = std::chrono::steady_clock;
    using Task = std::function<void()>;
    using Ready = std::function<void(uint32_t events)>; ///< gets epoll's event bits
    using Timer = uint64_t;                             ///< never 0

    static Result<std::unique_ptr<Loop>>
    create();
    Loop(const Loop &) = delete;
    Loop &
    operator=(const Loop &) = delete;

    /// Runs until stop(); what was posted before the stop is done first.
    void
    run();

    /// Any thread.
    void
    stop();

    /// Runs `task` on the loop's thread, after those posted before. Any thread.
    void
    post(Task task);

    /// Calls `ready` while one of `events` (EPOLLIN, EPOLLOUT; level-triggered) holds, or the descriptor is in error.
    /// The descriptor stays the caller's, who unwatches it before closing it.
    Status
    watch(int fd, uint32_t events, Ready ready);
    /// Requires that `fd` is watched.
    void
    change(int fd, uint32_t events);
    /// No effect if it is not watched.
    void
    unwatch(int fd);

    /// Once, `delay` from now.
    Timer
    after(std::chrono::milliseconds delay, Task task);
    /// No effect for one that is over, or 0.
    void
    cancel(Timer timer);

private:
    struct Watch {
        int fd;
        std::shared_ptr<Ready> ready;
    };

    Loop(Fd epoll, WakeFd wake) : epoll_(std::move(epoll)), wake_(std::move(wake)) {}

    void
    runPosted() NX_EXCLUDES(mutex_);
    void
    runTimers();
    int
    sleepTime() const;

    const Fd epoll_;
    const WakeFd wake_;

    // Confined:
    uint64_t last_id_ = 0;
    std::unordered_map<uint64_t, Watch> watches_; ///< by the number that epoll hands back: never one of an older watch
    std::unordered_map<int, uint64_t> numbers_;   ///< by descriptor
    std::map<std::pair<Clock::time_point, Timer>, Task> timers_;
    std::unordered_map<Timer, Clock::time_point> due_;

    Mutex mutex_;
    std::vector<Task> posted_ NX_GUARDED_BY(mutex_);
    bool stopped_ NX_GUARDED_BY(mutex_) = false;
};

} // namespace nx
