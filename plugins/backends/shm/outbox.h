// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Notifications to one peer: what has a place at the peer (kit/credits.h) goes into the ring, whole or in parts, in the
// order in which it was given; what finds no room in the ring, or no place, waits here. Self-synchronised.
//
//     record    body                        means
//     kNote     the message
//     kFirst    8 bytes: its size; a part   a message that is longer than a record may be
//     kMore     a part
//     kLast     the last part
//     kDrop                                 the parts so far were withdrawn
//     kAsk                                  tell when all that came before was fetched
//     kAnswer                               it was
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/fd.h"
#include "base/mutex.h"
#include "kit/credits.h"
#include "shm/ring.h"

namespace nx::shm {

enum class Record : uint8_t { kNote = 1, kFirst, kMore, kLast, kDrop, kAsk, kAnswer };

/// The ring to a peer, and the socket by which the peer is woken.
class Port {
public:
    /// `socket` outlives it.
    Port(void *ring, const Fd &socket) : ring_(ring), socket_(socket) {}

    /// False: no room now, or never again: a peer that spoils the ring is hung up on. Any thread.
    bool
    put(Record record, std::string_view head = {}, std::string_view body = {}) noexcept;

private:
    RingWriter ring_;
    const Fd &socket_;
};

class Outbox {
public:
    /// Who waits for a message to go out.
    class Waiter {
    public:
        /// It is in the ring, or (false) will never be; the outbox knows neither it nor the waiter any more. Called
        /// with the outbox locked: not to call it.
        virtual void
        noteOver(bool sent) noexcept = 0;

    protected:
        ~Waiter() = default;
    };

    struct Pumped {
        bool ended = false; ///< a waiter was told
        bool waits = false; ///< for room in the ring: try again soon
    };

    /// `sender` is the own agent's name, `peer` that of the other one, for sentences.
    Outbox(Port port, std::string sender, std::string peer)
        : sender_(std::move(sender)),
          peer_(std::move(peer)),
          port_(std::move(port)) {}

    /// Sends it if it can go at once. False: it cannot, and nothing changed. Needs no memory.
    bool
    trySend(std::string_view message) noexcept;

    /// It goes out when it can. Throws std::bad_alloc, and nothing changed.
    void
    enqueue(std::string_view message, Waiter &waiter);

    /// The message of this waiter is not wanted any more; after it returns the waiter is not known. False: it was not.
    bool
    withdraw(Waiter &waiter) noexcept;

    /// One that nobody waits for. REPOST_ACTIVE: it has no place at the peer. REMOTE_DISCONNECT: the peer is lost.
    Status
    tell(std::string_view message);

    /// All that the peer has sent before it asked was fetched.
    void
    answer() noexcept;

    /// The peer has fetched all that was sent before the question.
    void
    answered() noexcept;

    /// Sends what can go.
    Pumped
    pump() noexcept;

    /// Nothing waits.
    bool
    empty() const noexcept;

    /// The peer is lost: all that wait are told.
    void
    end() noexcept;

private:
    struct Mail {
        std::string message;
        Waiter *waiter = nullptr; ///< null: nobody
        bool has_place = false;
        bool withdrawn = false;
        size_t sent = 0;
    };

    uint64_t
    costOf(std::string_view message) const noexcept {
        return kit::messageCost(sender_, message);
    }

    void
    queueLocked(std::string_view message, Waiter *waiter, bool has_place) NX_REQUIRES(mutex_);
    bool
    reserveLocked(std::string_view message) noexcept NX_REQUIRES(mutex_);
    bool
    sendLocked(Mail &mail) noexcept NX_REQUIRES(mutex_);
    void
    questionsLocked() noexcept NX_REQUIRES(mutex_);
    bool
    waitsLocked() const noexcept NX_REQUIRES(mutex_);

    const std::string sender_, peer_;
    mutable Mutex mutex_;
    Port port_ NX_GUARDED_BY(mutex_);
    kit::CreditSender credits_ NX_GUARDED_BY(mutex_){1};
    std::deque<Mail> queue_ NX_GUARDED_BY(mutex_);
    bool owes_answer_ NX_GUARDED_BY(mutex_) = false;
    bool ended_ NX_GUARDED_BY(mutex_) = false;
};

} // namespace nx::shm
