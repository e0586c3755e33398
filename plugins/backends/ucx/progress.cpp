// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/progress.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <poll.h>

namespace nx::ucx {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

// Going to sleep and being woken costs about 50 us: so long is it worth waiting for the next event awake. With less, a
// peer that sends the next message over TCP when the last one is done (20 to 40 us) would pay for that every time.
constexpr auto kSpin = microseconds(50);
constexpr int64_t kNapMinUs = 50, kNapMaxUs = 400;
// A worker that refuses to be armed although nothing moves waits for a peer; look again at intervals that grow with the
// time it has waited, so that a peer that empties its queue now and then finds it refilled soon.
constexpr auto kBusyPatience = microseconds(200);
constexpr int64_t kBusyNapMinUs = 50, kBusyNapMaxUs = 1000;
constexpr int64_t kBusyNapsPerWait = 64;

} // namespace

ProgressThread::ProgressThread(const std::string &name, WakeFd wake)
    : wake_(std::move(wake)),
      thread_(name, [this] { run(); }) {}

ProgressThread::~ProgressThread() {
    stop();
}

void
ProgressThread::stop() {
    stop_ = true;
    wake_.wake();
    thread_.join();
}

template<class Change>
void
ProgressThread::changeWorkers(Change change) {
    {
        const MutexLock lock(mutex_);
        change(workers_);
    }
    wake_.wake(); // it sleeps on the workers' descriptors
}

void
ProgressThread::add(Worker &worker) {
    changeWorkers([&](auto &workers) { workers.push_back(&worker); });
}

void
ProgressThread::remove(Worker &worker) {
    changeWorkers([&](auto &workers) { std::erase(workers, &worker); });
}

bool
ProgressThread::progressAll() {
    if (!mutex_.try_lock()) return false; // they are being changed
    const MutexLock workers_lock(mutex_, std::adopt_lock);
    bool happened = false;
    for (Worker *worker : workers_) {
        if (worker->mutex().try_lock()) {
            const MutexLock lock(worker->mutex(), std::adopt_lock);
            happened |= worker->progress();
        } else {
            visit(); // a caller is at it
        }
    }
    return happened;
}

bool
ProgressThread::armAll() {
    const MutexLock workers_lock(mutex_);
    for (Worker *worker : workers_) {
        const MutexLock lock(worker->mutex());
        if (worker->progress() || !worker->arm()) return false;
    }
    return true;
}

/// Until an event, a nudge or the time-out; negative: none.
void
ProgressThread::sleep(int64_t timeout_us) {
    std::vector<pollfd> fds{{wake_.get(), POLLIN, 0}};
    const bool for_events = timeout_us < 0;
    if (for_events) {
        const MutexLock lock(mutex_);
        for (Worker *worker : workers_) fds.push_back({worker->eventFd(), POLLIN, 0});
    }
    const timespec timeout{timeout_us / 1'000'000, timeout_us % 1'000'000 * 1000};
    ::ppoll(fds.data(), fds.size(), for_events ? nullptr : &timeout, nullptr);
    if (fds[0].revents & POLLIN) wake_.drain();
}

void
ProgressThread::run() {
    const auto visits = [this] { return visits_.load(std::memory_order_seq_cst); };
    int64_t nap_us = kNapMinUs;
    auto last_event = Clock::now(), busy_since = last_event;
    Attendance attendance(visits(), last_event);
    const auto sleepAndLookAnew = [&](int64_t timeout_us) {
        sleep(timeout_us);
        last_event = Clock::now();
        attendance = Attendance(visits(), last_event);
    };
    while (!stop_) {
        const auto now = Clock::now();
        if (const auto driven = attendance.look(visits(), now)) {
            if (*driven) {
                sleep(nap_us);
                nap_us = std::min(nap_us * 2, kNapMaxUs);
                last_event = Clock::now();
                continue;
            }
            nap_us = kNapMinUs;
        }
        if (progressAll()) {
            last_event = busy_since = now;
            continue;
        }
        const auto quiet_for = now - last_event;
        // Once armed, a worker makes its peer pay for waking this thread: not while a caller is there.
        if (quiet_for < kSpin || !attendance.none(visits())) continue;

        sleeping_.store(true, std::memory_order_seq_cst);
        const bool armed = armAll();
        if (armed && attendance.none(visits()) && !stop_) {
            sleepAndLookAnew(-1);
        } else if (!armed && quiet_for > kBusyPatience) {
            const int64_t waited_us = std::chrono::duration_cast<microseconds>(now - busy_since).count();
            sleepAndLookAnew(std::clamp(waited_us / kBusyNapsPerWait, kBusyNapMinUs, kBusyNapMaxUs));
        }
        sleeping_.store(false, std::memory_order_seq_cst);
    }
}

} // namespace nx::ucx
