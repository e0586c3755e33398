// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Where a peer's metadata was fetched, and fetching it from there once more when it turns out to be older than what the
// peer has by now. Self-synchronised.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/mutex.h"
#include "metadata/endpoint.h"

namespace nx::agent {

inline constexpr std::chrono::milliseconds kRefetchPause{1000}; ///< from one beginning to the next, per peer
inline constexpr std::chrono::milliseconds kRefetchLimit{2000}; ///< whoever waits for a fetch waits no longer

class Origin {
public:
    void
    learn(const metadata::Endpoint &endpoint);

    /// Where to fetch, if a fetch may begin now. It counts as begun: finish() has to follow.
    std::optional<metadata::Endpoint>
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
    std::optional<metadata::Endpoint> endpoint_ NX_GUARDED_BY(mutex_); ///< nothing: the metadata came in another way
    bool running_ NX_GUARDED_BY(mutex_) = false;
    std::optional<Clock::time_point> begun_ NX_GUARDED_BY(mutex_); ///< the last one
    Status outcome_ NX_GUARDED_BY(mutex_);                         ///< of the last one
};

} // namespace nx::agent
