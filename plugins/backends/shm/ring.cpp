// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "shm/ring.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace nx::shm {

namespace {

constexpr size_t kHeadBytes = 4;
constexpr size_t kFirstBytes = RingMemory::kCellBytes - kHeadBytes; // of a message in its first cell

constexpr size_t
cellsOf(size_t bytes) noexcept {
    return (kHeadBytes + bytes + RingMemory::kCellBytes - 1) / RingMemory::kCellBytes;
}

} // namespace

// ---- Writer --------------------------------------------------------------------------------------------------------

RingWriter::Put
RingWriter::put(uint8_t kind, std::string_view head, std::string_view body) noexcept {
    assert(head.size() + body.size() <= kMessageBytesMax);
    const size_t cells = cellsOf(head.size() + body.size());
    if (broken_.load(std::memory_order_relaxed)) return Put::kBroken;
    // The reader's position before the tail: then the tail is not before it, though other threads go on meanwhile.
    uint64_t at = seen_.load(std::memory_order_acquire);
    uint64_t tail = tail_.load(std::memory_order_relaxed);
    bool half = false;
    do {
        // The line with the reader's position travels only when what is known of it does not do.
        while (tail + cells - at > kCells / 2) {
            const uint64_t now = ring_.position().load(std::memory_order_acquire);
            tail = tail_.load(std::memory_order_relaxed);
            if (now - at > tail - at) {
                broken_.store(true, std::memory_order_relaxed);
                return Put::kBroken;
            }
            if (now == at) break;
            at = now;
            seen_.store(at, std::memory_order_release);
        }
        if (tail + cells - at > kCells) return Put::kFull;
        half = tail - at <= kCells / 2 && tail + cells - at > kCells / 2;
    } while (!tail_.compare_exchange_weak(tail, tail + cells, std::memory_order_relaxed));

    write(tail, kind, head, body);
    // Both in the one order of all such operations, like the reader's in arm(): either it sees the message, or this
    // sees that it sleeps.
    ring_.word(tail).store(tail + 1, std::memory_order_seq_cst);
    if (ring_.armed().load(std::memory_order_seq_cst) && ring_.armed().exchange(0, std::memory_order_relaxed)) {
        half = true;
    }
    return half ? Put::kDoneWake : Put::kDone;
}

void
RingWriter::write(uint64_t position, uint8_t kind, std::string_view head, std::string_view body) const noexcept {
    ring_.head(position).store(static_cast<uint32_t>((head.size() + body.size()) << 8 | kind),
                               std::memory_order_relaxed);
    std::byte *out = ring_.payload(position) + kHeadBytes;
    size_t room = kFirstBytes;
    for (std::string_view rest : {head, body}) {
        while (!rest.empty()) {
            if (room == 0) {
                ring_.word(++position).store(0, std::memory_order_relaxed);
                out = ring_.payload(position);
                room = RingMemory::kCellBytes;
            }
            const size_t count = std::min(room, rest.size());
            std::memcpy(out, rest.data(), count);
            out += count;
            room -= count;
            rest.remove_prefix(count);
        }
    }
}

// ---- Reader --------------------------------------------------------------------------------------------------------

RingReader::Next
RingReader::next(uint8_t &kind, std::string &message) {
    const uint64_t at = at_.load(std::memory_order_relaxed);
    if (ring_.word(at).load(std::memory_order_acquire) != at + 1) return Next::kNone;
    const uint32_t head = ring_.head(at).load(std::memory_order_relaxed);
    const size_t length = head >> 8;
    if (length > RingWriter::kMessageBytesMax) return Next::kBroken;
    message.resize(length);
    char *out = message.data();
    std::memcpy(out, ring_.payload(at) + kHeadBytes, std::min(length, kFirstBytes));
    const size_t cells = cellsOf(length);
    for (size_t i = 1, done = kFirstBytes; i < cells; ++i, done += RingMemory::kCellBytes) {
        std::memcpy(out + done, ring_.payload(at + i), std::min(length - done, RingMemory::kCellBytes));
    }
    kind = static_cast<uint8_t>(head);
    cells_ = cells;
    return Next::kMessage;
}

void
RingReader::pop() noexcept {
    const uint64_t at = at_.load(std::memory_order_relaxed) + cells_;
    cells_ = 0;
    at_.store(at, std::memory_order_relaxed);
    ring_.position().store(at, std::memory_order_release);
}

bool
RingReader::arm() noexcept {
    ring_.armed().store(1, std::memory_order_seq_cst);
    if (empty()) return true;
    disarm();
    return false;
}

void
RingReader::disarm() noexcept {
    ring_.armed().store(0, std::memory_order_relaxed);
}

bool
RingReader::empty() const noexcept {
    const uint64_t at = at_.load(std::memory_order_relaxed);
    return ring_.word(at).load(std::memory_order_seq_cst) != at + 1;
}

} // namespace nx::shm
