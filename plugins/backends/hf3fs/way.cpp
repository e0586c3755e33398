// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "hf3fs/way.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <poll.h>

#include "hf3fs/memory.h"

namespace nx::hf3fs {

using kit::FilePiece;

namespace {

constexpr unsigned kFruitlessMax = 1000; // calls, or answers, in a row that bring nothing

void
nap() noexcept {
    ::poll(nullptr, 0, 1);
}

bool
isToMove(const FilePiece &piece) noexcept {
    return !piece.failed && piece.done < piece.length;
}

} // namespace

Result<std::unique_ptr<kit::FileWay>>
RingWay::create(const Driver &driver, size_t entry_count, uint64_t bytes_max) {
    std::unique_ptr<RingWay> way(new RingWay(driver, entry_count, bytes_max));
    if (const int error = way->makeReady()) {
        return {NIXL_ERR_BACKEND,
                "no ring of " + std::to_string(entry_count) + " entries (iopool_size) with memory of " +
                    std::to_string(bytes_max) + " bytes can be had from 3FS: " + textOf(error)};
    }
    return std::unique_ptr<kit::FileWay>(std::move(way));
}

RingWay::RingWay(const Driver &driver, size_t entry_count, uint64_t bytes_max)
    : driver_(driver),
      bytes_max_(bytes_max),
      entries_(entry_count),
      completions_(entry_count) {}

/// An errno, or 0.
int
RingWay::makeReady() noexcept {
    const int entry_count = static_cast<int>(entries_.size());
    int error = 0;
    if (!reading_) error = Ring::create(driver_, true, entry_count, reading_);
    if (!error && !writing_) error = Ring::create(driver_, false, entry_count, writing_);
    if (!error && !room_) error = Room::create(driver_, bytes_max_, room_);
    return error;
}

nixl_status_t
RingWay::statusOf(const FilePiece &piece) const noexcept {
    return hf3fs::statusOf(piece.code);
}

std::string
RingWay::reasonOf(const FilePiece &piece) const {
    return textOf(piece.code);
}

// ---- Moving --------------------------------------------------------------------------------------------------------

void
RingWay::move(std::span<FilePiece> pieces) noexcept {
    failed_ = false;
    if (const int error = makeReady()) return fail(pieces.front(), error);
    std::unique_ptr<Ring> &ring = pieces.front().transfer->writes() ? writing_ : reading_;
    const std::span<Entry> entries = std::span(entries_).first(pieces.size());
    assign(pieces);
    bool submitted = true;
    for (unsigned fruitless = 0;;) {
        const size_t before = in_flight_;
        int error = begin(*ring, entries);
        if (in_flight_ == 0 && error == 0) return; // all has ended
        if (in_flight_ > before) submitted = false;
        if (!submitted) {
            const int result = driver_.api().hf3fs_submit_ios(&ring->ior());
            submitted = result >= 0;
            if (!submitted) error = -result;
        }
        const int count = in_flight_ > 0 ? collect(*ring, submitted) : 0;
        if (count < 0) error = -count;
        if (count > 0 || error == 0) {
            fruitless = 0;
            continue;
        }
        nap();
        // What 3FS has not said it is done with may be in use still: the program's memory for as long as it takes.
        const bool is_lent = std::any_of(entries.begin(), entries.end(), [&](const Entry &entry) {
            return entry.in_flight && entry.iov != &room_->iov();
        });
        if (++fruitless <= kFruitlessMax || is_lent) continue;
        for (const Entry &entry : entries) {
            if (isToMove(*entry.piece)) fail(*entry.piece, error);
        }
        in_flight_ = 0;
        ring.reset();
        room_.reset();
        return;
    }
}

void
RingWay::assign(std::span<FilePiece> pieces) noexcept {
    char *free_room = reinterpret_cast<char *>(room_->iov().base);
    for (size_t i = 0; i < pieces.size(); ++i) {
        FilePiece &piece = pieces[i];
        const Lent *const lent = static_cast<const HostMemory *>(piece.memory_metadata)->lent.get();
        entries_[i] = {.piece = &piece,
                       .iov = lent ? &lent->iov() : &room_->iov(),
                       .bytes = lent ? piece.memory : free_room,
                       .in_flight = false,
                       .fruitless = 0};
        if (lent) continue;
        if (piece.transfer->writes()) std::memcpy(free_room, piece.memory, piece.length);
        free_room += piece.length;
    }
}

/// Puts what is to move into the ring, unless the request stops. An errno for now, or 0.
int
RingWay::begin(Ring &ring, std::span<Entry> entries) noexcept {
    for (Entry &entry : entries) {
        FilePiece &piece = *entry.piece;
        if (failed_ || piece.transfer->stopping()) return 0;
        if (entry.in_flight || !isToMove(piece)) continue;
        const int result =
            driver_.api().hf3fs_prep_io(&ring.ior(), entry.iov, !piece.transfer->writes(), entry.bytes + piece.done,
                                        static_cast<const FileMemory *>(piece.file)->descriptor(),
                                        piece.offset + piece.done, piece.length - piece.done, &entry);
        if (result == -EAGAIN) return in_flight_ > 0 ? 0 : EAGAIN; // the ring is full
        if (result < 0) {
            fail(piece, -result);
            return 0;
        }
        entry.in_flight = true;
        ++in_flight_;
    }
    return 0;
}

/// How many have ended, or the negative of an errno.
int
RingWay::collect(Ring &ring, bool submitted) noexcept {
    timespec until{};
    ::clock_gettime(CLOCK_REALTIME, &until);
    if (submitted) ++until.tv_sec; // what is not submitted may have begun all the same
    const int count = driver_.api().hf3fs_wait_for_ios(&ring.ior(), completions_.data(),
                                                       static_cast<int>(completions_.size()), 1, &until);
    for (int i = 0; i < count; ++i) {
        auto &entry = *const_cast<Entry *>(static_cast<const Entry *>(completions_[i].userdata)); // ours
        if (!entry.in_flight) continue;
        entry.in_flight = false;
        --in_flight_;
        account(entry, completions_[i].result);
    }
    return count;
}

void
RingWay::account(Entry &entry, int64_t result) noexcept {
    FilePiece &piece = *entry.piece;
    if (result > 0) {
        const uint64_t bytes = std::min(static_cast<uint64_t>(result), piece.length - piece.done);
        char *const memory = piece.memory + piece.done;
        if (!piece.transfer->writes() && entry.bytes != piece.memory) {
            std::memcpy(memory, entry.bytes + piece.done, bytes);
        }
        piece.done += bytes;
        entry.fruitless = 0;
    } else if ((result != -EINTR && result != -EAGAIN) || ++entry.fruitless > kFruitlessMax) {
        fail(piece, static_cast<int>(-result));
    }
}

void
RingWay::fail(FilePiece &piece, int code) noexcept {
    failed_ = true;
    piece.failed = true;
    piece.code = code;
}

} // namespace nx::hf3fs
