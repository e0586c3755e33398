// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Pieces that travel through slots in memory which both ends of a link can write: whoever starts the transfer puts them
// in or takes them out, the owner of the memory does the other half. Two cores copy at once, and no system call is
// needed; but the owner must look. The word of a slot says which position it holds, the slots are used in turn:
//
//     word of position p      by              next
//     anything else           RelaySender     8p + 1, offered
//     8p + 1, offered         RelaySender     anything else: withdrawn, the position is offered again
//     8p + 1, offered         RelayServer     8p + 2, taken
//     8p + 2, taken           RelayServer     8p + 3, done, or anything else: refused
//
// What the other side may write at any instant is read once and judged.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/mutex.h"
#include "kit/cursor.h"
#include "shm/board.h"
#include "shm/marks.h"

namespace nx::shm {

struct RelayMemory {
    static constexpr size_t kSlots = 8;
    static constexpr size_t kSlotBytes = 8192;

    struct Slot {
        alignas(64) std::atomic<uint64_t> word;
        std::atomic<uint64_t> address;
        std::atomic<uint32_t> window, generation; ///< the owner's, in which the range lies
        std::atomic<uint32_t> length;
        std::atomic<uint32_t> flags; ///< kWrite, kStreams
        alignas(64) std::byte bytes[kSlotBytes];
    };
    static constexpr uint32_t kArmed = 1;   ///< it sleeps, and wants to be woken, once
    static constexpr uint32_t kAttends = 2; ///< all the time
    static constexpr uint32_t kWrite = 1;   ///< from the slot to the owner's memory; else the other way
    static constexpr uint32_t kStreams = 2; ///< see copyBytes()

    alignas(64) std::atomic<uint32_t> owner; ///< whether it looks: kArmed, kAttends, else it may come soon
    Slot slots[kSlots];
};

/// The side that starts transfers. Owned by one user at a time, from take() to giveBack().
class RelaySender {
public:
    struct Piece {
        std::byte *local;
        uint64_t remote;
        kit::WindowKey window;
        uint32_t length; ///< at most kSlotBytes
        bool write;
        bool streams;
        kit::Cursor from{}; ///< the user's: where it was in its plan
    };

    enum class End {
        kNone, ///< the oldest is not done, or there is none
        kDone,
        kRefused, ///< the owner has no such window open, or spoils the slots
    };

    /// `memory`: a RelayMemory, all 0, outlives it.
    explicit RelaySender(void *memory) noexcept : memory_(*static_cast<RelayMemory *>(memory)) {}

    /// False: somebody uses it. Any thread.
    bool
    take() noexcept {
        return !taken_.exchange(true, std::memory_order_acquire);
    }

    /// Requires that nothing is outstanding.
    void
    giveBack() noexcept {
        taken_.store(false, std::memory_order_release);
    }

    size_t
    outstanding() const noexcept {
        return static_cast<size_t>(tail_ - head_);
    }

    bool
    full() const noexcept {
        return outstanding() == RelayMemory::kSlots;
    }

    /// Requires that it is not full. What is written has been read from `local` when it returns.
    void
    offer(const Piece &piece) noexcept;

    /// The owner looks all the time. One load; any thread.
    bool
    attended() const noexcept {
        return memory_.owner.load(std::memory_order_relaxed) == RelayMemory::kAttends;
    }

    /// True once after an offer: the owner is to be woken, if that is wanted.
    bool
    mustWake() noexcept {
        uint32_t armed = RelayMemory::kArmed;
        return memory_.owner.load(std::memory_order_seq_cst) == armed &&
            memory_.owner.compare_exchange_strong(armed, 0, std::memory_order_relaxed);
    }

    /// The oldest, if it is over: what was read is at `local` then.
    End
    reap(Piece &piece) noexcept;

    /// The newest, if nobody has taken it: it is as if it had not been offered.
    bool
    withdraw(Piece &piece) noexcept;

private:
    RelayMemory &memory_;
    std::atomic<bool> taken_{false};
    uint64_t head_ = 0, tail_ = 0;                       ///< positions: the oldest, the next
    std::array<Piece, RelayMemory::kSlots> pieces_ = {}; ///< here, where the peer cannot write
};

/// The windows of this engine while pieces are copied from and to them: closing one waits for those who are at it, as
/// it does for the peers that copy by themselves. Any thread.
class ServedWindows {
public:
    /// `board` outlives it.
    explicit ServedWindows(const BoardView &board) noexcept : board_(board) {}

    class Access {
    public:
        explicit Access(ServedWindows &windows) noexcept : windows_(windows), mark_(windows.marker_.enter()) {}
        ~Access() {
            windows_.marker_.leave(mark_);
        }
        Access(const Access &) = delete;
        Access &
        operator=(const Access &) = delete;

        bool
        allows(kit::WindowKey key, uint64_t address, uint64_t length) const noexcept {
            return windows_.board_.allows(key, address, length);
        }

    private:
        ServedWindows &windows_;
        const int mark_;
    };

    const MarkWatch &
    watch() const noexcept {
        return watch_;
    }

private:
    const BoardView &board_;
    MarkTable table_{};
    Marker marker_{&table_};
    const MarkWatch watch_{&table_};
};

/// The side whose memory it is. Self-synchronised.
class RelayServer {
public:
    /// `memory`: that of the peer's RelaySender. Both outlive it.
    RelayServer(void *memory, ServedWindows &windows) noexcept
        : memory_(*static_cast<RelayMemory *>(memory)),
          windows_(windows) {}

    /// Serves what is offered, a few pieces at most; how many. None while another thread is at it.
    size_t
    serve() noexcept;

    /// Nobody looks from now on but when woken. False: something is offered, it is not armed.
    bool
    arm() noexcept;

    /// Somebody looks all the time, until it is armed.
    void
    attend() noexcept {
        memory_.owner.store(RelayMemory::kAttends, std::memory_order_relaxed);
    }

    /// Nothing is offered. One load.
    bool
    empty() const noexcept {
        const uint64_t at = at_.load(std::memory_order_relaxed);
        return memory_.slots[at % RelayMemory::kSlots].word.load(std::memory_order_seq_cst) != 8 * at + 1;
    }

private:
    bool
    copyLocked(RelayMemory::Slot &slot) noexcept NX_REQUIRES(mutex_);

    RelayMemory &memory_;
    ServedWindows &windows_;
    Mutex mutex_;
    std::atomic<uint64_t> at_{0}; ///< the next position; changed under the mutex
};

} // namespace nx::shm
