// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A session over one stream socket. Bytes move on the thread of a loop, and in the calls that use the session.
// Self-synchronised: one mutex of its own guards the session; no other is taken while it is held, but the inbox's.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/fd.h"
#include "base/mutex.h"
#include "kit/peer/session.h"
#include "loop/loop.h"

namespace nx::kit {

class SocketLink : public std::enable_shared_from_this<SocketLink> {
public:
    struct Events {
        /// A request of this side has ended. With the mutex held: it may not use the link.
        std::function<void(Request &)> request_ended;
        /// The session has ended, its requests have too, and the socket is closed. Once, on the loop's thread.
        std::function<void()> ended;
    };

    /// Holds the mutex while it exists; the only way to the session.
    class Access {
    public:
        Access(SocketLink &link, bool sends) : link_(link), session_(link.session_), sends_(sends) {
            link.lock();
        }
        ~Access() {
            if (sends_) link_.advanceLocked(kTurnBytes);
            link_.mutex_.unlock();
        }
        Access(const Access &) = delete;
        Access &
        operator=(const Access &) = delete;

        Session *
        operator->() const noexcept {
            return &session_;
        }

    private:
        SocketLink &link_;
        Session &session_;
        const bool sends_;
    };

    /// `socket` is connected and non-blocking; `options` of one stream, times in milliseconds. The inbox outlives the
    /// link, the loop all calls. Before the loop is stopped the session must have ended, by linkLost() at the latest:
    /// one that moves bytes keeps the loop going. Any thread.
    static std::shared_ptr<SocketLink>
    start(Loop &loop, Fd socket, SessionOptions options, Inbox &inbox, Events events);
    ~SocketLink();
    SocketLink(const SocketLink &) = delete;
    SocketLink &
    operator=(const SocketLink &) = delete;

    /// `link->use()->post(request)`: what follows from it goes out before the mutex is given back, as far as the socket
    /// takes it, kTurnBytes at most each way. Nothing is lent to the socket meanwhile: windows that are revoked and
    /// requests that have ended are quiet at once.
    Access
    use() {
        return {*this, true};
    }

    /// To look at what changes on the thread; moves nothing.
    Access
    look() {
        return {*this, false};
    }

private:
    static constexpr size_t kTurnBytes = size_t{256} << 10; ///< so long callers wait, and other links of the loop

    SocketLink(Loop &loop, Fd socket, SessionOptions options, Inbox &inbox, Events events);

    void
    lock() NX_ACQUIRE(mutex_) {
        const MutexLock turn(turn_);
        mutex_.lock();
    }
    void
    serve();
    void
    goOn();
    void
    tick();
    void
    lose(const std::string &why);
    bool
    finish();
    void
    advanceLocked(size_t limit) noexcept NX_REQUIRES(mutex_);
    void
    moveLocked(size_t limit) NX_REQUIRES(mutex_);

    Loop &loop_;
    const Events events_;
    // Confined to the loop's thread:
    Fd process_;
    Loop::Timer timer_ = 0;
    bool finished_ = false;

    Mutex turn_; ///< held while waiting for the other: who waits gets that before the one who has just let go of it
    Mutex mutex_;
    Fd socket_ NX_GUARDED_BY(mutex_);
    Session session_ NX_GUARDED_BY(mutex_);
    bool goes_on_ NX_GUARDED_BY(mutex_) = false; ///< the loop has been told to
};

} // namespace nx::kit
