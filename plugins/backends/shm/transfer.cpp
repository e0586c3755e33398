// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "shm/transfer.h"

#include <algorithm>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <new>
#include <thread>
#include <utility>

#include "utils/common/nixl_log.h"
#include "wire/notification.h"

namespace nx::shm {

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kInlineChunks = 2;                      // of a post: a millisecond at most
constexpr uint64_t kStreamBytesMin = uint64_t{16} << 20; // of a request: more than the caches hold

constexpr uint64_t kRelayBytesMin = 512; // of each of many blocks: smaller ones are quicker together, by the kernel
constexpr auto kPatience = std::chrono::microseconds(20); // with a peer that looked all the time
constexpr uint64_t kWakeBytesMin = kStreamBytesMin; // of a request: its peer may be asleep, and have a core to spare
constexpr uint64_t kPaceBytesMin = 32 << 10;        // of a request: for less the relay is quicker wherever the two run
constexpr auto kWakePatience = std::chrono::microseconds(200);
constexpr unsigned kLooksAtOnce = 64; // between two looks at the clock
constexpr auto kLookAgainAfter = std::chrono::milliseconds(1);

const RemoteMemory &
remoteOf(const nixlx::Plan &plan, const nixlx::Run &run) {
    return *static_cast<const RemoteMemory *>(plan.remote_segments[run.remote_segment].metadata);
}

size_t
countMapped(const nixlx::Plan &plan) {
    return static_cast<size_t>(std::count_if(plan.runs.begin(), plan.runs.end(), [&](const nixlx::Run &run) {
        return remoteOf(plan, run).here != nullptr;
    }));
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
      changes_(changes),
      all_mapped_(countMapped(plan_) == plan_.runs.size()),
      suits_relay_(
          (plan_.block_count <= RelayMemory::kSlots || plan_.total_bytes >= plan_.block_count * kRelayBytesMin) &&
          countMapped(plan_) == 0) {}

nixl_status_t
Transfer::post(const std::string *notification) {
    begin();
    has_note_ = notification;
    kit::Cursor at = start();
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
    relayed_.store(false, std::memory_order_relaxed);
    again_.store(false, std::memory_order_relaxed);
    woken_in_vain_.store(false, std::memory_order_relaxed);
    bool relays = at.blocks_left > 0 && entersRelay();
    if (relays) {
        uint64_t bytes = 0;
        relays = carry(at, bytes);
        moved(bytes);
    }
    for (size_t i = 0; !relays && i < kInlineChunks && at.blocks_left > 0 && !stopping() && !needsRelay(); ++i) {
        moved(copy(at, kChunkPieces));
    }
    // Nobody else knows of it yet: no lock.
    if (!relays && at.blocks_left == 0 && !has_note_ && !again_.load(std::memory_order_relaxed) && !stopping()) {
        finish(true);
        changes_.changed();
        return outcome();
    }

    bool ends = false;
    {
        const MutexLock lock(mutex_);
        cursor_ = at;
        relays_ = relays;
        stage_ = Stage::kCopying;
        ends = copyingEndsLocked();
    }
    if (ends) {
        endCopying();
    } else if (progress_) {
        addToProgress();
    } else {
        changes_.needsCaller(true);
        needs_caller_ = true;
    }
    return outcome();
}

void
Transfer::advance() {
    Chunk chunk;
    if (take(chunk) == Take::kChunk) {
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

Transfer::Take
Transfer::take(Chunk &chunk) {
    const MutexLock lock(mutex_);
    if (stage_ != Stage::kCopying) return Take::kNone;
    if (carrying_) return Take::kLater;
    if (again_.load(std::memory_order_relaxed) && !relays_ && !stopping()) {
        if (movers_ > 0) return Take::kLater;
        again_.store(false, std::memory_order_relaxed);
        cursor_ = start();
        moved(-bytesDone());
    }
    const bool begins = cursor_.blocks_left > 0 && !stopping();
    if (begins && !relays_) relays_ = entersRelay();
    if (relays_) {
        chunk = {};
        carrying_ = true;
        ++movers_;
        return Take::kChunk;
    }
    if (!begins) return Take::kNone;
    if (needsRelay()) return Take::kLater; // another request has it
    chunk = {cursor_, 0};
    for (uint64_t bytes = 0; bytes < kChunkBytes && cursor_.blocks_left > 0 && chunk.pieces < kChunkPieces;) {
        const uint64_t length = cursor_.nextLength(kChunkBytes - bytes);
        cursor_.step(length);
        bytes += length;
        ++chunk.pieces;
    }
    ++movers_;
    return Take::kChunk;
}

bool
Transfer::move(Chunk chunk) {
    const bool through_relay = chunk.pieces == 0;
    uint64_t bytes = 0;
    bool relays = false;
    if (through_relay) {
        {
            const MutexLock lock(mutex_);
            chunk.at = cursor_;
        }
        relays = carry(chunk.at, bytes);
    } else {
        bytes = copy(chunk.at, chunk.pieces);
    }
    {
        const MutexLock lock(mutex_);
        if (through_relay) {
            cursor_ = chunk.at;
            relays_ = relays;
            carrying_ = false;
        }
        moved(bytes);
        --movers_;
        if (!copyingEndsLocked()) return bytes > 0; // and it may be gone
    }
    endCopying();
    return true;
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
        return;
    }
    withdraw(); // if it is at its note; else whoever is at a chunk ends it
    Chunk chunk;
    if (take(chunk) == Take::kChunk) move(chunk); // gives the relay back
}

/// True once: all chunks are done, or will not be begun.
bool
Transfer::copyingEndsLocked() noexcept {
    if (stage_ != Stage::kCopying || movers_ > 0 || relays_) return false;
    if ((cursor_.blocks_left > 0 || again_.load(std::memory_order_relaxed)) && !stopping()) return false;
    stage_ = Stage::kNoting;
    return true;
}

void
Transfer::addToProgress() {
    was_added_ = true;
    progress_->add(*this);
}

void
Transfer::endCopying() {
    if (was_added_.exchange(false)) progress_->remove(*this);
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
            if (memory->block) memory->block->expect(there, length);
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
    const auto begun = Clock::now();
    KernelCopy::Outcome outcome = link_->kernel().copy(write, for_kernel);
    if (outcome.bytes >= kPaceBytesMin) pace().kernelTook(outcome.bytes, Clock::now() - begun);
    if (!outcome.why.empty()) {
        if (link_->ended() || outcome.gone) {
            failAsGone();
        } else if (outcome.refused) {
            again_.store(true, std::memory_order_relaxed);
            if (progress_) addToProgress(); // it may have seen the last chunk leave
            if (link_->kernelRefuses()) {
                NIXL_INFO << "shm: memory of agent " << quoted(link_->agent())
                          << " is copied by both sides from now on: " << outcome.why;
            }
        } else {
            fail(NIXL_ERR_BACKEND,
                 "copying between this process and that of agent " + quoted(link_->agent()) + ": " + outcome.why);
        }
    }
    return bytes + outcome.bytes;
}

/// True: this request has the relay.
bool
Transfer::entersRelay() noexcept {
    const bool may_choose = !needsRelay();
    if (all_mapped_ || stopping() || (may_choose && !suits_relay_)) return false;
    if (!link_->relay().attended()) {
        link_->invite();
        const bool wakes = plan_.total_bytes >= kWakeBytesMin && !woken_in_vain_.load(std::memory_order_relaxed);
        if (may_choose && !wakes) return false;
    }
    if (may_choose && plan_.total_bytes >= kPaceBytesMin && !pace().prefersRelay()) return false;
    return link_->ended() || link_->relay().take();
}

/// Moves a chunk through the relay, or less if the peer does not take it soon. False: this request has the relay no
/// more.
bool
Transfer::carry(kit::Cursor &at, uint64_t &bytes) {
    if (plan_.total_bytes < kPaceBytesMin) return carryOn(at, bytes);
    const auto begun = Clock::now();
    const bool has_relay = carryOn(at, bytes);
    pace().relayTook(std::max(bytes, kPaceBytesMin), Clock::now() - begun); // also if nothing was moved
    return has_relay;
}

bool
Transfer::carryOn(kit::Cursor &at, uint64_t &bytes) {
    RelaySender &relay = link_->relay();
    const bool insists = needsRelay();
    relayed_.store(true, std::memory_order_relaxed);
    Clock::time_point idle_since{};
    bool wakes = !relay.attended(); // the peer, which has not come yet
    for (unsigned looks = 1; !link_->ended(); ++looks) {
        if (stopping()) withdrawPieces(at);
        const bool offers = !relay.full() && at.blocks_left > 0 && !stopping();
        if (offers) {
            offer(at, bytes);
            if (relay.mustWake()) ringBell(link_->socket());
        }
        const bool reaps = reap(bytes);
        if (reaps) wakes = false;
        if (relay.outstanding() == 0 && (at.blocks_left == 0 || stopping())) {
            relay.giveBack();
            return false;
        }
        if (bytes >= kChunkBytes) return true;
        if (offers || reaps) {
            idle_since = {};
            continue;
        }
        link_->relayOfPeer().serve(); // it may wait for this side as well
        if (looks % kLooksAtOnce != 0) continue;
        const auto now = Clock::now();
        if (idle_since == Clock::time_point{}) {
            idle_since = now;
        } else if (now - idle_since > (wakes ? kWakePatience : kPatience)) {
            break;
        }
    }
    if (wakes) woken_in_vain_.store(true, std::memory_order_relaxed);
    if (link_->ended()) {
        failAsGone(); // nobody uses the relay any more
        return false;
    }
    if (insists) {
        std::this_thread::yield(); // the peer may need this core
        return true;
    }
    withdrawPieces(at);
    if (relay.outstanding() > 0) return true;
    relay.giveBack();
    return false;
}

void
Transfer::offer(kit::Cursor &at, uint64_t &bytes) {
    RelaySender &relay = link_->relay();
    while (!relay.full() && at.blocks_left > 0 && !stopping()) {
        const uint64_t length = at.nextLength(RelayMemory::kSlotBytes);
        const RemoteMemory &memory = remoteOf(plan_, *at.run);
        if (memory.here) {
            bytes += copy(at, 1);
            continue;
        }
        relay.offer({.local = pointerTo(at.run->local + at.block * at.run->local_stride + at.offset),
                     .remote = at.run->remote + at.block * at.run->remote_stride + at.offset,
                     .window = memory.key,
                     .length = static_cast<uint32_t>(length),
                     .write = plan_.operation == NIXL_WRITE,
                     .streams = plan_.total_bytes >= kStreamBytesMin,
                     .from = at});
        at.step(length);
    }
}

/// True: something was there.
bool
Transfer::reap(uint64_t &bytes) {
    RelaySender::Piece piece;
    for (bool any = false;; any = true) {
        switch (link_->relay().reap(piece)) {
        case RelaySender::End::kNone: return any;
        case RelaySender::End::kDone: bytes += piece.length; break;
        case RelaySender::End::kRefused: refuse(remoteOf(plan_, *piece.from.run)); break;
        }
    }
}

void
Transfer::withdrawPieces(kit::Cursor &at) noexcept {
    RelaySender::Piece piece;
    while (link_->relay().withdraw(piece)) at = piece.from;
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
    if (all_mapped_) return "shared memory, mapped";
    return needsRelay() || relayed_.load(std::memory_order_relaxed) ? "shared memory, copied by both sides"
                                                                    : "shared memory, copied by the kernel";
}

// ---- Progress ------------------------------------------------------------------------------------------------------

void
Progress::add(Transfer &transfer) {
    bool idle = false;
    {
        const MutexLock lock(mutex_);
        if (transfer.queued) return;
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
    bool any_later = false;
    {
        const MutexLock lock(mutex_);
        const Transfer *first_later = nullptr;
        while (first_ && first_ != first_later && !transfer) {
            Transfer *const first = std::exchange(first_, first_->next);
            if (!first_) last_ = nullptr;
            first->queued = false;
            const Transfer::Take taken = first->take(chunk);
            if (taken == Transfer::Take::kNone) continue; // whoever is at its last chunks ends it
            if (taken == Transfer::Take::kChunk) {
                transfer = first;
            } else if (!first_later) {
                first_later = first;
            }
            first->next = nullptr;
            first->queued = true;
            (first_ ? last_->next : first_) = first;
            last_ = first;
        }
        any_later = first_later;
    }
    if (transfer && transfer->move(chunk)) {
        loop_.post([this] { step(); });
    } else if (transfer || any_later) {
        loop_.after(kLookAgainAfter, [this] { step(); });
    }
}

} // namespace nx::shm
