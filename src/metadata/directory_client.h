// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// An agent's calls to the directory where all meet (nixlx/directory.h), on a thread of their own that sleeps while
// nothing happens: the store may block, its callers do not. What is not there yet is asked for again until it is;
// agents that end at the directory are told to this agent, and fetched again if another start has their name.
// Self-synchronised.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <unordered_map>

#include "base/thread.h"
#include "loop/loop.h"
#include "metadata/ledger.h"
#include "metadata/limits.h"
#include "metadata/service.h"
#include "nixlx/directory.h"

namespace nx::metadata {

/// What the client asks of its agent. Called on the client's thread, one call at a time; the functions must not throw.
struct DirectoryService {
    std::string agent; ///< the own name
    /// Loads what was found under the name of `agent`. MISMATCH, and nothing is loaded: it is another agent's.
    std::function<Loaded(std::string_view blob, const std::string &agent)> load;
    /// The metadata of `agent` that was loaded last was found under this label.
    std::function<void(const std::string &agent, const std::string &label)> fetched;
    /// This start of the agent has ended. It need not be the one that is known by now.
    std::function<void(const std::string &agent, const wire::Incarnation &start)> ended;
};

class DirectoryClient {
public:
    /// Starts the thread. `patience`: how long a fetch waits for what is not there yet.
    static Result<std::unique_ptr<DirectoryClient>>
    create(DirectoryService service,
           std::shared_ptr<nixlx::Directory> directory,
           Limits::Time patience,
           const Limits &limits = {});

    /// Does what was asked for before, at most Limits::shutdown, withdraws what is published, and ends. Must not be
    /// called while the service needs what the caller holds.
    ~DirectoryClient();
    DirectoryClient(const DirectoryClient &) = delete;
    DirectoryClient &
    operator=(const DirectoryClient &) = delete;

    /// The three calls return at once, and are done in their order, but for fetches that wait; `name` is the API's for
    /// it. NO_MEMORY: too many calls of its kind are open.
    Status
    publish(const std::string &name, const std::string &label, Blob blob);
    Status
    fetch(const std::string &name, const std::string &agent, const std::string &label);
    Status
    withdraw(const std::string &name);

    /// As fetch, for whoever waits for it himself: `done` gets the outcome on the client's thread, and neither the log
    /// nor wait() knows of it. What is not there is not waited for.
    void
    refetch(const std::string &agent, const std::string &label, std::function<void(const Status &)> done);

    /// Waits for the outcome of all calls made before; see Ledger::wait.
    Status
    wait(std::chrono::milliseconds timeout);

private:
    using Time = Loop::Clock::time_point;
    using Done = std::function<void(const Status &)>;

    struct Fetch {
        std::string agent;
        std::string label;
        Done done;
        Time due;
        Limits::Time pause;
        Loop::Timer timer = 0;
    };

    struct Known {
        wire::Incarnation start;
        std::string label; ///< under which it was found last
    };

    DirectoryClient(DirectoryService service,
                    std::shared_ptr<nixlx::Directory> directory,
                    Limits::Time patience,
                    const Limits &limits,
                    std::unique_ptr<Loop> loop);

    void
    watch();
    void
    takeEnded();
    void
    follow(const nixlx::DirectoryEnd &end);
    /// Opens a call that goes to `address`: what takes its outcome, if there is a place.
    Result<Done>
    opened(const std::string &name, const std::string &address);
    /// What `call` makes of the directory.
    template<class Call>
    Status
    ask(Call call);
    void
    begin(Fetch fetch);
    void
    attempt(const std::shared_ptr<Fetch> &fetch);
    void
    end();

    const DirectoryService service_;
    const Limits limits_;
    const Limits::Time patience_;
    // Self-synchronised:
    Ledger ledger_;
    std::unique_ptr<Loop> loop_;
    // Confined to the loop, but for its endBy():
    std::shared_ptr<nixlx::Directory> directory_;
    nixlx::DirectoryWatch *watch_ = nullptr;
    std::set<std::shared_ptr<Fetch>> waiting_;
    std::unordered_map<std::string, Known> known_; ///< agents that were loaded, and are watched
    bool ending_ = false;
    Thread thread_; ///< last: it uses the others
};

} // namespace nx::metadata
