// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/transfer.h"

#include <cassert>

#include "ucx/runtime.h"
#include "wire/notification.h"

namespace nx::ucx {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

// What UCX has at most: enough for any network, and soon over when the request is cancelled.
constexpr uint64_t kWindow = 1024;
constexpr uint64_t kWindowBytes = 16 << 20;
// UCX may copy a whole block before it returns. In pieces of this size a call stays short, and a cancelled request ends
// soon. A flush behind a piece shows that it has arrived, or the next one, which UCX may put before it.
constexpr uint64_t kPieceBytes = 512 << 10;
// One step of issuing, after which the others that wait for the worker get their turn.
constexpr auto kStepTime = microseconds(200);
constexpr unsigned kPiecesPerClockRead = 16;
// On the same host a small request is often done within this time: then the caller need not come back, and the
// progress thread is not woken for it.
constexpr auto kSmallTime = microseconds(4);
constexpr uint64_t kSmallBytes = 64 << 10;

} // namespace

// ---- Lane ----------------------------------------------------------------------------------------------------------

Lane::Lane(Transfer &transfer, size_t worker_index, uint64_t first_block, uint64_t block_count)
    : transfer_(transfer),
      worker_(transfer.connection_->worker(transfer.fabric_, worker_index)),
      worker_index_(worker_index),
      mark_(transfer.connection_->mark(transfer.fabric_, worker_index)),
      first_block_(first_block),
      block_count_(block_count),
      reports_(std::make_shared<Reports>(*this)),
      turn_{*this, worker_, transfer.fabric_, worker_index} {}

Status
Lane::prepare() {
    const MutexLock lock(mutex());
    auto endpoint = transfer_.connection_->endpoint(transfer_.fabric_, worker_index_);
    if (!endpoint.ok()) return std::move(endpoint).status();
    endpoint_ = *endpoint;
    return {};
}

bool
Lane::leadsTo(Stage next) noexcept {
    using enum Stage;
    switch (stage_) {
    case kIdle: return next == kIssuing || next == kAwaiting;
    case kIssuing: return next == kDraining || next == kIdle;
    case kDraining: return next == kSettling || next == kIdle;
    case kSettling: return next == kIdle;
    case kAwaiting: return next == kNotifying || next == kIdle;
    case kNotifying: return next == kSettling || next == kIdle;
    }
    return false;
}

void
Lane::enter(Stage next) noexcept {
    assert(leadsTo(next));
    stage_ = next;
}

void
Lane::start(std::chrono::nanoseconds inline_time) {
    const MutexLock lock(mutex());
    rewind();
    enter(Stage::kIssuing);
    if (inline_time.count() == 0) return worker_.addTask(*this);
    const auto deadline = Clock::now() + inline_time;
    // A finished lane must not be looked at again: whoever sees the final status may delete it. Here the owner itself
    // is calling.
    if (advance()) worker_.addTask(*this);
    while (!transfer_.quiet() && Clock::now() < deadline) worker_.progress();
}

void
Lane::rewind() {
    parked_ = false;
    pieces_outstanding_ = unpulsed_bytes_ = 0;
    bytes_done_.store(0, std::memory_order_relaxed);
    given_ = {transfer_.plan_.runs.data(), first_block_, 0, block_count_};
    if (block_count_ > 0) {
        while (given_.block >= given_.run->count) given_.block -= (given_.run++)->count;
    }
    done_ = given_;
}

bool
Lane::advance() noexcept {
    if (stage_ == Stage::kIssuing) return issue();
    if (stage_ == Stage::kSettling) {
        settle();
    } else if (stage_ == Stage::kAwaiting) {
        enter(Stage::kIdle);
        if (endpoint_->failure() != kDone) transfer_.fail(endpoint_->failure(), *endpoint_);
        transfer_.allQuiet(*this);
    }
    return false;
}

