// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What an engine runs on: UCX, the two contexts, their workers, the threads and the mail. Self-synchronised.
//
// Plain context: what every peer meets, set up as NIXL 1.4 does. Local context: for peers of ours on the same host,
// with the shared-memory transports switched to notice the death of peers; a plain and a switched context must not
// meet, a plain target crashes. Without shared memory there is no local context.
//
// Workers: the plain context has one set for all peers, the local one a set for each link (local_workers.h). In a set,
// workers 0 ... num_workers-1 are shared by the calling threads, the others belong to a pool thread each; a set that
// serves a link lacks these.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/mutex.h"
#include "base/thread.h"
#include "ucx/connection.h"
#include "ucx/driver.h"
#include "ucx/link_server.h"
#include "ucx/mail.h"
#include "ucx/options.h"

namespace nx::ucx {

class LocalMemory;

class Runtime {
public:
    /// Loads and starts UCX, which takes 15 ms to 0.4 s. Throws std::runtime_error with a sentence if it cannot.
    Runtime(std::string agent, Options options, bool progress_thread);
    /// Ends all connections, in an orderly way until endBy() or for a second.
    ~Runtime();
    Runtime(const Runtime &) = delete;
    Runtime &
    operator=(const Runtime &) = delete;

    /// Until when the destructor may take its time. The destructor must be the next call.
    void
    endBy(std::chrono::steady_clock::time_point deadline) noexcept {
        end_by_ = deadline;
    }

    const Options &
    options() const noexcept {
        return options_;
    }

    const std::string &
    agent() const noexcept {
        return agent_;
    }

    size_t
    workerCount() const noexcept {
        return options_.num_workers + options_.num_threads;
    }

    const Library &
    library() const noexcept {
        return *library_;
    }

    bool
    hasLocalFabric() const noexcept {
        return links_ != nullptr;
    }

    Context &
    context(Fabric fabric) noexcept {
        return *contexts_[static_cast<size_t>(fabric)];
    }

    /// Of the plain context.
    Worker &
    worker(size_t index) noexcept {
        return *workers_[index];
    }

    WorkerSet &
    workers() noexcept {
        return workers_;
    }

    /// Workers for peers to which the system connects from these addresses: workers(), or others of their own context
    /// with fewer network devices, made when first asked for, where this UCX would use a device that leads elsewhere.
    WorkerSet &
    workersAt(const std::vector<sockaddr_storage> &sources);

    /// `index` in its set.
    Result<std::unique_ptr<Worker>>
    createWorker(Fabric fabric, size_t index);

    /// Drives a worker that is not one of worker(), from now on until dismiss(). Its lock not held.
    void
    enlist(Worker &worker, size_t index);
    /// After it returns nobody drives the worker.
    void
    dismiss(Worker &worker);

    /// Destroys a dismissed worker. One that owes an answer is left in place where UCX would end the process: neither
    /// destroyed nor driven, it goes with the process.
    void
    end(std::unique_ptr<Worker> worker);

    /// The shared worker that the calling thread uses.
    size_t
    workerOfThisThread() const noexcept;

    /// Drives workers for a caller that waits or looks for messages: `first`, if there is one, and of the other shared
    /// ones one in turn; all of them at least once in some milliseconds if calls come.
    void
    progress(Worker *first);

    /// A caller is about to drive a shared worker itself, see kit::ProgressThread::visit. progress() says it too.
    void
    visit() noexcept {
        if (progress_thread_) progress_thread_->visit();
    }

    /// After work was given to a worker, lock not held: its thread, if it has one, will go on with it.
    void
    nudge(size_t worker_index) noexcept;

    kit::Inbox &
    inbox() noexcept {
        return mail_.inbox();
    }

    /// Moves all notifications to the end of `out`. Without a progress thread it takes in what has arrived, for two
    /// milliseconds at most.
    void
    takeNotifications(notif_list_t &out);

    // ---- Peers ----

    /// NOT_ALLOWED: known with another address. INVALID_PARAM: `address` cannot be one. BACKEND: the peer has ended, as
    /// its host says on the network (150 ms at most). Does not connect.
    Status
    addPeer(const std::string &name, const std::string &address);

    /// Null if unknown. The own name gives the loopback connection.
    std::shared_ptr<Connection>
    peer(const std::string &name);

    /// False if unknown.
    bool
    removePeer(const std::string &name);

    /// What peers of ours are told.
    PeerInfo
    ownInfo() const;

