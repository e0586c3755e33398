// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/runtime.h"

#include <algorithm>
#include <chrono>

#include "ucx/address.h"
#include "ucx/memory.h"
#include "utils/common/nixl_log.h"

namespace nx::ucx {

namespace {

// How long nothing must happen before workers are destroyed.
constexpr std::chrono::milliseconds kSilence{10};
constexpr auto kShutDownLimit = std::chrono::seconds(1);
constexpr unsigned kMinorThatEndsBusyWorkers = 21;
// The other workers are looked after once in so many calls of a caller that polls for one of them.
constexpr unsigned kRoundEvery = 8;
constexpr unsigned kTendEvery = 8192;

} // namespace

Runtime::Runtime(std::string agent, Options options, bool progress_thread)
    : agent_(std::move(agent)),
      options_(std::move(options)),
      progress_thread_wanted_(progress_thread),
      host_(hostIdentity()),
      start_thread_("nixl-ucx-start", [this] { start(); }) {}

Runtime::~Runtime() {
    start_thread_.join();
    if (started()) shutDown();
}

// ---- Start ---------------------------------------------------------------------------------------------------------

void
Runtime::start() noexcept {
    try {
        start_status_ = startAll();
    }
    catch (const std::exception &error) {
        start_status_ = Status(NIXL_ERR_BACKEND, std::string("starting UCX failed: ") + error.what());
    }
    std::lock_guard lock(state_mutex_);
    state_ = start_status_.ok() ? State::kStarted : State::kFailed;
    state_changed_.notify_all();
}

Status
Runtime::startAll() {
    auto library = Library::load(options_.library);
    if (!library.ok()) return std::move(library).status();
    library_ = *library;
    if (auto status = createFabric(Fabric::kPlain); !status.ok()) return status;
    auto status = allowsSharedMemory(options_) ? createFabric(Fabric::kLocal)
                                               : Status(NIXL_ERR_NOT_SUPPORTED, "the transports chosen leave it out");
    if (status.ok()) {
        auto beacon = Beacon::create();
        if (beacon.ok()) beacon_ = *std::move(beacon);
        status = std::move(beacon).status();
    }
    if (!status.ok()) {
        NIXL_INFO << "ucx: no shared memory with peers of this host: " << status.message();
        workers_[static_cast<size_t>(Fabric::kLocal)].clear();
        contexts_[static_cast<size_t>(Fabric::kLocal)].reset();
    }
    NIXL_INFO << "ucx: agent " << quoted(agent_) << " uses UCX " << library_->version() << " at " << library_->path();
    return createThreads();
}

Status
Runtime::createFabric(Fabric fabric) {
    const bool local = fabric == Fabric::kLocal;
    ContextOptions options;
    options.name = agent_;
    options.settings = (local ? localSettings : plainSettings)(options_, library_->minorVersion());
    options.wakeup = progress_thread_wanted_ || options_.num_threads > 0;
    auto context = Context::create(*library_, options);
    if (!context.ok()) return std::move(context).status();
    contexts_[static_cast<size_t>(fabric)] = *std::move(context);
    for (size_t i = 0; i < workerCount(); ++i) {
        auto worker = Worker::create(this->context(fabric), agent_ + ":" + std::to_string(i), inbox_);
        if (!worker.ok()) return std::move(worker).status();
        workers_[static_cast<size_t>(fabric)].push_back(*std::move(worker));
    }
    return {};
}

Status
Runtime::createThreads() {
    const auto make = [&](const std::string &name, size_t first,
                          size_t count) -> Result<std::unique_ptr<ProgressThread>> {
        auto wake = WakeFd::create();
        if (!wake.ok()) return std::move(wake).status();
        std::vector<Worker *> workers;
        for (auto &fabric : workers_) {
            for (size_t i = first; i < first + count && i < fabric.size(); ++i) workers.push_back(fabric[i].get());
        }
        return std::make_unique<ProgressThread>(name, std::move(workers), *std::move(wake));
    };
    if (progress_thread_wanted_) {
        auto thread = make("nixl-ucx", 0, options_.num_workers);
        if (!thread.ok()) return std::move(thread).status();
        progress_thread_ = *std::move(thread);
        if (beacon_) {
            progress_thread_->watch(beacon_->get(), [this] {
                tendBeacon();
                return true;
            });
        }
    }
    for (size_t i = 0; i < options_.num_threads; ++i) {
        auto thread = make("nixl-ucx-" + std::to_string(i), options_.num_workers + i, 1);
        if (!thread.ok()) return std::move(thread).status();
        pool_.push_back(*std::move(thread));
    }
    return {};
}

Status
Runtime::ready() const {
    if (state_.load(std::memory_order_acquire) == State::kStarting) {
        std::unique_lock lock(state_mutex_);
        state_changed_.wait(lock, [&] { return state_.load() != State::kStarting; });
    }
    if (started()) return {};
    return {start_status_.code(), start_status_.message()};
}

// ---- Progress ------------------------------------------------------------------------------------------------------

size_t
Runtime::workerOfThisThread() const noexcept {
    static std::atomic<size_t> threads{0};
    thread_local const size_t number = threads.fetch_add(1, std::memory_order_relaxed);
    return number % options_.num_workers;
}

void
Runtime::progress(Worker *first) {
    if (progress_thread_) progress_thread_->visit();
    bool happened = false;
    const auto drive = [&](Worker *worker) {
        std::unique_lock lock(worker->mutex(), std::try_to_lock);
        if (!lock || !worker->progress()) return; // who holds the lock does the same
        happened = true;
        if (hot_.load(std::memory_order_relaxed) != worker) hot_.store(worker, std::memory_order_relaxed);
    };
    if (!first) first = hot_.load(std::memory_order_relaxed);
    const unsigned turn = turns_.load(std::memory_order_relaxed);
    turns_.store(turn + 1, std::memory_order_relaxed); // a lost count does no harm
    if (first) drive(first);
    if (!first || turn % kRoundEvery == 0) {
        for (auto &fabric : workers_) {
            for (size_t i = 0; i < options_.num_workers && i < fabric.size(); ++i) {
                if (fabric[i].get() != first) drive(fabric[i].get());
            }
        }
    }
    if (happened && progress_thread_) progress_thread_->nudge();
    if (turn % kTendEvery == 0) tendBeacon();
}

/// Those who watch the beacon wait in the listener's queue, which is bounded.
void
Runtime::tendBeacon() {
    if (!beacon_) return;
    std::unique_lock lock(beacon_mutex_, std::try_to_lock);
    if (lock) beacon_->accept();
}

void
Runtime::nudge(size_t worker_index) noexcept {
    if (worker_index >= options_.num_workers) {
        pool_[worker_index - options_.num_workers]->nudge();
    } else if (progress_thread_) {
        progress_thread_->nudge();
    }
}

void
Runtime::watch(Connection &connection) {
    if (!progress_thread_ || connection.beaconFd() < 0) return;
    progress_thread_->watch(connection.beaconFd(), [&connection] {
        connection.abandon("it has ended");
        return false;
    });
}

void
Runtime::unwatch(int fd) {
    if (progress_thread_) progress_thread_->unwatch(fd);
}

// ---- Peers ---------------------------------------------------------------------------------------------------------

Status
Runtime::addPeer(const std::string &name, const std::string &address) {
    if (auto status = checkAddress(address); !status.ok()) return std::move(status).withContext("peer " + quoted(name));
    std::shared_ptr<Connection> replaced;
    {
        std::lock_guard lock(mutex_);
        auto &slot = peers_[name];
        if (slot && !slot->gone()) {
            if (slot->address() == address) return {};
            return {NIXL_ERR_NOT_ALLOWED,
                    "peer " + quoted(name) + " is connected under another address; disconnect it first"};
        }
        replaced = std::exchange(slot, std::make_shared<Connection>(*this, name, address));
    }
    if (replaced) bury(std::move(replaced));
    return {};
}

std::shared_ptr<Connection>
Runtime::peer(const std::string &name) {
    std::lock_guard lock(mutex_);
    if (const auto it = peers_.find(name); it != peers_.end()) return it->second;
    if (name != agent_ || !started()) return nullptr;
    auto self = std::make_shared<Connection>(*this, name, worker(Fabric::kPlain, 0).address());
    self->setPeerInfo(ownInfo(), true);
    peers_.emplace(name, self);
    return self;
}

bool
Runtime::removePeer(const std::string &name) {
    std::shared_ptr<Connection> connection;
    {
        std::lock_guard lock(mutex_);
        const auto it = peers_.find(name);
        if (it == peers_.end()) return false;
        connection = std::move(it->second);
        peers_.erase(it);
    }
    bury(std::move(connection));
    return true;
}

/// Closes a connection that is no longer in peers_ and keeps it until that is done.
void
Runtime::bury(std::shared_ptr<Connection> connection) {
    connection->close(!options_.close_by_force);
    if (started()) nudge(0);
    std::vector<std::shared_ptr<Connection>> closed; // destroyed outside the lock
    std::lock_guard lock(mutex_);
    closing_.push_back(std::move(connection));
    std::erase_if(closing_, [&](std::shared_ptr<Connection> &candidate) {
        if (!candidate->closed()) return false;
        closed.push_back(std::move(candidate));
        return true;
    });
}

PeerInfo
Runtime::ownInfo() const {
    PeerInfo info;
    info.host = host_;
    if (beacon_) info.beacon = beacon_->name();
    for (const auto &worker : workers_[static_cast<size_t>(Fabric::kLocal)]) {
        if (info.local_addresses.size() < options_.num_workers) info.local_addresses.push_back(worker->address());
    }
    return info;
}

// ---- End -----------------------------------------------------------------------------------------------------------

void
Runtime::addMemory(LocalMemory &memory) {
    std::lock_guard lock(mutex_);
    memories_.insert(&memory);
}

void
Runtime::removeMemory(LocalMemory &memory) {
    std::lock_guard lock(mutex_);
    memories_.erase(&memory);
}

/// The plain workers are neither destroyed nor driven any more. What UCX holds goes with the process.
void
Runtime::leaveInPlace() {
    static auto &workers = *new std::vector<std::unique_ptr<Worker>>;
    static auto &contexts = *new std::vector<std::unique_ptr<Context>>;
    static std::mutex mutex;
    std::lock_guard lock(mutex);
    auto &plain = workers_[static_cast<size_t>(Fabric::kPlain)];
    std::move(plain.begin(), plain.end(), std::back_inserter(workers));
    plain.clear();
    contexts.push_back(std::move(contexts_[static_cast<size_t>(Fabric::kPlain)]));
}

void
Runtime::shutDown() {
    for (auto &[name, connection] : peers_) {
        connection->close(!options_.close_by_force);
        closing_.push_back(connection);
    }
    peers_.clear();
    progress_thread_.reset();
    pool_.clear();

    const auto deadline = std::chrono::steady_clock::now() + kShutDownLimit;
    const auto progressAll = [&] {
        bool happened = false;
        for (auto &fabric : workers_) {
            for (auto &worker : fabric) {
                std::lock_guard lock(worker->mutex());
                happened |= worker->progress();
            }
        }
        return happened;
    };
    const auto allClosed = [&] {
        return std::all_of(closing_.begin(), closing_.end(),
                           [](const auto &connection) { return connection->closed(); });
    };
    while (!allClosed() && std::chrono::steady_clock::now() < deadline) progressAll();
    if (!allClosed()) {
        for (auto &connection : closing_) connection->abandon("this agent has shut down");
        progressAll(); // requests that were outstanding learn of it
    }
    closing_.clear();
    const auto answersAll = [&] { // over shared memory an open answer does no harm, and one to the dead stays open
        auto &plain = workers_[static_cast<size_t>(Fabric::kPlain)];
        return std::all_of(plain.begin(), plain.end(), [](const auto &worker) {
            std::lock_guard lock(worker->mutex());
            return worker->idle();
        });
    };
    // Let them answer the greetings and transfers of peers.
    bool idle = false;
    for (auto silent_since = std::chrono::steady_clock::now(), now = silent_since; !idle && now < deadline;
         now = std::chrono::steady_clock::now()) {
        if (progressAll()) silent_since = now;
        idle = now >= silent_since + kSilence && answersAll();
    }

    for (LocalMemory *memory : memories_) memory->unmap();
    if (!idle && library_->minorVersion() < kMinorThatEndsBusyWorkers) {
        NIXL_INFO << "ucx: agent " << quoted(agent_)
                  << " shuts down while peers on the network use it; UCX's workers for them stay in place";
        leaveInPlace();
    }
    for (auto &fabric : workers_) fabric.clear();
    for (auto &context : contexts_) context.reset();
    beacon_.reset(); // peers may now count on silence
}

} // namespace nx::ucx