/// True if it stopped for the sake of others and wants to go on.
bool
Lane::issue() {
    const auto deadline = Clock::now() + kStepTime;
    uint64_t bytes = 0;
    for (unsigned pieces = 1; given_.blocks_left > 0 && !transfer_.stopping(); ++pieces) {
        const uint64_t length = given_.nextLength(kPieceBytes);
        const uint64_t window = std::min(kWindow, kWindowBytes / std::max(length, kWindowBytes / kWindow));
        if (reports_->outstanding - reports_->pulses >= window) {
            resume_at_ = window / 2;
            parked_ = true;
            return false;
        }
        if (length > 0 && !keyOf(*given_.run)) break;
        const Code code = issueNext(length);
        bytes += length;
        if (code == kPending) {
            ++reports_->outstanding;
            ++pieces_outstanding_;
        } else if (code == kDone) {
            pieceDone();
            mark_.advance();
        } else {
            transfer_.fail(code, *endpoint_);
            break;
        }
        if (unpulsed_bytes_ += length; unpulsed_bytes_ >= kPieceBytes && given_.blocks_left > 0) givePulse();
        if (pieces % kPiecesPerClockRead == 0 || bytes >= kPieceBytes) {
            bytes = 0;
            if (Clock::now() > deadline) return true;
        }
    }
    drain();
    return false;
}

/// Unpacked only now: a request of thousands of ranges is made without a look at each. Null: the transfer has failed.
ucp_rkey *
Lane::keyOf(const nixlx::Run &run) noexcept {
    if (run.remote_segment == key_segment_) return key_;
    RemoteMemory &remote = transfer_.remoteOf(run);
    try {
        Result<ucp_rkey *> key = remote.connection() == transfer_.connection_
            ? remote.key(transfer_.fabric_, worker_index_, *endpoint_)
            : Status(NIXL_ERR_INVALID_PARAM,
                     "the remote ranges of one request were loaded for different connections; load the metadata of "
                     "peer " +
                         quoted(transfer_.connection_->name()) + " again");
        if (key.ok()) {
            key_segment_ = run.remote_segment;
            return key_ = *key;
        }
        transfer_.fail(key.code(), key.message());
    }
    catch (const std::bad_alloc &) {
        transfer_.fail(NIXL_ERR_NO_MEMORY, {});
    }
    return nullptr;
}

/// Gives one piece to UCX and steps to the next. Requires keyOf.
Code
Lane::issueNext(uint64_t length) {
    const nixlx::Run &run = *given_.run;
    const uint64_t local = run.local + given_.block * run.local_stride + given_.offset;
    const uint64_t remote = run.remote + given_.block * run.remote_stride + given_.offset;
    Code code = kDone;
    if (length > 0) {
        auto *const memory = reinterpret_cast<void *>(local);
        const Mapping &mapping = *transfer_.localOf(run).mapping(transfer_.fabric_);
        code = transfer_.plan_.operation == NIXL_WRITE
            ? endpoint_->put(memory, length, remote, key_, mapping, *reports_)
            : endpoint_->get(memory, length, remote, key_, mapping, *reports_);
    }
    given_.step(length);
    return code;
}

void
Lane::pieceDone() {
    const uint64_t length = done_.nextLength(kPieceBytes);
    done_.step(length);
    bytes_done_.store(bytesDone() + length, std::memory_order_relaxed);
}

/// On a slow network all pieces of a WRITE may have ended, in buffers of the system, long before the peer has them. So
/// that it shows that they move, there is a flush behind every few of them.
void
Lane::givePulse() {
    if (transfer_.plan_.operation != NIXL_WRITE || transfer_.fabric_ != Fabric::kPlain) return;
    unpulsed_bytes_ = 0;
    // Counted first, as in drain().
    ++reports_->outstanding;
    ++reports_->pulses;
    if (endpoint_->flush(reports_->pulse) == kPending) return;
    --reports_->outstanding; // an error is met by what follows
    --reports_->pulses;
}

/// Nothing more will be given: the flush, then wait.
void
Lane::drain() {
    enter(Stage::kDraining);
    if (given_.blocks_left > 0) transfer_.cut_short_.store(true, std::memory_order_relaxed);
    const bool gave_some = given_.blocks_left < block_count_ || given_.offset > 0;
    if (transfer_.plan_.operation == NIXL_WRITE && gave_some) {
        // Counted before it is made: on a connection that breaks in it, UCX reports the end of what was given before
        // from inside the call, and this lane must not become a task then that outlives its settling below.
        ++reports_->outstanding;
        const Code code = endpoint_->flush(*reports_);
        if (code != kPending) --reports_->outstanding;
        if (code != kPending && code != kDone) transfer_.fail(code, *endpoint_);
    }
    if (reports_->outstanding == 0) settle();
}

