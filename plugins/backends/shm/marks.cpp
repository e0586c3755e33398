// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "shm/marks.h"

#include <bit>
#include <thread>

namespace nx::shm {

int
Marker::enter() noexcept {
    for (;; std::this_thread::yield()) {
        for (size_t i = 0; i < MarkTable::kMarks; ++i) {
            Slot &slot = slots_[i];
            if (slot.taken.load(std::memory_order_relaxed)) continue;
            if (slot.taken.exchange(true, std::memory_order_acquire)) continue;
            // The bit before the mark: who does not see the one has not seen the other. By whoever has the slot, so
            // that nobody relies on a bit that another thread is about to set.
            if (slot.sequence == 0) table_.ever_used.fetch_or(uint64_t{1} << i, std::memory_order_seq_cst);
            table_.marks[i].sequence.store(++slot.sequence, std::memory_order_seq_cst); // see Board::close
            return static_cast<int>(i);
        }
    }
}

void
Marker::leave(int mark) noexcept {
    Slot &slot = slots_[static_cast<size_t>(mark)];
    table_.marks[mark].sequence.store(++slot.sequence, std::memory_order_release);
    slot.taken.store(false, std::memory_order_release);
}

MarkWatch::Snapshot
MarkWatch::snapshot() const noexcept {
    Snapshot snapshot;
    for (uint64_t left = table_.ever_used.load(std::memory_order_seq_cst); left; left &= left - 1) {
        const auto i = static_cast<size_t>(std::countr_zero(left));
        const uint64_t sequence = table_.marks[i].sequence.load(std::memory_order_seq_cst);
        if (sequence % 2 == 0) continue;
        snapshot.sequences_[i] = sequence;
        snapshot.entered_ |= uint64_t{1} << i;
    }
    return snapshot;
}

bool
MarkWatch::quiet(Snapshot &snapshot) const noexcept {
    for (uint64_t left = snapshot.entered_; left; left &= left - 1) {
        const auto i = static_cast<size_t>(std::countr_zero(left));
        if (table_.marks[i].sequence.load(std::memory_order_acquire) == snapshot.sequences_[i]) return false;
        snapshot.entered_ &= ~(uint64_t{1} << i);
    }
    return true;
}

} // namespace nx::shm
