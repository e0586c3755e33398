// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "rendezvous/host.h"

#include <algorithm>
#include <cerrno>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "loop/endpoint.h"

namespace nx::rendezvous {

namespace {

constexpr int kTurnGuests = 16;
constexpr std::chrono::milliseconds kPause{100}; // without descriptors
constexpr size_t kLargeBytes = size_t{1} << 20;

/// ":7000" of somebody who listens at all his addresses, with the one that he came from.
std::string
completed(const std::string &address, int socket) {
    if (!address.starts_with(':')) return address;
    SocketAddress peer;
    peer.size = sizeof peer.storage;
    if (::getpeername(socket, reinterpret_cast<sockaddr *>(&peer.storage), &peer.size) != 0) return "";
    const auto host = peer.host();
    return (host.find(':') == std::string::npos ? host : "[" + host + "]") + address;
}

} // namespace

Result<std::unique_ptr<Host>>
Host::create(Loop &loop, int socket, Table::Duration lease, const Limits &limits, Owner owner) {
    std::unique_ptr<Host> host(new Host(loop, socket, lease, limits, std::move(owner)));
    auto status = loop.watch(socket, EPOLLIN, [raw = host.get()](uint32_t) { raw->accept(); });
    if (!status.ok()) return status;
    return host;
}

Host::Host(Loop &loop, int socket, Table::Duration lease, const Limits &limits, Owner owner)
    : loop_(loop),
      socket_(socket),
      lease_(lease),
      limits_(limits),
      owner_(std::move(owner)) {}

Host::~Host() {
    loop_.unwatch(socket_);
    loop_.cancel(timer_);
    loop_.cancel(pause_);
}

void
Host::accept() {
    for (int taken = 0; taken < kTurnGuests; ++taken) {
        Fd socket(::accept4(socket_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (!socket && (errno == EINTR || errno == ECONNABORTED)) continue;
        if (!socket) {
            if (errno == EAGAIN || errno == EWOULDBLOCK) return;
            loop_.change(socket_, 0);
            pause_ = loop_.after(kPause, [this] { loop_.change(socket_, EPOLLIN); });
            return;
        }
        const auto strangers =
            std::count_if(guests_.begin(), guests_.end(), [](const auto &guest) { return !guest.second.member; });
        if (static_cast<size_t>(strangers) >= limits_.guests) {
            hangUp(std::find_if(guests_.begin(), guests_.end(), [](const auto &g) { return !g.second.member; })->first);
        }
        const auto id = ++last_id_;
        auto line = Line::open(loop_, std::move(socket), false, true,
                               {.message = [this, id](Line &, const Message &message) { onMessage(id, message); },
                                .end = [this, id](Line &, const Status &) { hangUp(id); },
                                .arrived =
                                    [this, id](Line &from) {
                                        if (table_) table_->heard(id, Loop::Clock::now());
                                        if (from.buffered() > kLargeBytes) onArrived();
                                    }});
        if (!line.ok()) continue;
        guests_[id] = {*std::move(line), Loop::Clock::now(), std::nullopt, false};
        if (timer_ == 0) timer_ = loop_.after(lease_ / 10, [this] { tick(); });
    }
}

void
Host::onArrived() {
    size_t bytes = 0;
    auto largest = guests_.begin();
    for (auto it = guests_.begin(); it != guests_.end(); ++it) {
        bytes += it->second.line->buffered();
        if (it->second.line->buffered() > largest->second.line->buffered()) largest = it;
    }
    if (bytes > limits_.buffered_bytes) hangUp(largest->first);
}

void
Host::onMessage(Table::Id id, const Message &message) {
    Guest &guest = guests_.at(id);
    if (message.type == Type::kHello) {
        guest.greeting = message;
        guest.greeting->text = completed(message.text, guest.line->fd());
        guest.line->send(owner_.greeting());
        owner_.greeted(*guest.greeting);
    } else if (message.type == Type::kJoin) {
        join(id);
    } else if (!guest.member || !table_ || !table_->receive(id, message, Loop::Clock::now())) {
        hangUp(id);
    }
}

void
Host::join(Table::Id id) {
    Guest &guest = guests_.at(id);
    const auto members =
        std::count_if(guests_.begin(), guests_.end(), [](const auto &other) { return other.second.member; });
    if (!table_ || guest.member || static_cast<size_t>(members) >= limits_.members) return hangUp(id);
    guest.member = true;
    table_->join(id, *guest.greeting, Loop::Clock::now());
}

void
Host::hangUp(Table::Id id) {
    const auto it = guests_.find(id);
    if (it == guests_.end()) return;
    const auto line = it->second.line;
    guests_.erase(it);
    line->close();
    if (table_) table_->leave(id, Loop::Clock::now());
}

void
Host::open() {
    const auto send = [this](Table::Id id, const Message &message) {
        const auto guest = guests_.find(id);
        if (guest != guests_.end()) guest->second.line->send(message);
    };
    table_.emplace(lease_, limits_.table, send);
    if (timer_ == 0) timer_ = loop_.after(lease_ / 10, [this] { tick(); });
}

void
Host::resign() {
    table_.reset();
    std::vector<Table::Id> members;
    for (const auto &[id, guest] : guests_) {
        if (guest.member) members.push_back(id);
    }
    for (const auto id : members) hangUp(id);
}

void
Host::tick() {
    const auto now = Loop::Clock::now();
    timer_ = 0;
    std::vector<Table::Id> over;
    for (const auto &[id, guest] : guests_) {
        if (!guest.member && now - guest.since >= limits_.first) over.push_back(id);
    }
    if (table_) {
        for (const auto id : table_->tick(now)) over.push_back(id);
    }
    for (const auto id : over) hangUp(id);
    Message alive;
    alive.type = Type::kAlive;
    for (const auto &[id, guest] : guests_) {
        if (guest.member) guest.line->send(alive);
    }
    // What has no connection any more has a time, too.
    if (table_ || !guests_.empty()) timer_ = loop_.after(lease_ / 10, [this] { tick(); });
}

} // namespace nx::rendezvous
