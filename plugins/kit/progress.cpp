// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/progress.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <stdexcept>

namespace nx::kit {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

// Going to sleep and being woken costs about 50 us: so long is it worth waiting for the next event awake. With less, a
// peer that sends the next message over TCP when the last one is done (20 to 40 us) would pay for that every time.
constexpr auto kSpin = microseconds(50);
constexpr int64_t kNapMinUs = 50, kNapMaxUs = 400;
// What refuses to be armed although nothing moves waits for a peer; look again at intervals that grow with the time it
// has waited, so that a peer that empties its queue now and then finds it refilled soon.
constexpr auto kBusyPatience = microseconds(200);
constexpr int64_t kBusyNapMinUs = 50, kBusyNapMaxUs = 1000;
constexpr int64_t kBusyNapsPerWait = 64;

WakeFd
createWake() {
    auto wake = WakeFd::create();
    if (!wake.ok()) throw std::runtime_error(wake.message());
    return *std::move(wake);
}

} // namespace

ProgressThread::ProgressThread(const std::string &name)
    : wake_(createWake()),
      room_(1),
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

void
ProgressThread::add(Driven &driven) {
    {
        const MutexLock lock(mutex_);
        room_.reserve(driven_.size() + 2); // its descriptor, and that of wake_
        driven_.push_back(&driven);
    }
    wake_.wake(); // it sleeps on the others' descriptors
}

void
ProgressThread::remove(Driven &driven) noexcept {
    {
        const MutexLock lock(mutex_);
        std::erase(driven_, &driven);
    }
    wake_.wake();
}

bool
ProgressThread::driveAll() noexcept {
    if (!mutex_.try_lock()) return false; // something is being added or removed
    const MutexLock lock(mutex_, std::adopt_lock);
    bool happened = false;
    for (Driven *driven : driven_) {
        const auto outcome = driven->tryDrive();
        if (!outcome) visit(); // a caller is at it
        happened |= outcome.value_or(false);
    }
    return happened;
}

bool
ProgressThread::armAll() noexcept {
    const MutexLock lock(mutex_);
    return std::all_of(driven_.begin(), driven_.end(), [](Driven *driven) { return driven->arm(); });
}

/// Until an event, a nudge or the time-out; negative: none.
void
ProgressThread::sleep(int64_t timeout_us) noexcept {
    const bool for_events = timeout_us < 0;
    {
        const MutexLock lock(mutex_);
        if (fds_.capacity() < room_.capacity()) fds_.swap(room_);
        fds_.assign(1, {wake_.get(), POLLIN, 0});
        if (for_events) {
            for (const Driven *driven : driven_) fds_.push_back({driven->descriptor(), POLLIN, 0});
        }
    }
    const timespec timeout{timeout_us / 1'000'000, timeout_us % 1'000'000 * 1000};
    ::ppoll(fds_.data(), fds_.size(), for_events ? nullptr : &timeout, nullptr);
    if (fds_[0].revents & POLLIN) wake_.drain();
}

void
ProgressThread::run() noexcept {
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
        if (alone_.load(std::memory_order_relaxed) && alone_.exchange(false)) attendance = Attendance(visits(), now);
        if (const auto driven = attendance.look(visits(), now)) {
            if (*driven) {
                napping_.store(true, std::memory_order_seq_cst);
                if (!alone_.load(std::memory_order_seq_cst)) sleep(nap_us);
                napping_.store(false, std::memory_order_seq_cst);
                nap_us = std::min(nap_us * 2, kNapMaxUs);
                last_event = Clock::now();
                continue;
            }
            nap_us = kNapMinUs;
        }
        if (driveAll()) {
            last_event = busy_since = now;
            continue;
        }
        const auto quiet_for = now - last_event;
        // Once armed, a thing makes its peer pay for waking this thread: not while a caller is there.
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

} // namespace nx::kit
