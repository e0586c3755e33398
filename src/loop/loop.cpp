// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "loop/loop.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <sys/epoll.h>

namespace nx {

namespace {

constexpr uint64_t kWakeNumber = 0; // watches count from 1

} // namespace

Result<std::unique_ptr<Loop>>
Loop::create() {
    Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
    if (!epoll) return {NIXL_ERR_BACKEND, withErrno("epoll_create1", errno)};
    auto wake = WakeFd::create();
    if (!wake.ok()) return std::move(wake).status();
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = kWakeNumber;
    if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, (*wake).get(), &event) != 0) {
        return {NIXL_ERR_BACKEND, withErrno("epoll_ctl", errno)};
    }
    return std::unique_ptr<Loop>(new Loop(std::move(epoll), *std::move(wake)));
}

void
Loop::run() {
    for (;;) {
        runPosted();
        runTimers();
        {
            const MutexLock lock(mutex_);
            if (stopped_ && posted_.empty()) return;
        }
        std::array<epoll_event, 64> events;
        const int count = ::epoll_wait(epoll_.get(), events.data(), events.size(), sleepTime());
        for (int i = 0; i < count; ++i) {
            const uint64_t number = events[i].data.u64;
            if (number == kWakeNumber) {
                wake_.drain();
                continue;
            }
            // A callback before this one may have unwatched it.
            const auto it = watches_.find(number);
            if (it == watches_.end()) continue;
            const auto ready = it->second.ready; // outlives its own unwatching
            (*ready)(events[i].events);
        }
    }
}

void
Loop::stop() {
    {
        const MutexLock lock(mutex_);
        stopped_ = true;
    }
    wake_.wake();
}

void
Loop::post(Task task) {
    {
        const MutexLock lock(mutex_);
        posted_.push_back(std::move(task));
    }
    wake_.wake();
}

void
Loop::runPosted() {
    std::vector<Task> tasks;
    {
        const MutexLock lock(mutex_);
        tasks.swap(posted_);
    }
    for (const auto &task : tasks) task();
}

Status
Loop::watch(int fd, uint32_t events, Ready ready) {
    const uint64_t number = ++last_id_;
    epoll_event event{};
    event.events = events;
    event.data.u64 = number;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
        return {NIXL_ERR_BACKEND, withErrno("epoll_ctl", errno)};
    }
    watches_.emplace(number, Watch{fd, std::make_shared<Ready>(std::move(ready))});
    numbers_[fd] = number;
    return {};
}

void
Loop::change(int fd, uint32_t events) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = numbers_.at(fd);
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void
Loop::unwatch(int fd) {
    const auto it = numbers_.find(fd);
    if (it == numbers_.end()) return;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
    watches_.erase(it->second);
    numbers_.erase(it);
}

Loop::Timer
Loop::after(std::chrono::milliseconds delay, Task task) {
    const Timer timer = ++last_id_;
    const auto due = Clock::now() + delay;
    timers_.emplace(std::pair(due, timer), std::move(task));
    due_.emplace(timer, due);
    return timer;
}

void
Loop::cancel(Timer timer) {
    const auto it = due_.find(timer);
    if (it == due_.end()) return;
    timers_.erase({it->second, timer});
    due_.erase(it);
}

void
Loop::runTimers() {
    const auto now = Clock::now();
    while (!timers_.empty() && timers_.begin()->first.first <= now) {
        auto entry = timers_.extract(timers_.begin());
        due_.erase(entry.key().second);
        entry.mapped()();
    }
}

/// In milliseconds, as epoll wants it: rounded up, so that a timer is due when we wake for it.
int
Loop::sleepTime() const {
    if (timers_.empty()) return -1;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(timers_.begin()->first.first - Clock::now());
    return static_cast<int>(std::clamp<int64_t>(left.count(), 0, 60'000));
}

} // namespace nx
