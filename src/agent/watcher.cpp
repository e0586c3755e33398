// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/watcher.h"

#include <algorithm>
#include <system_error>

#include "base/error.h"
#include "utils/common/nixl_log.h"

namespace nx::agent {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kNever = milliseconds::max();
// Of its time it spends one part in so many on looking, however many requests there are.
constexpr int kRest = 20;
// Before it sleeps longer than before it says so, and looks once more after this time: by then it sees the requests of
// those who had not seen that.
constexpr milliseconds kGrace{10};

} // namespace

void
Watcher::stop() noexcept {
    {
        std::lock_guard lock(mutex_);
        stop_ = true;
        every_ = milliseconds(0); // nobody is shorter
    }
    wake_.notify_one();
    thread_.join();
}

void
Watcher::hurry(milliseconds every) noexcept {
    std::lock_guard lock(mutex_);
    if (stop_ || every >= every_.load(std::memory_order_relaxed)) return;
    every_ = every;
    hurried_ = true;
    if (thread_.joinable()) return wake_.notify_one();
    try {
        thread_ = Thread("nixl-limits", [this] { run(); });
    }
    catch (const std::system_error &error) {
        every_ = milliseconds(0); // not again and again
        NIXL_WARN << "agent " << quoted(agent_) << ": starting a thread failed: " << error.what()
                  << "; limits of transfers are kept only while the program asks for their status";
    }
}

void
Watcher::run() {
    using Clock = std::chrono::steady_clock;
    std::unique_lock lock(mutex_);
    while (!stop_) {
        hurried_ = false;
        lock.unlock();
        const auto start = Clock::now();
        const auto soon = look_();
        const auto rest = std::chrono::ceil<milliseconds>((Clock::now() - start) * kRest);
        lock.lock();
        const auto woken = [this] { return hurried_ || stop_; };
        if (woken()) continue;
        const auto every = soon ? std::max(*soon, rest) : kNever;
        if (every > every_.exchange(every)) {
            wake_.wait_for(lock, kGrace, woken);
        } else if (every == kNever) {
            wake_.wait(lock, woken);
        } else {
            wake_.wait_for(lock, every, woken);
        }
    }
}

} // namespace nx::agent
