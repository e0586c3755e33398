// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// UCX's contexts, their workers, and who drives them: the threads, and callers in between. Self-synchronised.
//
// Plain context: what every peer meets, set up as NIXL 1.4 does. Local context: for peers of ours on the same host,
// with the shared-memory transports switched to notice the death of peers; a plain and a switched context must not
// meet, a plain target crashes. Without shared memory there is no local context.
//
// Workers: the plain context has one set for all peers, the local one a set for each link (local_workers.h). In a set,
// workers 0 ... num_workers-1 are shared by the calling threads, the others belong to a pool thread each; a set that
// serves a link lacks these. The roster has all that are driven.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <sys/socket.h>
#include <vector>

#include "base/fd.h"
#include "base/mutex.h"
#include "kit/bell.h"
#include "ucx/driver.h"
#include "ucx/options.h"
#include "ucx/outbox.h"

namespace nx::ucx {

class WorkerPool {
public:
    /// Makes the plain context, its workers and the threads. Throws std::runtime_error where the system refuses a
    /// thread. All arguments outlive the pool.
    static Result<std::unique_ptr<WorkerPool>>
    create(const Library &library,
           const std::string &agent,
           const Options &options,
           bool progress_thread,
           MessageSink &sink,
           kit::Bell &bell);
    /// Ends the threads and the network's workers. Workers of links have ended, or stay in place with their context.
    /// Nothing is registered any more.
    ~WorkerPool();
    WorkerPool(const WorkerPool &) = delete;
    WorkerPool &
    operator=(const WorkerPool &) = delete;

    /// NOT_SUPPORTED: the options leave it out.
    Status
    createLocalContext();
    /// Requires that it has no workers.
    void
    dropLocalContext();

    /// In a set of a plain context.
    size_t
    workerCount() const noexcept {
        return options_.num_workers + options_.num_threads;
    }

    Context &
    context(Fabric fabric) noexcept {
        return *contexts_[static_cast<size_t>(fabric)];
    }

    /// Of the plain context.
    WorkerSet &
    workers() noexcept {
        return workers_;
    }

    /// Of the first worker, as NIXL 1.4 exchanges it.
    const std::string &
    address() const noexcept {
        return workers_[0]->address();
    }

    /// Workers for peers to which the system connects from these addresses: workers(), or others of their own context
    /// with fewer network devices, made when first asked for, where this UCX would use a device that leads elsewhere.
    WorkerSet &
    workersAt(const std::vector<sockaddr_storage> &sources);

    /// `index` in its set.
    Result<std::unique_ptr<Worker>>
    createWorker(Fabric fabric, size_t index);

    /// Drives a worker that is not one of workers(), from now on until dismiss(). Its lock not held.
    void
    enlist(Worker &worker, size_t index);
    /// After it returns nobody drives the worker.
    void
    dismiss(Worker &worker);

    /// Destroys a dismissed worker. One that owes an answer is left in place where UCX would end the process: neither
    /// destroyed nor driven, it goes with the process.
    void
    end(std::unique_ptr<Worker> worker);

    // ---- Progress ----

    bool
    hasProgressThread() const noexcept {
        return progress_thread_ != nullptr;
    }

    /// The shared worker that the calling thread uses.
    size_t
    workerOfThisThread() const noexcept;

    /// Drives workers for a caller that waits or looks for messages: `first`, if there is one, and of the other shared
    /// ones one in turn; all of them at least once in some milliseconds if calls come.
    void
    progress(Worker *first);

    /// Drives all shared workers once, but those that somebody else is at.
    void
    driveRound() NX_EXCLUDES(mutex_);

    /// A caller is about to drive a shared worker itself, see kit::ProgressThread::visit. progress() says it too.
    void
    visit() noexcept {
        if (progress_thread_) progress_thread_->visit();
    }

    /// After work was given to a worker, lock not held: its thread, if it has one, will go on with it.
    void
    nudge(size_t worker_index) noexcept;

    // ---- Waiting, see nixlx::Waiting ----

