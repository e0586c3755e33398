// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// One start of an agent among those who meet: it looks for the host, stays with it, publishes there again what it has
// published, looks for another one when that is gone, and becomes it if it is its turn (election.h). Confined to its
// loop.
#pragma once

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>

#include "loop/loop.h"
#include "loop/endpoint.h"
#include "nixlx/directory.h"
#include "rendezvous/election.h"
#include "rendezvous/host.h"
#include "rendezvous/line.h"
#include "rendezvous/settings.h"

namespace nx::rendezvous {

class Member {
public:
    using Duration = std::chrono::milliseconds;

    struct Outcome {
        Status status;
        Blob blob; ///< of a kFetch that succeeded
    };

    /// A call of the directory's: kPublish, kFetch or kWithdraw, with an id.
    struct Call {
        Message request;
        std::function<void(Outcome)> done; ///< called at most once
    };

    struct Events {
        std::function<void(nixlx::DirectoryEnd)> ended;
        std::function<void(const std::string &agent)> found; ///< what was told of it before is over
    };

    /// `place` stays the caller's.
    static Result<std::unique_ptr<Member>>
    create(Loop &loop,
           const Self &self,
           std::vector<Endpoint> given,
           const Place &place,
           Duration lease,
           Events events);
    ~Member();
    Member(const Member &) = delete;
    Member &
    operator=(const Member &) = delete;

    /// In place of the one before, which has no outcome any more.
    void
    ask(Call call);
    /// The caller does not wait any more.
    void
    giveUp(uint64_t id);
    void
    forget(const std::string &agent);

private:
    using Time = Loop::Clock::time_point;

    /// One address that was asked who is there.
    struct Dial {
        std::string address;
        std::unique_ptr<Lookup> lookup;
        std::vector<SocketAddress> left; ///< to be tried
        std::shared_ptr<Line> line;
        std::optional<Message> greeting;
        Status why{NIXL_ERR_TIMEOUT, "it does not answer"};
        bool over = false;
    };

    Member(Loop &loop,
           const Self &self,
           std::vector<Endpoint> given,
           const Place &place,
           Duration lease,
           Events events);

    Message
    greeting() const;
    // Looking for the host:
    void
    look();
    void
    dial(const std::string &address);
    void
    tryNext(Dial &dial);
    void
    onGreeting(Dial &dial, const Message &greeting);
    void
    endRoundIfOver();
    void
    endRound();
    void
    closeDials();
    void
    lookLater(Duration pause);
    void
    onRival(const Message &greeting);
    void
    note(const std::string &address);
    Status
    nobody() const;
    // With the host:
    void
    join(Dial &dial);
    void
    lose(const Status &why);
    void
    beat();
    void
    onMessage(const Message &message);
    void
    onAnswer(const Message &message);
    void
    onGone(const Message &message);
    void
    finish(Outcome outcome);

    Loop &loop_;
    const Self self_;
    const std::vector<Endpoint> given_;
    const std::string own_address_;
    const Duration lease_;
    const Events events_;
    std::unique_ptr<Host> host_; ///< listens; null: does not

    // Looking:
    std::list<Dial> dials_;       ///< of the round that is on
    std::list<std::string> told_; ///< addresses that hosts have told, the last first
    std::string listed_address_;  ///< of this agent, on the last host's list; empty: it is not on it
    Loop::Timer round_timer_ = 0, look_timer_ = 0;
    Duration pause_{0};
    Time lost_ = Loop::Clock::now(); ///< the host, or never had one
    bool warned_ = false;
    Status last_round_{NIXL_ERR_TIMEOUT, "nobody was asked yet"};

    // With the host:
    std::shared_ptr<Line> line_; ///< null: it is being looked for
    std::string host_address_;
    bool own_host_ = false; ///< it is this one
    Loop::Timer beat_timer_ = 0;

    // Of the agent:
    std::optional<Call> call_;
    bool has_published_ = false;                      ///< once, perhaps withdrawn since
    std::map<std::string, Blob> published_;           ///< by label
    std::unordered_map<std::string, Start> followed_; ///< by agent
};

} // namespace nx::rendezvous
