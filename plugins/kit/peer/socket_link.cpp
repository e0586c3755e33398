// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/peer/socket_link.h"

#include <algorithm>
#include <sys/epoll.h>

#include "kit/local_socket.h"
#include "kit/peer/socket.h"

namespace nx::kit {

namespace {

constexpr size_t kRestBytes = size_t{64} << 20; // more than a socket holds

uint64_t
nowMs() {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    return static_cast<uint64_t>(std::chrono::floor<std::chrono::milliseconds>(now).count());
}

} // namespace

SocketLink::SocketLink(Loop &loop, Fd socket, SessionOptions options, Inbox &inbox, Events events)
    : loop_(loop),
      events_(std::move(events)),
      process_(processOf(socket.get())),
      socket_(std::move(socket)),
      session_(std::move(options), inbox, nowMs()) {}

SocketLink::~SocketLink() {
    endSocket(socket_);
}

std::shared_ptr<SocketLink>
SocketLink::start(Loop &loop, Fd socket, SessionOptions options, Inbox &inbox, Events events) {
    std::shared_ptr<SocketLink> link(
        new SocketLink(loop, std::move(socket), std::move(options), inbox, std::move(events)));
    loop.post([link] { link->serve(); });
    return link;
}

void
SocketLink::advanceLocked(size_t limit) noexcept {
    try {
        moveLocked(limit);
    }
    catch (const std::exception &error) { // without memory the two sides would not agree about what was said
        try {
            session_.linkLost(error.what());
            moveLocked(0);
        }
        catch (const std::exception &) {
            // The next one to come finds it so.
        }
    }
}

/// The rest is the loop's.
void
SocketLink::moveLocked(size_t limit) {
    const bool more = pump(session_, 0, socket_.get(), limit);
    while (Request *request = session_.nextEnded()) events_.request_ended(*request);
    if (goes_on_ || !(more || session_.state() == Session::State::kEnded)) return;
    loop_.post([self = shared_from_this()] { self->goOn(); });
    goes_on_ = true;
}

void
SocketLink::serve() {
    // Edges: whoever moves bytes, here or in a call, does so until none are left.
    constexpr uint32_t kEdges = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    int socket;
    {
        const MutexLock lock(mutex_);
        socket = socket_.get();
    }
    const auto self = shared_from_this();
    const auto watched = loop_.watch(socket, kEdges, [self](uint32_t) { self->goOn(); });
    if (!watched.ok()) return lose(watched.message());
    if (process_) { // its children may keep the socket open
        static_cast<void>(
            loop_.watch(process_.get(), EPOLLIN, [self](uint32_t) { self->lose("its process has ended"); }));
    }
    tick();
}

void
SocketLink::goOn() {
    {
        lock();
        const MutexLock locked(mutex_, std::adopt_lock);
        goes_on_ = false;
        if (session_.state() != Session::State::kEnded) advanceLocked(kTurnBytes);
    }
    finish();
}

void
SocketLink::tick() {
    std::chrono::milliseconds left;
    {
        const MutexLock lock(mutex_);
        advanceLocked(kTurnBytes);
        const uint64_t now = nowMs();
        session_.tick(now);
        advanceLocked(kTurnBytes);
        left = std::chrono::milliseconds(session_.deadline() - std::min(now, session_.deadline()));
    }
    if (!finish()) timer_ = loop_.after(left, [self = shared_from_this()] { self->tick(); });
}

/// What has come before is taken.
void
SocketLink::lose(const std::string &why) {
    {
        const MutexLock lock(mutex_);
        advanceLocked(kRestBytes);
        session_.linkLost(why);
        advanceLocked(kTurnBytes);
    }
    finish();
}

/// Whether the session has ended: then everything goes.
bool
SocketLink::finish() {
    {
        const MutexLock lock(mutex_);
        if (session_.state() != Session::State::kEnded) return false;
        if (std::exchange(finished_, true)) return true;
        loop_.unwatch(socket_.get());
        endSocket(socket_);
        socket_.reset();
    }
    loop_.unwatch(process_.get());
    process_.reset();
    loop_.cancel(timer_);
    events_.ended();
    return true;
}

} // namespace nx::kit