    int
    descriptor() const noexcept {
        return events_ ? events_.get() : bell_.descriptor();
    }

    bool
    arm() noexcept NX_EXCLUDES(mutex_);

    // ---- The end ----

    /// The threads end; workers on the network answer what is asked, now and from now on.
    void
    stop();
    /// Drives all workers once. True if anything happened.
    bool
    driveAll() NX_EXCLUDES(mutex_);
    /// The network's workers have nothing under way.
    bool
    idle();
    /// What connections the network's workers have will be closed by force, see Worker::cutOff.
    void
    cutOff();

private:
    using Clock = std::chrono::steady_clock;

    /// A context with some of the network devices only, to connect to peers with.
    struct Subset {
        std::unique_ptr<Context> context;
        WorkerSet workers;
    };

    struct Entry {
        Worker *worker;
        size_t index; ///< in its set
    };

    WorkerPool(const Library &library,
               const std::string &agent,
               const Options &options,
               MessageSink &sink,
               kit::Bell &bell);

    Result<std::unique_ptr<Context>>
    createContext(std::vector<Setting> settings);
    Status
    watchEvents();
    void
    setBusyTimer(std::chrono::nanoseconds nap) noexcept;
    Status
    fill(WorkerSet &set, Context &context);
    Result<std::unique_ptr<Worker>>
    createWorker(Context &context, size_t index);
    WorkerSet *
    known(const std::vector<std::string> &devices) NX_EXCLUDES(mutex_);
    Fabric
    fabricOf(Worker &worker) const noexcept;
    template<class Visit>
    void
    forEachOfNetwork(Visit visit) NX_EXCLUDES(mutex_);

    bool
    driveOthersLocked(Worker *first, unsigned turn) NX_REQUIRES(mutex_);
    bool
    driveRoundLocked(Worker *but, Clock::time_point now) NX_REQUIRES(mutex_);
    bool
    driveSharedLocked(const Entry &entry, Worker *but, Clock::time_point now) NX_REQUIRES(mutex_);
    bool
    driveOneLocked(Worker &worker, Clock::time_point now) NX_REQUIRES(mutex_);

    const Library &library_;
    const std::string &agent_;
    const Options &options_;
    MessageSink &sink_;
    kit::Bell &bell_;
    // Constant once the engine has started:
    std::array<std::unique_ptr<Context>, kFabricCount> contexts_;
    WorkerSet workers_; ///< of the plain context
    std::unique_ptr<kit::ProgressThread> progress_thread_;
    std::vector<std::unique_ptr<kit::ProgressThread>> threads_;
    // Without a progress thread:
    Fd events_;     ///< an epoll of the bell's descriptor, those of the shared workers and the timer
    Fd busy_timer_; ///< for workers that cannot be slept on for the time being

    std::atomic<unsigned> turns_{0};
    Mutex mutex_; ///< held while workers of the roster are driven by callers
    /// By their network devices; kept to the end.
    std::map<std::vector<std::string>, Subset> subsets_ NX_GUARDED_BY(mutex_);
    std::array<bool, kFabricCount> left_workers_ NX_GUARDED_BY(mutex_){}; ///< some of the context's stay in place
    std::vector<Entry> roster_ NX_GUARDED_BY(mutex_);
    Worker *hot_ NX_GUARDED_BY(mutex_) = nullptr;      ///< the one where something happened last
    Clock::time_point hot_at_ NX_GUARDED_BY(mutex_);   ///< when that was
    size_t next_ NX_GUARDED_BY(mutex_) = 0;            ///< of the roster: whose turn it was last
    Clock::time_point next_at_ NX_GUARDED_BY(mutex_);  ///< when that ended
    Clock::time_point round_at_ NX_GUARDED_BY(mutex_); ///< when all had been driven last
    bool busy_timer_set_ NX_GUARDED_BY(mutex_) = false;
    std::optional<Clock::time_point>
        busy_since_ NX_GUARDED_BY(mutex_); ///< workers refuse to be armed, and nothing moves
};

} // namespace nx::ucx
