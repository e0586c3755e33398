// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/files/file_mover.h"

#include <new>
#include <utility>

namespace nx::kit {

namespace {

/// The request learns what came of a piece that ended early.
void
blame(const FileWay &way, const FilePiece &piece) noexcept {
    const nixl_status_t status = way.statusOf(piece);
    try {
        const std::string reason = piece.code || piece.event ? way.reasonOf(piece)
            : piece.transfer->writes()                       ? "the file takes no more there"
                                                             : "the file ends there";
        piece.transfer->fail(status,
                             piece.file->file->name() + (piece.transfer->writes() ? ": writing " : ": reading ") +
                                 std::to_string(piece.length) + " bytes at offset " + std::to_string(piece.offset) +
                                 " ended after " + std::to_string(piece.done) + ": " + reason);
    }
    catch (const std::bad_alloc &) {
        piece.transfer->fail(status, "out of memory"); // short enough to need none
    }
}

} // namespace

FileMover::FileMover(Bell &bell,
                     std::vector<std::unique_ptr<FileWay>> ways,
                     uint64_t bytes_max,
                     const std::string &thread_name)
    : bell_(bell),
      bytes_max_(bytes_max) {
    for (auto &way : ways) {
        std::vector<FilePiece> room(way->pieceCountMax());
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

FileMover::~FileMover() {
    stop();
}

void
FileMover::stop() noexcept {
    {
        const MutexLock lock(mutex_);
        stopping_ = true;
    }
    changed_.notifyAll();
    for (Thread &thread : threads_) thread.join();
}

// ---- The callers' side ---------------------------------------------------------------------------------------------

void
FileMover::post(FileTransfer &transfer) noexcept {
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
FileMover::cancel(FileTransfer &transfer) noexcept {
    const MutexLock lock(mutex_);
    if (transfer.quiet()) return;
    transfer.cancel();
    if (transfer.users > 0) return; // who comes back last ends it
    FileTransfer *before = nullptr;
    for (FileTransfer *each = first_; each != &transfer; each = each->next_queued) before = each;
    (before ? before->next_queued : first_) = transfer.next_queued;
    if (last_ == &transfer) last_ = before;
    finishLocked(transfer);
}

// ---- The threads ---------------------------------------------------------------------------------------------------

void
FileMover::run(Worker &worker) noexcept {
    for (;;) {
        const std::span<FilePiece> taken = std::span(worker.room).first(take(worker));
        if (taken.empty()) break;
        worker.way->move(taken);
        giveBack(*worker.way, taken);
    }
    worker.way.reset(); // all at once: a library may take long to let go of what one has
}

/// 0: the end.
size_t
FileMover::take(Worker &worker) noexcept {
    const std::span<FilePiece> pieces(worker.room);
    const MutexLock lock(mutex_);
    for (;;) {
        while (!first_ && !stopping_) changed_.wait(mutex_);
        if (!first_) return 0;
        FileTransfer &transfer = *std::exchange(first_, first_->next_queued);
        if (!first_) last_ = nullptr;
        transfer.queued = false;
        size_t count = 0;
        for (uint64_t bytes = 0; count < pieces.size() && bytes < bytes_max_ && !transfer.stopping(); ++count) {
            const FilePiece piece = transfer.next(bytes_max_);
            if (piece.length == 0) break;
            if (count > 0 && (bytes + piece.length > bytes_max_ || !worker.way->joins(pieces[0], piece))) {
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
FileMover::giveBack(const FileWay &way, std::span<const FilePiece> pieces) noexcept {
    FileTransfer &transfer = *pieces.front().transfer;
    uint64_t bytes = 0;
    bool left_out = false;
    for (const FilePiece &piece : pieces) {
        if (piece.failed) blame(way, piece);
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
FileMover::pushLocked(FileTransfer &transfer) noexcept {
    transfer.queued = true;
    transfer.next_queued = nullptr;
    (last_ ? last_->next_queued : first_) = &transfer;
    last_ = &transfer;
}

void
FileMover::finishLocked(FileTransfer &transfer) noexcept {
    transfer.finish(transfer.atEnd() && !transfer.left_out);
    bell_.ring();
}

} // namespace nx::kit
