// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "shm/relay.h"

#include "shm/copy.h"

#if defined(__SANITIZE_THREAD__)
extern "C" void
__tsan_acquire(void *);
extern "C" void
__tsan_release(void *);
#endif

namespace nx::shm {

namespace {

// Where both sides are in one process the thread sanitizer takes the two mappings of a slot for different memory, and
// does not see the order that the words give to what lies at the piece's address.
#if defined(__SANITIZE_THREAD__)
constexpr uint64_t kProgramsEnd = uint64_t{1} << 47; // it knows no memory beyond
void
tellOrder(uint64_t address) noexcept {
    if (address < kProgramsEnd) __tsan_release(reinterpret_cast<void *>(address));
}
void
seeOrder(uint64_t address) noexcept {
    if (address < kProgramsEnd) __tsan_acquire(reinterpret_cast<void *>(address));
}
#else
void
tellOrder(uint64_t) noexcept {}
void
seeOrder(uint64_t) noexcept {}
#endif

enum Phase : uint64_t { kOver = 0, kOffered = 1, kTaken = 2, kDone = 3 };

constexpr uint64_t
wordOf(uint64_t position, Phase phase) noexcept {
    return 8 * position + phase;
}

constexpr size_t kServedAtOnce = 4 * RelayMemory::kSlots;

} // namespace

// ---- Sender --------------------------------------------------------------------------------------------------------

void
RelaySender::offer(const Piece &piece) noexcept {
    const size_t i = tail_ % RelayMemory::kSlots;
    RelayMemory::Slot &slot = memory_.slots[i];
    pieces_[i] = piece;
    if (piece.write) copyBytes(slot.bytes, piece.local, piece.length, false);
    slot.address.store(piece.remote, std::memory_order_relaxed);
    slot.window.store(piece.window.id, std::memory_order_relaxed);
    slot.generation.store(piece.window.generation, std::memory_order_relaxed);
    slot.length.store(piece.length, std::memory_order_relaxed);
    slot.flags.store((piece.write ? RelayMemory::kWrite : 0) | (piece.streams ? RelayMemory::kStreams : 0),
                     std::memory_order_relaxed);
    tellOrder(piece.remote);
    // In the one order of all such operations, like the owner's look before it sleeps.
    slot.word.store(wordOf(tail_, kOffered), std::memory_order_seq_cst);
    ++tail_;
}

RelaySender::End
RelaySender::reap(Piece &piece) noexcept {
    if (outstanding() == 0) return End::kNone;
    const size_t i = head_ % RelayMemory::kSlots;
    RelayMemory::Slot &slot = memory_.slots[i];
    const uint64_t word = slot.word.load(std::memory_order_acquire);
    if (word == wordOf(head_, kOffered) || word == wordOf(head_, kTaken)) return End::kNone;
    piece = pieces_[i];
    seeOrder(piece.remote);
    const bool done = word == wordOf(head_, kDone);
    if (done && !piece.write) copyBytes(piece.local, slot.bytes, piece.length, piece.streams);
    ++head_;
    return done ? End::kDone : End::kRefused;
}

bool
RelaySender::withdraw(Piece &piece) noexcept {
    if (outstanding() == 0) return false;
    const uint64_t position = tail_ - 1;
    const size_t i = position % RelayMemory::kSlots;
    uint64_t offered = wordOf(position, kOffered);
    if (!memory_.slots[i].word.compare_exchange_strong(offered, wordOf(position, kOver), std::memory_order_relaxed)) {
        return false;
    }
    piece = pieces_[i];
    tail_ = position;
    return true;
}

// ---- Server --------------------------------------------------------------------------------------------------------

size_t
RelayServer::serve() noexcept {
    if (empty() || !mutex_.try_lock()) return 0;
    const MutexLock lock(mutex_, std::adopt_lock);
    size_t served = 0;
    for (uint64_t at = at_.load(std::memory_order_relaxed); served < kServedAtOnce; ++served) {
        RelayMemory::Slot &slot = memory_.slots[at % RelayMemory::kSlots];
        uint64_t word = wordOf(at, kOffered);
        if (slot.word.load(std::memory_order_relaxed) != word ||
            !slot.word.compare_exchange_strong(word, wordOf(at, kTaken), std::memory_order_acquire)) {
            break;
        }
        const bool copied = copyLocked(slot);
        slot.word.store(wordOf(at, copied ? kDone : kOver), std::memory_order_release);
        at_.store(++at, std::memory_order_relaxed);
    }
    return served;
}

bool
RelayServer::arm() noexcept {
    memory_.owner.store(RelayMemory::kArmed, std::memory_order_seq_cst);
    if (empty()) return true;
    memory_.owner.store(0, std::memory_order_relaxed);
    return false;
}

bool
RelayServer::copyLocked(RelayMemory::Slot &slot) noexcept {
    const kit::WindowKey window{slot.window.load(std::memory_order_relaxed),
                                slot.generation.load(std::memory_order_relaxed)};
    const uint64_t address = slot.address.load(std::memory_order_relaxed);
    const uint32_t length = slot.length.load(std::memory_order_relaxed);
    const uint32_t flags = slot.flags.load(std::memory_order_relaxed);
    if (length > RelayMemory::kSlotBytes) return false;
    seeOrder(address);
    const ServedWindows::Access access(windows_);
    if (!access.allows(window, address, length)) return false;
    auto *const here = reinterpret_cast<std::byte *>(address);
    const bool streams = flags & RelayMemory::kStreams;
    if (flags & RelayMemory::kWrite) {
        copyBytes(here, slot.bytes, length, streams);
    } else {
        copyBytes(slot.bytes, here, length, false);
    }
    tellOrder(address);
    return true;
}

} // namespace nx::shm
