// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What comes from one peer through its ring: messages go into the inbox, whole ones and those in parts (outbox.h). What
// the inbox has no place for stays in the ring. Bytes of a stranger: everything is checked. Self-synchronised.
#pragma once

#include <optional>
#include <string>

#include "base/mutex.h"
#include "kit/inbox.h"
#include "shm/ring.h"

namespace nx::shm {

class Inlet {
public:
    /// What a look into the ring brought.
    struct Taken {
        bool arrived = false;  ///< something is in the inbox
        bool answer = false;   ///< the peer asked, and is to be answered now
        bool answered = false; ///< the peer has answered
        bool stalled = false;  ///< the inbox has no place for the next message
        bool more = false;     ///< there is more: look again
        bool broken = false;   ///< the peer does not keep to the rules; nothing more is taken
    };

    /// `sender` is the peer's name; `question` comes back from the inbox.
    Inlet(void *ring, kit::Inbox &inbox, std::string sender, kit::CreditReceiver::Question question)
        : inbox_(inbox),
          sender_(std::move(sender)),
          question_(question),
          ring_(ring) {}

    /// Takes what is there, or some of it. Throws std::bad_alloc, having lost nothing.
    Taken
    take();

    /// Nothing is there. One load.
    bool
    empty() const noexcept {
        return ring_.empty();
    }

    /// From now on the peer rings when it puts something in. False: something is there.
    bool
    arm() noexcept;

    /// The peer need not ring.
    void
    disarm() noexcept;

private:
    /// False: it stays in the ring.
    bool
    handleLocked(uint8_t kind, std::string &body, Taken &taken) NX_REQUIRES(mutex_);
    bool
    refuseLocked() noexcept NX_REQUIRES(mutex_);
    bool
    deliverLocked(std::string &message, Taken &taken) NX_REQUIRES(mutex_);

    kit::Inbox &inbox_;
    const std::string sender_;
    const kit::CreditReceiver::Question question_;
    Mutex mutex_;
    RingReader ring_; // but for empty(): guarded by mutex_
    std::string body_ NX_GUARDED_BY(mutex_);
    std::string parts_ NX_GUARDED_BY(mutex_);
    std::optional<uint64_t> parts_size_ NX_GUARDED_BY(mutex_); ///< of the message whose parts are coming
    bool broken_ NX_GUARDED_BY(mutex_) = false;
};

} // namespace nx::shm
