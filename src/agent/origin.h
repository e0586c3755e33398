// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Where a peer's metadata was fetched, and fetching it from there once more when it turns out to be older than what the
// peer has by now. Self-synchronised.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/mutex.h"

namespace nx::agent {

inline constexpr std::chrono::milliseconds kRefetchPause{1000}; ///< from one beginning to the next, per peer
inline constexpr std::chrono::milliseconds kRefetchLimit{2000}; ///< whoever waits for a fetch waits no longer

class Origin {
public:
    /// Begins to fetch; the outcome comes later.
    using Fetch = std::function<void(std::function<void(const Status &)> done)>;

    /// `place`: where, for people.
    void
    learn(std::string place, Fetch fetch);

    /// How to fetch, if a fetch may begin now; else nothing. It counts as begun: finish() has to follow.
    Fetch
    begin();
    void
    finish(const Status &outcome);

    struct Told {
        bool look_again;      ///< there may be more now
        std::string sentence; ///< for a refusal, if there is no more
    };

    /// Waits for the fetch under way if there is one, at most kRefetchLimit from its beginning.
    Told
    wait();

private:
    using Clock = std::chrono::steady_clock;

    Mutex mutex_;
    CondVar changed_;
    std::string place_ NX_GUARDED_BY(mutex_);
    Fetch fetch_ NX_GUARDED_BY(mutex_); ///< empty: the peer's metadata came in another way
    bool running_ NX_GUARDED_BY(mutex_) = false;
    std::optional<Clock::time_point> begun_ NX_GUARDED_BY(mutex_); ///< the last one
    Status outcome_ NX_GUARDED_BY(mutex_);                         ///< of the last one
};

} // namespace nx::agent
