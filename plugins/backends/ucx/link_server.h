// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Meets the engines of this host that want to reach this one, and looks after the ends of links in either direction; on
// a thread of its own, which sleeps. So a peer is answered although nobody polls here. Self-synchronised.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "base/thread.h"
#include "kit/acceptor.h"
#include "loop/loop.h"
#include "ucx/link.h"
#include "ucx/local_workers.h"

namespace nx::ucx {

class LinkServer {
public:
    /// `runtime` outlives it.
    static Result<std::unique_ptr<LinkServer>>
    create(Runtime &runtime);
    /// Peers learn of the end now.
    ~LinkServer();
    LinkServer(const LinkServer &) = delete;
    LinkServer &
    operator=(const LinkServer &) = delete;

    /// What peers are told.
    const std::string &
    name() const noexcept {
        return acceptor_.name();
    }

    /// Calls `ended` once, on the server's thread, when the other side of the link is gone.
    void
    watch(const Fd &link, std::function<void()> ended);

    /// After it returns `ended` neither runs nor will. Not with a worker's lock held.
    void
    unwatch(const Fd &link);

    /// Ends a link that was met from here and is not watched any more. The workers live on until the peer has sent what
    /// it still had for them, a second at most.
    void
    part(Fd link, std::unique_ptr<LocalWorkers> workers);

    /// From now on nobody is met.
    void
    refuse();

    /// All links that this side has ended are gone.
    bool
    hasParted() const noexcept {
        return parting_here_ == 0;
    }

    /// Nothing is noticed any more; the links that are stay. After refuse().
    void
    stop();

    /// Ends what serves the links, while the peers are still not told. After stop().
    void
    dropWorkers();

private:
    using Clock = std::chrono::steady_clock;

    struct Link {
        Link(Fd socket, std::unique_ptr<LocalWorkers> workers)
            : socket(std::move(socket)),
              workers(std::move(workers)) {}
        Link(Link &&) = default;
        Link &
        operator=(Link &&) = default;
        ~Link() {
            workers.reset();
            if (socket) kit::endSocket(socket);
        }

        Fd socket;
        std::unique_ptr<LocalWorkers> workers; ///< null: none could be made
    };

    /// A link that one side has ended. Its initiator takes in what the target still has for it, so that the target has
    /// nothing under way when it ends its workers, and goes when the target has gone.
    struct Parting {
        Link link;
        Clock::time_point deadline;
    };

    LinkServer(Runtime &runtime, kit::LocalListener listener, std::unique_ptr<Loop> loop);

    void
    onLoop(const std::function<void()> &task);
    void
    meet(Fd socket);
    bool
    watchHere(int socket, std::function<void()> ended);
    void
    unwatchHere(int socket);
    void
    addParting(Link link);
    void
    lookAtParting();
    bool
    isOver(const Parting &parting) const;

    Runtime &runtime_;
    const std::unique_ptr<Loop> loop_;
    std::atomic<size_t> parting_here_{0};
    // Confined to the thread while it runs:
    kit::Acceptor acceptor_;
    std::unordered_map<int, Link> links_;   ///< served ones, by descriptor
    std::unordered_map<int, Fd> processes_; ///< of links that are watched, by descriptor
    size_t served_ = 0;                     ///< links with workers
    std::vector<Parting> parting_;
    bool waiting_ = false; ///< a look at them is due
    Thread thread_;
};

} // namespace nx::ucx
