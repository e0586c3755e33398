// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/outbox.h"

#include <algorithm>

#include "ucx/runtime.h"

namespace nx::ucx {

/// Deletes itself when UCX reports its end: the peer's answer, or that there will be none.
struct Outbox::Question final : Operation {
    Question(std::shared_ptr<Outbox> outbox, size_t channel) : outbox(std::move(outbox)), channel(channel) {}

    void
    finished(Code code) noexcept override {
        outbox->ended(channel, code);
        delete this;
    }

    const std::shared_ptr<Outbox> outbox;
    const size_t channel;
};

bool
Outbox::Channel::advance() noexcept {
    try {
        outbox.ask(*this);
        return false;
    }
    catch (const std::bad_alloc &) {
        return true; // tried again
    }
}

Outbox::Outbox(Runtime &runtime, Connection &connection)
    : runtime_(runtime),
      connection_(connection),
      credits_(kFabricCount * runtime.pool().workerCount()) {
    for (size_t fabric = 0; fabric < kFabricCount; ++fabric) {
        for (size_t worker = 0; worker < runtime.pool().workerCount(); ++worker) {
            channels_.emplace_back(*this, static_cast<Fabric>(fabric), worker, channels_.size());
        }
    }
}

size_t
Outbox::channelOf(Fabric fabric, size_t worker) const noexcept {
    return static_cast<size_t>(fabric) * runtime_.pool().workerCount() + worker;
}

void
Outbox::setAsking() {
    const MutexLock lock(mutex_);
    asking_ = runtime_.agent().size() <= kQuestionNameMax;
}

// ---- Places --------------------------------------------------------------------------------------------------------

bool
Outbox::reserve(uint64_t cost) {
    const MutexLock lock(mutex_);
    const bool reserved = waiting_.empty() && credits_.reserve(cost);
    if (!reserved) askLocked();
    return reserved;
}

void
Outbox::sent(Fabric fabric, size_t worker, uint64_t cost) {
    const MutexLock lock(mutex_);
    credits_.sent(channelOf(fabric, worker), cost);
    askLocked();
}

void
Outbox::release(uint64_t cost) {
    const MutexLock lock(mutex_);
    credits_.release(cost);
    grantLocked();
}

Outbox::Place
Outbox::await(Turn &turn) {
    const MutexLock lock(mutex_);
    if (gone_) return Place::kGone;
    const size_t channel = channelOf(turn.fabric, turn.worker_index);
    bool taken = std::exchange(turn.granted, false);
    if (taken) {
        credits_.sent(channel, turn.cost);
    } else {
        taken = waiting_.empty() && credits_.take(channel, turn.cost);
    }
    if (!taken) waiting_.push(turn);
    askLocked();
    return taken ? Place::kTaken : Place::kLater;
}

void
Outbox::leave(Turn &turn) {
    const MutexLock lock(mutex_);
    if (!waiting_.remove(turn)) return;
    wakeLocked(turn);
    grantLocked(); // it may have been the one that kept those behind it
}

void
Outbox::giveBack(Turn &turn) {
    const MutexLock lock(mutex_);
    if (!std::exchange(turn.granted, false)) return;
    credits_.release(turn.cost);
    grantLocked();
}

void
Outbox::completed(Fabric fabric, size_t worker, uint64_t cost) {
    const MutexLock lock(mutex_);
    if (asking_) return;
    credits_.completed(channelOf(fabric, worker), cost);
    grantLocked();
}

void
Outbox::notSent(Fabric fabric, size_t worker, uint64_t cost) {
    const MutexLock lock(mutex_);
    credits_.completed(channelOf(fabric, worker), cost);
    grantLocked();
}

void
Outbox::grantLocked() {
    while (!waiting_.empty() && credits_.reserve(waiting_.front().cost)) {
        Turn &turn = waiting_.pop();
        turn.granted = true;
        wakeLocked(turn);
    }
}

void
Outbox::wakeLocked(Turn &turn) {
    turn.worker.wake(turn.task);
    runtime_.pool().nudge(turn.worker_index);
}

void
Outbox::peerGone() {
    const MutexLock lock(mutex_);
    gone_ = true;
    while (!waiting_.empty()) wakeLocked(waiting_.pop());
}

// ---- Questions -----------------------------------------------------------------------------------------------------

/// They are sent by their workers, one of which the caller may hold.
void
Outbox::askLocked() {
    if (!asking_ || gone_ || !credits_.wantsAnswer()) return;
    for (Channel &channel : channels_) {
        if (channel.scheduled || !credits_.shouldAsk(channel.number)) continue;
        channel.scheduled = true;
        channel.worker = &connection_.worker(channel.fabric, channel.worker_index);
        channel.worker->wake(channel);
        runtime_.pool().nudge(channel.worker_index);
    }
}

/// Lock of the channel's worker held.
void
Outbox::ask(Channel &channel) {
    auto question = std::make_unique<Question>(shared_from_this(), channel.number);
    const auto endpoint = connection_.endpoint(channel.fabric, channel.worker_index);
    {
        const MutexLock lock(mutex_);
        channel.scheduled = false;
        if (gone_ || !credits_.shouldAsk(channel.number)) return;
        credits_.asked(channel.number);
    }
    const Code code = endpoint.ok() ? (*endpoint)->ask(runtime_.agent(), *question) : kNotConnected;
    if (code == kPending) {
        static_cast<void>(question.release());
    } else {
        ended(channel.number, code);
    }
}

/// Lock of the channel's worker held.
void
Outbox::ended(size_t channel, Code code) {
    {
        const MutexLock lock(mutex_);
        if (gone_) return;
        if (code == kDone) {
            credits_.answered(channel);
            grantLocked();
            askLocked();
            return;
        }
        credits_.unanswered(channel);
    }
    connection_.setGone(code); // a question fails with its endpoint
}

void
Outbox::end() {
    peerGone();
    for (Channel &channel : channels_) {
        if (!channel.worker) continue; // nobody sets it any more
        const MutexLock lock(channel.worker->mutex());
        channel.worker->drop(channel);
    }
}

} // namespace nx::ucx
