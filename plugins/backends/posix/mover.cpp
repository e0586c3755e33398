// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "posix/mover.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "kit/files/file_plan.h"
#include "posix/size_signal.h"

namespace nx::posix {

namespace {

using Clock = std::chrono::steady_clock;

/// To be tried again. ECANCELED: the thread that submitted it has ended.
bool
isPassing(int error) noexcept {
    return error == EINTR || error == EAGAIN || error == ECANCELED;
}

/// Each part can be done direct.
bool
isAligned(const iovec *vectors, uint32_t count, const Alignment &alignment) noexcept {
    return std::all_of(vectors, vectors + count, [&](const iovec &vector) {
        return reinterpret_cast<uintptr_t>(vector.iov_base) % alignment.memory == 0 &&
            vector.iov_len % alignment.block == 0;
    });
}

} // namespace

Mover::Mover(std::unique_ptr<Queue> queue, kit::Bell &bell, size_t open_max)
    : queue_(std::move(queue)),
      bell_(bell),
      operations_max_(std::max<size_t>(1, queue_->depth() / 2)),
      slots_(queue_->depth()),
      files_(std::clamp<size_t>(open_max, 1, queue_->depth())),
      bounce_(kBounceBuffers, kPieceBytes),
      vectors_(std::make_unique_for_overwrite<iovec[]>(queue_->depth() * kVectorsMax)) {
    free_slots_.reserve(slots_.size());
    ready_.reserve(slots_.size());
    for (size_t i = slots_.size(); i-- > 0;) {
        slots_[i].operation.tag = i;
        slots_[i].vectors = &vectors_[i * kVectorsMax];
        free_slots_.push_back(&slots_[i]);
    }
    free_files_.reserve(files_.size());
    for (OpenFile &file : files_) free_files_.push_back(&file);
}

Mover::~Mover() {
    queue_.reset(); // what is in flight refers to the rest
}

// ---- The callers' side -------------------------------------------------------------------------------------------

bool
Mover::post(Transfer &transfer, bool later) noexcept {
    transfer.rewind();
    transfer.begin();
    if (!transfer.refusal().ok()) {
        transfer.fail(transfer.refusal().code(), transfer.refusal().message());
        transfer.finish(false);
        bell_.ring();
        return false;
    }
    if (later && transfer.isSmallRead()) {
        if (readCached(transfer)) {
            transfer.dropVersions();
            transfer.finish(true);
            bell_.ring();
            return false;
        }
        transfer.rewind();
        transfer.begin();
    }
    {
        const MutexLock lock(posted_mutex_);
        transfer.next = nullptr;
        (posted_.last ? posted_.last->next : posted_.first) = &transfer;
        posted_.last = &transfer;
    }
    if (transfer.writes() && fileSizeIsLimited()) size_is_limited_.store(true, std::memory_order_relaxed);
    if (later || !mutex_.try_lock()) return true;
    const MutexLock lock(mutex_, std::adopt_lock);
    driveLocked();
    return workIsLeftLocked();
}

/// All of it, without waiting and without a queue. False: it is to be begun as if nothing had been read.
bool
Mover::readCached(Transfer &transfer) noexcept {
    iovec vectors[kVectorsMax];
    while (!transfer.pieces.atEnd()) {
        const Piece piece = transfer.pieces.next(vectors);
        if (piece.length == 0) continue; // what was left were blocks of nothing
        kit::File &file = *transfer.fileOf(*piece.file);
        ssize_t count = -1;
        try {
            const Result<int> fd = file.use();
            if (!fd.ok()) return false;
            count = ::preadv2(*fd, vectors, static_cast<int>(piece.vector_count), static_cast<off_t>(piece.offset),
                              RWF_NOWAIT);
            file.done();
        }
        catch (const std::bad_alloc &) {
            return false;
        }
        if (count != static_cast<ssize_t>(piece.length)) return false;
        transfer.moved(piece.length);
    }
    return true;
}

std::optional<bool>
Mover::tryDrive() noexcept {
    if (!mutex_.try_lock()) return std::nullopt;
    const MutexLock lock(mutex_, std::adopt_lock);
    return driveLocked();
}

bool
Mover::arm() noexcept {
    const MutexLock lock(mutex_);
    return !workIsLeftLocked() && queue_->arm();
}

// ---- What the mutex guards ---------------------------------------------------------------------------------------

bool
Mover::workIsLeftLocked() noexcept {
    takePostedLocked();
    return look_.load(std::memory_order_acquire) || (!ready_.empty() && !refused_) || (active_.first && !starved_);
}

bool
Mover::driveLocked() noexcept {
    const WithoutSizeSignal guard(size_is_limited_.load(std::memory_order_relaxed));
    const auto end = Clock::now() + kTurn;
    for (bool happened = false;; happened = true) {
        takePostedLocked();
        if (look_.exchange(false, std::memory_order_acquire)) endStoppedLocked();
        const bool reaped = reapLocked();
        const bool filled = fillLocked();
        const bool submitted = submitLocked();
        if (!reaped && !filled && !submitted) return happened;
        if (mutex_.contended() || Clock::now() >= end) return true;
    }
}

void
Mover::takePostedLocked() noexcept {
    List posted;
    {
        const MutexLock lock(posted_mutex_);
        std::swap(posted, posted_);
    }
    for (Transfer *transfer = posted.first; transfer;) {
        Transfer &each = *transfer;
        transfer = each.next;
        starved_ = false;
        pushLocked(each);
    }
}

bool
Mover::reapLocked() noexcept {
    size_t total = 0;
    const uint64_t bytes_before = bytes_bounced_;
    while (total < kBatch && bytes_bounced_ < bytes_before + kPieceBytes) { // to copy so much takes long enough
        std::array<Completion, 4> completions;
        const size_t count = queue_->reap(completions);
        for (size_t i = 0; i < count; ++i) endLocked(slots_[completions[i].tag], completions[i].result);
        total += count;
        if (count < completions.size()) break;
    }
    if (total == 0) return false;
    refused_ = false;
    mark_.fetch_add(1, std::memory_order_relaxed);
    return true;
}

bool
Mover::fillLocked() noexcept {
    constexpr size_t kTurns = 4 * kBatch; // also of requests that begin nothing in theirs
    const uint64_t bytes_before = bytes_in_flight_;
    bool happened = false;
    size_t starved = 0; // in a row
    for (size_t turns = 0; active_.first && !starved_ && turns < kTurns && ready_.size() < kBatch; ++turns) {
        if (bytes_in_flight_ >= bytes_before + kPieceBytes) break; // to copy so much takes long enough
        Transfer &transfer = popLocked();
        const size_t ready = ready_.size();
        const Turn turn = takeTurnLocked(transfer);
        happened = happened || turn != Turn::kStarved || ready_.size() > ready;
        if (turn == Turn::kNothingMore) {
            settleLocked(transfer);
            continue;
        }
        pushLocked(transfer);
        if (turn == Turn::kEnough) return true;
        starved = turn == Turn::kStarved ? starved + 1 : 0;
        starved_ = starved >= active_.size;
    }
    return happened;
}

/// A few operations of one request.
Mover::Turn
Mover::takeTurnLocked(Transfer &transfer) noexcept {
    constexpr size_t kOperations = 16;
    const uint64_t bytes_before = bytes_in_flight_;
    for (size_t i = 0; i < kOperations && bytes_in_flight_ < bytes_before + kPieceBytes; ++i) {
        if (transfer.isOver() || !transfer.hasMore()) return Turn::kNothingMore;
        // It comes back when something of it has ended.
        if (transfer.in_flight >= operations_max_ || transfer.bytes_in_flight >= kBytesInFlightMax / 2) {
            return Turn::kNothingMore;
        }
        const Turn turn = beginLocked(transfer);
        if (turn != Turn::kMore) return turn;
    }
    return Turn::kMore;
}

Mover::Turn
Mover::beginLocked(Transfer &transfer) noexcept {
    if (free_slots_.empty() || bytes_in_flight_ >= kBytesInFlightMax) return Turn::kStarved;
    Slot &slot = *free_slots_.back();
    Piece piece;
    kit::File *file = nullptr;
    if (transfer.stage == Transfer::Stage::kPublish) {
        publishLocked(transfer);
        return Turn::kEnough;
    }
    const bool sync = transfer.stage > Transfer::Stage::kDirect;
    if (sync) {
        file = transfer.nextToSync();
        if (!file) ++transfer.begun;
        if (!file) return Turn::kMore;
    } else {
        piece = transfer.pieces.next(slot.vectors);
        if (piece.length == 0 || !transfer.wants(piece)) return Turn::kMore; // 0: what was left were blocks of nothing
        file = transfer.fileOf(*piece.file);
    }
    const bool bounces = piece.direct && !isAligned(slot.vectors, piece.vector_count, piece.file->alignment);
    slot.bounce = bounces ? bounce_.take() : nullptr;
    slot.open = bounces && !slot.bounce ? nullptr : openLocked(transfer, *file);
    if (!slot.open) {
        if (slot.bounce) bounce_.give(slot.bounce);
        if (transfer.isOver()) return Turn::kNothingMore;
        if (!sync) transfer.pieces.putBack();
        return Turn::kStarved;
    }
    free_slots_.pop_back();
    const bool folder = transfer.stage == Transfer::Stage::kSyncFolder;
    slot.operation.kind = folder ? Operation::Kind::kSyncFolder
        : sync                   ? Operation::Kind::kSync
        : transfer.writes()      ? Operation::Kind::kWrite
                                 : Operation::Kind::kRead;
    slot.transfer = &transfer;
    slot.memory = {slot.vectors, piece.vector_count};
    slot.operation.vectors = slot.vectors;
    slot.operation.vector_count = piece.vector_count;
    if (bounces) {
        slot.bounce_vector = {slot.bounce, piece.length};
        slot.operation.vectors = &slot.bounce_vector;
        slot.operation.vector_count = 1;
        if (transfer.writes()) copy(slot.memory, slot.bounce, piece.length, true);
    }
    slot.operation.offset = slot.offset = piece.offset;
    slot.length = piece.length;
    slot.done = 0;
    slot.page = piece.direct ? piece.file->alignment.page : 0;
    slot.fruitless = 0;
    slot.operation.cached = !piece.direct;
    slot.operation.fd = folder ? transfer.nextVersion().folder()
        : piece.direct || sync ? slot.open->fd
                               : bufferedOf(slot); // refused at submission if negative
    if (sync) ++transfer.begun;
    ++transfer.in_flight;
    transfer.bytes_in_flight += piece.length;
    bytes_in_flight_ += piece.length;
    ready_.push_back(&slot);
    return Turn::kMore;
}

/// In this thread, as files are opened. It may take as long as a write to the device (ext4 allocates what was written
/// before it replaces a file), so others have their turn in between.
void
Mover::publishLocked(Transfer &transfer) noexcept {
    try {
        const Status status = transfer.nextVersion().publish();
        if (!status.ok()) transfer.failNow(status.code(), status.message());
    }
    catch (const std::bad_alloc &) {
        transfer.failNow(NIXL_ERR_NO_MEMORY, "out of memory");
    }
    ++transfer.begun;
}

/// Null: the request has failed, or all that may be open are in use.
OpenFile *
Mover::openLocked(Transfer &transfer, kit::File &file) noexcept {
    if (transfer.open && transfer.open->file == &file) {
        ++transfer.open->uses;
        return transfer.open;
    }
    if (free_files_.empty()) return nullptr;
    try {
        Result<int> fd = file.use();
        const bool others_are_open = free_files_.size() < files_.size();
        if (fd.code() == NIXL_ERR_NO_MEMORY && others_are_open) return nullptr; // until one of those is done with
        if (!fd.ok()) {
            transfer.fail(fd.code(), fd.message());
            return nullptr;
        }
        OpenFile *const open = free_files_.back();
        free_files_.pop_back();
        *open = {&file, *fd, 1};
        transfer.open = open;
        return open;
    }
    catch (const std::bad_alloc &) {
        transfer.fail(NIXL_ERR_NO_MEMORY, "out of memory");
        return nullptr;
    }
}

bool
Mover::submitLocked() noexcept {
    // What was short or interrupted may belong to a request that has failed since.
    size_t kept = 0;
    for (Slot *slot : ready_) {
        if (!slot->transfer->isOver()) {
            ready_[kept++] = slot;
            continue;
        }
        slot->transfer->left_out = true;
        freeLocked(*slot);
    }
    ready_.resize(kept);
    if (ready_.empty() || refused_) return false;
    std::array<Operation, kBatch> operations;
    const size_t count = std::min(ready_.size(), operations.size());
    for (size_t i = 0; i < count; ++i) operations[i] = ready_[i]->operation;
    const size_t taken = queue_->submit(std::span(operations).first(count));
    ready_.erase(ready_.begin(), ready_.begin() + static_cast<ptrdiff_t>(taken));
    // Something of what it has must end first, if it has anything.
    refused_ = taken == 0 && free_slots_.size() + ready_.size() < slots_.size();
    return taken > 0;
}

void
Mover::endLocked(Slot &slot, int64_t result) noexcept {
    if (accountLocked(slot, result)) {
        ready_.push_back(&slot);
    } else {
        freeLocked(slot);
    }
}

bool
Mover::accountLocked(Slot &slot, int64_t result) noexcept {
    Transfer &transfer = *slot.transfer;
    Operation &operation = slot.operation;
    if (result < 0) {
        const int error = static_cast<int>(-result);
        if (!isPassing(error) || ++slot.fruitless > kFruitlessMax) {
            const bool misaligned = error == EINVAL && slot.page > 0;
            return failed(slot, kit::statusOfIo(error),
                          withErrno("the system says", error) +
                              (misaligned ? "; it refuses direct I/O there, register the file without" : ""));
        }
    } else if (operation.kind == Operation::Kind::kSync || operation.kind == Operation::Kind::kSyncFolder) {
        return false;
    } else if (result == 0) {
        return failed(slot, NIXL_ERR_BACKEND,
                      transfer.writes() ? "the system takes no more there" : "the file ends there");
    } else {
        const uint64_t bytes = std::min(static_cast<uint64_t>(result), slot.length - slot.done);
        if (slot.bounce) {
            if (!transfer.writes()) {
                copy(slot.memory, slot.bounce + slot.done, bytes, false);
                bytes_bounced_ += bytes;
            }
            slot.bounce_vector = {slot.bounce + slot.done + bytes, slot.length - slot.done - bytes};
        }
        advance(slot.memory, bytes);
        transfer.moved(bytes);
        slot.done += bytes;
        slot.fruitless = 0;
        if (slot.done == slot.length) return false;
        operation.offset += bytes;
        if (!slot.bounce) {
            operation.vectors = slot.memory.first;
            operation.vector_count = slot.memory.count;
        }
        // Nobody else touches the rest of the page now, see Transfer::Stage.
        if (slot.page > 0 && operation.offset % slot.page > 0) {
            slot.page = 0;
            operation.cached = true;
            operation.fd = bufferedOf(slot);
        }
    }
    transfer.left_out = transfer.left_out || transfer.isOver();
    return !transfer.isOver();
}

bool
Mover::failed(Slot &slot, nixl_status_t status, const std::string &why) noexcept {
    Transfer &transfer = *slot.transfer;
    try {
        std::string what = slot.open->file->name();
        if (slot.operation.kind == Operation::Kind::kSync) {
            what += " could not be made durable: ";
        } else if (slot.operation.kind == Operation::Kind::kSyncFolder) {
            what += " is replaced, but its name could not be made durable: ";
        } else {
            what += std::string(transfer.writes() ? ": writing " : ": reading ") + std::to_string(slot.length) +
                " bytes at offset " + std::to_string(slot.offset) + " ended after " + std::to_string(slot.done) + ": ";
        }
        transfer.failNow(status, what + why);
    }
    catch (const std::bad_alloc &) {
        transfer.failNow(status, "out of memory"); // short enough to need none
    }
    return false;
}

int
Mover::bufferedOf(Slot &slot) noexcept {
    try {
        Result<int> fd = slot.open->file->buffered();
        if (fd.ok()) return *fd;
        slot.transfer->fail(fd.code(), fd.message());
    }
    catch (const std::bad_alloc &) {
        slot.transfer->fail(NIXL_ERR_NO_MEMORY, "out of memory");
    }
    return -1;
}

void
Mover::copy(Vectors memory, std::byte *bounce, uint64_t bytes, bool to_bounce) noexcept {
    for (; bytes > 0; ++memory.first) {
        const uint64_t part = std::min<uint64_t>(bytes, memory.first->iov_len);
        if (to_bounce) {
            std::memcpy(bounce, memory.first->iov_base, part);
        } else {
            std::memcpy(memory.first->iov_base, bounce, part);
        }
        bounce += part;
        bytes -= part;
    }
}

void
Mover::advance(Vectors &vectors, uint64_t bytes) noexcept {
    for (; vectors.count > 0 && bytes >= vectors.first->iov_len; ++vectors.first, --vectors.count) {
        bytes -= vectors.first->iov_len;
    }
    if (bytes > 0) {
        vectors.first->iov_base = static_cast<char *>(vectors.first->iov_base) + bytes;
        vectors.first->iov_len -= bytes;
    }
}

void
Mover::freeLocked(Slot &slot) noexcept {
    Transfer &transfer = *slot.transfer;
    if (--slot.open->uses == 0) {
        if (transfer.open == slot.open) transfer.open = nullptr;
        slot.open->file->done();
        free_files_.push_back(slot.open);
    }
    if (slot.bounce) bounce_.give(slot.bounce);
    bytes_in_flight_ -= slot.length;
    transfer.bytes_in_flight -= slot.length;
    --transfer.in_flight;
    free_slots_.push_back(&slot);
    starved_ = false;
    settleLocked(transfer);
}

/// Something of it has ended, or it has nothing to begin: it is active, waits for what is in flight, or is done.
void
Mover::settleLocked(Transfer &transfer) noexcept {
    if (transfer.is_active) return;
    const bool has_more = transfer.hasMore();
    if (has_more && !transfer.isOver()) {
        if (transfer.in_flight < operations_max_ && transfer.bytes_in_flight < kBytesInFlightMax / 2) {
            pushLocked(transfer);
        }
    } else if (transfer.in_flight == 0) {
        finishLocked(transfer);
    }
}

void
Mover::endStoppedLocked() noexcept {
    for (size_t i = active_.size; i > 0; --i) {
        Transfer &transfer = popLocked();
        if (transfer.isOver()) {
            settleLocked(transfer);
        } else {
            pushLocked(transfer);
        }
    }
}

void
Mover::finishLocked(Transfer &transfer) noexcept {
    transfer.dropVersions();
    transfer.finish(transfer.stage == Transfer::Stage::kEnd && !transfer.left_out);
    bell_.ring();
}

void
Mover::pushLocked(Transfer &transfer) noexcept {
    transfer.is_active = true;
    transfer.next = nullptr;
    (active_.last ? active_.last->next : active_.first) = &transfer;
    active_.last = &transfer;
    ++active_.size;
}

Transfer &
Mover::popLocked() noexcept {
    Transfer &transfer = *active_.first;
    active_.first = transfer.next;
    if (!active_.first) active_.last = nullptr;
    --active_.size;
    transfer.is_active = false;
    return transfer;
}

} // namespace nx::posix
