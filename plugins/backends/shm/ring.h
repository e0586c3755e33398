// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Messages from one process to another through memory that both can write. A ring of cells of a cache line each. The
// cell at position p is the first of a message when its word is p + 1, which is written last; the words of the
// message's other cells are 0, so that no payload is ever taken for a message. Lock-free: several threads write, one
// reads at a time. What the other side may write at any instant is read once and judged; it can spoil the messages,
// nothing else.
//
//     bytes     written by   what
//     0..7      reader       its position: cells before it are free again
//     128..131  both         1: the reader sleeps and wants to be woken, once
//     256..     writer       cells: word (8), in the first of a message its length (3) and kind (1), then its bytes
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace nx::shm {

inline constexpr size_t kCells = 1024;
inline constexpr size_t kRingBytes = 256 + 64 * kCells;
static_assert(std::has_single_bit(kCells) && std::endian::native == std::endian::little);

/// The fields of a ring that lies at `memory`: zeros at first, aligned to 64 bytes.
class RingMemory {
public:
    static constexpr size_t kCellBytes = 56; ///< of a message and its head

    explicit RingMemory(void *memory) noexcept : memory_(static_cast<std::byte *>(memory)) {}

    std::atomic<uint64_t> &
    position() const noexcept {
        return *reinterpret_cast<std::atomic<uint64_t> *>(memory_);
    }

    std::atomic<uint32_t> &
    armed() const noexcept {
        return *reinterpret_cast<std::atomic<uint32_t> *>(memory_ + 128);
    }

    std::atomic<uint64_t> &
    word(uint64_t position) const noexcept {
        return *reinterpret_cast<std::atomic<uint64_t> *>(cell(position));
    }

    std::atomic<uint32_t> &
    head(uint64_t position) const noexcept {
        return *reinterpret_cast<std::atomic<uint32_t> *>(cell(position) + 8);
    }

    /// Behind the word.
    std::byte *
    payload(uint64_t position) const noexcept {
        return cell(position) + 8;
    }

private:
    std::byte *
    cell(uint64_t position) const noexcept {
        return memory_ + 256 + 64 * (position % kCells);
    }

    std::byte *memory_;
};

/// The sending end. Its state is this process's own. Lock-free, any number of threads; a thread that is stopped within
/// put() holds back what the others put after it.
class RingWriter {
public:
    static constexpr size_t kMessageBytesMax = kCells / 4 * RingMemory::kCellBytes - 4;

    enum class Put {
        kDone,
        kDoneWake, ///< and the reader is to be woken: it sleeps, or the ring has become more than half full
        kFull,     ///< no room now, or other threads have just made and filled it; nothing changed
        kBroken,   ///< the reader's position cannot be: nothing will ever be put again
    };

    explicit RingWriter(void *memory) noexcept : ring_(memory) {}
    RingWriter(RingWriter &&other) noexcept
        : ring_(other.ring_),
          tail_(other.tail_.load()),
          seen_(other.seen_.load()),
          broken_(other.broken_.load()) {}

    /// Sends `head` and behind it `body`, kMessageBytesMax bytes at most together.
    Put
    put(uint8_t kind, std::string_view head, std::string_view body) noexcept;

private:
    void
    write(uint64_t position, uint8_t kind, std::string_view head, std::string_view body) const noexcept;

    RingMemory ring_;
    std::atomic<uint64_t> tail_{0}; ///< cells up to here are written, or being written
    std::atomic<uint64_t> seen_{0}; ///< where the reader was lately; never beyond tail_
    std::atomic<bool> broken_{false};
};

/// The receiving end. One caller at a time, but for empty(). A new one continues where the one before ended.
class RingReader {
public:
    enum class Next { kNone, kMessage, kBroken };

    explicit RingReader(void *memory) noexcept : ring_(memory), at_(ring_.position().load(std::memory_order_relaxed)) {}

    /// The first message, which stays there until pop(). kBroken: no writer of ours wrote this. Throws std::bad_alloc.
    Next
    next(uint8_t &kind, std::string &message);

    /// Makes room of what next() has answered last.
    void
    pop() noexcept;

    /// True: nothing is there, and the next put() answers kDoneWake. False: something is there, the ring is not armed.
    bool
    arm() noexcept;

    void
    disarm() noexcept;

    /// Nothing is there. One load; any thread.
    bool
    empty() const noexcept;

private:
    RingMemory ring_;
    std::atomic<uint64_t> at_; ///< changed by one caller at a time
    size_t cells_ = 0;         ///< of the message that next() has answered
};

} // namespace nx::shm
