// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The engines of this host that this one shares memory with. One thread, which sleeps, meets those that connect, sees
// peers end, and takes what comes while no caller looks. Self-synchronised.
//
// Rings are of two kinds. *Attended* ones, a few, are looked into by callers who ask for notifications all the time:
// their peers put messages in and need not wake anybody. All others are *armed*: their peers ring the bell, and the
// thread takes what is there. A ring is attended once its peer has rung while callers look often, until they stop.
// A caller that sleeps hears the bells, too, and takes what is there itself when it wakes.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "kit/acceptor.h"
#include "kit/bell.h"
#include "kit/inbox.h"
#include "loop/loop.h"
#include "shm/board.h"
#include "shm/link.h"
#include "shm/transfer.h"

namespace nx::shm {

class Links final : public Changes {
public:
    using Clock = std::chrono::steady_clock;

    /// `board`, `blocks` and `inbox` outlive it. `make_progress`: its thread also moves transfers on. BACKEND: the
    /// system refuses.
    static Result<std::unique_ptr<Links>>
    create(const std::string &agent, Board &board, const Blocks &blocks, kit::Inbox &inbox, bool make_progress);
    /// Peers learn of the end. Messages that were taken go out until the deadline, a second at most.
    ~Links();

    /// Peers are told that this agent goes; the end itself may take until `deadline`.
    void
    announceEnd(Clock::time_point deadline);

    /// Where this engine is met.
    const std::string &
    listener() const noexcept {
        return acceptor_.name();
    }

    /// Null: transfers are moved on by their callers alone.
    Progress *
    progress() noexcept {
        return make_progress_ ? &progress_ : nullptr;
    }

    /// The link to an engine, made if there is none; waits for its answer, a second at most. NOT_SUPPORTED: it cannot
    /// be reached in this way, for the reason given. REMOTE_DISCONNECT: it has ended.
    Result<std::shared_ptr<Link>>
    meet(const std::string &listener);

    /// A caller looks for notifications: takes those of attended rings.
    void
    look();

    /// The inbox has been emptied, and gave these back.
    void
    emptied(const std::vector<kit::CreditReceiver::Question> &questions);

    /// Returns when every peer has left the memory of this side that it was at, those that have ended aside. False: not
    /// by then.
    bool
    waitQuiet(Clock::time_point deadline) const;

    /// Sends a notification for a caller.
    Status
    tell(Link &link, std::string_view message);

    // ---- Who sleeps, see nixlx::Waiting

    int
    descriptor() const noexcept {
        return bells_.get();
    }
    bool
    arm() noexcept;

    // ---- Of transfers

    void
    changed() noexcept override {
        bell_.ring();
    }
    void
    needsCaller(bool now) noexcept override {
        need_caller_.fetch_add(now ? 1 : -1);
    }
    void
    waits(Link &link) noexcept override;

private:
    using Held = std::shared_ptr<Link>;

    Links(std::string agent,
          Board &board,
          const Blocks &blocks,
          kit::Inbox &inbox,
          bool make_progress,
          kit::LocalListener listener,
          std::unique_ptr<Loop> loop,
          Fd bells);

    std::string
    owner() const {
        return "backend SHM of agent " + quoted(agent_);
    }
    Message
    hello() const;
    Held
    add(Link::Meeting meeting);
    Status
    checkBudget() const;
    std::vector<Held>
    all() const;

    // On the thread:
    void
    greet(Fd socket);
    void
    greeted(int socket);
    void
    dismiss(int socket) noexcept;
    void
    serve(const Held &link);
    void
    hear(const Held &link);
    void
    say(const Held &link, Message message);
    void
    drain(const Held &link);
    void
    serveRelay(const Held &link);
    void
    consider();
    void
    attend(const Held &link);
    void
    unattendIfLeft();
    void
    over(const Held &link);
    void
    forget(const Held &link) noexcept;
    template<class Work>
    void
    on(const Held &link, Work work) noexcept;
    void
    retry(const Held &link);

    void
    handle(Link &link, const Inlet::Taken &taken) noexcept;
    void
    takeHere(const Held &link);
    void
    takeRung();

    const std::string agent_;
    Board &board_;
    ServedWindows served_{board_.view()};
    const Blocks &blocks_;
    kit::Inbox &inbox_;
    const bool make_progress_;
    Clock::time_point end_by_ = Clock::time_point::max();
    const std::unique_ptr<Loop> loop_;
    Progress progress_;

    mutable Mutex mutex_;
    std::unordered_map<std::string, Held> by_listener_ NX_GUARDED_BY(mutex_);
    std::unordered_map<uint64_t, Held> links_ NX_GUARDED_BY(mutex_); ///< by number
    uint64_t last_number_ NX_GUARDED_BY(mutex_) = 0;

    kit::Bell bell_;
    const Fd bells_;                  ///< an epoll of this one, and of the peers' once for each time that they ring
    std::atomic<int> need_caller_{0}; ///< transfers
    std::atomic<uint64_t> looks_{0};
    std::atomic<bool> any_attended_{false};
    std::atomic<bool> caller_sleeps_{false}; ///< one who looked may have gone to sleep since; set under attended_mutex_
    Mutex attended_mutex_;
    std::vector<Held> attended_ NX_GUARDED_BY(attended_mutex_);
    Mutex stalled_mutex_;
    std::atomic<bool> any_stalled_{false};
    std::vector<Held> stalled_ NX_GUARDED_BY(stalled_mutex_);

    // Confined to the thread while it runs:
    kit::Acceptor acceptor_;
    struct Guest {
        Fd socket;
        Loop::Timer timer = 0;
        uint64_t number = 0;
    };
    uint64_t last_guest_ = 0;
    std::unordered_map<int, Guest> guests_; ///< who has connected and not said who it is, by descriptor
    std::vector<Held> candidates_;          ///< have rung since looks_ was looks_at_bell_
    uint64_t looks_at_bell_ = 0;
    uint64_t looks_then_ = 0; ///< when it was last seen whether callers still look
    size_t next_to_leave_ = 0;
    Thread thread_;
};

} // namespace nx::shm
