// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/worker_pool.h"

#include <algorithm>
#include <cerrno>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#include "ucx/address.h"
#include "ucx/tcp_probe.h"
#include "utils/common/nixl_log.h"

namespace nx::ucx {

namespace {

constexpr unsigned kMinorThatKnowsRoutes = 19;
// One of the other workers is looked after once in so many calls of a caller that polls for one of them.
constexpr unsigned kOtherEvery = 8;
// Who polls without pause looks after the next of the workers where nothing happens so long after the last one, who
// does not after all of them so often. One where something happened counts as busy for so long.
constexpr std::chrono::microseconds kNextEvery{1};
constexpr std::chrono::milliseconds kRoundEvery{4};
constexpr std::chrono::microseconds kStaysHot{100};
// Of who sleeps on a worker that refuses to be armed although nothing moves.
constexpr std::chrono::microseconds kBusyPatience{200}, kBusyNapMin{50}, kBusyNapMax{1000};
constexpr int kBusyNapsPerWait = 64;

} // namespace

// ---- Start ---------------------------------------------------------------------------------------------------------

WorkerPool::WorkerPool(const Library &library,
                       const std::string &agent,
                       const Options &options,
                       MessageSink &sink,
                       kit::Bell &bell)
    : library_(library),
      agent_(agent),
      options_(options),
      sink_(sink),
      bell_(bell) {}

Result<std::unique_ptr<WorkerPool>>
WorkerPool::create(const Library &library,
                   const std::string &agent,
                   const Options &options,
                   bool progress_thread,
                   MessageSink &sink,
                   kit::Bell &bell) {
    std::unique_ptr<WorkerPool> pool(new WorkerPool(library, agent, options, sink, bell));
    auto context = pool->createContext(plainSettings(options, library.minorVersion()));
    if (!context.ok()) return std::move(context).status();
    pool->contexts_[static_cast<size_t>(Fabric::kPlain)] = *std::move(context);
    if (auto status = pool->fill(pool->workers_, pool->context(Fabric::kPlain)); !status.ok()) return status;
    if (!progress_thread) {
        if (auto status = pool->watchEvents(); !status.ok()) return status;
    }
    if (progress_thread) pool->progress_thread_ = std::make_unique<kit::ProgressThread>("nixl-ucx");
    for (size_t i = 0; i < options.num_threads; ++i) {
        pool->threads_.push_back(std::make_unique<kit::ProgressThread>("nixl-ucx-" + std::to_string(i)));
    }
    for (size_t i = 0; i < pool->workerCount(); ++i) pool->enlist(*pool->workers_[i], i);
    return pool;
}

Result<std::unique_ptr<Context>>
WorkerPool::createContext(std::vector<Setting> settings) {
    return Context::create(library_, {.name = agent_, .settings = std::move(settings)});
}

Status
WorkerPool::createLocalContext() {
    if (!allowsSharedMemory(options_)) return {NIXL_ERR_NOT_SUPPORTED, "the transports chosen leave it out"};
    // Links end by force, which UCX allows only there.
    if (!options_.detect_death) return {NIXL_ERR_NOT_SUPPORTED, "ucx_error_handling_mode is none"};
    auto context = createContext(localSettings(options_, library_.minorVersion()));
    if (!context.ok()) return std::move(context).status();
    contexts_[static_cast<size_t>(Fabric::kLocal)] = *std::move(context);
    return {};
}

void
WorkerPool::dropLocalContext() {
    contexts_[static_cast<size_t>(Fabric::kLocal)].reset();
}

Result<std::unique_ptr<Worker>>
WorkerPool::createWorker(Fabric fabric, size_t index) {
    return createWorker(context(fabric), index);
}

Result<std::unique_ptr<Worker>>
WorkerPool::createWorker(Context &context, size_t index) {
    return Worker::create(context, agent_ + ":" + std::to_string(index), sink_);
}

Status
WorkerPool::fill(WorkerSet &set, Context &context) {
    for (size_t i = 0; i < workerCount(); ++i) {
        auto worker = createWorker(context, i);
        if (!worker.ok()) return std::move(worker).status();
        set.push_back(*std::move(worker));
    }
    return {};
}

WorkerSet *
WorkerPool::known(const std::vector<std::string> &devices) {
    const MutexLock lock(mutex_);
    const auto it = subsets_.find(devices);
    return it == subsets_.end() ? nullptr : &it->second.workers;
}

// UCX that does not look at the system's routes takes any of its network devices for the way to a peer. It tells the
// peer the address of the one it took, and the peer must be able to connect there.
WorkerSet &
WorkerPool::workersAt(const std::vector<sockaddr_storage> &sources) {
    if (library_.minorVersion() >= kMinorThatKnowsRoutes) return workers_;
    Options fewer = options_;
    fewer.devices = devicesToUse(tcpListeners(address(), address()), sources);
    if (fewer.devices.empty()) return workers_;
    if (WorkerSet *set = known(fewer.devices)) return *set;
    Subset made;
    auto context = createContext(plainSettings(fewer, library_.minorVersion()));
    if (context.ok()) made.context = *std::move(context);
    const Status status = made.context ? fill(made.workers, *made.context) : std::move(context).status();
    if (!status.ok()) {
        NIXL_INFO << "ucx: all network devices stay in use: " << status.message();
        return workers_;
    }
    const auto keep = [&] { // of two that are made at once the second one goes again
        const MutexLock lock(mutex_);
        return subsets_.try_emplace(fewer.devices, std::move(made));
    };
    const auto [slot, added] = keep();
    WorkerSet &set = slot->second.workers;
    for (size_t i = 0; added && i < set.size(); ++i) enlist(*set[i], i);
    return set;
}

void
WorkerPool::enlist(Worker &worker, size_t index) {
    {
        const MutexLock lock(mutex_);
        roster_.push_back({&worker, index});
    }
    if (index >= options_.num_workers) {
        threads_[index - options_.num_workers]->add(worker);
    } else if (progress_thread_) {
        progress_thread_->add(worker);
    } else {
        epoll_event event{.events = EPOLLIN, .data = {}};
        if (epoll_ctl(events_.get(), EPOLL_CTL_ADD, worker.descriptor(), &event) != 0) {
            NIXL_WARN << "ucx: agent " << quoted(agent_) << ": " << withErrno("watching a worker's descriptor", errno)
                      << "; whoever sleeps until something happens there may sleep too long";
        }
        bell_.ring(); // who sleeps has not armed it
    }
}

void
WorkerPool::dismiss(Worker &worker) {
    {
        const MutexLock lock(mutex_);
        std::erase_if(roster_, [&](const Entry &entry) { return entry.worker == &worker; });
        if (hot_ == &worker) hot_ = nullptr;
    }
    if (events_) epoll_ctl(events_.get(), EPOLL_CTL_DEL, worker.descriptor(), nullptr);
    if (progress_thread_) progress_thread_->remove(worker);
    for (auto &thread : threads_) thread->remove(worker);
}

// ---- Progress ------------------------------------------------------------------------------------------------------

size_t
WorkerPool::workerOfThisThread() const noexcept {
    static std::atomic<size_t> threads{0};
    thread_local const size_t number = threads.fetch_add(1, std::memory_order_relaxed);
    return number % options_.num_workers;
}

void
WorkerPool::progress(Worker *first) {
    visit();
    bool happened = first && first->tryDrive().value_or(false);
    const unsigned turn = turns_.load(std::memory_order_relaxed);
    turns_.store(turn + 1, std::memory_order_relaxed); // a lost count does no harm
    if ((!first || turn % kOtherEvery == 0) && mutex_.try_lock()) {
        const MutexLock lock(mutex_, std::adopt_lock);
        happened |= driveOthersLocked(first, turn);
    }
    if (happened) nudge(0);
}

// However many peers there are, a call drives one worker at most: the one where something happened lately, or the next
// of all. Between two of those where nothing happens there is a microsecond, so that most calls in vain cost next to
// nothing; for those who poll so seldom that no round of all has ended for some milliseconds, a call is a round.
bool
WorkerPool::driveOthersLocked(Worker *first, unsigned turn) {
    const auto now = Clock::now();
    if (now - round_at_ > kRoundEvery) return driveRoundLocked(first, now);
    const bool next_is_due = now - next_at_ > kNextEvery;
    const bool is_hot = !first && hot_ && now - hot_at_ < kStaysHot;
    if (is_hot && (!next_is_due || turn % 2 == 0)) return driveOneLocked(*hot_, now);
    if (!next_is_due) return false;
    if (++next_ >= roster_.size()) {
        next_ = 0;
        round_at_ = now;
    }
    const bool happened = driveSharedLocked(roster_[next_], first, now);
    next_at_ = Clock::now();
    return happened;
}

bool
WorkerPool::driveRoundLocked(Worker *but, Clock::time_point now) {
    round_at_ = now;
    bool happened = false;
    for (const Entry &entry : roster_) happened |= driveSharedLocked(entry, but, now);
    return happened;
}

/// If callers drive it at all, and it is not `but`.
bool
WorkerPool::driveSharedLocked(const Entry &entry, Worker *but, Clock::time_point now) {
    return entry.index < options_.num_workers && entry.worker != but && driveOneLocked(*entry.worker, now);
}

bool
WorkerPool::driveOneLocked(Worker &worker, Clock::time_point now) {
    if (!worker.tryDrive().value_or(false)) return false; // who is at it does the same
    hot_ = &worker;
    hot_at_ = now;
    return true;
}

void
WorkerPool::driveRound() {
    const MutexLock lock(mutex_);
    driveRoundLocked(nullptr, Clock::now());
}

void
WorkerPool::nudge(size_t worker_index) noexcept {
    if (worker_index >= options_.num_workers) {
        threads_[worker_index - options_.num_workers]->nudge();
    } else if (progress_thread_) {
        progress_thread_->nudge();
    } else {
        bell_.ring(); // who sleeps has to arm the worker anew
    }
}

// ---- Waiting -------------------------------------------------------------------------------------------------------

Status
WorkerPool::watchEvents() {
    events_ = Fd(epoll_create1(EPOLL_CLOEXEC));
    if (!events_) return {NIXL_ERR_BACKEND, withErrno("epoll_create1", errno)};
    busy_timer_ = Fd(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
    if (!busy_timer_) return {NIXL_ERR_BACKEND, withErrno("timerfd_create", errno)};
    for (const int fd : {bell_.descriptor(), busy_timer_.get()}) {
        epoll_event event{.events = EPOLLIN, .data = {}};
        if (epoll_ctl(events_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
            return {NIXL_ERR_BACKEND, withErrno("epoll_ctl", errno)};
        }
    }
    return {};
}

bool
WorkerPool::arm() noexcept {
    if (!bell_.arm()) return false;
    if (!events_) {
        progress_thread_->takeOver();
        return true;
    }
    const MutexLock lock(mutex_);
    if (std::exchange(busy_timer_set_, false)) setBusyTimer(std::chrono::nanoseconds(0));
    bool armed = true;
    for (const Entry &entry : roster_) {
        if (entry.index >= options_.num_workers) continue;
        const MutexLock worker_lock(entry.worker->mutex());
        if (entry.worker->progress()) {
            busy_since_.reset();
            return false;
        }
        armed = entry.worker->armLocked() && armed;
    }
    if (armed) {
        busy_since_.reset();
        return true;
    }
    // As kit::ProgressThread does: nobody tells when the peer that it waits for goes on.
    const auto now = Clock::now();
    if (!busy_since_) busy_since_ = now;
    const auto waited = now - *busy_since_;
    if (waited < kBusyPatience) return false;
    const auto nap = std::clamp<std::chrono::nanoseconds>(waited / kBusyNapsPerWait, kBusyNapMin, kBusyNapMax);
    setBusyTimer(nap);
    busy_timer_set_ = true;
    return true;
}

void
WorkerPool::setBusyTimer(std::chrono::nanoseconds nap) noexcept {
    const itimerspec timer{.it_interval = {}, .it_value = {.tv_sec = 0, .tv_nsec = nap.count()}};
    timerfd_settime(busy_timer_.get(), 0, &timer, nullptr);
}

// ---- End -----------------------------------------------------------------------------------------------------------

void
WorkerPool::end(std::unique_ptr<Worker> worker) {
    if (library_.endsBusyWorkers() || worker->idle()) return;
    static Mutex mutex;
    static auto &left NX_GUARDED_BY(mutex) = *new std::vector<std::unique_ptr<Worker>>;
    const Fabric fabric = fabricOf(*worker);
    NIXL_INFO << "ucx: agent " << quoted(agent_) << " owes "
              << (fabric == Fabric::kLocal ? "a peer of this host" : "peers on the network")
              << " an answer; UCX's worker for that stays in place";
    {
        const MutexLock lock(mutex_);
        left_workers_[static_cast<size_t>(fabric)] = true;
    }
    const MutexLock lock(mutex);
    left.push_back(std::move(worker));
}

Fabric
WorkerPool::fabricOf(Worker &worker) const noexcept {
    return &worker.context() == contexts_[static_cast<size_t>(Fabric::kLocal)].get() ? Fabric::kLocal : Fabric::kPlain;
}

bool
WorkerPool::driveAll() {
    const MutexLock roster_lock(mutex_);
    bool happened = false;
    for (const auto &[worker, index] : roster_) {
        const MutexLock lock(worker->mutex());
        happened |= worker->progress();
    }
    return happened;
}

template<class Visit>
void
WorkerPool::forEachOfNetwork(Visit visit) {
    std::vector<WorkerSet *> sets{&workers_};
    {
        const MutexLock lock(mutex_);
        for (auto &[devices, subset] : subsets_) sets.push_back(&subset.workers);
    }
    for (WorkerSet *set : sets) {
        for (auto &worker : *set) visit(worker);
    }
}

void
WorkerPool::stop() {
    if (progress_thread_) progress_thread_->stop();
    for (auto &thread : threads_) thread->stop();
    forEachOfNetwork([](auto &worker) {
        const MutexLock lock(worker->mutex());
        worker->answerAll();
    });
}

bool
WorkerPool::idle() {
    bool all = true;
    forEachOfNetwork([&](auto &worker) { all = all && worker->idle(); });
    return all;
}

void
WorkerPool::cutOff() {
    forEachOfNetwork([](auto &worker) {
        const MutexLock lock(worker->mutex());
        worker->cutOff();
    });
}

WorkerPool::~WorkerPool() {
    progress_thread_.reset();
    threads_.clear();
    {
        const MutexLock lock(mutex_);
        // A request that could not be ended keeps its workers.
        for (const auto &[worker, index] : roster_) {
            if (fabricOf(*worker) == Fabric::kLocal) left_workers_[static_cast<size_t>(Fabric::kLocal)] = true;
        }
        roster_.clear();
    }
    forEachOfNetwork([this](auto &worker) { end(std::move(worker)); });
    for (size_t fabric = 0; fabric < kFabricCount; ++fabric) {
        if (left_workers_[fabric]) static_cast<void>(contexts_[fabric].release());
    }
    for (auto &[devices, subset] : subsets_) {
        if (left_workers_[static_cast<size_t>(Fabric::kPlain)]) static_cast<void>(subset.context.release());
    }
}

} // namespace nx::ucx
