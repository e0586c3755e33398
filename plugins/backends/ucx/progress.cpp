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

// Going to sleep and being woken costs about 50 us: so long is it worth waiting for the next event awake.
constexpr auto kSpin = microseconds(20);
constexpr int64_t kNapMinUs = 50, kNapMaxUs = 400;
// A worker that refuses to be armed although nothing moves waits for a peer; look again at these intervals.
constexpr auto kBusyPatience = microseconds(200);
constexpr int64_t kBusyNapUs = 1000;

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
    // The busy thread lets go of the mutex for an instant only, too short for one who sleeps on it.
    changes_.fetch_add(1, std::memory_order_relaxed);
    {
        std::lock_guard lock(mutex_);
        change(workers_);
    }
    changes_.fetch_sub(1, std::memory_order_relaxed);
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
    std::lock_guard workers_lock(mutex_);
    bool happened = false;
    for (Worker *worker : workers_) {
        std::unique_lock lock(worker->mutex(), std::try_to_lock);
        if (lock) {
            happened |= worker->progress();
        } else {
            visit(); // a caller is at it
        }
    }
    return happened;
}

bool
ProgressThread::armAll() {
    std::lock_guard workers_lock(mutex_);
    for (Worker *worker : workers_) {
        std::lock_guard lock(worker->mutex());
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
        std::lock_guard lock(mutex_);
        for (Worker *worker : workers_) fds.push_back({worker->eventFd(), POLLIN, 0});
    }
    const timespec timeout{timeout_us / 1'000'000, timeout_us % 1'000'000 * 1000};
    ::ppoll(fds.data(), fds.size(), for_events ? nullptr : &timeout, nullptr);
    if (fds[0].revents & POLLIN) wake_.drain();
}

void
ProgressThread::run() {
    uint64_t seen = visits_.load();
    int64_t nap_us = kNapMinUs;
    auto last_event = Clock::now();
    while (!stop_) {
        while (changes_.load(std::memory_order_relaxed) > 0) std::this_thread::yield();
        if (const uint64_t visits = visits_.load(std::memory_order_relaxed); visits != seen) {
            seen = visits;
            sleep(nap_us);
            nap_us = std::min(nap_us * 2, kNapMaxUs);
            last_event = Clock::now();
            continue;
        }
        nap_us = kNapMinUs;
        if (progressAll()) {
            last_event = Clock::now();
            continue;
        }
        const auto quiet_for = Clock::now() - last_event;
        if (quiet_for < kSpin) continue;

        sleeping_.store(true, std::memory_order_seq_cst);
        const bool armed = armAll();
        if (armed && visits_.load(std::memory_order_seq_cst) == seen && !stop_) {
            sleep(-1);
            last_event = Clock::now();
        } else if (!armed && quiet_for > kBusyPatience) {
            sleep(kBusyNapUs);
        }
        sleeping_.store(false, std::memory_order_seq_cst);
    }
}

} // namespace nx::ucx
