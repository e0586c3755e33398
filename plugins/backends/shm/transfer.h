// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// One request. Its plan is moved in chunks of at most 1 MiB by whoever comes: the caller in post() and check(), and the
// engine's thread if it makes progress (Progress); several at once. The last of them sends the notification. While the
// peer looks into the relay all the time, or where there is no other way, one of them at a time moves a chunk through
// it; what the peer does not take soon is withdrawn, and copied by the kernel where that is allowed.
//
//   copying   a chunk was taken       somebody moves it
//   copying   none is left, or none   -> noting, if there is a notification and nothing was left out; else final
//             is to be begun any more
//   noting    the outbox says so      -> final
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "base/mutex.h"
#include "kit/cursor.h"
#include "kit/request_base.h"
#include "loop/loop.h"
#include "shm/link.h"
#include "shm/memory.h"

namespace nx::shm {

inline constexpr uint64_t kChunkBytes = uint64_t{1} << 20; ///< what a barrier waits for at most
inline constexpr size_t kChunkPieces = 1023;               ///< what the kernel takes at once, see copy.h

/// Told what becomes of transfers.
class Changes {
public:
    virtual void
    changed() noexcept = 0;

    /// Nobody but the caller moves a transfer on, or not any more.
    virtual void
    needsCaller(bool now) noexcept = 0;

    /// The outbox of the link waits for its peer.
    virtual void
    waits(Link &link) noexcept = 0;

protected:
    ~Changes() = default;
};

class Progress;

class Transfer final : public kit::RequestBase, private Outbox::Waiter {
public:
    /// `plan`, `progress` and `changes` outlive it. `progress` null: only the caller moves it on.
    Transfer(const nixlx::Plan &plan, std::shared_ptr<Link> link, Progress *progress, Changes &changes);
    /// Requires quiet().
    nixl_status_t
    post(const std::string *notification);

    /// Moves it on, as far as the caller can.
    void
    advance();

    /// Ends it early. Unlike RequestBase's.
    void
    cancel();

    /// How its data travels, for people.
    std::string
    path() const;

    // ---- For Progress

    struct Chunk {
        kit::Cursor at{};
        size_t pieces = 0; ///< 0: through the relay
    };

    enum class Take {
        kNone, ///< there is none to be begun any more
        kLater,
        kChunk,
    };

    /// Takes the next chunk: move() is to be called for it.
    Take
    take(Chunk &chunk);

    /// Moves what was taken; afterwards the transfer may be gone. False: the peer must do something first.
    bool
    move(Chunk chunk);

    Transfer *next = nullptr; ///< in Progress
    bool queued = false;      ///< with Progress

private:
    enum class Stage { kCopying, kNoting, kOver };

    /// There is no other way than the relay.
    bool
    needsRelay() const noexcept {
        return !all_mapped_ && !link_->kernelCopies();
    }

    /// Requires that there is something to move.
    Pace &
    pace() const noexcept {
        return link_->paceOf(plan_.total_bytes / plan_.block_count);
    }

    kit::Cursor
    start() const noexcept {
        return {plan_.runs.data(), 0, 0, plan_.block_count};
    }

    uint64_t
    copy(kit::Cursor &at, size_t pieces);
    bool
    entersRelay() noexcept;
    bool
    carry(kit::Cursor &at, uint64_t &bytes);
    bool
    carryOn(kit::Cursor &at, uint64_t &bytes);
    void
    offer(kit::Cursor &at, uint64_t &bytes);
    bool
    reap(uint64_t &bytes);
    void
    withdrawPieces(kit::Cursor &at) noexcept;
    void
    failAsGone() noexcept;
    void
    refuse(const RemoteMemory &memory);
    bool
    copyingEndsLocked() noexcept NX_REQUIRES(mutex_);
    void
    addToProgress();
    void
    endCopying();
    void
    withdraw() noexcept;
    void
    noteOver(bool sent) noexcept override;
    void
    end(bool complete) noexcept;

    const nixlx::Plan &plan_;
    const std::shared_ptr<Link> link_;
    Progress *const progress_;
    Changes &changes_;
    const bool all_mapped_;
    const bool suits_relay_;           ///< though there is another way
    std::atomic<bool> relayed_{false}; ///< some of the last post
    std::atomic<bool> woken_in_vain_{false};
    std::atomic<bool> again_{false}; ///< the kernel has refused a chunk: all is to be moved again, by the relay
    std::string note_;
    bool has_note_ = false;
    bool needs_caller_ = false; ///< and Changes was told

    std::atomic<bool> was_added_{false}; ///< to Progress; what is over with its post takes no lock of that

    Mutex mutex_;
    Stage stage_ NX_GUARDED_BY(mutex_) = Stage::kOver;
    kit::Cursor cursor_ NX_GUARDED_BY(mutex_);
    unsigned movers_ NX_GUARDED_BY(mutex_) = 0;   ///< at chunks
    bool relays_ NX_GUARDED_BY(mutex_) = false;   ///< this request has the relay
    bool carrying_ NX_GUARDED_BY(mutex_) = false; ///< somebody is at a chunk that goes through it, and has the cursor
};

/// Moves transfers on while nobody else does, on the thread of a loop, a chunk at a time. Self-synchronised.
class Progress {
public:
    /// `loop` outlives it and does not run any more when it goes.
    explicit Progress(Loop &loop) : loop_(loop) {}

    /// No effect if it was added.
    void
    add(Transfer &transfer);
    /// After it returns only a chunk that was taken before is moved. No effect if it was not added.
    void
    remove(Transfer &transfer) noexcept;

private:
    void
    step();

    Loop &loop_;
    Mutex mutex_; // before a transfer's
    Transfer *first_ NX_GUARDED_BY(mutex_) = nullptr;
    Transfer *last_ NX_GUARDED_BY(mutex_) = nullptr;
};

} // namespace nx::shm
