// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/origin.h"

namespace nx::agent {

void
Origin::learn(const metadata::Endpoint &endpoint) {
    std::lock_guard lock(mutex_);
    endpoint_ = endpoint;
}

std::optional<metadata::Endpoint>
Origin::begin() {
    std::lock_guard lock(mutex_);
    const auto now = Clock::now();
    if (!endpoint_ || running_ || (begun_ && now < *begun_ + kRefetchPause)) return {};
    running_ = true;
    begun_ = now;
    return endpoint_;
}

void
Origin::finish(const Status &outcome) {
    std::lock_guard lock(mutex_);
    running_ = false;
    outcome_ = {outcome.code(), outcome.message()};
    changed_.notify_all();
}

Origin::Told
Origin::wait() {
    std::unique_lock lock(mutex_);
    const std::string since = "the peer may have registered since; ";
    if (!endpoint_ || !begun_) return {false, since + "fetch its metadata again"};
    // What has been fetched since the caller looked is worth another look, whoever fetched it.
    const bool ended = changed_.wait_until(lock, *begun_ + kRefetchLimit, [&] { return !running_; });
    const std::string again = "its metadata was fetched again from " + endpoint_->text();
    if (!ended) {
        return {true, since + again + ", without an answer within " + std::to_string(kRefetchLimit.count()) + " ms"};
    }
    if (outcome_.code() < 0) return {true, since + again + ", and that failed: " + outcome_.message()};
    return {true, since + again + " within the last second and is no other; try again when it has registered"};
}

} // namespace nx::agent
