// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "rendezvous/line.h"

#include <cerrno>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

namespace nx::rendezvous {

namespace {

constexpr size_t kReadBytes = size_t{64} << 10;
constexpr size_t kTurnBytes = size_t{1} << 20;     // after this much the other connections get their turn
constexpr size_t kOutBytesMax = size_t{160} << 20; // two blobs, and all that is told meanwhile

} // namespace

Result<std::shared_ptr<Line>>
Line::open(Loop &loop, Fd socket, bool connecting, bool polite, Owner owner) {
    const int yes = 1;
    (void)::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes); // a failure changes only how soon
    std::shared_ptr<Line> line(new Line(loop, std::move(socket), connecting, polite, std::move(owner)));
    line->events_ = connecting ? EPOLLOUT : EPOLLIN;
    auto status = loop.watch(line->fd(), line->events_, [raw = line.get()](uint32_t events) { raw->onReady(events); });
    if (!status.ok()) return status;
    return line;
}

Line::Line(Loop &loop, Fd socket, bool connecting, bool polite, Owner owner)
    : loop_(loop),
      socket_(std::move(socket)),
      connecting_(connecting),
      polite_(polite),
      owner_(std::move(owner)) {}

Line::~Line() {
    close();
}

void
Line::close() {
    if (!isOpen()) return;
    loop_.unwatch(fd());
    socket_.reset();
    out_.clear();
}

void
Line::end(const Status &why) {
    if (!isOpen()) return;
    close();
    owner_.end(*this, why);
}

void
Line::send(const Message &message) {
    if (!isOpen()) return;
    auto frame = encode(message);
    out_bytes_ += frame.head.size() + (frame.blob ? frame.blob->size() : 0);
    out_.push_back(std::make_shared<const std::string>(std::move(frame.head)));
    if (frame.blob) out_.push_back(std::move(frame.blob));
    if (!connecting_) write();
}

void
Line::onReady(uint32_t events) {
    const auto self = shared_from_this(); // the owner may drop us
    if (connecting_) {
        int error = 0;
        socklen_t size = sizeof error;
        (void)::getsockopt(fd(), SOL_SOCKET, SO_ERROR, &error, &size);
        if (error != 0) return end({NIXL_ERR_BACKEND, withErrno("connect", error)});
        connecting_ = false;
        heard_ = Loop::Clock::now();
    }
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) write();
    if (isOpen() && (events & (EPOLLIN | EPOLLHUP | EPOLLERR))) read();
    if (isOpen()) watchSocket();
}

void
Line::read() {
    char bytes[kReadBytes];
    for (size_t turn = 0; isOpen() && turn < kTurnBytes && (!polite_ || out_.empty());) {
        const ssize_t got = ::recv(fd(), bytes, sizeof bytes, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        if (got < 0) return end({NIXL_ERR_BACKEND, withErrno("the connection broke", errno)});
        if (got == 0) return end({NIXL_ERR_BACKEND, "it closed the connection"});
        heard_ = Loop::Clock::now();
        turn += static_cast<size_t>(got);
        in_.add({bytes, static_cast<size_t>(got)});
        giveOut();
        if (isOpen() && owner_.arrived) owner_.arrived(*this);
    }
}

void
Line::giveOut() {
    while (isOpen() && (!polite_ || out_.empty())) {
        auto message = in_.next();
        if (!message.ok()) return end(message.status());
        if (!*message) return;
        owner_.message(*this, **message);
    }
}

void
Line::write() {
    const bool waited = !connecting_ && (events_ & EPOLLOUT);
    while (!out_.empty()) {
        const std::string &first = *out_.front();
        const int more = out_.size() > 1 ? MSG_MORE : 0;
        const ssize_t put =
            ::send(fd(), first.data() + out_sent_, first.size() - out_sent_, MSG_NOSIGNAL | MSG_DONTWAIT | more);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
        if (put < 0) { // reading sees why
            out_.clear();
            out_bytes_ = 0;
            break;
        }
        if (waited) heard_ = Loop::Clock::now(); // it took some, or there would be no room
        out_sent_ += static_cast<size_t>(put);
        out_bytes_ -= static_cast<size_t>(put);
        if (out_sent_ < first.size()) continue;
        out_.pop_front();
        out_sent_ = 0;
    }
    if (out_bytes_ > kOutBytesMax) {
        // Later, since the caller may be in the middle of using us.
        loop_.post([weak = weak_from_this()] {
            if (const auto self = weak.lock()) self->end({NIXL_ERR_BACKEND, "it takes nothing of what is sent to it"});
        });
    }
    watchSocket();
}

void
Line::watchSocket() {
    const bool waits = !out_.empty();
    const uint32_t wanted = (waits ? EPOLLOUT : 0U) | (polite_ && waits ? 0U : EPOLLIN);
    if (!isOpen() || connecting_ || wanted == events_) return;
    // What was read before it waited is given out when it does not any more.
    if ((wanted & EPOLLIN) && !(events_ & EPOLLIN)) {
        loop_.post([weak = weak_from_this()] {
            if (const auto self = weak.lock()) self->giveOut();
        });
    }
    events_ = wanted;
    loop_.change(fd(), events_);
}

} // namespace nx::rendezvous