void
Lane::Reports::finished(Code code) noexcept {
    --outstanding;
    if (!lane) return;
    lane->mutex().assertHeld();
    lane->reported(code);
}

void
Lane::Reports::Pulse::finished(Code) noexcept {
    --reports.outstanding;
    --reports.pulses;
    if (!reports.lane) return;
    reports.lane->mutex().assertHeld();
    reports.lane->ended();
}

void
Lane::reported(Code code) {
    if (code != kDone) {
        transfer_.fail(code, *endpoint_);
    } else if (pieces_outstanding_ > 0) { // flush and message come behind all pieces
        --pieces_outstanding_;
        pieceDone();
    }
    ended();
}

/// An operation, not the only one perhaps.
void
Lane::ended() {
    mark_.advance();
    if (parked_ && reports_->outstanding - reports_->pulses <= resume_at_) {
        parked_ = false;
        worker_.addTask(*this);
    }
    if (stage_ == Stage::kNotifying) {
        transfer_.connection_->outbox().completed(turn_.fabric, turn_.worker_index, turn_.cost);
    }
    if (stage_ == Stage::kNotifying || (stage_ == Stage::kDraining && reports_->outstanding == 0)) {
        // UCX ends what is left on a dying connection, flushes even with success, and reports the death afterwards.
        enter(Stage::kSettling);
        worker_.addTask(*this);
    }
}

void
Lane::giveUp(bool by_force) noexcept {
    const MutexLock lock(mutex());
    if (!by_force && !endpoint_->isSilent()) return;
    // What the peer wrote before its death is still in our queue and may belong into the caller's memory; after this
    // many steps it is not. The same steps end what a closing by force ends.
    for (int i = 0; i < Worker::kStepsPerQueue && !transfer_.quiet(); ++i) worker_.progress();
    if (!transfer_.quiet()) worker_.endCopies();
    if (transfer_.quiet() || stage_ == Stage::kIdle || stage_ == Stage::kSettling || stage_ == Stage::kAwaiting) return;
    if (by_force) worker_.retire();
    transfer_.fail(endpoint_->failure(), *endpoint_);
    if (stage_ == Stage::kIssuing) {
        if (!parked_) return; // among the tasks: it will stop by itself
        transfer_.cut_short_.store(true, std::memory_order_relaxed);
    }
    try {
        if (reports_->outstanding > 0) leaveReports();
    }
    catch (const std::bad_alloc &) {
        return; // tried again with the next look at the request
    }
    settle();
}

/// To the worker, with the memory they are about, which UCX lets go only when it destroys the worker.
void
Lane::leaveReports() {
    auto fresh = std::make_shared<Reports>(*this);
    std::vector<std::shared_ptr<const void>> kept{reports_};
    const Mapping *last = nullptr;
    for (const nixlx::Run &run : transfer_.plan_.runs) {
        const Mapping *mapping = transfer_.localOf(run).mapping(transfer_.fabric_);
        if (mapping && mapping != last) kept.push_back(mapping->shared_from_this());
        last = mapping;
    }
    worker_.keep(kept);
    reports_->lane = nullptr;
    reports_ = std::move(fresh);
}

void
Lane::settle() {
    enter(Stage::kIdle);
    parked_ = false;
    if (endpoint_->failure() != kDone) transfer_.fail(endpoint_->failure(), *endpoint_);
    if (transfer_.lanes_moving_.fetch_sub(1, std::memory_order_acq_rel) == 1) transfer_.allQuiet(*this);
}

