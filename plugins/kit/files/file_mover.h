// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The threads that move all that is posted between memory and files, for backends whose way to do that blocks. Each
// takes some pieces of a request, moves them in its own way and accounts for them; requests take turns.
// Self-synchronised.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/thread.h"
#include "kit/bell.h"
#include "kit/files/file_transfer.h"

namespace nx::kit {

/// The way of one thread, which makes all calls but the constructor, the destructor, too.
class FileWay {
public:
    virtual ~FileWay() = default;

    /// Pieces that it takes at once.
    virtual size_t
    pieceCountMax() const noexcept = 0;

    /// It can move the other piece, of the same request, together with the first one.
    virtual bool
    joins(const FilePiece &, const FilePiece &) const noexcept {
        return true;
    }

    /// Moves the pieces, which are of one request and join the first. Returns when nothing touches their memory any
    /// more, with each of them done, failed, or left because its request is to stop.
    virtual void
    move(std::span<FilePiece> pieces) noexcept = 0;

    /// What code and event of a piece that failed mean.
    virtual nixl_status_t
    statusOf(const FilePiece &piece) const noexcept = 0;
    /// The same for people; one of them is not 0.
    virtual std::string
    reasonOf(const FilePiece &piece) const = 0;
};

class FileMover {
public:
    /// A thread for each way, called `thread_name`-0 and so on. A thread takes pieces of `bytes_max` bytes together,
    /// and rings `bell`, which outlives the mover, when a request ends. Throws std::system_error.
    FileMover(Bell &bell,
              std::vector<std::unique_ptr<FileWay>> ways,
              uint64_t bytes_max,
              const std::string &thread_name);
    /// Requires that no request is posted.
    ~FileMover();

    /// Requires that it is quiet.
    void
    post(FileTransfer &transfer) noexcept;

    void
    cancel(FileTransfer &transfer) noexcept;

    /// Changes whenever a piece ends.
    uint64_t
    mark() const noexcept {
        return mark_.load(std::memory_order_relaxed);
    }

private:
    void
    stop() noexcept;
    struct Worker {
        std::unique_ptr<FileWay> way;
        std::vector<FilePiece> room; ///< for what it takes
    };

    void
    run(Worker &worker) noexcept;
    size_t
    take(Worker &worker) noexcept;
    void
    giveBack(const FileWay &way, std::span<const FilePiece> pieces) noexcept;
    void
    pushLocked(FileTransfer &transfer) noexcept NX_REQUIRES(mutex_);
    void
    finishLocked(FileTransfer &transfer) noexcept NX_REQUIRES(mutex_);

    Bell &bell_;
    const uint64_t bytes_max_;
    std::atomic<uint64_t> mark_{0};

    Mutex mutex_;
    CondVar changed_;
    FileTransfer *first_ NX_GUARDED_BY(mutex_) = nullptr; ///< of those that wait for a thread
    FileTransfer *last_ NX_GUARDED_BY(mutex_) = nullptr;
    bool stopping_ NX_GUARDED_BY(mutex_) = false;

    std::vector<Worker> workers_; ///< each its thread's
    std::vector<Thread> threads_; ///< last: they use the others
};

} // namespace nx::kit
