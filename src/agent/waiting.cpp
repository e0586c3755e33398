// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/waiting.h"

#include <algorithm>
#include <cerrno>
#include <poll.h>
#include <stdexcept>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <vector>

namespace nx::agent {

namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;

// No sleep is longer: nobody minds a look an hour, and no sum of times overflows.
constexpr std::chrono::hours kLongest{1};
// Backends that cannot be slept on are looked at so often, and ever more seldom the longer nothing has come of it: who
// waits for them is back within 5 ms, of which the system takes some for waking him.
constexpr microseconds kPollMin{50}, kPollMax{4800};
constexpr int kPollsPerWait = 32;
constexpr milliseconds kServedPolls{5};

timespec
toTimespec(nanoseconds time) {
    return {time.count() / 1'000'000'000, time.count() % 1'000'000'000};
}

} // namespace

Status
Waiting::wait(std::optional<std::chrono::microseconds> timeout, const Look &look) {
    const auto start = Clock::now();
    const bool for_ever = !timeout || *timeout > std::chrono::hours(24 * 365 * 100);
    const auto deadline = for_ever ? Clock::time_point::max() : start + std::max(*timeout, microseconds(0));
    struct Guard {
        ~Guard() {
            waiting.end();
        }
        Waiting &waiting;
    } const guard{*this};
    for (;;) {
        const uint64_t seen = begin();
        Again again;
        if (auto outcome = look(again)) return *std::move(outcome);
        const auto now = Clock::now();
        if (now >= deadline) return {NIXL_IN_PROG, {}};
        auto until = std::min<Clock::time_point>(deadline, now + kLongest);
        if (again.every < kLongest) until = std::min<Clock::time_point>(until, now + again.every);
        if (again.polled) {
            const auto patience = std::clamp<Clock::duration>((now - start) / kPollsPerWait, kPollMin, kPollMax);
            until = std::min(until, now + patience);
        }
        sleep(seen, until);
    }
}

/// What comes after this is seen by a look that follows, or makes a new generation.
uint64_t
Waiting::begin() {
    const MutexLock lock(mutex_);
    return generation_;
}

/// Of one that waits no more. It may have been the one that was to lead next.
void
Waiting::end() noexcept {
    const MutexLock lock(mutex_);
    if (!leading_) stirred_.notifyOne();
}

void
Waiting::changedLocked() noexcept {
    ++generation_;
    stirred_.notifyAll();
    if (leading_) wake_->wake();
    if (served_) served_->changed.wake();
}

void
Waiting::changed() noexcept {
    const MutexLock lock(mutex_);
    changedLocked();
}

/// Until `until`, a generation later than `seen`, or for no reason.
void
Waiting::sleep(uint64_t seen, Clock::time_point until) {
    const WakeFd *wake = nullptr;
    {
        const MutexLock lock(mutex_);
        if (generation_ != seen) return;
        if (leading_) {
            while (generation_ == seen && leading_ && stirred_.waitUntil(mutex_, until)) {}
            return;
        }
        if (!wake_) {
            auto made = WakeFd::create();
            if (!made.ok()) { // no descriptor is left: without a sleep that all can end, it looks again soon
                static_cast<void>(
                    stirred_.waitUntil(mutex_, std::min<Clock::time_point>(until, Clock::now() + kPollMax)));
                return;
            }
            wake_ = *std::move(made);
        }
        wake = &*wake_;
        leading_ = true;
    }
    struct Lead {
        ~Lead() {
            const MutexLock lock(waiting.mutex_);
            waiting.leading_ = false;
            if (stirred) {
                waiting.changedLocked();
            } else {
                waiting.stirred_.notifyOne();
            }
        }
        Waiting &waiting;
        bool stirred = true;
    } turn{*this};
    turn.stirred = lead(*wake, until);
}

/// False: `until` came and nothing else.
bool
Waiting::lead(const WakeFd &wake, Clock::time_point until) {
    if (drive_) {
        if (const auto soon = drive_()) until = std::min<Clock::time_point>(until, Clock::now() + *soon);
    }
    const auto backends = backends_.all();
    std::vector<pollfd> fds{{wake.get(), POLLIN, 0}};
    for (const auto &backend : *backends) {
        if (const auto *waiting = backend->waiting()) fds.push_back({waiting->descriptor(), POLLIN, 0});
    }
    if (!armAll(*backends)) return true;
    const timespec timeout = toTimespec(std::max<nanoseconds>(until - Clock::now(), nanoseconds(0)));
    const int ready = ::ppoll(fds.data(), fds.size(), &timeout, nullptr);
    if (fds[0].revents) wake.drain();
    return ready != 0;
}

/// False: something has changed since they were asked last.
bool
Waiting::armAll(const BackendList &backends) {
    const MutexLock lock(arming_);
    return std::all_of(backends.begin(), backends.end(), [](const auto &backend) {
        auto *waiting = backend->waiting();
        return !waiting || waiting->arm();
    });
}

// ---- For a loop of the program's -----------------------------------------------------------------------------------

Result<std::unique_ptr<Waiting::Served>>
Waiting::createServed() {
    auto changed = WakeFd::create();
    if (!changed.ok()) return std::move(changed).status();
    auto made = std::make_unique<Served>(Served{Fd(::epoll_create1(EPOLL_CLOEXEC)),
                                                *std::move(changed),
                                                Fd(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)),
                                                {}});
    if (!made->events || !made->timer) return {NIXL_ERR_BACKEND, withErrno("making a descriptor", errno)};
    for (const int fd : {made->changed.get(), made->timer.get()}) {
        if (auto status = made->watch(fd); !status.ok()) return status;
    }
    made->changed.wake(); // whatever happened before has been told to nobody
    return made;
}

Status
Waiting::Served::watch(int fd) {
    if (!watched.insert(fd).second) return {};
    epoll_event event{.events = EPOLLIN, .data = {}};
    if (::epoll_ctl(events.get(), EPOLL_CTL_ADD, fd, &event) == 0) return {};
    watched.erase(fd);
    return {NIXL_ERR_BACKEND, withErrno("epoll_ctl", errno)};
}

Result<int>
Waiting::serve() {
    auto soon = drive_ ? drive_() : std::nullopt;
    const auto backends = backends_.all();
    const bool armed = armAll(*backends);
    const MutexLock lock(mutex_);
    if (!armed) changedLocked();
    const bool news = !served_ || served_->generation != generation_;
    if (!served_) {
        auto made = createServed();
        if (!made.ok()) return std::move(made).status();
        served_ = *std::move(made);
    }
    for (const auto &backend : *backends) {
        if (const auto *waiting = backend->waiting()) {
            if (auto status = served_->watch(waiting->descriptor()); !status.ok()) return status;
        } else {
            soon = std::min<milliseconds>(soon.value_or(kServedPolls), kServedPolls);
        }
    }
    served_->generation = generation_;
    if (!news) served_->changed.drain();
    itimerspec timer{};
    if (soon && *soon < kLongest) timer.it_value = toTimespec(std::max(*soon, milliseconds(1)));
    ::timerfd_settime(served_->timer.get(), 0, &timer, nullptr);
    return served_->events.get();
}

} // namespace nx::agent