Code
Lane::notify(std::string_view message, uint64_t cost) {
    Outbox &outbox = transfer_.connection_->outbox();
    turn_.cost = cost;
    enter(Stage::kAwaiting); // it may be continued as soon as it waits
    const auto place = outbox.await(turn_);
    if (place == Outbox::Place::kLater) {
        if (transfer_.stopping()) outbox.leave(turn_); // whoever stopped it may have looked too early
        return kPending;
    }
    transfer_.notify_ = false;
    if (place == Outbox::Place::kGone) {
        enter(Stage::kIdle);
        return kNotConnected;
    }
    const Code code = endpoint_->send(message, *reports_);
    enter(code == kPending ? Stage::kNotifying : Stage::kIdle);
    if (code == kPending) {
        ++reports_->outstanding;
    } else if (code == kDone) {
        outbox.completed(turn_.fabric, turn_.worker_index, cost);
    } else {
        outbox.notSent(turn_.fabric, turn_.worker_index, cost);
    }
    return code;
}

void
Lane::leaveTurn() {
    transfer_.connection_->outbox().leave(turn_);
}

void
Lane::giveTurnBack() {
    if (transfer_.notify_) transfer_.connection_->outbox().giveBack(turn_);
}

// ---- Transfer: preparation -----------------------------------------------------------------------------------------

Result<std::unique_ptr<Transfer>>
Transfer::create(Runtime &runtime, const nixlx::Plan &plan, size_t worker_index) {
    std::unique_ptr<Transfer> transfer(new Transfer(runtime, plan));
    if (auto status = transfer->resolve(); !status.ok()) return status;
    if (auto status = transfer->prepareLanes(worker_index); !status.ok()) return status;
    return transfer;
}

// Looks at each range only where they differ in what they can do: a request of thousands is made in the time that its
// blocks take.
Status
Transfer::resolve() {
    const auto outside = [] {
        return Status(NIXL_ERR_INVALID_PARAM, "a block lies outside the registrations given for it");
    };
    if (plan_.runs.empty()) return {NIXL_ERR_INVALID_PARAM, "the request has no remote range"};
    for (const nixlx::Run &run : plan_.runs) {
        const bool known =
            run.local_segment < plan_.local_segments.size() && run.remote_segment < plan_.remote_segments.size();
        if (!known) return outside();
    }
    connection_ = remoteOf(plan_.runs.front()).connection();
    if (connection_->name() != plan_.remote_agent) {
        return {NIXL_ERR_INVALID_PARAM,
                "the remote ranges are those of peer " + quoted(connection_->name()) + ", not of " +
                    quoted(plan_.remote_agent)};
    }
    const bool vram = plan_.local_memory == VRAM_SEG || plan_.remote_memory == VRAM_SEG;
    fabric_ = connection_->fabric(vram && remoteOf(plan_.runs.front()).reachable(Fabric::kLocal));
    if (runtime_.memoryIsWhole() && (fabric_ == Fabric::kPlain || connection_->reachesAll())) return {};
    for (const nixlx::Run &run : plan_.runs) {
        if (run.length == 0 || run.count == 0) continue;
        const LocalMemory &local = localOf(run);
        if (local.length() == 0) return outside();
        if (!local.mapping(fabric_) || !remoteOf(run).reachable(fabric_)) fabric_ = connection_->network();
    }
    return {};
}

Status
Transfer::prepareLanes(size_t worker_index) {
    const Options &options = runtime_.options();
    const uint64_t blocks = plan_.block_count;
    if (options.num_threads > 0 && blocks >= options.split_batch_size) {
        const uint64_t even = (blocks + options.num_threads - 1) / options.num_threads;
        const uint64_t chunk = std::max(even, options.split_batch_size);
        size_t index = options.num_workers;
        for (uint64_t first = 0; first < blocks; first += chunk) {
            lanes_.emplace_back(*this, index++, first, std::min(chunk, blocks - first));
        }
    } else {
        lanes_.emplace_back(*this, worker_index, 0, blocks);
    }
    for (Lane &lane : lanes_) {
        auto status = lane.prepare();
        // As in NIXL 1.4 it is the first post that tells of a death.
        if (!status.ok()) return connection_->gone() ? Status() : std::move(status);
    }
    return {};
}

// ---- Transfer: the request -----------------------------------------------------------------------------------------

