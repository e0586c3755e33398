// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The threads that move all that is posted. Each takes some pieces of a request, moves them in its own way, by a call
// for each or as a batch, and accounts for them; requests take turns. Self-synchronised.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/thread.h"
#include "gds/driver.h"
#include "gds/transfer.h"
#include "kit/bell.h"

namespace nx::gds {

/// The way of one thread, which makes all calls but the constructor, the destructor, too.
class Way {
public:
    virtual ~Way() = default;

    /// Pieces that it takes at once.
    virtual size_t
    pieceCountMax() const noexcept = 0;

    /// Moves the pieces, which are of one request and of memory with one context; that is current. Returns when nothing
    /// touches their memory any more, with each of them done, failed, or left because its request is to stop.
    virtual void
    move(std::span<Piece> pieces) noexcept = 0;
};

class Mover {
public:
    /// A thread for each way, called `thread_name`-0 and so on. A thread takes pieces of `bytes_max` bytes together,
    /// and rings `bell`, which outlives the mover, when a request ends. Throws std::system_error.
    Mover(const Driver &driver,
          kit::Bell &bell,
          std::vector<std::unique_ptr<Way>> ways,
          uint64_t bytes_max,
          const std::string &thread_name);
    /// Requires that no request is posted.
    ~Mover();

    /// Requires that it is quiet.
    void
    post(Transfer &transfer) noexcept;

    void
    cancel(Transfer &transfer) noexcept;

    /// Changes whenever a piece ends.
    uint64_t
    mark() const noexcept {
        return mark_.load(std::memory_order_relaxed);
    }

private:
    void
    stop() noexcept;
    struct Worker {
        std::unique_ptr<Way> way;
        std::vector<Piece> room; ///< for what it takes
    };

    void
    run(Worker &worker) noexcept;
    size_t
    take(std::span<Piece> pieces) noexcept;
    void
    giveBack(std::span<Piece> pieces) noexcept;
    void
    pushLocked(Transfer &transfer) noexcept NX_REQUIRES(mutex_);
    void
    finishLocked(Transfer &transfer) noexcept NX_REQUIRES(mutex_);

    const Driver &driver_;
    kit::Bell &bell_;
    const uint64_t bytes_max_;
    std::atomic<uint64_t> mark_{0};

    Mutex mutex_;
    CondVar changed_;
    Transfer *first_ NX_GUARDED_BY(mutex_) = nullptr; ///< of those that wait for a thread
    Transfer *last_ NX_GUARDED_BY(mutex_) = nullptr;
    bool stopping_ NX_GUARDED_BY(mutex_) = false;

    std::vector<Worker> workers_; ///< each its thread's
    std::vector<Thread> threads_; ///< last: they use the others
};

} // namespace nx::gds
