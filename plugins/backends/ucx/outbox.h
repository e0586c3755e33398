// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The notifications to one peer: which have a place there (kit/credits.h), and which requests wait for one. A peer of
// ours is asked, by a rendezvous message that it completes once it has fetched what came before it; of any other peer
// counts what UCX has not sent yet. Self-synchronised; what says so is called with a worker's lock held.
#pragma once

#include <deque>
#include <memory>

#include "base/mutex.h"
#include "kit/credits.h"
#include "ucx/driver.h"

namespace nx::ucx {

class Connection;
class Runtime;

/// The two contexts. A peer is reached through one of them; they never meet.
enum class Fabric : unsigned { kPlain, kLocal };
inline constexpr size_t kFabricCount = 2;

/// Agents with a longer name than fits into any first packet of UCX cannot ask; to their peers they keep no credits.
inline constexpr size_t kQuestionNameMax = 512;

/// Shared by its connection and by the messages that are under way.
class Outbox : public std::enable_shared_from_this<Outbox> {
public:
    /// What sends a message over a worker, once there is a place for it.
    struct Turn {
        Task &task; ///< continued when the turn is granted, is left, or the peer is gone
        Worker &worker;
        const Fabric fabric;
        const size_t worker_index;
        uint64_t cost = 0;
        // Guarded by the outbox:
        bool granted = false;
        Turn *next = nullptr; ///< of those that wait
    };

    enum class Place {
        kTaken, ///< send it
        kLater, ///< the task will be continued
        kGone   ///< the peer is gone
    };

    /// Both outlive the use of the outbox, which ends with end().
    Outbox(Runtime &runtime, Connection &connection);

    /// The peer answers questions; call before the first use.
    void
    setAsking();

    /// Sets a place aside. False: there is none, or others wait for it.
    bool
    reserve(uint64_t cost);

    /// A message that was set a place aside is sent next over that worker, lock held.
    void
    sent(Fabric fabric, size_t worker, uint64_t cost);

    /// It is not sent.
    void
    release(uint64_t cost);

    /// Takes a place for a message that is sent next, lock held, or the turn waits for one behind others. A turn that
    /// was granted one takes that.
    Place
    await(Turn &turn);

    /// The turn does not wait any longer: its task is continued if it did.
    void
    leave(Turn &turn);

    /// Gives back what a turn was granted.
    void
    giveBack(Turn &turn);

    /// A message has left, or will not: of a peer that is not asked it takes no place any more.
    void
    completed(Fabric fabric, size_t worker, uint64_t cost);

    /// A message that had taken its place was not sent.
    void
    notSent(Fabric fabric, size_t worker, uint64_t cost);

    /// Nobody waits any more.
    void
    peerGone();

    /// The connection goes. No lock held.
    void
    end();

private:
    struct Channel final : Task {
        Channel(Outbox &outbox, Fabric fabric, size_t worker_index, size_t number)
            : outbox(outbox),
              fabric(fabric),
              worker_index(worker_index),
              number(number) {}

        bool
        advance() noexcept override;

        Outbox &outbox;
        const Fabric fabric;
        const size_t worker_index;
        const size_t number;
        // Guarded by the outbox:
        Worker *worker = nullptr; ///< once it has asked
        bool scheduled = false;
    };
    struct Question;

    size_t
    channelOf(Fabric fabric, size_t worker) const noexcept;
    void
    askLocked() NX_REQUIRES(mutex_);
    void
    ask(Channel &channel) NX_EXCLUDES(mutex_);
    void
    ended(size_t channel, Code code) NX_EXCLUDES(mutex_);
    void
    grantLocked() NX_REQUIRES(mutex_);
    void
    wakeLocked(Turn &turn) NX_REQUIRES(mutex_);

    Runtime &runtime_;
    Connection &connection_;
    std::deque<Channel> channels_; ///< none is added or removed
    Mutex mutex_;
    kit::CreditSender credits_ NX_GUARDED_BY(mutex_);
    Chain<Turn> waiting_ NX_GUARDED_BY(mutex_);
    bool asking_ NX_GUARDED_BY(mutex_) = false;
    bool gone_ NX_GUARDED_BY(mutex_) = false;
};

} // namespace nx::ucx
