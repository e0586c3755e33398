// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "metadata/client.h"

#include <algorithm>
#include <cerrno>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "utils/common/nixl_log.h"

namespace nx::metadata {

namespace {

using std::chrono::milliseconds;
using Clock = Loop::Clock;

// Between tries to connect, and between questions to an agent that has nothing to publish yet; at random up to the
// second, which grows from the first.
constexpr milliseconds kPauseMin{10}, kPauseMax{1000};
// Addresses whose connection is kept although nothing is under way.
constexpr size_t kIdleRoutesMax = 1024;

} // namespace

/// One address: its connection and its calls.
///
/// | state      | meaning                          | left when                            | for                  |
/// |------------|----------------------------------|--------------------------------------|----------------------|
/// | Idle       | no connection                    | a call comes                         | Looking              |
/// | Looking    | the host is looked up            | it is found (else: the calls fail)   | Connecting           |
/// | Connecting | one address after the other      | one answers                          | Open                 |
/// |            |                                  | none does                            | Pausing, or the      |
/// |            |                                  |                                      | calls fail: Idle     |
/// | Pausing    | before all addresses once more   | the pause is over                    | Connecting           |
/// | Open       | calls are sent and answered      | the connection ends                  | Idle, or Looking for |
/// |            |                                  |                                      | calls to be repeated |
class Client::Route final : Channel::Owner {
public:
    Route(Client &client, Endpoint endpoint) : client_(client), endpoint_(std::move(endpoint)) {}

    ~Route() {
        leaveConnecting();
        if (channel_) channel_->close();
        client_.loop_.cancel(answer_timer_);
        client_.loop_.cancel(again_timer_);
        const Status ended(NIXL_ERR_CANCELED, "the agent ended before it was done");
        for (auto *calls : {&sent_, &waiting_}) {
            for (const auto &open : *calls) {
                if (open.call.done) open.call.done(ended);
                else client_.ledger_.close(endpoint_.text(), ended);
            }
        }
    }

    void
    add(Call call) {
        waiting_.push_back({std::move(call), Clock::now()});
        go();
    }

    void
    hurry() {
        client_.loop_.cancel(again_timer_);
        again_timer_ = 0;
        // Nobody needs at the end what is fetched once more.
        if (again_due_ || impatient()) failAll({NIXL_ERR_CANCELED, "the agent ended before it was done"});
    }

    bool
    handedOver() const {
        return waiting_.empty() && (!channel_ || channel_->delivered());
    }

    bool
    idle() const {
        return waiting_.empty() && sent_.empty();
    }

    /// All that wait for a connection wait for a peer that was there before.
    bool
    impatient() const {
        return std::all_of(waiting_.begin(), waiting_.end(),
                           [](const auto &open) { return open.call.done != nullptr; });
    }

    size_t
    buffered() const {
        return channel_ ? channel_->buffered() : 0;
    }

    void
    drop(const Status &why) {
        if (channel_) channel_->close();
        lost(why);
    }

private:
    struct Open {
        Call call;
        Clock::time_point since;       ///< when it was made
        Clock::time_point due{};       ///< of its answer
        bool repeated = false;         ///< sent on a second connection
        milliseconds pause{kPauseMin}; ///< before it asks again
    };

    // ---- Connecting ----

    void
    go() {
        if (channel_) return sendWaiting();
        if (lookup_ || socket_ || again_due_ || waiting_.empty()) return;
        connect_due_ = Clock::now() + client_.limits_.connect;
        connect_pause_ = kPauseMin;
        lookup_ = std::make_unique<Lookup>(client_.loop_, endpoint_, [this](auto found) {
            // Not inside the lookup that calls.
            client_.loop_.post([lookup = std::shared_ptr<Lookup>(std::move(lookup_))] {});
            if (!found.ok()) return failAll(std::move(found).status());
            addresses_ = *std::move(found);
            next_address_ = 0;
            connect();
        });
    }

