// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "metadata/channel.h"

#include <algorithm>
#include <cerrno>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

namespace nx::metadata {

namespace {

constexpr size_t kReadBytes = 64 << 10;
// After this much the other connections get their turn.
constexpr size_t kTurnBytes = 1 << 20;
constexpr size_t kMiB = 1 << 20;

} // namespace

Result<std::shared_ptr<Channel>>
Channel::open(Loop &loop,
              Fd socket,
              std::string peer,
              const Limits &limits,
              Budget &budget,
              Owner &owner,
              Limits::Time first_limit) {
    const int yes = 1;
    // Neither is needed for a right result: a failure changes only how soon.
    (void)::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    (void)::setsockopt(socket.get(), SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes);
    std::shared_ptr<Channel> channel(new Channel(loop, std::move(socket), std::move(peer), limits, budget, owner));
    channel->events_ = EPOLLIN;
    auto status = loop.watch(channel->socket_.get(), channel->events_,
                             [raw = channel.get()](uint32_t events) { raw->onReady(events); });
    if (!status.ok()) return status;
    if (first_limit.count() > 0) channel->first_due_ = Loop::Clock::now() + first_limit;
    channel->watchTime();
    return channel;
}

Channel::Channel(Loop &loop, Fd socket, std::string peer, const Limits &limits, Budget &budget, Owner &owner)
    : loop_(loop),
      socket_(std::move(socket)),
      peer_(std::move(peer)),
      limits_(limits),
      budget_(budget),
      owner_(owner) {}

Channel::~Channel() {
    close();
}

void
Channel::close() {
    if (!isOpen()) return;
    loop_.unwatch(socket_.get());
    loop_.cancel(timer_);
    socket_.reset();
    out_.clear();
    budget_.used -= counted_;
    counted_ = 0;
}

void
Channel::end(Status why) {
    if (!isOpen()) return;
    close();
    owner_.onEnd(*this, why);
}

bool
Channel::delivered() const {
    int left = 0;
    return written() && (!isOpen() || ::ioctl(socket_.get(), SIOCOUTQ, &left) != 0 || left == 0);
}

void
Channel::send(std::string bytes) {
    send(std::move(bytes), nullptr);
}

void
Channel::send(std::string head, Blob blob) {
    if (!isOpen()) return;
    if (out_.empty()) write_due_ = Loop::Clock::now() + limits_.write;
    out_.push_back(std::make_shared<const std::string>(std::move(head)));
    if (blob && !blob->empty()) out_.push_back(std::move(blob));
    const auto self = shared_from_this();
    write();
    watchTime();
}

void
Channel::onReady(uint32_t events) {
    const auto self = shared_from_this(); // the owner may drop us
    // Nothing is read now, and nothing else would take note of it.
    if (held_ && (events & (EPOLLHUP | EPOLLERR))) return end({NIXL_ERR_REMOTE_DISCONNECT, "the connection broke"});
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) write();
    // What has arrived is read before its end is seen.
    if (isOpen() && (events & (EPOLLIN | EPOLLHUP | EPOLLERR))) read();
    if (isOpen()) watchTime();
}

