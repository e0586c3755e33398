// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "shm/transfer.h"

#include <cinttypes>
#include <cstdio>
#include <new>
#include <utility>

#include "wire/notification.h"

namespace nx::shm {

namespace {

constexpr size_t kInlineChunks = 2;                      // of a post: a millisecond at most
constexpr uint64_t kStreamBytesMin = uint64_t{16} << 20; // of a request: more than the caches hold

const RemoteMemory &
remoteOf(const nixlx::Plan &plan, const nixlx::Run &run) {
    return *static_cast<const RemoteMemory *>(plan.remote_segments[run.remote_segment].metadata);
}

std::byte *
pointerTo(uint64_t address) {
    return reinterpret_cast<std::byte *>(address);
}

} // namespace

Transfer::Transfer(const nixlx::Plan &plan, std::shared_ptr<Link> link, Progress *progress, Changes &changes)
    : plan_(plan),
      link_(std::move(link)),
      progress_(progress),
      changes_(changes) {}

nixl_status_t
Transfer::post(const std::string *notification) {
    begin();
    has_note_ = notification;
    kit::Cursor at{plan_.runs.data(), 0, 0, plan_.block_count};
    try {
        if (notification) note_ = *notification;
    }
    catch (const std::bad_alloc &) {
        fail(NIXL_ERR_NO_MEMORY, "out of memory");
    }
    if (notification) {
        if (Status checked = wire::checkNotification(note_); !checked.ok()) fail(checked.code(), checked.message());
    }
    if (link_->ended()) failAsGone();
    for (size_t i = 0; i < kInlineChunks && at.blocks_left > 0 && !stopping(); ++i) moved(copy(at, kChunkPieces));

    bool ends = false;
    {
        const MutexLock lock(mutex_);
        cursor_ = at;
        stage_ = Stage::kCopying;
        ends = copyingEndsLocked();
    }
    if (ends) {
        endCopying();
    } else if (progress_) {
        progress_->add(*this);
    } else {
        changes_.needsCaller(true);
        needs_caller_ = true;
    }
    return outcome();
}

void
Transfer::advance() {
    Chunk chunk;
    if (take(chunk)) {
        move(chunk);
        return;
    }
    {
        const MutexLock lock(mutex_);
        if (stage_ != Stage::kNoting) return;
    }
    if (stopping()) {
        withdraw();
    } else {
        changes_.waits(*link_); // for room in the ring, or for an answer that nobody else may read
    }
}

bool
Transfer::take(Chunk &chunk) {
    const MutexLock lock(mutex_);
    if (stage_ != Stage::kCopying || cursor_.blocks_left == 0 || stopping()) return false;
    chunk = {cursor_, 0};
    for (uint64_t bytes = 0; bytes < kChunkBytes && cursor_.blocks_left > 0 && chunk.pieces < kChunkPieces;) {
        const uint64_t length = cursor_.nextLength(kChunkBytes - bytes);
        cursor_.step(length);
        bytes += length;
        ++chunk.pieces;
    }
    ++movers_;
    return true;
}

void
Transfer::move(Chunk chunk) {
    const uint64_t bytes = copy(chunk.at, chunk.pieces);
    {
        const MutexLock lock(mutex_);
        moved(bytes);
        --movers_;
        if (!copyingEndsLocked()) return; // and it may be gone
    }
    endCopying();
}

void
Transfer::cancel() {
    RequestBase::cancel();
    bool ends = false;
    {
        const MutexLock lock(mutex_);
        ends = copyingEndsLocked();
    }
    if (ends) {
        endCopying();
    } else {
        withdraw(); // if it is at its note; else whoever is at a chunk ends it
    }
}

/// True once: all chunks are done, or will not be begun.
bool
Transfer::copyingEndsLocked() noexcept {
    if (stage_ != Stage::kCopying || movers_ > 0 || (cursor_.blocks_left > 0 && !stopping())) return false;
    stage_ = Stage::kNoting;
    return true;
}

void
Transfer::endCopying() {
    if (progress_) progress_->remove(*this);
    if (std::exchange(needs_caller_, false)) changes_.needsCaller(false);
    if (stopping() || !has_note_) {
        // Requires the lock for no other reason than the analysis: nobody else is at it.
        const bool complete = [this] {
            const MutexLock lock(mutex_);
            return cursor_.blocks_left == 0 && !has_note_;
        }();
        end(complete);
        return;
    }
    if (link_->outbox().trySend(note_)) {
        end(true);
        return;
    }
    const std::shared_ptr<Link> link = link_; // this may be gone as soon as the outbox has it
    Changes &changes = changes_;
    try {
        link->outbox().enqueue(note_, *this);
    }
    catch (const std::bad_alloc &) {
        fail(NIXL_ERR_NO_MEMORY, "out of memory");
        end(false);
        return;
    }
    changes.waits(*link);
}

void
Transfer::withdraw() noexcept {
    if (link_->outbox().withdraw(*this)) end(false);
}

void
Transfer::noteOver(bool sent) noexcept {
    if (!sent) failAsGone();
    end(sent);
}

void
Transfer::end(bool complete) noexcept {
    Changes &changes = changes_;
    {
        const MutexLock lock(mutex_);
        stage_ = Stage::kOver;
    }
    finish(complete);
    changes.changed();
}

/// Moves so many pieces from `at` on, a chunk at most; how many bytes. Less than all: it has failed.
uint64_t
Transfer::copy(kit::Cursor &at, size_t pieces) {
    const bool write = plan_.operation == NIXL_WRITE;
    const bool streams = plan_.total_bytes >= kStreamBytesMin;
    const Link::Access access(*link_);
    KernelCopy::Pieces for_kernel;
    const nixlx::Run *run = nullptr;
    const RemoteMemory *memory = nullptr;
    uint64_t bytes = 0;
    for (uint64_t planned = 0; pieces > 0 && at.blocks_left > 0 && planned < kChunkBytes; --pieces) {
        const uint64_t length = at.nextLength(kChunkBytes - planned);
        if (at.run != run) {
            run = at.run;
            memory = &remoteOf(plan_, *run);
            if (!access.allows(memory->key, memory->address, memory->length)) {
                refuse(*memory);
                return bytes;
            }
        }
        const uint64_t local = run->local + at.block * run->local_stride + at.offset;
        const uint64_t remote = run->remote + at.block * run->remote_stride + at.offset;
        if (memory->here) {
            std::byte *const there = memory->here + (remote - memory->address);
            if (write) {
                copyBytes(there, pointerTo(local), length, streams);
            } else {
                copyBytes(pointerTo(local), there, length, streams);
            }
            bytes += length;
        } else {
            for_kernel.add(local, remote, length);
        }
        planned += length;
        at.step(length);
    }
    if (for_kernel.empty()) return bytes;
    KernelCopy::Outcome outcome = link_->kernel().copy(write, for_kernel);
    if (!outcome.why.empty()) {
        if (link_->ended() || outcome.gone) {
            failAsGone();
        } else {
            fail(NIXL_ERR_BACKEND,
                 "copying between this process and that of agent " + quoted(link_->agent()) + ": " + outcome.why);
        }
    }
    return bytes + outcome.bytes;
}

void
Transfer::failAsGone() noexcept {
    Status gone = link_->gone();
    fail(gone.code(), gone.message());
}

void
Transfer::refuse(const RemoteMemory &memory) {
    if (link_->ended() || link_->isEnding() || kit::hasEnded(link_->socket())) {
        failAsGone();
        return;
    }
    char range[64];
    std::snprintf(range, sizeof range, "0x%" PRIx64 " + %" PRIu64, memory.address, memory.length);
    fail(NIXL_ERR_NOT_FOUND,
         "agent " + quoted(link_->agent()) + " has no registration of " + range + " any more; load its new metadata");
}

std::string
Transfer::path() const {
    if (link_->isThisProcess()) return "memory of this process";
    if (plan_.runs.empty()) return "shared memory";
    return remoteOf(plan_, plan_.runs[0]).here ? "shared memory, mapped" : "shared memory, copied by the kernel";
}

// ---- Progress ------------------------------------------------------------------------------------------------------

void
Progress::add(Transfer &transfer) {
    bool idle = false;
    {
        const MutexLock lock(mutex_);
        idle = !first_;
        transfer.next = nullptr;
        transfer.queued = true;
        (first_ ? last_->next : first_) = &transfer;
        last_ = &transfer;
    }
    if (idle) loop_.post([this] { step(); });
}

void
Progress::remove(Transfer &transfer) noexcept {
    const MutexLock lock(mutex_);
    if (!transfer.queued) return;
    transfer.queued = false;
    Transfer *before = nullptr;
    Transfer **at = &first_;
    for (; *at != &transfer; at = &(*at)->next) before = *at;
    *at = transfer.next;
    if (last_ == &transfer) last_ = before;
}

/// A chunk of the first that has one; the others wait their turn.
void
Progress::step() {
    Transfer *transfer = nullptr;
    Transfer::Chunk chunk;
    {
        const MutexLock lock(mutex_);
        while (first_ && !transfer) {
            Transfer *const first = std::exchange(first_, first_->next);
            if (!first_) last_ = nullptr;
            first->queued = false;
            if (!first->take(chunk)) continue; // whoever is at its last chunks ends it
            transfer = first;
            first->next = nullptr;
            first->queued = true;
            (first_ ? last_->next : first_) = first;
            last_ = first;
        }
    }
    if (!transfer) return;
    transfer->move(chunk);
    loop_.post([this] { step(); });
}

} // namespace nx::shm
