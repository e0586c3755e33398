// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// All requests that are posted share one queue: the mover gives it their operations in turns, takes the completions and
// sees to it that every byte is accounted for to the request that it belongs to. Self-synchronised.
//
// An operation has a slot from when it begins to its end:
//
//   free  --begin-->  ready  --submit-->  in the queue  --reap-->  free, or ready again for the rest of a short one
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "kit/bell.h"
#include "kit/handover_mutex.h"
#include "kit/progress.h"
#include "posix/bounce.h"
#include "posix/queue.h"
#include "posix/transfer.h"

namespace nx::posix {

// What is in flight when a request is cancelled has to end first: a slow disk writes so much in 150 ms.
inline constexpr uint64_t kBytesInFlightMax = uint64_t{32} << 20;
inline constexpr std::chrono::microseconds kTurn{300}; ///< of work per call, about
inline constexpr size_t kBounceBuffers = 16;           ///< of kPieceBytes
inline constexpr size_t kBatch = 32;                   ///< operations submitted at once
inline constexpr unsigned kFruitlessMax = 1000;        ///< interruptions of one operation without a byte in between

/// A file that operations of one request use.
struct OpenFile {
    kit::File *file = nullptr;
    int fd = -1;
    size_t uses = 0;
};

class Mover final : public kit::Driven {
public:
    /// Rings `bell`, which outlives it, when a request ends. At most `open_max` files are in use at a time.
    Mover(std::unique_ptr<Queue> queue, kit::Bell &bell, size_t open_max);
    /// Waits for what is in flight.
    ~Mover();

    const Queue &
    queue() const noexcept {
        return *queue_;
    }

    /// Begins it, and may end it; `later`: leaves it to whoever calls tryDrive(), but for a small read of what is
    /// cached. Requires that it is quiet. True: there is more to be done by a call of tryDrive().
    bool
    post(Transfer &transfer, bool later) noexcept;

    /// A request was cancelled.
    void
    look() noexcept {
        look_.store(true, std::memory_order_release);
    }

    /// Changes whenever an operation ends.
    uint64_t
    mark() const noexcept {
        return mark_.load(std::memory_order_relaxed);
    }

    std::optional<bool>
    tryDrive() noexcept override;
    bool
    arm() noexcept override;
    int
    descriptor() const noexcept override {
        return queue_->descriptor();
    }

private:
    /// Parts of memory, in order.
    struct Vectors {
        iovec *first = nullptr;
        uint32_t count = 0;
    };
    struct Slot {
        Operation operation;
        Transfer *transfer = nullptr;
        OpenFile *open = nullptr;
        iovec *vectors = nullptr;    ///< the slot's room for them
        Vectors memory;              ///< of the program, not moved yet
        std::byte *bounce = nullptr; ///< what the operation moves in its stead
        iovec bounce_vector = {};
        uint64_t offset = 0; ///< of the piece
        uint64_t length = 0; ///< likewise
        uint64_t done = 0;   ///< of it
        uint64_t page = 0;   ///< direct I/O: what the rest has to be a multiple of; 0: through the page cache
        unsigned fruitless = 0;
    };
    enum class Turn { kMore, kNothingMore, kStarved, kEnough };

    struct List {
        Transfer *first = nullptr, *last = nullptr;
        size_t size = 0;
    };

    static bool
    readCached(Transfer &transfer) noexcept;
    bool
    driveLocked() noexcept NX_REQUIRES(mutex_);
    bool
    workIsLeftLocked() noexcept NX_REQUIRES(mutex_);
    void
    takePostedLocked() noexcept NX_REQUIRES(mutex_);
    bool
    reapLocked() noexcept NX_REQUIRES(mutex_);
    /// True: something was begun, or is known not to be.
    bool
    fillLocked() noexcept NX_REQUIRES(mutex_);
    bool
    submitLocked() noexcept NX_REQUIRES(mutex_);
    Turn
    takeTurnLocked(Transfer &transfer) noexcept NX_REQUIRES(mutex_);
    Turn
    beginLocked(Transfer &transfer) noexcept NX_REQUIRES(mutex_);
    void
    publishLocked(Transfer &transfer) noexcept NX_REQUIRES(mutex_);
    OpenFile *
    openLocked(Transfer &transfer, kit::File &file) noexcept NX_REQUIRES(mutex_);
    void
    endLocked(Slot &slot, int64_t result) noexcept NX_REQUIRES(mutex_);
    /// True: the operation goes on.
    bool
    accountLocked(Slot &slot, int64_t result) noexcept NX_REQUIRES(mutex_);
    /// Copies what it begins with from or to the program's memory.
    static void
    copy(Vectors memory, std::byte *bounce, uint64_t bytes, bool to_bounce) noexcept;
    static void
    advance(Vectors &vectors, uint64_t bytes) noexcept;
    /// For pieces that go through the page cache. Negative: the request has failed.
    static int
    bufferedOf(Slot &slot) noexcept;
    static bool
    failed(Slot &slot, nixl_status_t status, const std::string &why) noexcept;
    void
    freeLocked(Slot &slot) noexcept NX_REQUIRES(mutex_);
    void
    settleLocked(Transfer &transfer) noexcept NX_REQUIRES(mutex_);
    void
    endStoppedLocked() noexcept NX_REQUIRES(mutex_);
    void
    pushLocked(Transfer &transfer) noexcept NX_REQUIRES(mutex_);
    Transfer &
    popLocked() noexcept NX_REQUIRES(mutex_);
    void
    finishLocked(Transfer &transfer) noexcept NX_REQUIRES(mutex_);

    std::unique_ptr<Queue> queue_; ///< until the end
    kit::Bell &bell_;
    const size_t operations_max_; ///< of one request: a file that hangs leaves some to the others
    std::atomic<uint64_t> mark_{0};
    std::atomic<bool> look_{false};
    std::atomic<bool> size_is_limited_{false}; ///< once it was

    Mutex posted_mutex_; ///< a leaf
    List posted_ NX_GUARDED_BY(posted_mutex_);

    kit::HandoverMutex mutex_;
    List active_ NX_GUARDED_BY(mutex_);          ///< requests that may begin something, in turns
    bool starved_ NX_GUARDED_BY(mutex_) = false; ///< none of them can before something in flight has ended
    bool refused_ NX_GUARDED_BY(mutex_) = false; ///< likewise, the queue takes none of those that are ready
    std::vector<Slot> slots_ NX_GUARDED_BY(mutex_);
    std::vector<Slot *> free_slots_ NX_GUARDED_BY(mutex_);
    std::vector<Slot *> ready_ NX_GUARDED_BY(mutex_);
    std::vector<OpenFile> files_ NX_GUARDED_BY(mutex_);
    std::vector<OpenFile *> free_files_ NX_GUARDED_BY(mutex_);
    uint64_t bytes_in_flight_ NX_GUARDED_BY(mutex_) = 0;
    BouncePool bounce_ NX_GUARDED_BY(mutex_);
    uint64_t bytes_bounced_ NX_GUARDED_BY(mutex_) = 0; ///< by reads, ever
    const std::unique_ptr<iovec[]> vectors_;           ///< of all slots
};

} // namespace nx::posix
