// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "shm/outbox.h"

#include <algorithm>

#include "shm/talk.h"

namespace nx::shm {

bool
Port::put(Record record, std::string_view head, std::string_view body) noexcept {
    switch (ring_.put(static_cast<uint8_t>(record), head, body)) {
    case RingWriter::Put::kDone: return true;
    case RingWriter::Put::kDoneWake: ringBell(socket_); return true;
    case RingWriter::Put::kFull: return false;
    case RingWriter::Put::kBroken: kit::endSocket(socket_); return false;
    }
    return false;
}

bool
Outbox::trySend(std::string_view message) noexcept {
    if (message.size() > RingWriter::kMessageBytesMax) return false;
    const MutexLock lock(mutex_);
    if (ended_ || !queue_.empty() || !credits_.take(0, costOf(message))) return false;
    if (!port_.put(Record::kNote, {}, message)) {
        credits_.completed(0, costOf(message));
        return false;
    }
    if (credits_.wantsAnswer()) questionsLocked();
    return true;
}

void
Outbox::enqueue(std::string_view message, Waiter &waiter) {
    {
        const MutexLock lock(mutex_);
        if (!ended_) {
            queueLocked(message, &waiter, reserveLocked(message));
            return;
        }
    }
    waiter.noteOver(false);
}

bool
Outbox::withdraw(Waiter &waiter) noexcept {
    const MutexLock lock(mutex_);
    const auto found =
        std::find_if(queue_.begin(), queue_.end(), [&](const Mail &mail) { return mail.waiter == &waiter; });
    if (found == queue_.end()) return false;
    found->waiter = nullptr;
    if (found->sent > 0) {
        found->withdrawn = true; // the peer has parts of it
    } else {
        if (found->has_place) credits_.release(costOf(found->message));
        queue_.erase(found);
    }
    return true;
}

Status
Outbox::tell(std::string_view message) {
    const MutexLock lock(mutex_);
    if (ended_)
        return {NIXL_ERR_REMOTE_DISCONNECT, "peer " + quoted(peer_) + " is gone: its process or its agent has ended"};
    if (!reserveLocked(message)) {
        questionsLocked();
        return {NIXL_ERR_REPOST_ACTIVE,
                std::to_string(kit::kShareBytes >> 20) + " MiB of notifications wait at agent " + quoted(peer_) +
                    " to be fetched; send it again later"};
    }
    if (queue_.empty() && message.size() <= RingWriter::kMessageBytesMax && port_.put(Record::kNote, {}, message)) {
        credits_.sent(0, costOf(message));
        questionsLocked();
        return {};
    }
    queueLocked(message, nullptr, true);
    return {};
}

void
Outbox::answer() noexcept {
    const MutexLock lock(mutex_);
    owes_answer_ = !port_.put(Record::kAnswer);
}

void
Outbox::answered() noexcept {
    const MutexLock lock(mutex_);
    credits_.answered(0);
}

void
Outbox::queueLocked(std::string_view message, Waiter *waiter, bool has_place) {
    try {
        queue_.push_back({.message = std::string(message), .waiter = waiter, .has_place = has_place});
    }
    catch (...) {
        if (has_place) credits_.release(costOf(message));
        throw;
    }
}

/// Those who came before have their places first.
bool
Outbox::reserveLocked(std::string_view message) noexcept {
    return (queue_.empty() || queue_.back().has_place) && credits_.reserve(costOf(message));
}

/// True: it is in the ring, all of it.
bool
Outbox::sendLocked(Mail &mail) noexcept {
    const std::string_view message = mail.message;
    if (mail.withdrawn) return port_.put(Record::kDrop);
    if (mail.sent == 0 && message.size() <= RingWriter::kMessageBytesMax) {
        if (!port_.put(Record::kNote, {}, message)) return false;
        credits_.sent(0, costOf(message));
        return true;
    }
    const uint64_t size = message.size();
    while (mail.sent < size) {
        const bool first = mail.sent == 0;
        const std::string_view head =
            first ? std::string_view(reinterpret_cast<const char *>(&size), sizeof size) : std::string_view();
        const auto part = message.substr(mail.sent, RingWriter::kMessageBytesMax - head.size());
        const Record record = first ? Record::kFirst : mail.sent + part.size() == size ? Record::kLast : Record::kMore;
        if (!port_.put(record, head, part)) return false;
        if (first) credits_.sent(0, costOf(message));
        mail.sent += part.size();
    }
    return true;
}

void
Outbox::questionsLocked() noexcept {
    // A question between the parts of a message would be behind it for us and before its end for the peer.
    if (!queue_.empty() && queue_.front().sent > 0) return;
    if (credits_.shouldAsk(0) && port_.put(Record::kAsk)) credits_.asked(0);
}

bool
Outbox::waitsLocked() const noexcept {
    return owes_answer_ || credits_.shouldAsk(0) || (!queue_.empty() && queue_.front().has_place);
}

Outbox::Pumped
Outbox::pump() noexcept {
    const MutexLock lock(mutex_);
    Pumped pumped;
    if (ended_) return pumped;
    if (owes_answer_) owes_answer_ = !port_.put(Record::kAnswer);
    while (!queue_.empty()) {
        Mail &mail = queue_.front();
        if (!mail.has_place && !mail.withdrawn) mail.has_place = credits_.reserve(costOf(mail.message));
        if ((!mail.has_place && !mail.withdrawn) || !sendLocked(mail)) break;
        Waiter *const waiter = mail.waiter;
        queue_.pop_front();
        if (waiter) waiter->noteOver(true);
        pumped.ended |= waiter != nullptr;
    }
    questionsLocked();
    pumped.waits = waitsLocked();
    return pumped;
}

bool
Outbox::empty() const noexcept {
    const MutexLock lock(mutex_);
    return queue_.empty() && !owes_answer_;
}

void
Outbox::end() noexcept {
    const MutexLock lock(mutex_);
    ended_ = true;
    for (Mail &mail : queue_) {
        if (mail.waiter) mail.waiter->noteOver(false);
    }
    queue_.clear();
    owes_answer_ = false;
}

} // namespace nx::shm
