// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "metadata/listener.h"

#include <algorithm>
#include <cerrno>
#include <map>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "loop/endpoint.h"
#include "utils/common/nixl_log.h"

namespace nx::metadata {

namespace {

constexpr int kBacklog = 1024;
// How long nobody is taken in when the process has no descriptors left and no guest can be dropped.
constexpr std::chrono::milliseconds kPause{100};
// After so many, those that are here get their turn: who has spoken is heard before others can push him out.
constexpr int kTurnGuests = 16;
constexpr std::chrono::seconds kLogPeriod{10};
constexpr unsigned kLogLinesPerPeriod = 20;

Result<Fd>
listenOn(const SocketAddress &address) {
    Fd socket(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) return {NIXL_ERR_BACKEND, withErrno("socket", errno)};
    const int yes = 1, no = 0;
    (void)::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (address.storage.ss_family == AF_INET6) {
        (void)::setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    }
    if (::bind(socket.get(), address.get(), address.size) != 0 || ::listen(socket.get(), kBacklog) != 0) {
        const int error = errno;
        Status why(NIXL_ERR_BACKEND, withErrno("listening on port " + std::to_string(address.port()), error));
        if (error == EADDRINUSE) return std::move(why).withContext("choose another port, or 0 for a free one");
        return why;
    }
    return socket;
}

bool
outOfDescriptors(int error) {
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

} // namespace

Result<std::unique_ptr<Listener>>
Listener::create(Loop &loop,
                 const std::string &host,
                 uint16_t port,
                 const Limits &limits,
                 Budget &budget,
                 const Service &service) {
    const auto at = [port](const std::string &text) -> Result<Fd> {
        const auto address = SocketAddress::numeric(text, port);
        return address.ok() ? listenOn(*address) : Result<Fd>(address.code(), address.message());
    };
    auto socket = at(host.empty() ? "::" : host);
    if (!socket.ok() && host.empty()) socket = at("0.0.0.0"); // a host without IPv6
    if (!socket.ok()) return std::move(socket).status();
    SocketAddress bound;
    bound.size = sizeof bound.storage;
    if (::getsockname((*socket).get(), reinterpret_cast<sockaddr *>(&bound.storage), &bound.size) != 0) {
        return {NIXL_ERR_BACKEND, withErrno("getsockname", errno)};
    }
    std::unique_ptr<Listener> listener(new Listener(loop, *std::move(socket), bound.port(), limits, budget, service));
    auto status = loop.watch(listener->socket_.get(), EPOLLIN, [raw = listener.get()](uint32_t) { raw->accept(); });
    if (!status.ok()) return status;
    return listener;
}

Listener::Listener(Loop &loop, Fd socket, uint16_t port, const Limits &limits, Budget &budget, const Service &service)
    : loop_(loop),
      socket_(std::move(socket)),
      port_(port),
      limits_(limits),
      budget_(budget),
      service_(service),
      settled_(Loop::Clock::now() + limits.settle) {}

Listener::~Listener() {
    loop_.unwatch(socket_.get());
    loop_.cancel(pause_);
    loop_.cancel(settle_);
    for (const auto &guest : guests_) guest.channel->close();
}

void
Listener::accept() {
    for (int taken = 0; taken < kTurnGuests; ++taken) {
        SocketAddress from;
        from.size = sizeof from.storage;
        Fd socket(::accept4(socket_.get(), reinterpret_cast<sockaddr *>(&from.storage), &from.size,
                            SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (!socket) {
            if (errno == EINTR || errno == ECONNABORTED) continue;
            if (!outOfDescriptors(errno)) return;
            const auto why = withErrno("taking in a connection", errno);
            if (dropUnproven() || dropProven()) continue;
            complain(why + "; trying again every " + std::to_string(kPause.count()) + " ms");
            loop_.change(socket_.get(), 0);
            pause_ = loop_.after(kPause, [this] {
                pause_ = 0;
                loop_.change(socket_.get(), EPOLLIN);
            });
            return;
        }
        if (count(false) >= limits_.unproven_guests) dropUnproven();
        auto session = service_.session(true);
        auto channel = session.ok() ? Channel::open(loop_, std::move(socket), from.text(), limits_, budget_, *this,
                                                    Channel::Side::kAccepted, *std::move(session))
                                    : std::move(session).status();
        if (channel.ok()) {
            guests_.push_back({*std::move(channel), from.network()});
        } else {
            complain("connection from " + from.text() + ": " + channel.message());
        }
    }
}

/// The guest that costs most among those of the network that costs most, so that nobody can push out others with what
/// he costs himself. Of equals the one that was quiet for longest. end(): none costs anything.
template<class Cost>
Listener::Guests::iterator
Listener::costliest(Cost cost) {
    std::map<std::string_view, size_t> networks;
    for (const auto &guest : guests_) networks[guest.network] += cost(guest);
    auto found = guests_.end();
    std::pair<size_t, size_t> most{};
    for (auto guest = guests_.begin(); guest != guests_.end(); ++guest) {
        const size_t own = cost(*guest);
        const std::pair all{networks[guest->network], own};
        if (own == 0 || all <= most) continue;
        most = all;
        found = guest;
    }
    return found;
}

/// What would be free without the guest. The metadata as it is now is everybody's; older versions are their takers'.
size_t
Listener::memoryOf(const Guest &guest) const {
    const auto answer = guest.answer.lock();
    const bool old = answer && answer != published_.lock();
    const size_t takers = old ? static_cast<size_t>(answer.use_count()) - 1 : 1;
    return guest.channel->buffered() + (old ? answer->size() / std::max<size_t>(takers, 1) : 0);
}

bool
Listener::dropCostliest() {
    const auto guest = costliest([this](const Guest &g) { return memoryOf(g); });
    if (guest == guests_.end()) return false;
    drop(guest,
         "all connections together hold " + std::to_string(budget_.used) + " bytes, more than " +
             std::to_string(budget_.max));
    return true;
}

size_t
Listener::count(bool proven) const {
    return static_cast<size_t>(
        std::count_if(guests_.begin(), guests_.end(), [&](const auto &g) { return g.channel->proven() == proven; }));
}

bool
Listener::dropUnproven() {
    const auto guest = costliest([](const Guest &g) -> size_t { return g.channel->proven() ? 0 : 1; });
    if (guest == guests_.end()) return false;
    drop(guest, "it has sent no message, and there are too many such connections");
    return true;
}

bool
Listener::dropProven() {
    const auto guest = costliest([](const Guest &g) -> size_t { return g.channel->proven() ? 1 : 0; });
    if (guest == guests_.end()) return false;
    // Agents make a lost connection again when they need it: of many peers that is nobody's fault.
    NIXL_INFO << "MD listener: agent " << quoted(service_.agent) << ": connection from " << guest->channel->peer()
              << " was closed: it was quiet for longest, and there are too many";
    guest->channel->close();
    guests_.erase(guest);
    return true;
}

void
Listener::drop(Guests::iterator guest, const std::string &why) {
    complain("connection from " + guest->channel->peer() + " was closed: " + why);
    guest->channel->close();
    guests_.erase(guest);
}

Listener::Guests::iterator
Listener::find(const Channel &channel) {
    return std::find_if(guests_.begin(), guests_.end(), [&](const auto &g) { return g.channel.get() == &channel; });
}

void
Listener::onEnd(Channel &channel, const Status &why) {
    const auto guest = find(channel);
    if (guest == guests_.end()) return;
    // Leaving is nobody's failure.
    if (why.code() == NIXL_ERR_REMOTE_DISCONNECT) {
        NIXL_DEBUG << "MD listener: connection from " << channel.peer() << ": " << why.message();
    } else {
        complain("connection from " + channel.peer() + " was closed: " + why.message());
    }
    guests_.erase(guest);
}

void
Listener::onMessage(Channel &channel, const wire::Message &message) {
    const auto guest = find(channel);
    guests_.splice(guests_.end(), guests_, guest);
    if (count(true) > limits_.proven_guests) dropProven();
    // It came before the backend it needs: its channel is on hold, so that what follows keeps its order.
    if (serve(*guest, message, mayWait(message.payload.size()))) return;
    guest->held = message;
    channel.hold();
    if (settle_ != 0) return;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(settled_ - Loop::Clock::now());
    settle_ = loop_.after(std::max(left, std::chrono::milliseconds(0)), [this] { retry(); });
}

void
Listener::retry() {
    for (auto &guest : guests_) {
        if (!guest.held || !serve(guest, *guest.held, Loop::Clock::now() < settled_)) continue;
        guest.held.reset();
        guest.channel->release();
    }
}

/// An agent listens from its first moment, before it has created its backends, and its peers may be as quick. What
/// needs a backend is not refused for it: agents of NIXL 1.4 ask once and never learn what became of it.
bool
Listener::mayWait(size_t bytes) const {
    for (const auto &guest : guests_) bytes += guest.held ? guest.held->payload.size() : 0;
    return bytes <= limits_.held_bytes && Loop::Clock::now() < settled_;
}

/// False only if it may wait: it came too early.
bool
Listener::serve(Guest &guest, const wire::Message &message, bool may_wait) {
    Channel &channel = *guest.channel;
    switch (message.verb) {
    case wire::Verb::kLoad: return load(channel, message.payload, may_wait);
    case wire::Verb::kSend: return publish(guest, may_wait);
    case wire::Verb::kInvalidate: {
        const auto [agent, start] = wire::decodeInvalidation(message.payload);
        if (auto status = service_.invalidate(std::string(agent), start); !status.ok()) {
            NIXL_INFO << "MD listener: invalidation from " << channel.peer() << ": " << status.message();
        }
        return true;
    }
    case wire::Verb::kAnswer: return true; // to nothing that we asked on this connection
    }
    return true;
}

bool
Listener::load(Channel &channel, std::string_view blob, bool may_wait) {
    if (blob.empty()) return true; // the peer has nothing to publish
    const auto loaded = service_.load(blob);
    const bool waits = loaded.too_early && may_wait;
    if (waits) {
        NIXL_DEBUG << "MD listener: metadata from " << channel.peer() << " waits: " << loaded.status.message();
    } else if (!loaded.status.ok()) {
        complain("loadRemoteMD in P2P backend failed from peer " + channel.peer() + " with error " +
                 nixlEnumStrings::statusStr(loaded.status.code()) + ": loadRemoteMD: " + loaded.status.message());
    }
    if (loaded.wants_answer) {
        const wire::Answer answer{waits ? NIXL_IN_PROG : loaded.status.code(), loaded.status.message()};
        channel.send(wire::encodeFrame(wire::Verb::kAnswer, wire::encodeAnswer(answer)));
    }
    return !waits;
}

bool
Listener::publish(Guest &guest, bool may_wait) {
    auto made = service_.publish();
    if (!made.ok()) {
        if (may_wait) return false;
        NIXL_INFO << "MD listener: nothing to publish to " << guest.channel->peer() << ": " << made.message();
    }
    const auto blob = made.ok() ? counted(*std::move(made)) : nullptr;
    guest.answer = blob;
    guest.channel->send(wire::encodeFrameHead(wire::Verb::kLoad, blob ? blob->size() : 0), blob);
    return true;
}

/// The blob, in the budget until nobody takes it any more.
Blob
Listener::counted(Blob blob) {
    if (auto known = published_.lock(); known.get() == blob.get()) return known;
    budget_.used += blob->size();
    const auto *bytes = blob.get();
    Blob counted(bytes, [&budget = budget_, blob = std::move(blob)](const auto *) { budget.used -= blob->size(); });
    published_ = counted;
    // Later, since the caller may be in the middle of using its guest.
    if (budget_.used > budget_.max)
        loop_.post([&budget = budget_] {
            if (budget.used > budget.max) budget.exceeded();
        });
    return counted;
}

void
Listener::complain(const std::string &sentence) {
    const auto now = Loop::Clock::now();
    if (now - log_period_ >= kLogPeriod) {
        if (log_lines_ > kLogLinesPerPeriod) {
            NIXL_WARN << "MD listener: agent " << quoted(service_.agent) << ": " << log_lines_ - kLogLinesPerPeriod
                      << " more lines of the last " << kLogPeriod.count() << " s were left out";
        }
        log_period_ = now;
        log_lines_ = 0;
    }
    if (++log_lines_ > kLogLinesPerPeriod) return;
    NIXL_WARN << "MD listener: agent " << quoted(service_.agent) << ": " << sentence;
}

} // namespace nx::metadata
