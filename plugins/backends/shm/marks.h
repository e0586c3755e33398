// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Who copies from and to a peer's memory says so, in memory that the peer reads: a mark for each thread, odd while it
// is at a chunk. The owner of the memory closes a window (board.h) and then waits until each mark that was odd has
// changed: who entered afterwards sees that the window is closed. Marks and windows are written, and then looked at, by
// sequentially consistent operations, so that one of the two sides sees the other.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace nx::shm {

struct MarkTable {
    static constexpr size_t kMarks = 64;

    struct Mark {
        alignas(64) std::atomic<uint64_t> sequence;
    };

    alignas(64) std::atomic<uint64_t> ever_used; ///< a bit for each mark; the others are 0
    Mark marks[kMarks];
};

inline constexpr size_t kMarkTableBytes = sizeof(MarkTable);

/// The side that copies. Any thread.
class Marker {
public:
    /// `memory`: all 0, 64-byte aligned, outlives it.
    explicit Marker(void *memory) noexcept : table_(*static_cast<MarkTable *>(memory)) {}

    /// A mark is set; what is read of the board afterwards is as new as the mark. Gives its number, for leave(). Waits
    /// while kMarks threads are at chunks.
    int
    enter() noexcept;

    /// Nothing of the peer's memory is touched any more.
    void
    leave(int mark) noexcept;

private:
    /// Here, where the peer cannot write.
    struct Slot {
        std::atomic<bool> taken{false};
        uint64_t sequence = 0; ///< like the mark's; whoever has taken the slot may change it
    };

    MarkTable &table_;
    std::array<Slot, MarkTable::kMarks> slots_;
};

/// The side whose memory it is. Any thread.
class MarkWatch {
public:
    /// The marks as they were.
    class Snapshot {
        friend class MarkWatch;
        uint64_t entered_ = 0; ///< bits of those that were not seen left yet
        std::array<uint64_t, MarkTable::kMarks> sequences_;
    };

    /// `memory`: that of the peer's Marker.
    explicit MarkWatch(const void *memory) noexcept : table_(*static_cast<const MarkTable *>(memory)) {}

    /// To be called after the window was closed.
    Snapshot
    snapshot() const noexcept;

    /// Whoever was at a chunk at that time has left it, and what it copied is there.
    bool
    quiet(Snapshot &snapshot) const noexcept;

private:
    const MarkTable &table_;
};

} // namespace nx::shm