nixl_status_t
Transfer::post(const std::string *notification) {
    if (!quiet()) return nixlx::fail(NIXL_ERR_REPOST_ACTIVE, "the request is still being worked on");
    if (connection_->gone()) return nixlx::fail(NIXL_ERR_REMOTE_DISCONNECT, connection_->sentence());
    if (notification) {
        if (auto status = wire::checkNotification(*notification); !status.ok()) {
            return nixlx::fail(status.code(), status.message());
        }
    }
    notify_ = notification != nullptr;
    if (notify_) {
        message_ = wire::encodeNotification(runtime_.agent(), *notification);
        message_cost_ = kit::messageCost(runtime_.agent(), *notification);
    }
    cut_short_.store(false, std::memory_order_relaxed);
    lanes_moving_.store(lanes_.size(), std::memory_order_relaxed);
    begin();

    if (lanes_.size() == 1) {
        runtime_.pool().visit();
        const bool small = fabric_ == Fabric::kLocal && plan_.total_bytes <= kSmallBytes;
        lanes_[0].start(small ? std::chrono::nanoseconds(kSmallTime) : std::chrono::nanoseconds(1));
    } else {
        for (Lane &lane : lanes_) lane.start(std::chrono::nanoseconds(0));
    }
    const nixl_status_t status = outcome();
    if (status == NIXL_IN_PROG) {
        for (Lane &lane : lanes_) runtime_.pool().nudge(lane.workerIndex());
    }
    return status;
}

nixl_status_t
Transfer::check() {
    if (!quiet()) {
        Lane &lane = lanes_.front();
        const bool shared = lane.workerIndex() < runtime_.options().num_workers;
        runtime_.pool().progress(shared ? &lane.worker() : nullptr);
        if (fabric_ == Fabric::kLocal && connection_->gone()) {
            for (Lane &each : lanes_) each.giveUp(false);
        }
    }
    return outcome();
}

void
Transfer::cancel() {
    if (quiet()) return;
    RequestBase::cancel();
    for (Lane &lane : lanes_) lane.leaveTurn();
}

bool
Transfer::forceQuiet() {
    if (quiet()) return true;
    if (!runtime_.options().detect_death || connection_->name() == runtime_.agent()) return false;
    cancel();
    connection_->sever("it did not go on with a transfer in time, and its connection was dropped; load its metadata "
                       "again");
    for (Lane &lane : lanes_) {
        if (fabric_ == Fabric::kLocal) lane.giveUp(true);
        runtime_.pool().nudge(lane.workerIndex());
    }
    return true;
}

uint64_t
Transfer::bytesDone() const noexcept {
    uint64_t bytes = 0;
    for (const Lane &lane : lanes_) bytes += lane.bytesDone();
    return bytes;
}

void
Transfer::fail(Code code, const Endpoint &endpoint) noexcept {
    // With the endpoint the peer is gone, whatever it looked like to the single operation.
    const bool gone = endpoint.failure() != kDone || statusOf(code) == NIXL_ERR_REMOTE_DISCONNECT;
    if (gone) connection_->setGone(endpoint.failure() != kDone ? endpoint.failure() : code);
    nixl_status_t status = gone ? NIXL_ERR_REMOTE_DISCONNECT : statusOf(code);
    if (status == NIXL_IN_PROG) status = NIXL_ERR_BACKEND;
    std::string text;
    try {
        text = gone
            ? connection_->sentence()
            : "UCX failed a transfer with peer " + quoted(connection_->name()) + ": " + runtime_.library().text(code);
    }
    catch (const std::bad_alloc &) {
        // The status says enough.
    }
    fail(status, std::move(text));
}

void
Transfer::allQuiet(Lane &lane) {
    if (stopping()) {
        lane.giveTurnBack();
    } else if (notify_) {
        lanes_moving_.store(1, std::memory_order_relaxed); // this lane comes back
        const Code code = lane.notify(message_, message_cost_);
        if (code == kPending) return;
        if (code != kDone) fail(code, lane.endpoint());
    }
    kit::Bell &bell = runtime_.bell(); // the transfer may be gone once it is final
    finish(!cut_short_.load(std::memory_order_relaxed) && !notify_);
    bell.ring();
}

} // namespace nx::ucx