    void
    connect() {
        for (; next_address_ < addresses_.size(); ++next_address_) {
            const auto &address = addresses_[next_address_];
            socket_ = Fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
            if (!socket_) {
                connect_error_ = Status(NIXL_ERR_BACKEND, withErrno("socket", errno));
                continue;
            }
            if (::connect(socket_.get(), address.get(), address.size) == 0) return connected();
            if (errno != EINPROGRESS) {
                refused(errno);
                continue;
            }
            auto status = client_.loop_.watch(socket_.get(), EPOLLOUT, [this](uint32_t) { onConnect(); });
            if (!status.ok()) {
                connect_error_ = std::move(status);
                socket_.reset();
                continue;
            }
            const auto left = std::chrono::ceil<milliseconds>(connect_due_ - Clock::now());
            connect_timer_ =
                client_.loop_.after(std::clamp(left, milliseconds(0), client_.limits_.address), [this] { late(); });
            return;
        }
        allRefused();
    }

    void
    onConnect() {
        int error = 0;
        socklen_t size = sizeof error;
        if (::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
        client_.loop_.unwatch(socket_.get());
        client_.loop_.cancel(connect_timer_);
        if (error == 0) return connected();
        refused(error);
        ++next_address_;
        connect();
    }

    void
    late() {
        client_.loop_.unwatch(socket_.get());
        socket_.reset();
        connect_error_ = Status(NIXL_ERR_TIMEOUT,
                                "poll timed out for ip_addr: " + addresses_[next_address_].host() + " and port: " +
                                    std::to_string(endpoint_.port) + "; is the host up and the way to it open?");
        ++next_address_;
        connect();
    }

    void
    refused(int error) {
        socket_.reset();
        const auto status = error == ECONNREFUSED || error == EHOSTUNREACH || error == ENETUNREACH ? NIXL_ERR_NOT_FOUND
                                                                                                   : NIXL_ERR_BACKEND;
        connect_error_ =
            Status(status,
                   "getsockopt gave error for ip_addr: " + addresses_[next_address_].host() +
                       " and port: " + std::to_string(endpoint_.port) + ": " + withErrno("connect", error) +
                       (error == ECONNREFUSED ? "; does the agent listen there?" : ""));
    }

    /// A peer that starts at the same time may listen in a moment.
    void
    allRefused() {
        if (client_.hurried_ || impatient() || Clock::now() >= connect_due_) {
            Status why(connect_error_.code(),
                       "P2P backend could not connect to IP " + endpoint_.host + " and port " +
                           std::to_string(endpoint_.port) + ": " + connect_error_.message());
            return failAll(why);
        }
        next_address_ = 0;
        const auto left = std::chrono::ceil<milliseconds>(connect_due_ - Clock::now());
        connect_pause_ = std::max(kPauseMin, std::min(connect_pause_, left / 2));
        again(connect_pause_, [this] { connect(); });
    }

    void
    connected() {
        auto session = client_.service_.session(false);
        if (!session.ok()) return failAll(std::move(session).status());
        auto channel = Channel::open(client_.loop_, std::move(socket_), endpoint_.text(), client_.limits_,
                                     client_.budget_, *this, Channel::Side::kMade, *std::move(session));
        if (!channel.ok()) return failAll(std::move(channel).status());
        channel_ = *std::move(channel);
        fresh_ = true;
        sendWaiting();
    }

    void
    leaveConnecting() {
        lookup_.reset();
        if (!socket_) return;
        client_.loop_.unwatch(socket_.get());
        client_.loop_.cancel(connect_timer_);
        socket_.reset();
    }

    void
    again(milliseconds &pause, std::function<void()> task) {
        const milliseconds random(
            std::uniform_int_distribution<int64_t>(kPauseMin.count(), pause.count() * 2)(client_.random_));
        pause = std::min(2 * pause, kPauseMax);
        again_due_ = true;
        again_timer_ = client_.loop_.after(random, [this, task = std::move(task)] {
            again_timer_ = 0;
            again_due_ = false;
            task();
        });
    }

    // ---- Calls ----

    void
    sendWaiting() {
        while (!waiting_.empty() && !again_due_ && channel_) {
            Open open = std::move(waiting_.front());
            waiting_.pop_front();
            const bool will_answer = open.call.kind == Call::Kind::kFetch || answers_;
            open.due = Clock::now() + (will_answer ? client_.limits_.answer : client_.limits_.confirm);
            sent_.push_back(std::move(open));
            channel_->send(sent_.back().call.frame, sent_.back().call.blob);
        }
        if (channel_ && channel_->written()) onWritten(*channel_);
        watchAnswers();
    }

    /// With the system is all that can be known of an invalidation.
    void
    onWritten(Channel &) override {
        for (auto it = sent_.begin(); it != sent_.end();) {
            if (it->call.kind != Call::Kind::kInvalidate) {
                ++it;
                continue;
            }
            Open open = std::move(*it);
            it = sent_.erase(it);
            done(open, {});
        }
    }

    void
    onMessage(Channel &channel, const wire::Message &message) override {
        fresh_ = false;
        switch (message.verb) {
        case wire::Verb::kLoad: return fetched(message.payload);
        case wire::Verb::kAnswer: return answered(channel, message.payload);
        case wire::Verb::kSend:
        case wire::Verb::kInvalidate:
            NIXL_DEBUG << "metadata: " << endpoint_.text() << " asks on a connection that we made; ignored";
        }
    }

    std::deque<Open>::iterator
    firstSent(Call::Kind kind) {
        return std::find_if(sent_.begin(), sent_.end(), [&](const auto &open) { return open.call.kind == kind; });
    }

    Open
    takeSent(std::deque<Open>::iterator it) {
        Open open = std::move(*it);
        sent_.erase(it);
        return open;
    }

    void
    fetched(std::string_view blob) {
        const auto asked = firstSent(Call::Kind::kFetch);
        if (blob.empty()) {
            if (asked == sent_.end()) return;
            Open open = takeSent(asked);
            // An agent that has only just started has no backend yet.
            if (!client_.hurried_ && Clock::now() < open.since + client_.limits_.answer) {
                auto pause = open.pause;
                open.pause = std::min(2 * pause, kPauseMax);
                waiting_.push_front(std::move(open));
                return again(pause, [this] { go(); });
            }
            return done(open,
                        {NIXL_ERR_NOT_FOUND,
                         "the agent at " + endpoint_.text() +
                             " has nothing to publish: none of its backends reaches other agents"});
        }
        auto loaded = client_.service_.load(blob);
        if (!loaded.status.ok()) {
            const Status why(loaded.status.code(),
                             "loadRemoteMD in P2P backend failed from peer " + endpoint_.text() + " with error " +
                                 nixlEnumStrings::statusStr(loaded.status.code()) +
                                 ": loadRemoteMD: " + loaded.status.message());
            if (asked != sent_.end()) return done(takeSent(asked), why);
            NIXL_ERROR << "metadata: agent " << quoted(client_.service_.agent) << ": " << why.message();
            return;
        }
        if (client_.service_.fetched) client_.service_.fetched(loaded.agent, endpoint_);
        if (asked == sent_.end()) return;
        const Open open = takeSent(asked);
        if (!open.call.agent.empty() && open.call.agent != loaded.agent) {
            return done(open,
                        {NIXL_ERR_MISMATCH,
                         "the agent at " + endpoint_.text() + " is " + quoted(loaded.agent) + ", not " +
                             quoted(open.call.agent) + "; its metadata was loaded under its own name"});
        }
        done(open, {});
    }

    void
    answered(Channel &channel, std::string_view payload) {
        auto answer = wire::decodeAnswer(payload);
        if (!answer.ok()) return drop(std::move(answer).status());
        answers_ = true;
        // It is at work, and all the others are behind this one.
        for (auto &open : sent_) open.due = Clock::now() + client_.limits_.answer;
        if (answer->status == NIXL_IN_PROG) return; // it waits for a backend in common
        const auto asked = firstSent(Call::Kind::kLoad);
        if (asked == sent_.end()) return; // it came too late
        const Open open = takeSent(asked);
        if (answer->status >= 0) return done(open, {});
        done(open,
             {answer->status, "the agent at " + channel.peer() + " refused it: " + quoted(answer->sentence, 500)});
    }

    void
    onEnd(Channel &, const Status &why) override {
        lost(why);
    }

    /// The connection is gone. What went over an older connection may have met its end: it is sent once more.
    void
    lost(const Status &why) {
        client_.loop_.post([channel = std::move(channel_)] {}); // it may be calling us
        channel_ = nullptr;
        answers_ = false;
        const bool was_old = !fresh_;
        std::deque<Open> failed;
        while (!sent_.empty()) {
            Open open = std::move(sent_.back());
            sent_.pop_back();
            if (was_old && !open.repeated && !client_.hurried_) {
                open.repeated = true;
                waiting_.push_front(std::move(open));
            } else {
                failed.push_front(std::move(open));
            }
        }
        for (const auto &open : failed) {
            done(open, {why.code(), "the agent at " + endpoint_.text() + " gave no answer: " + why.message()});
        }
        watchAnswers();
        go();
    }

    void
    failAll(const Status &why) {
        std::deque<Open> failed;
        failed.swap(waiting_);
        again_due_ = false;
        client_.loop_.cancel(again_timer_);
        again_timer_ = 0;
        for (const auto &open : failed) done(open, why);
    }

    void
    watchAnswers() {
        client_.loop_.cancel(answer_timer_);
        answer_timer_ = 0;
        if (sent_.empty()) return;
        const auto first =
            std::min_element(sent_.begin(), sent_.end(), [](const auto &a, const auto &b) { return a.due < b.due; });
        const auto left = std::chrono::ceil<milliseconds>(first->due - Clock::now());
        answer_timer_ = client_.loop_.after(std::max(left, milliseconds(0)), [this] { noAnswer(); });
    }

    void
    noAnswer() {
        answer_timer_ = 0;
        const auto now = Clock::now();
        for (auto it = sent_.begin(); it != sent_.end();) {
            if (it->due > now || (it->call.kind == Call::Kind::kLoad && !channel_->delivered())) {
                ++it;
                continue;
            }
            Open open = std::move(*it);
            it = sent_.erase(it);
            fresh_ = false;
            if (open.call.kind == Call::Kind::kFetch || answers_) {
                done(open,
                     {NIXL_ERR_TIMEOUT,
                      "the agent at " + endpoint_.text() + " did not answer within " +
                          std::to_string(client_.limits_.answer.count()) + " ms"});
            } else {
                done(open, {}); // agents of NIXL 1.4 do not confirm
            }
        }
        // One that was not delivered has the channel's limit of time; look again.
        for (auto &open : sent_) open.due = std::max(open.due, now + milliseconds(10));
        watchAnswers();
    }

    void
    done(const Open &open, const Status &outcome) {
        if (open.call.done) return open.call.done(outcome);
        client_.ledger_.conclude(endpoint_.text(), open.call.name, client_.service_.agent, outcome);
    }

    Client &client_;
    const Endpoint endpoint_;
    std::shared_ptr<Channel> channel_; ///< Open
    bool fresh_ = false;               ///< it has not been of any use yet
    bool answers_ = false;             ///< its agent answers loads
    std::unique_ptr<Lookup> lookup_;   ///< Looking
    std::vector<SocketAddress> addresses_;
    size_t next_address_ = 0;
    Fd socket_; ///< Connecting
    Status connect_error_;
    Clock::time_point connect_due_{};
    milliseconds connect_pause_{kPauseMin};
    Loop::Timer connect_timer_ = 0;
    bool again_due_ = false; ///< a pause is on
    Loop::Timer again_timer_ = 0;
    Loop::Timer answer_timer_ = 0;
    std::deque<Open> waiting_, sent_;
};

Client::Client(Loop &loop, const Limits &limits, Budget &budget, const Service &service, Ledger &ledger)
    : loop_(loop),
      limits_(limits),
      budget_(budget),
      service_(service),
      ledger_(ledger) {}

Client::~Client() = default;

void
Client::start(const Endpoint &endpoint, Call call) {
    if (routes_.size() >= kIdleRoutesMax) {
        std::erase_if(routes_, [](const auto &entry) { return entry.second->idle(); });
    }
    auto &route = routes_[endpoint];
    if (!route) route = std::make_unique<Route>(*this, endpoint);
    route->add(std::move(call));
}

void
Client::hurry() {
    hurried_ = true;
    for (const auto &[endpoint, route] : routes_) route->hurry();
}

bool
Client::handedOver() const {
    return std::all_of(routes_.begin(), routes_.end(), [](const auto &entry) { return entry.second->handedOver(); });
}

bool
Client::dropLargest() {
    const auto largest = std::max_element(routes_.begin(), routes_.end(), [](const auto &a, const auto &b) {
        return a.second->buffered() < b.second->buffered();
    });
    if (largest == routes_.end() || largest->second->buffered() == 0) return false;
    largest->second->drop({NIXL_ERR_NO_MEMORY, "unfinished messages hold too much memory"});
    return true;
}

} // namespace nx::metadata
