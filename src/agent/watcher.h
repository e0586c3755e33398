// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Looks after the limits of requests while nobody else does: a thread that looks as often as the shortest limit in
// force asks for, and sleeps without a timer while nothing is in flight. It starts when it is first needed.
// Self-synchronised.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "base/mutex.h"
#include "base/thread.h"

namespace nx::agent {

class Watcher {
public:
    /// Looks at everything in flight; how soon to come back. Nothing: nothing is in flight.
    using Look = std::function<std::optional<std::chrono::milliseconds>()>;

    explicit Watcher(std::string agent, Look look) : agent_(std::move(agent)), look_(std::move(look)) {}
    ~Watcher() {
        stop();
    }
    Watcher(const Watcher &) = delete;
    Watcher &
    operator=(const Watcher &) = delete;

    /// Something has got in flight that has to be looked at so often.
    void
    expect(std::chrono::milliseconds every) noexcept {
        if (every < every_.load(std::memory_order_relaxed)) [[unlikely]]
            hurry(every);
    }

    /// Looks no more. The caller waits for the end of a look.
    void
    stop() noexcept;

private:
    void
    hurry(std::chrono::milliseconds every) noexcept;
    void
    run();
    /// Returns when it is time for the next look. `rest`: not before.
    void
    sleep(std::optional<std::chrono::milliseconds> soon, std::chrono::milliseconds rest) NX_EXCLUDES(mutex_);

    const std::string agent_;
    const Look look_;

    // Changed under mutex_:
    std::atomic<std::chrono::milliseconds> every_{std::chrono::milliseconds::max()};

    Mutex mutex_; // held for a few instructions; no call out of it
    CondVar wake_;
    bool hurried_ NX_GUARDED_BY(mutex_) = false;
    bool stop_ NX_GUARDED_BY(mutex_) = false;
    Thread thread_; ///< made with mutex_ held, and not once stop_ is set
};

} // namespace nx::agent
