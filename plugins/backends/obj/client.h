// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Works on all jobs: which exchange is sent over which line, what is tried again and when, and how many at once the
// server bears. Jobs take turns. Self-synchronised.
//
//   an exchange that ended            is
//   in order                          done
//   by a fault that passes            tried again, after a while between nothing and twice as long as the last time
//   by one that does not, or too      the end of its job: nothing more is begun, what waits is dropped, what is in
//   often, or its job was cancelled   flight is broken off; the job is final when nothing is in flight
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "kit/bell.h"
#include "obj/driver.h"
#include "obj/exchange.h"
#include "obj/options.h"

namespace nx::obj {

class Client {
public:
    /// `bell` rings when a job ends.
    Client(Driver &driver, const Options &options, kit::Bell &bell);
    /// Requires that no job is posted. What is still to be undone at the server has until `deadline`.
    ~Client();

    void
    endBy(std::chrono::steady_clock::time_point deadline) noexcept;

    /// Requires that it is quiet.
    void
    post(Job &job);
    void
    cancel(Job &job) noexcept;
    /// Posts it and waits for its end; past the deadline it is cancelled first.
    void
    runToEnd(Job &job, std::chrono::steady_clock::time_point deadline);

    /// Changes whenever bytes move or an exchange ends.
    uint64_t
    mark() const noexcept {
        return mark_.load(std::memory_order_relaxed);
    }

private:
    class Lane;
    class Undoing;
    struct Alive;
    using Time = std::chrono::steady_clock::time_point;

    void
    endUndoing();
    void
    endLanes();

    // On the driver's threads:
    void
    pump();
    void
    tick();
    void
    ended(Lane &lane, int error) noexcept;
    bool
    hasCredentials();
    void
    credentialsCame(const Status &status);

    // All with the mutex held:
    bool
    nextLocked(Exchange &exchange) NX_REQUIRES(mutex_);
    void
    settleLocked(Exchange &exchange, int error) NX_REQUIRES(mutex_);
    void
    againLocked(Exchange &exchange, std::chrono::milliseconds at_least) NX_REQUIRES(mutex_);
    void
    failLocked(Exchange &exchange, nixl_status_t status, const std::string &reason) NX_REQUIRES(mutex_);
    void
    stopLocked(Job &job) noexcept NX_REQUIRES(mutex_);
    void
    endIfQuietLocked(Job &job) noexcept NX_REQUIRES(mutex_);
    void
    pushLocked(Job &job) noexcept NX_REQUIRES(mutex_);
    void
    removeLocked(Job &job) noexcept NX_REQUIRES(mutex_);
    void
    tickLaterLocked() NX_REQUIRES(mutex_);
    void
    pumpLaterLocked() NX_REQUIRES(mutex_);
    bool
    isUndoing(const Job &job) const noexcept NX_REQUIRES(mutex_);

    /// In an error's place: the line was closed because nothing moved.
    static constexpr int kStalled = -1;

    std::string
    describe(const Exchange &exchange) const;
    HttpRequest
    requestFor(Exchange &exchange) const;

    Driver &driver_;
    const Options options_;
    kit::Bell &bell_;
    const std::shared_ptr<Alive> alive_; ///< for who looks for credentials, and may find them when this is gone
    std::atomic<uint64_t> mark_{0};

    Mutex mutex_;
    CondVar changed_;
    std::vector<std::unique_ptr<Lane>> lanes_; ///< each its own; the vector is constant
    std::vector<Lane *> idle_ NX_GUARDED_BY(mutex_);
    double lanes_wanted_ NX_GUARDED_BY(mutex_); ///< so many the server bears
    Time last_slower_ NX_GUARDED_BY(mutex_){};
    Job *first_ NX_GUARDED_BY(mutex_) = nullptr; ///< of those that may have something to begin
    Job *last_ NX_GUARDED_BY(mutex_) = nullptr;
    std::vector<Exchange> waiting_ NX_GUARDED_BY(mutex_); ///< for their next attempt
    std::vector<std::unique_ptr<Undoing>> undoing_ NX_GUARDED_BY(mutex_);
    bool ticking_ NX_GUARDED_BY(mutex_) = false, pumping_ NX_GUARDED_BY(mutex_) = false;
    size_t calls_ NX_GUARDED_BY(mutex_) = 0; ///< of the driver into this object, asked for
    Time end_ NX_GUARDED_BY(mutex_){};
    std::mt19937_64 random_ NX_GUARDED_BY(mutex_){std::random_device{}()};
};

} // namespace nx::obj
