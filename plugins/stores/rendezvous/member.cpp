// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "rendezvous/member.h"

#include <algorithm>
#include <cerrno>
#include <sys/socket.h>

#include "utils/common/nixl_log.h"

namespace nx::rendezvous {

namespace {

using namespace std::chrono_literals;

constexpr auto kPauseMin = 20ms, kPauseMax = 1000ms; // between rounds
constexpr size_t kToldMax = 32;
constexpr size_t kDialsMax = 64; // of a round

} // namespace

Result<std::unique_ptr<Member>>
Member::create(Loop &loop,
               const Self &self,
               std::vector<Endpoint> given,
               const Place &place,
               Duration lease,
               Events events) {
    std::unique_ptr<Member> member(new Member(loop, self, std::move(given), place, lease, std::move(events)));
    if (self.listens) {
        auto host = Host::create(loop, place.socket.get(), lease, {},
                                 {.greeting = [raw = member.get()] { return raw->greeting(); },
                                  .greeted = [raw = member.get()](const Message &m) { raw->onRival(m); }});
        if (!host.ok()) return std::move(host).status();
        member->host_ = *std::move(host);
    }
    member->look();
    return member;
}

Member::Member(Loop &loop,
               const Self &self,
               std::vector<Endpoint> given,
               const Place &place,
               Duration lease,
               Events events)
    : loop_(loop),
      self_(self),
      given_(std::move(given)),
      own_address_(place.address),
      lease_(lease),
      events_(std::move(events)) {}

Member::~Member() {
    closeDials();
    loop_.cancel(look_timer_);
    loop_.cancel(beat_timer_);
    if (line_) line_->close();
}

Message
Member::greeting() const {
    Message hello;
    hello.type = Type::kHello;
    hello.role = !host_ ? Role::kGuest : host_->isHost() ? Role::kHost : Role::kDeputy;
    hello.start = self_.start;
    hello.name = self_.name;
    hello.text = own_address_;
    hello.host = line_ && !own_host_ ? host_address_ : "";
    return hello;
}

// ---- Looking for the host

void
Member::look() {
    look_timer_ = 0;
    closeDials();
    round_timer_ = loop_.after(lease_ / 10, [this] {
        round_timer_ = 0;
        endRound();
    });
    for (const auto &endpoint : given_) dial(endpoint.text());
    if (!listed_address_.empty()) dial(listed_address_);
    for (const auto &address : told_) dial(address);
}

void
Member::dial(const std::string &address) {
    const bool known = std::any_of(dials_.begin(), dials_.end(), [&](const Dial &d) { return d.address == address; });
    const auto endpoint = endpointIn(address);
    if (known || !endpoint.ok() || dials_.size() >= kDialsMax) return;
    dials_.emplace_back();
    Dial &made = dials_.back();
    made.address = address;
    made.lookup = std::make_unique<Lookup>(loop_, *endpoint, [this, &made](Result<std::vector<SocketAddress>> found) {
        if (found.ok()) {
            made.left = *std::move(found);
        } else {
            made.why = std::move(found).status();
        }
        tryNext(made);
    });
}

void
Member::tryNext(Dial &dial) {
    if (dial.over) return;
    dial.line.reset();
    while (!dial.left.empty()) {
        const auto to = dial.left.front();
        dial.left.erase(dial.left.begin());
        Fd socket(::socket(to.get()->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        if (!socket || (::connect(socket.get(), to.get(), to.size) != 0 && errno != EINPROGRESS)) {
            dial.why = Status(NIXL_ERR_BACKEND, withErrno("connect", errno));
            continue;
        }
        auto line = Line::open(loop_, std::move(socket), true, false,
                               {.message =
                                    [this, &dial](Line &from, const Message &message) {
                                        if (from.shared_from_this() == line_) return onMessage(message);
                                        if (message.type == Type::kHello) return onGreeting(dial, message);
                                    },
                                .end =
                                    [this, &dial](Line &from, const Status &why) {
                                        if (from.shared_from_this() == line_) return lose(why);
                                        dial.why = Status(why.code(), why.message());
                                        if (!dial.greeting) return tryNext(dial);
                                    },
                                .arrived = {}});
        if (!line.ok()) {
            dial.why = std::move(line).status();
            continue;
        }
        dial.line = *std::move(line);
        dial.line->send(greeting());
        return;
    }
    dial.over = true;
    endRoundIfOver();
}

void
Member::onGreeting(Dial &dial, const Message &said) {
    dial.greeting = said;
    dial.over = true;
    if (!said.host.empty()) note(said.host);
    if (said.role == Role::kHost) {
        const bool own = said.start == self_.start;
        if (!line_ && (own || !host_ || !host_->isHost() || yieldsTo(self_, said))) return join(dial);
        if (line_ && !own && yieldsTo(self_, said)) return join(dial);
    } else if (!said.host.empty() && !line_) {
        Member::dial(said.host);
    }
    endRoundIfOver();
}

void
Member::endRoundIfOver() {
    if (round_timer_ == 0) return;
    if (std::all_of(dials_.begin(), dials_.end(), [](const Dial &d) { return d.over; })) {
        // Later, since a dial may be calling.
        loop_.cancel(round_timer_);
        round_timer_ = loop_.after(0ms, [this] {
            round_timer_ = 0;
            endRound();
        });
    }
}

void
Member::endRound() {
    std::vector<Message> greetings;
    for (const auto &dial : dials_) {
        if (dial.greeting) greetings.push_back(*dial.greeting);
    }
    last_round_ = nobody();
    closeDials();
    if (line_) return; // a host that has looked for others
    if (host_ && !host_->isHost() && becomesHost(self_, !listed_address_.empty(), greetings)) {
        NIXL_INFO << "directory: agent " << quoted(self_.name) << " hosts the rendezvous at " << own_address_;
        host_->open();
        return look();
    }
    // Until then a call waits: agents start in any order, and another one takes over.
    if (Loop::Clock::now() - lost_ >= lease_ / 5) {
        if (call_) finish({Status(last_round_.code(), last_round_.message()), nullptr});
        if (!host_address_.empty() && !std::exchange(warned_, true)) {
            NIXL_WARN << "directory: agent " << quoted(self_.name) << ": " << last_round_.message()
                      << "; peers that are known stay known";
        }
    }
    lookLater(pause_);
    pause_ = std::clamp<Duration>(2 * pause_, kPauseMin, kPauseMax);
}

void
Member::lookLater(Duration pause) {
    loop_.cancel(look_timer_);
    look_timer_ = loop_.after(pause, [this] { look(); });
}

void
Member::closeDials() {
    loop_.cancel(round_timer_);
    round_timer_ = 0;
    for (auto &dial : dials_) {
        dial.over = true;
        if (dial.line && dial.line != line_) dial.line->close();
    }
    // Later, since one may be calling.
    loop_.post([old = std::make_shared<std::list<Dial>>(std::move(dials_))] {});
    dials_.clear();
}

/// Somebody who has greeted may be a host, too, or know of one.
void
Member::onRival(const Message &said) {
    if (!host_->isHost() || !yieldsTo(self_, said)) return;
    NIXL_INFO << "directory: agent " << quoted(self_.name) << " leaves the rendezvous to agent " << quoted(said.name);
    note(said.text);
    host_->resign();
    if (!line_ || !own_host_) return;
    line_->close();
    lose({NIXL_ERR_BACKEND, "another one hosts"});
}

void
Member::note(const std::string &address) {
    if (address == own_address_ || !endpointIn(address).ok()) return;
    told_.remove(address);
    told_.push_front(address);
    if (told_.size() > kToldMax) told_.pop_back();
}

/// What to say of a round in which no host was found.
Status
Member::nobody() const {
    std::string text;
    nixl_status_t code = NIXL_ERR_BACKEND;
    for (const auto &dial : dials_) {
        if (dial.greeting && dial.greeting->start == self_.start) continue;
        text += (text.empty() ? "" : "; ") + dial.address + ": " +
            (dial.greeting ? "agent " + quoted(dial.greeting->name) + " is there, and hosts none" : dial.why.message());
        if (!dial.greeting && dial.why.code() != NIXL_ERR_NOT_FOUND) code = dial.why.code();
    }
    return {code, "no rendezvous was found (" + text + ")"};
}

// ---- With the host

void
Member::join(Dial &dial) {
    if (line_) line_->close();
    if (host_ && host_->isHost() && dial.greeting->start != self_.start) host_->resign();
    own_host_ = dial.greeting->start == self_.start;
    line_ = dial.line;
    host_address_ = dial.address;
    NIXL_INFO << "directory: agent " << quoted(self_.name) << " is at the rendezvous of agent "
              << quoted(dial.greeting->name) << " at " << host_address_;
    closeDials();
    loop_.cancel(look_timer_);
    look_timer_ = 0;
    warned_ = false;
    if (!own_host_) note(host_address_);
    Message message;
    message.type = Type::kJoin;
    line_->send(message);
    for (const auto &[label, blob] : published_) {
        message = {};
        message.type = Type::kPublish;
        message.flag = true;
        message.text = label;
        message.blob = blob;
        line_->send(message);
    }
    for (const auto &[agent, start] : followed_) {
        message = {};
        message.type = Type::kFollow;
        message.start = start;
        message.name = agent;
        line_->send(message);
    }
    if (call_) line_->send(call_->request);
    loop_.cancel(beat_timer_);
    beat_timer_ = loop_.after(lease_ / 6, [this] { beat(); });
    // A host that has come back, or that was cut off, is found by this one, not by its members.
    if (own_host_) lookLater(lease_ / 3);
}

void
Member::lose(const Status &why) {
    NIXL_INFO << "directory: agent " << quoted(self_.name) << ": the rendezvous at " << host_address_
              << " is gone: " << why.message();
    line_.reset();
    loop_.cancel(beat_timer_);
    beat_timer_ = 0;
    lost_ = Loop::Clock::now();
    // At once, unless it was hardly there.
    lookLater(pause_);
    pause_ = std::clamp<Duration>(2 * pause_, kPauseMin, kPauseMax);
}

void
Member::beat() {
    beat_timer_ = 0;
    pause_ = 0ms;
    if (Loop::Clock::now() - line_->heard() >= lease_ / 2) {
        line_->close();
        return lose({NIXL_ERR_TIMEOUT, "it stands still"});
    }
    Message alive;
    alive.type = Type::kAlive;
    line_->send(alive);
    beat_timer_ = loop_.after(lease_ / 6, [this] { beat(); });
    if (own_host_ && look_timer_ == 0 && round_timer_ == 0) lookLater(lease_ / 3);
}

void
Member::onMessage(const Message &message) {
    switch (message.type) {
    case Type::kAnswer:
    case Type::kFound: return onAnswer(message);
    case Type::kGone: return onGone(message);
    case Type::kRoster:
        listed_address_.clear();
        // The lowest names last, which makes them the first.
        for (auto it = message.roster.rbegin(); it != message.roster.rend(); ++it) {
            if (it->name != self_.name) {
                note(it->address);
            } else if (host_) {
                listed_address_ = it->address;
            }
        }
        return;
    default: return;
    }
}

void
Member::onAnswer(const Message &message) {
    if (message.id == 0) {
        if (message.status == NIXL_ERR_NOT_ALLOWED) {
            published_.clear();
        } else {
            NIXL_WARN << "directory: agent " << quoted(self_.name)
                      << " could not publish again what it had published: " << quoted(message.text, 300);
        }
        return;
    }
    if (!call_ || call_->request.id != message.id) return;
    const auto &request = call_->request;
    if (message.type == Type::kFound) {
        if (request.type != Type::kFetch) return;
        followed_[request.name] = message.start;
        events_.found(request.name);
        return finish({{}, message.blob});
    }
    if (message.status == NIXL_SUCCESS && request.type == Type::kPublish) {
        has_published_ = true;
        published_[request.text] = request.blob;
    }
    if (message.status == NIXL_SUCCESS && request.type == Type::kWithdraw) published_.clear();
    if (message.status == NIXL_SUCCESS && request.type != Type::kFetch) return finish({});
    const auto code = message.status < 0 ? static_cast<nixl_status_t>(message.status) : NIXL_ERR_MISMATCH;
    finish({{code, message.text}, nullptr});
}

void
Member::onGone(const Message &message) {
    if (message.name == self_.name && message.start == self_.start && message.flag) published_.clear();
    const auto it = followed_.find(message.name);
    if (it == followed_.end() || it->second != message.start) return;
    followed_.erase(it);
    events_.ended(
        {message.name,
         message.flag ? "another start of it has taken its place" : "it was withdrawn, or its process has ended",
         message.flag});
}

// ---- For the agent

void
Member::ask(Call call) {
    call_ = std::move(call);
    if (call_->request.type == Type::kWithdraw && published_.empty() && !line_) return finish({});
    call_->request.flag = call_->request.type == Type::kPublish && has_published_;
    if (line_) return line_->send(call_->request);
    if (look_timer_ != 0) lookLater(0ms);
}

void
Member::giveUp(uint64_t id) {
    if (call_ && call_->request.id == id) call_.reset();
}

void
Member::forget(const std::string &agent) {
    if (followed_.erase(agent) == 0 || !line_) return;
    Message message;
    message.type = Type::kForget;
    message.name = agent;
    line_->send(message);
}

void
Member::finish(Outcome outcome) {
    const auto call = std::exchange(call_, std::nullopt);
    call->done(std::move(outcome));
}

} // namespace nx::rendezvous