void
Channel::read() {
    char bytes[kReadBytes];
    for (size_t turn = 0; turn < kTurnBytes && written() && !held_;) {
        const ssize_t got = ::recv(socket_.get(), bytes, sizeof bytes, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        if (got < 0) return end({NIXL_ERR_REMOTE_DISCONNECT, withErrno("the connection broke", errno)});
        if (got == 0) {
            return end(
                {NIXL_ERR_REMOTE_DISCONNECT,
                 in_.midFrame() ? "it closed the connection in the middle of a message" : "it closed the connection"});
        }
        turn += static_cast<size_t>(got);
        first_due_ = Time::max(); // from here on the frame's limit counts
        if (!in_.midFrame()) frame_due_ = Loop::Clock::now() + limits_.frame;
        in_.add({bytes, static_cast<size_t>(got)});
        if (!giveOutMessages()) return;
    }
}

/// False if the channel is closed now.
bool
Channel::giveOutMessages() {
    // While an answer is not taken, what follows waits: nobody can make us pile up answers.
    while (written() && !held_) {
        auto message = in_.next();
        if (!message.ok()) {
            end(std::move(message).status());
            return false;
        }
        if (!*message) break;
        proven_ = true;
        owner_.onMessage(*this, **message);
        if (!isOpen()) return false;
        frame_due_ = Loop::Clock::now() + limits_.frame; // of the next one
    }
    if (!in_.midFrame() || held_) frame_due_ = Time::max();
    count();
    return isOpen();
}

/// Keeps the budget right; may close this channel or others.
void
Channel::count() {
    const size_t now = in_.capacity();
    // A large frame has more time.
    if (now / kMiB > counted_ / kMiB && frame_due_ != Time::max()) {
        frame_due_ += std::chrono::seconds(now / kMiB - counted_ / kMiB);
    }
    budget_.used += now - counted_;
    counted_ = now;
    if (budget_.used > budget_.max) budget_.exceeded();
}

void
Channel::write() {
    const bool waited = events_ & EPOLLOUT;
    while (!out_.empty()) {
        const std::string &first = *out_.front();
        const int more = out_.size() > 1 ? MSG_MORE : 0;
        const ssize_t put = ::send(socket_.get(), first.data() + out_sent_, first.size() - out_sent_,
                                   MSG_NOSIGNAL | MSG_DONTWAIT | more);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
        if (put < 0) {
            // Later, since the caller may be in the middle of using us.
            Status why(NIXL_ERR_REMOTE_DISCONNECT, withErrno("the connection broke", errno));
            loop_.post([self = shared_from_this(), why = std::make_shared<Status>(std::move(why))] {
                self->end({why->code(), why->message()});
            });
            break;
        }
        out_sent_ += static_cast<size_t>(put);
        write_due_ = Loop::Clock::now() + limits_.write;
        if (out_sent_ < first.size()) continue;
        out_.pop_front();
        out_sent_ = 0;
    }
    if (out_.empty()) write_due_ = Time::max();
    watchSocket();
    if (waited && written()) giveOutLater();
}

void
Channel::hold() {
    held_ = true;
    watchSocket();
}

void
Channel::release() {
    held_ = false;
    if (!isOpen()) return;
    watchSocket();
    giveOutLater();
}

void
Channel::watchSocket() {
    const uint32_t reading = held_ ? 0U : EPOLLIN;
    const uint32_t wanted = written() ? reading : EPOLLOUT;
    if (!isOpen() || wanted == events_) return;
    events_ = wanted;
    loop_.change(socket_.get(), events_);
}

/// Messages that waited. Later, since the caller may be in the middle of using us.
void
Channel::giveOutLater() {
    loop_.post([self = shared_from_this()] {
        if (!self->isOpen() || !self->written()) return;
        self->owner_.onWritten(*self);
        if (!self->isOpen()) return;
        if (self->in_.midFrame()) self->frame_due_ = Loop::Clock::now() + self->limits_.frame;
        if (self->giveOutMessages()) self->watchTime();
    });
}

/// One timer for the earliest limit.
void
Channel::watchTime() {
    const Time due = std::min({first_due_, frame_due_, write_due_});
    if (due == timer_due_) return;
    loop_.cancel(timer_);
    timer_ = 0;
    timer_due_ = due;
    if (due == Time::max()) return;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(due - Loop::Clock::now());
    timer_ = loop_.after(std::max(left, std::chrono::milliseconds(0)), [this] { onTime(); });
}

void
Channel::onTime() {
    timer_ = 0;
    timer_due_ = Time::max();
    const auto now = Loop::Clock::now();
    const auto self = shared_from_this();
    const auto late = [](const std::string &what, Limits::Time limit) {
        return Status(NIXL_ERR_TIMEOUT, what + " within " + std::to_string(limit.count()) + " ms");
    };
    if (write_due_ <= now) return end(late("it took nothing of what was sent to it", limits_.write));
    if (frame_due_ <= now) return end(late("it did not finish its message", limits_.frame));
    if (first_due_ <= now) return end(late("it sent no message", limits_.first));
    watchTime();
}

} // namespace nx::metadata