    bool
    isSameHost(const PeerInfo &info) const {
        return info.host == host_;
    }

    /// Requires hasLocalFabric().
    LinkServer &
    links() noexcept {
        return *links_;
    }

    // ---- Registrations, so that none outlives its context ----

    void
    addMemory(LocalMemory &memory);
    void
    removeMemory(LocalMemory &memory);

    /// Every context has all memory that is registered.
    bool
    memoryIsWhole() const noexcept {
        return partial_memories_.load() == 0;
    }

private:
    using Clock = std::chrono::steady_clock;

    /// A context with some of the network devices only, to connect to peers with.
    struct Subset {
        std::unique_ptr<Context> context;
        WorkerSet workers;
    };

    struct Driven {
        Worker *worker;
        size_t index; ///< in its set
    };

    Status
    start();
    Result<std::unique_ptr<Context>>
    createContext(std::vector<Setting> settings);
    Status
    createContext(Fabric fabric);
    Result<std::unique_ptr<Worker>>
    createWorker(Context &context, size_t index);
    Result<Subset>
    createSubset(const std::vector<std::string> &devices);
    void
    createThreads();
    Status
    createLocalFabric();
    void
    takeIn();
    bool
    driveAll() NX_EXCLUDES(roster_mutex_);
    bool
    driveOthersLocked(Worker *first, unsigned turn) NX_REQUIRES(roster_mutex_);
    bool
    driveRoundLocked(Worker *but, Clock::time_point now) NX_REQUIRES(roster_mutex_);
    bool
    driveSharedLocked(const Driven &driven, Worker *but, Clock::time_point now) NX_REQUIRES(roster_mutex_);
    bool
    driveOneLocked(Worker &worker, Clock::time_point now) NX_REQUIRES(roster_mutex_);
    void
    driveRound() NX_EXCLUDES(roster_mutex_);
    Fabric
    fabricOf(Worker &worker) const noexcept;
    void
    bury(std::shared_ptr<Connection> connection);
    void
    shutDown();

    const std::string agent_;
    const Options options_;
    const bool progress_thread_wanted_;
    const std::string host_;
    // Constant after the constructor:
    const Library *library_ = nullptr;
    Mail mail_;
    std::array<std::unique_ptr<Context>, kFabricCount> contexts_;
    WorkerSet workers_; ///< of the plain context
    std::unique_ptr<kit::ProgressThread> progress_thread_;
    std::vector<std::unique_ptr<kit::ProgressThread>> pool_;
    std::unique_ptr<LinkServer> links_;                           ///< null: no local context
    std::optional<std::chrono::steady_clock::time_point> end_by_; ///< owned by who destroys it
    // Self-synchronised:
    std::atomic<unsigned> turns_{0};
    std::atomic<size_t> partial_memories_{0};

    Mutex mutex_ NX_ACQUIRED_BEFORE(subsets_mutex_);
    std::unordered_map<std::string, std::shared_ptr<Connection>> peers_ NX_GUARDED_BY(mutex_);
    std::vector<std::shared_ptr<Connection>> closing_ NX_GUARDED_BY(mutex_); ///< disconnected, not yet closed
    std::unordered_set<LocalMemory *> memories_ NX_GUARDED_BY(mutex_);
    /// Some of the context's workers stay in place.
    std::array<bool, kFabricCount> left_workers_ NX_GUARDED_BY(mutex_){};

    Mutex subsets_mutex_ NX_ACQUIRED_BEFORE(roster_mutex_); ///< held while one is made
    /// By their network devices; kept to the end.
    std::map<std::vector<std::string>, Subset> subsets_ NX_GUARDED_BY(subsets_mutex_);

    Mutex roster_mutex_;
    std::vector<Driven> roster_ NX_GUARDED_BY(roster_mutex_); ///< all workers
    Worker *hot_ NX_GUARDED_BY(roster_mutex_) = nullptr;      ///< the one where something happened last
    Clock::time_point hot_at_ NX_GUARDED_BY(roster_mutex_);   ///< when that was
    size_t next_ NX_GUARDED_BY(roster_mutex_) = 0;            ///< of the roster: whose turn it was last
    Clock::time_point next_at_ NX_GUARDED_BY(roster_mutex_);  ///< when that ended
    Clock::time_point round_at_ NX_GUARDED_BY(roster_mutex_); ///< when all had been driven last
};

} // namespace nx::ucx
