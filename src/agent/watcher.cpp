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
        const MutexLock lock(mutex_);
        stop_ = true;
        every_ = milliseconds(0); // nobody is shorter
    }
    wake_.notifyOne();
    thread_.join();
}

void
Watcher::hurry(milliseconds every) noexcept {
    const MutexLock lock(mutex_);
    if (stop_ || every >= every_.load(std::memory_order_relaxed)) return;
    every_ = every;
    hurried_ = true;
    if (thread_.joinable()) return wake_.notifyOne();
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
    for (;;) {
        {
            const MutexLock lock(mutex_);
            if (stop_) return;
            hurried_ = false;
        }
        const auto start = Clock::now();
        const auto soon = look_();
        sleep(soon, std::chrono::ceil<milliseconds>((Clock::now() - start) * kRest));
    }
}

void
Watcher::sleep(std::optional<milliseconds> soon, milliseconds rest) {
    const MutexLock lock(mutex_);
    if (hurried_ || stop_) return;
    const auto every = soon ? std::max(*soon, rest) : kNever;
    const bool longer = every > every_.exchange(every);
    if (every == kNever && !longer) {
        while (!hurried_ && !stop_) wake_.wait(mutex_);
    } else {
        const auto until = std::chrono::steady_clock::now() + (longer ? kGrace : every);
        while (!hurried_ && !stop_ && wake_.waitUntil(mutex_, until)) {}
    }
}

} // namespace nx::agent
