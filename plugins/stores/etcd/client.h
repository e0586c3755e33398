// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Questions to etcd over HTTP: to one of its members, and to the next one when that does not serve; with a token where
// a name and password are set. What it needs of the system it makes at its first use, so that a child of a fork can be
// the one that uses it. Confined to a thread, but for wake().
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "etcd/settings.h"

namespace nx::etcd {

class Exchange;

class Client {
public:
    using Clock = std::chrono::steady_clock;
    using Time = Clock::time_point;

    /// `end`: no call takes longer than until then; whoever makes it earlier calls wake().
    Client(const Settings &settings, const std::atomic<Time> &end);
    ~Client();
    Client(const Client &) = delete;
    Client &
    operator=(const Client &) = delete;

    /// The answer's body. INVALID_PARAM: it is more than etcd takes; NOT_ALLOWED: etcd does not let us; NOT_FOUND: it
    /// knows no such lease; NO_MEMORY: its disk quota is used up; TIMEOUT: it is silent.
    Result<std::string>
    post(const std::string &path, const std::string &body, Time deadline);

    /// A question whose answer does not end, in place of an earlier one. It goes on while this client waits or posts.
    Status
    openStream(const std::string &path, const std::string &body);
    /// What has come of it, whole lines. A failure: it is over.
    Result<std::vector<std::string>>
    streamLines();
    void
    closeStream();
    /// There is one, to the member that is asked now.
    bool
    hasStream() const noexcept;

    /// Until something comes of the stream, somebody wakes this, or the time is over.
    void
    wait(Time until);

    /// Ends a wait, now or the next one. Any thread.
    void
    wake() const noexcept;

private:
    Status
    ready();
    Status
    authenticate(Time deadline);
    /// One try at the current member; true: another one may know better.
    bool
    attempt(const std::string &path, const std::string &body, Time deadline, Result<std::string> &outcome);
    void
    drive(Time until);
    void
    next() noexcept;
    const std::string &
    endpoint() const noexcept {
        return settings_.endpoints[current_];
    }

    const Settings &settings_;
    const std::atomic<Time> &end_;
    std::atomic<void *> multi_ = nullptr; ///< curl's
    std::unique_ptr<Exchange> stream_;
    size_t stream_member_ = 0;
    size_t current_ = 0; ///< the member that is asked
    std::string token_;
};

} // namespace nx::etcd
