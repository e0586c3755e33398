// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Threads of the program that sleep until something happens, and the descriptor for programs with a loop of their own.
//
// Of the threads that wait one leads: it arms the engines and sleeps on their descriptors. The others follow: they
// sleep on a condition variable. Whatever changes makes a new generation, after which each of them looks for itself;
// when the leader has what it wants, another one leads. Nothing is here but those threads: while nobody waits, nobody
// works. Self-synchronised; no lock is held while anybody looks.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_set>

#include "agent/backends.h"
#include "base/fd.h"
#include "base/mutex.h"
#include "nixl_types.h"
#include "nixlx/limits.h"

namespace nx::agent {

class Waiting {
public:
    /// What a look in vain says of the next one.
    struct Again {
        std::chrono::milliseconds every = nixlx::Limits::kNone; ///< so soon, whatever happens
        bool polled = false; ///< it is about a backend that cannot be slept on: as soon as patience allows
    };
    /// What came of it, or nothing yet. May throw.
    using Look = std::function<std::optional<Status>(Again &again)>;
    /// Looks after all that is in flight, for agents without progress threads; how soon to come again.
    using Drive = std::function<std::optional<std::chrono::milliseconds>()>;

    /// `drive` may be empty: somebody else does it.
    Waiting(const Backends &backends, Drive drive) : backends_(backends), drive_(std::move(drive)) {}

    /// Looks, and sleeps in between, until something comes of it or `timeout` (none: for ever) is over: then IN_PROG.
    Status
    wait(std::optional<std::chrono::microseconds> timeout, const Look &look);

    /// The descriptor for a loop of the program's. It becomes unreadable if nothing has changed since the last call.
    Result<int>
    serve();

    /// A call of the program's may have changed what somebody waits for. Any thread; no call out of it.
    void
    changed() noexcept;

private:
    using Clock = std::chrono::steady_clock;

    /// What a loop of the program's sleeps on: an epoll of all that may wake it.
    struct Served {
        Fd events;
        WakeFd changed;
        Fd timer;
        std::unordered_set<int> watched; ///< the descriptors behind it
        uint64_t generation = 0;         ///< what was told

        Status
        watch(int fd);
    };

    uint64_t
    begin();
    void
    end() noexcept;
    void
    changedLocked() noexcept NX_REQUIRES(mutex_);
    void
    sleep(uint64_t seen, Clock::time_point until);
    bool
    lead(const WakeFd &wake, Clock::time_point until);
    bool
    armAll(const BackendList &backends);
    static Result<std::unique_ptr<Served>>
    createServed();

    const Backends &backends_;
    const Drive drive_;

    Mutex arming_; ///< held while engines are armed, which those who wait do only
    Mutex mutex_;  ///< held for a few instructions; no call out of it
    CondVar stirred_;
    uint64_t generation_ NX_GUARDED_BY(mutex_) = 0;
    bool leading_ NX_GUARDED_BY(mutex_) = false;       ///< somebody does
    std::optional<WakeFd> wake_ NX_GUARDED_BY(mutex_); ///< wakes who leads; constant once it is there
    std::unique_ptr<Served> served_ NX_GUARDED_BY(mutex_);
};

} // namespace nx::agent
