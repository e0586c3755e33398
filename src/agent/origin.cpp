// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/origin.h"

namespace nx::agent {

void
Origin::learn(std::string place, Fetch fetch) {
    const MutexLock lock(mutex_);
    place_ = std::move(place);
    fetch_ = std::move(fetch);
}

Origin::Fetch
Origin::begin() {
    const MutexLock lock(mutex_);
    const auto now = Clock::now();
    if (!fetch_ || running_ || (begun_ && now < *begun_ + kRefetchPause)) return {};
    running_ = true;
    begun_ = now;
    return fetch_;
}

void
Origin::finish(const Status &outcome) {
    const MutexLock lock(mutex_);
    running_ = false;
    outcome_ = {outcome.code(), outcome.message()};
    changed_.notifyAll();
}

Origin::Told
Origin::wait() {
    const MutexLock lock(mutex_);
    const std::string since = "the peer may have registered since; ";
    if (!fetch_ || !begun_) return {false, since + "fetch its metadata again"};
    // What has been fetched since the caller looked is worth another look, whoever fetched it.
    const auto limit = *begun_ + kRefetchLimit;
    while (running_ && changed_.waitUntil(mutex_, limit)) {}
    const std::string again = "its metadata was fetched again from " + place_;
    if (running_) {
        return {true, since + again + ", without an answer within " + std::to_string(kRefetchLimit.count()) + " ms"};
    }
    if (outcome_.code() < 0) return {true, since + again + ", and that failed: " + outcome_.message()};
    return {true, since + again + " within the last second and is no other; try again when it has registered"};
}

} // namespace nx::agent
