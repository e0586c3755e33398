// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "gds/mover.h"

#include <new>
#include <utility>

namespace nx::gds {

namespace {

const char *
nameOfEvent(int status) noexcept {
    switch (status) {
    case abi::kInvalid: return "INVALID";
    case abi::kCanceled: return "CANCELED";
    case abi::kTimeout: return "TIMEOUT";
    case abi::kFailed: return "FAILED";
    default: return "of a kind that this library does not know";
    }
}

std::string
reasonOf(const Piece &piece) {
    std::string text;
    if (piece.event) {
        text = std::string("its event is ") + nameOfEvent(piece.event) + " (" + std::to_string(piece.event) + ")";
        return piece.code ? text + ", " + textOf(piece.code) : text;
    }
    if (piece.code) return textOf(piece.code);
    return piece.transfer->writes() ? "cuFile takes no more there" : "the file ends there";
}

/// The request learns what came of a piece that ended early.
void
blame(const Piece &piece) noexcept {
    const nixl_status_t status = statusOf(piece.code);
    try {
        piece.transfer->fail(status,
                             piece.file->file->name() + (piece.transfer->writes() ? ": writing " : ": reading ") +
                                 std::to_string(piece.length) + " bytes at offset " + std::to_string(piece.offset) +
                                 " ended after " + std::to_string(piece.done) + ": " + reasonOf(piece));
    }
    catch (const std::bad_alloc &) {
        piece.transfer->fail(status, "out of memory"); // short enough to need none
    }
}

} // namespace

Mover::Mover(const Driver &driver,
             kit::Bell &bell,
             std::vector<std::unique_ptr<Way>> ways,
             uint64_t bytes_max,
             const std::string &thread_name)
    : driver_(driver),
      bell_(bell),
      bytes_max_(bytes_max) {
    for (auto &way : ways) {
        std::vector<Piece> room(way->pieceCountMax());
        workers_.push_back({std::move(way), std::move(room)});
    }
    threads_.reserve(workers_.size());
    try {
        for (Worker &worker : workers_) {
            threads_.emplace_back(thread_name + "-" + std::to_string(threads_.size()),
                                  [this, &worker] { run(worker); });
        }
    }
    catch (...) {
        stop();
        throw;
    }
}

Mover::~Mover() {
    stop();
}

void
Mover::stop() noexcept {
    {
        const MutexLock lock(mutex_);
        stopping_ = true;
    }
    changed_.notifyAll();
    for (Thread &thread : threads_) thread.join();
}

// ---- The callers' side ---------------------------------------------------------------------------------------------

void
Mover::post(Transfer &transfer) noexcept {
    transfer.rewind();
    transfer.begin();
    if (!transfer.refusal().ok()) {
        transfer.fail(transfer.refusal().code(), transfer.refusal().message());
        transfer.finish(false);
        bell_.ring();
        return;
    }
    {
        const MutexLock lock(mutex_);
        pushLocked(transfer);
    }
    changed_.notifyOne();
}

void
Mover::cancel(Transfer &transfer) noexcept {
    const MutexLock lock(mutex_);
    if (transfer.quiet()) return;
    transfer.cancel();
    if (transfer.users > 0) return; // who comes back last ends it
    Transfer *before = nullptr;
    for (Transfer *each = first_; each != &transfer; each = each->next_queued) before = each;
    (before ? before->next_queued : first_) = transfer.next_queued;
    if (last_ == &transfer) last_ = before;
    finishLocked(transfer);
}

// ---- The threads ---------------------------------------------------------------------------------------------------

void
Mover::run(Worker &worker) noexcept {
    abi::Context current = nullptr;
    for (;;) {
        const std::span<Piece> taken = std::span(worker.room).first(take(worker.room));
        if (taken.empty()) break;
        if (taken.front().context != current) driver_.makeCurrent(current = taken.front().context);
        worker.way->move(taken);
        giveBack(taken);
    }
    worker.way.reset(); // all at once: cuFile takes a tenth of a second for a batch
}

/// 0: the end.
size_t
Mover::take(std::span<Piece> pieces) noexcept {
    const MutexLock lock(mutex_);
    for (;;) {
        while (!first_ && !stopping_) changed_.wait(mutex_);
        if (!first_) return 0;
        Transfer &transfer = *std::exchange(first_, first_->next_queued);
        if (!first_) last_ = nullptr;
        transfer.queued = false;
        size_t count = 0;
        for (uint64_t bytes = 0; count < pieces.size() && bytes < bytes_max_ && !transfer.stopping(); ++count) {
            const Piece piece = transfer.next(bytes_max_);
            if (piece.length == 0) break;
            if (count > 0 && (piece.context != pieces[0].context || bytes + piece.length > bytes_max_)) {
                transfer.putBack();
                break;
            }
            pieces[count] = piece;
            bytes += piece.length;
        }
        if (count > 0) ++transfer.users;
        if (!transfer.stopping() && !transfer.atEnd()) {
            pushLocked(transfer);
            changed_.notifyOne();
        } else if (transfer.users == 0) {
            finishLocked(transfer);
        }
        if (count > 0) return count;
    }
}

void
Mover::giveBack(std::span<Piece> pieces) noexcept {
    Transfer &transfer = *pieces.front().transfer;
    uint64_t bytes = 0;
    bool left_out = false;
    for (const Piece &piece : pieces) {
        if (piece.failed) blame(piece);
        bytes += piece.done;
        left_out = left_out || piece.done < piece.length;
    }
    const MutexLock lock(mutex_);
    mark_.fetch_add(1, std::memory_order_relaxed);
    transfer.moved(bytes);
    transfer.left_out = transfer.left_out || left_out;
    if (--transfer.users == 0 && !transfer.queued) finishLocked(transfer);
}

void
Mover::pushLocked(Transfer &transfer) noexcept {
    transfer.queued = true;
    transfer.next_queued = nullptr;
    (last_ ? last_->next_queued : first_) = &transfer;
    last_ = &transfer;
}

void
Mover::finishLocked(Transfer &transfer) noexcept {
    transfer.finish(transfer.atEnd() && !transfer.left_out);
    bell_.ring();
}

} // namespace nx::gds
