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

#include "base/boundary.h"
#include "base/last_error.h"

namespace nx::metadata {

namespace {

constexpr size_t kReadBytes = 64 << 10;
// After this much the other connections get their turn.
constexpr size_t kTurnBytes = 1 << 20;
constexpr size_t kMiB = 1 << 20;
// So much is sealed at a time: what is sent to many is kept once, and not once for each of them.
constexpr size_t kSealBytes = 64 << 10;

/// Calls the session, which may throw and explains its failures with nixlx::fail().
template<class Call>
Status
asked(const char *function, Call call) {
    clearBackendSentence();
    const auto status = guarded(function, call);
    return status < 0 ? Status(status, takeBackendSentence(std::string(function) + " failed")) : Status();
}

} // namespace

Result<std::shared_ptr<Channel>>
Channel::open(Loop &loop,
              Fd socket,
              std::string peer,
              const Limits &limits,
              Budget &budget,
              Owner &owner,
              Side side,
              Session session) {
    const int yes = 1;
    // Neither is needed for a right result: a failure changes only how soon.
    (void)::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    (void)::setsockopt(socket.get(), SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes);
    std::shared_ptr<Channel> channel(
        new Channel(loop, std::move(socket), std::move(peer), limits, budget, owner, side, std::move(session)));
    channel->events_ = EPOLLIN;
    auto status = loop.watch(channel->socket_.get(), channel->events_,
                             [raw = channel.get()](uint32_t events) { raw->onReady(events); });
    if (!status.ok()) return status;
    if (channel->session_ || side == Side::kAccepted) {
        channel->first_due_ = Loop::Clock::now() + (channel->session_ ? limits.prove : limits.first);
    }
    if (auto begun = channel->begin(); !begun.ok()) return begun;
    channel->watchTime();
    return channel;
}

Channel::Channel(Loop &loop,
                 Fd socket,
                 std::string peer,
                 const Limits &limits,
                 Budget &budget,
                 Owner &owner,
                 Side side,
                 Session session)
    : loop_(loop),
      socket_(std::move(socket)),
      peer_(std::move(peer)),
      limits_(limits),
      budget_(budget),
      owner_(owner),
      side_(side),
      session_(std::move(session)) {}

Channel::~Channel() {
    close();
}

Status
Channel::begin() {
    if (!session_) return {};
    auto status = asked("begin", [&] { return session_->begin(sealed_); });
    if (status.ok()) write();
    return status;
}

/// There is something that can go to the system now.
bool
Channel::writing() const noexcept {
    if (!session_) return !out_.empty();
    return !sealed_.empty() || (proven_ && !out_.empty());
}

/// While an answer of ours is not taken, what follows waits: nobody can make us pile up answers.
bool
Channel::reading() const noexcept {
    return !held_ && (side_ == Side::kMade || !writing());
}

void
Channel::close() {
    if (!isOpen()) return;
    loop_.unwatch(socket_.get());
    loop_.cancel(timer_);
    socket_.reset();
    out_.clear();
    sealed_.clear();
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
    if (!writing()) write_due_ = Loop::Clock::now() + limits_.write;
    out_.push_back(std::make_shared<const std::string>(std::move(head)));
    if (blob && !blob->empty()) out_.push_back(std::move(blob));
    const auto self = shared_from_this();
    write();
    tells_written_ = !written();
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
    for (size_t turn = 0; turn < kTurnBytes && reading();) {
        const bool unproven = session_ && !proven_;
        const size_t room = unproven ? std::min(sizeof bytes, limits_.unproven_bytes - unproven_bytes_) : sizeof bytes;
        const ssize_t got = ::recv(socket_.get(), bytes, room, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        const std::string before = whatIsMissing();
        if (got < 0) return end({NIXL_ERR_REMOTE_DISCONNECT, withErrno("the connection broke" + before, errno)});
        if (got == 0) {
            return end(
                {NIXL_ERR_REMOTE_DISCONNECT,
                 (in_.midFrame() ? "it closed the connection in the middle of a message" : "it closed the connection") +
                     before});
        }
        turn += static_cast<size_t>(got);
        if (!takeIn({bytes, static_cast<size_t>(got)})) return;
    }
}

/// Of an end before anything was said, for its sentence.
std::string
Channel::whatIsMissing() const {
    if (proven_ || in_.midFrame()) return "";
    if (session_) return " before it had proven itself; give both agents the same key (NIXL_SECRET_FILE)";
    if (side_ == Side::kAccepted) return "";
    return " without a word; if it has a key (NIXL_SECRET_FILE), this agent needs the same";
}

/// What has arrived. False if the channel is closed now.
bool
Channel::takeIn(std::string_view bytes) {
    std::string plain;
    if (session_) {
        if (!openSealed(bytes, plain)) return false;
        if (plain.empty()) return true;
        bytes = plain;
    }
    first_due_ = Time::max(); // from here on the frame's limit counts
    if (!in_.midFrame()) frame_due_ = Loop::Clock::now() + limits_.frame;
    in_.add(bytes);
    return giveOutMessages();
}

/// What the bytes say. False if the channel is closed now.
bool
Channel::openSealed(std::string_view bytes, std::string &plain) {
    auto status = asked("receive", [&] { return session_->receive(bytes, plain, sealed_); });
    if (status.ok() && !proven_) {
        proven_ = session_->proven();
        if (proven_) first_due_ = Time::max();
        unproven_bytes_ += bytes.size();
        if (!proven_ && unproven_bytes_ >= limits_.unproven_bytes) {
            status = {NIXL_ERR_MISMATCH,
                      "it sent " + std::to_string(unproven_bytes_) + " bytes without proving itself"};
        }
    }
    write();
    if (status.ok()) return isOpen();
    end(std::move(status));
    return false;
}

/// False if the channel is closed now.
bool
Channel::giveOutMessages() {
    while (reading()) {
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

/// Bytes for the system; none: nothing can go there now.
std::string_view
Channel::nextToWrite() {
    if (!session_) return out_.empty() ? std::string_view() : std::string_view(*out_.front()).substr(out_sent_);
    if (sealed_.empty() && proven_ && !out_.empty()) {
        const auto part = std::string_view(*out_.front()).substr(out_sent_, kSealBytes);
        auto status = asked("send", [&] { return session_->send(part, sealed_); });
        if (!status.ok()) {
            endLater(status);
            return {};
        }
        out_sent_ += part.size();
        if (out_sent_ == out_.front()->size()) {
            out_.pop_front();
            out_sent_ = 0;
        }
    }
    return std::string_view(sealed_).substr(sealed_sent_);
}

void
Channel::write() {
    for (std::string_view next; isOpen() && !(next = nextToWrite()).empty();) {
        const int more = out_.size() > 1 ? MSG_MORE : 0;
        const ssize_t put = ::send(socket_.get(), next.data(), next.size(), MSG_NOSIGNAL | MSG_DONTWAIT | more);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
        if (put < 0) {
            endLater({NIXL_ERR_REMOTE_DISCONNECT, withErrno("the connection broke", errno)});
            break;
        }
        write_due_ = Loop::Clock::now() + limits_.write;
        size_t &sent = session_ ? sealed_sent_ : out_sent_;
        sent += static_cast<size_t>(put);
        if (static_cast<size_t>(put) < next.size()) continue;
        sent = 0;
        if (session_) {
            std::string().swap(sealed_);
        } else {
            out_.pop_front();
        }
    }
    if (!writing()) write_due_ = Time::max();
    watchSocket();
    if (tells_written_ && written()) {
        tells_written_ = false;
        giveOutLater();
    }
}

/// Since the caller may be in the middle of using us.
void
Channel::endLater(const Status &why) {
    loop_.post([self = shared_from_this(), why = std::make_shared<Status>(why.code(), why.message())] {
        self->end({why->code(), why->message()});
    });
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
    const uint32_t wanted = (reading() ? EPOLLIN : 0U) | (writing() ? EPOLLOUT : 0U);
    if (!isOpen() || wanted == events_) return;
    events_ = wanted;
    loop_.change(socket_.get(), events_);
}

/// Messages that waited. Later, since the caller may be in the middle of using us.
void
Channel::giveOutLater() {
    loop_.post([self = shared_from_this()] {
        if (!self->isOpen() || self->writing()) return;
        if (self->written()) self->owner_.onWritten(*self);
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
    if (first_due_ <= now && session_) return end(late("it did not prove itself", limits_.prove));
    if (first_due_ <= now) return end(late("it sent no message", limits_.first));
    watchTime();
}

} // namespace nx::metadata
