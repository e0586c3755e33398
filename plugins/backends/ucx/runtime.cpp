// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/runtime.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>

#include "ucx/address.h"
#include "ucx/memory.h"
#include "ucx/tcp_probe.h"
#include "utils/common/nixl_log.h"

namespace nx::ucx {

namespace {

// How long nothing must happen before workers are destroyed.
constexpr std::chrono::milliseconds kSilence{10};
constexpr auto kShutDownLimit = std::chrono::seconds(1);
constexpr std::chrono::microseconds kBreath{20};
constexpr unsigned kMinorThatKnowsRoutes = 19;
// One of the other workers is looked after once in so many calls of a caller that polls for one of them.
constexpr unsigned kOtherEvery = 8;
// Who polls without pause looks after the next of the workers where nothing happens so long after the last one, who
// does not after all of them so often. One where something happened counts as busy for so long.
constexpr std::chrono::microseconds kNextEvery{1};
constexpr std::chrono::milliseconds kRoundEvery{4};
constexpr std::chrono::microseconds kStaysHot{100};
// How long a call that fetches notifications goes on taking in more of them; and how long it waits for more after so
// many that their sender was probably held up by a full queue (UCX before 1.18: 64, see kBusyNapsPerWait).
constexpr std::chrono::milliseconds kTakeInLimit{2};
constexpr std::chrono::microseconds kRefillTime{200};
constexpr size_t kBurst = 64;

} // namespace

Runtime::Runtime(std::string agent, Options options, bool progress_thread)
    : agent_(std::move(agent)),
      options_(std::move(options)),
      progress_thread_wanted_(progress_thread),
      host_(hostIdentity()),
      mail_(agent_) {
    // UCX rewrites the code of mmap, munmap and others when it is loaded: the caller, who would use them, waits. The
    // thread is for UCX's own, which inherits that signals are blocked.
    Status status;
    const auto startHere = [&] {
        try {
            status = start();
        }
        catch (const std::exception &error) {
            status = {NIXL_ERR_BACKEND, std::string("starting UCX failed: ") + error.what()};
        }
    };
    Thread("nixl-ucx-start", startHere).join();
    if (!status.ok()) throw std::runtime_error(status.message());
}

Runtime::~Runtime() {
    shutDown();
}

// ---- Start ---------------------------------------------------------------------------------------------------------

Status
Runtime::start() {
    auto library = Library::load(options_.library);
    if (!library.ok()) return std::move(library).status();
    library_ = *library;
    if (auto status = createContext(Fabric::kPlain); !status.ok()) return status;
    for (size_t i = 0; i < workerCount(); ++i) {
        auto worker = createWorker(Fabric::kPlain, i);
        if (!worker.ok()) return std::move(worker).status();
        workers_.push_back(*std::move(worker));
        const MutexLock lock(roster_mutex_);
        roster_.push_back({workers_.back().get(), i});
    }
    createThreads();
    if (auto status = createLocalFabric(); !status.ok()) {
        NIXL_INFO << "ucx: no shared memory with peers of this host: " << status.message();
        contexts_[static_cast<size_t>(Fabric::kLocal)].reset();
    }
    NIXL_INFO << "ucx: agent " << quoted(agent_) << " uses UCX " << library_->version() << " at " << library_->path()
              << "; a peer that reaches memory which was freed while it is registered may end this process";
    return {};
}

Result<std::unique_ptr<Context>>
Runtime::createContext(std::vector<Setting> settings) {
    ContextOptions options;
    options.name = agent_;
    options.settings = std::move(settings);
    options.wakeup = progress_thread_wanted_ || options_.num_threads > 0;
    return Context::create(*library_, options);
}

Status
Runtime::createContext(Fabric fabric) {
    const unsigned minor_version = library_->minorVersion();
    auto context = createContext(fabric == Fabric::kLocal ? localSettings(options_, minor_version)
                                                          : plainSettings(options_, minor_version));
    if (!context.ok()) return std::move(context).status();
    contexts_[static_cast<size_t>(fabric)] = *std::move(context);
    return {};
}

Status
Runtime::createLocalFabric() {
    if (!allowsSharedMemory(options_)) return {NIXL_ERR_NOT_SUPPORTED, "the transports chosen leave it out"};
    // Links end by force, which UCX allows only there.
    if (!options_.detect_death) return {NIXL_ERR_NOT_SUPPORTED, "ucx_error_handling_mode is none"};
    if (auto status = createContext(Fabric::kLocal); !status.ok()) return status;
    try {
        auto links = LinkServer::create(*this);
        if (!links.ok()) return std::move(links).status();
        links_ = *std::move(links);
    }
    catch (const std::system_error &error) {
        return {NIXL_ERR_BACKEND, std::string("starting a thread: ") + error.what()};
    }
    return {};
}

Result<std::unique_ptr<Worker>>
Runtime::createWorker(Fabric fabric, size_t index) {
    return createWorker(context(fabric), index);
}

Result<std::unique_ptr<Worker>>
Runtime::createWorker(Context &context, size_t index) {
    return Worker::create(context, agent_ + ":" + std::to_string(index), mail_);
}

// UCX that does not look at the system's routes takes any of its network devices for the way to a peer. It tells the
// peer the address of the one it took, and the peer must be able to connect there.
WorkerSet &
Runtime::workersAt(const std::vector<sockaddr_storage> &sources) {
    if (library_->minorVersion() >= kMinorThatKnowsRoutes) return workers_;
    const std::string &own = worker(0).address();
    const auto devices = devicesToUse(tcpListeners(own, own), sources);
    if (devices.empty()) return workers_;
    const MutexLock lock(subsets_mutex_);
    if (const auto known = subsets_.find(devices); known != subsets_.end()) return known->second.workers;
    auto subset = createSubset(devices);
    if (!subset.ok()) {
        NIXL_INFO << "ucx: all network devices stay in use: " << subset.message();
        return workers_;
    }
    WorkerSet &made = subsets_.emplace(devices, *std::move(subset)).first->second.workers;
    for (size_t i = 0; i < made.size(); ++i) enlist(*made[i], i);
    return made;
}

Result<Runtime::Subset>
Runtime::createSubset(const std::vector<std::string> &devices) {
    Options fewer = options_;
    fewer.devices = devices;
    Subset subset;
    auto context = createContext(plainSettings(fewer, library_->minorVersion()));
    if (!context.ok()) return std::move(context).status();
    subset.context = *std::move(context);
    for (size_t i = 0; i < workerCount(); ++i) {
        auto worker = createWorker(*subset.context, i);
        if (!worker.ok()) return std::move(worker).status();
        subset.workers.push_back(*std::move(worker));
    }
    return subset;
}

void
Runtime::createThreads() {
    if (progress_thread_wanted_) {
        progress_thread_ = std::make_unique<kit::ProgressThread>("nixl-ucx");
        for (size_t i = 0; i < options_.num_workers; ++i) progress_thread_->add(*workers_[i]);
    }
    for (size_t i = 0; i < options_.num_threads; ++i) {
        pool_.push_back(std::make_unique<kit::ProgressThread>("nixl-ucx-" + std::to_string(i)));
        pool_.back()->add(*workers_[options_.num_workers + i]);
    }
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
    visit();
    bool happened = first && first->tryDrive().value_or(false);
    const unsigned turn = turns_.load(std::memory_order_relaxed);
    turns_.store(turn + 1, std::memory_order_relaxed); // a lost count does no harm
    if ((!first || turn % kOtherEvery == 0) && roster_mutex_.try_lock()) {
        const MutexLock lock(roster_mutex_, std::adopt_lock);
        happened |= driveOthersLocked(first, turn);
    }
    if (happened && progress_thread_) progress_thread_->nudge();
}

// However many peers there are, a call drives one worker at most: the one where something happened lately, or the next
// of all. Between two of those where nothing happens there is a microsecond, so that most calls in vain cost next to
// nothing; for those who poll so seldom that no round of all has ended for some milliseconds, a call is a round.
bool
Runtime::driveOthersLocked(Worker *first, unsigned turn) {
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
Runtime::driveRoundLocked(Worker *but, Clock::time_point now) {
    round_at_ = now;
    bool happened = false;
    for (const Driven &driven : roster_) happened |= driveSharedLocked(driven, but, now);
    return happened;
}

/// If callers drive it at all, and it is not `but`.
bool
Runtime::driveSharedLocked(const Driven &driven, Worker *but, Clock::time_point now) {
    return driven.index < options_.num_workers && driven.worker != but && driveOneLocked(*driven.worker, now);
}

bool
Runtime::driveOneLocked(Worker &worker, Clock::time_point now) {
    if (!worker.tryDrive().value_or(false)) return false; // who is at it does the same
    hot_ = &worker;
    hot_at_ = now;
    return true;
}

void
Runtime::driveRound() {
    const MutexLock lock(roster_mutex_);
    driveRoundLocked(nullptr, Clock::now());
}

/// One step takes in a few messages, or what a short queue holds.
void
Runtime::takeIn() {
    kit::Inbox &inbox = mail_.inbox();
    const size_t before = inbox.count();
    size_t count = before;
    const auto more = [&](bool all) {
        all ? driveRound() : progress(nullptr);
        const size_t known = std::exchange(count, inbox.count());
        return count != known;
    };
    if (!more(false) || (!more(true) && count - before < kBurst)) return;
    const auto end = Clock::now() + kTakeInLimit;
    for (auto last = Clock::now(), now = last; now < end; now = Clock::now()) {
        if (more(true)) {
            last = now;
        } else if (count - before < kBurst || now - last > kRefillTime) {
            return;
        }
    }
}

void
Runtime::takeNotifications(notif_list_t &out) {
    kit::Inbox &inbox = mail_.inbox();
    if (!progress_thread_) {
        takeIn();
    } else if (inbox.empty()) {
        progress(nullptr);
    }
    if (!mail_.takeAll(out)) return;
    for (size_t i = 0; i < workerCount(); ++i) nudge(i);
    driveRound(); // the answers
}

void
Runtime::enlist(Worker &worker, size_t index) {
    {
        const MutexLock lock(roster_mutex_);
        roster_.push_back({&worker, index});
    }
    if (index >= options_.num_workers) {
        pool_[index - options_.num_workers]->add(worker);
    } else if (progress_thread_) {
        progress_thread_->add(worker);
    }
}

void
Runtime::dismiss(Worker &worker) {
    {
        const MutexLock lock(roster_mutex_);
        std::erase_if(roster_, [&](const Driven &driven) { return driven.worker == &worker; });
        if (hot_ == &worker) hot_ = nullptr;
    }
    if (progress_thread_) progress_thread_->remove(worker);
    for (auto &thread : pool_) thread->remove(worker);
}

void
Runtime::nudge(size_t worker_index) noexcept {
    if (worker_index >= options_.num_workers) {
        pool_[worker_index - options_.num_workers]->nudge();
    } else if (progress_thread_) {
        progress_thread_->nudge();
    }
}

// ---- Peers ---------------------------------------------------------------------------------------------------------

Status
Runtime::addPeer(const std::string &name, const std::string &address) {
    if (auto status = checkAddress(address); !status.ok()) return std::move(status).withContext("peer " + quoted(name));
    // One that is not taken for dead without such a look is connected when it is first used.
    const auto known = peer(name);
    if ((!known || known->gone()) && options_.detect_death) {
        if (auto status = probeListeners(tcpListeners(address, worker(0).address())); !status.ok()) {
            return std::move(status).withContext("peer " + quoted(name));
        }
    }
    std::shared_ptr<Connection> replaced;
    {
        const MutexLock lock(mutex_);
        auto &slot = peers_[name];
        if (slot && !slot->gone()) {
            if (slot->address() == address) return {};
            return {NIXL_ERR_NOT_ALLOWED,
                    "peer " + quoted(name) + " is connected under another address; disconnect it first"};
        }
        replaced = std::exchange(slot, std::make_shared<Connection>(*this, name, address));
        mail_.inbox().setKnown(name, true);
    }
    if (replaced) bury(std::move(replaced));
    return {};
}

std::shared_ptr<Connection>
Runtime::peer(const std::string &name) {
    const MutexLock lock(mutex_);
    if (const auto it = peers_.find(name); it != peers_.end()) return it->second;
    if (name != agent_) return nullptr;
    auto self = std::make_shared<Connection>(*this, name, worker(0).address());
    static_cast<void>(self->setPeerInfo(ownInfo(), true));
    peers_.emplace(name, self);
    return self;
}

bool
Runtime::removePeer(const std::string &name) {
    std::shared_ptr<Connection> connection;
    {
        const MutexLock lock(mutex_);
        const auto it = peers_.find(name);
        if (it == peers_.end()) return false;
        connection = std::move(it->second);
        peers_.erase(it);
        mail_.inbox().setKnown(name, false);
    }
    bury(std::move(connection));
    return true;
}

/// Closes a connection that is no longer in peers_ and keeps it until that is done.
void
Runtime::bury(std::shared_ptr<Connection> connection) {
    connection->close(!options_.close_by_force);
    nudge(0);
    std::vector<std::shared_ptr<Connection>> closed; // destroyed outside the lock
    const MutexLock lock(mutex_);
    closing_.push_back(std::move(connection));
    std::erase_if(closing_, [&](std::shared_ptr<Connection> &candidate) {
        if (!candidate->closed()) return false;
        closed.push_back(std::move(candidate));
        return true;
    });
}

PeerInfo
Runtime::ownInfo() const {
    return {host_, links_ ? links_->name() : std::string(), PeerInfo::kKeepsCredits};
}

// ---- End -----------------------------------------------------------------------------------------------------------

void
Runtime::addMemory(LocalMemory &memory) {
    if (!memory.isWhole()) partial_memories_.fetch_add(1);
    const MutexLock lock(mutex_);
    memories_.insert(&memory);
}

void
Runtime::removeMemory(LocalMemory &memory) {
    if (!memory.isWhole()) partial_memories_.fetch_sub(1);
    const MutexLock lock(mutex_);
    memories_.erase(&memory);
}

void
Runtime::end(std::unique_ptr<Worker> worker) {
    if (library_->endsBusyWorkers() || worker->idle()) return;
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
Runtime::fabricOf(Worker &worker) const noexcept {
    return &worker.context() == contexts_[static_cast<size_t>(Fabric::kLocal)].get() ? Fabric::kLocal : Fabric::kPlain;
}

bool
Runtime::driveAll() {
    const MutexLock roster_lock(roster_mutex_);
    bool happened = false;
    for (const auto &[worker, index] : roster_) {
        const MutexLock lock(worker->mutex());
        happened |= worker->progress();
    }
    return happened;
}

void
Runtime::shutDown() {
    if (links_) links_->refuse();
    std::unordered_map<std::string, std::shared_ptr<Connection>> peers;
    std::vector<std::shared_ptr<Connection>> closing; // they end with no lock held
    {
        const MutexLock lock(mutex_);
        peers.swap(peers_);
        closing.swap(closing_);
    }
    for (auto &[name, connection] : peers) {
        connection->close(!options_.close_by_force);
        closing.push_back(std::move(connection));
    }
    if (progress_thread_) progress_thread_->stop();
    for (auto &thread : pool_) thread->stop();
    std::vector<WorkerSet *> network{&workers_};
    {
        const MutexLock lock(subsets_mutex_);
        for (auto &[devices, subset] : subsets_) network.push_back(&subset.workers);
    }
    for (WorkerSet *set : network) {
        for (auto &worker : *set) {
            const MutexLock lock(worker->mutex());
            worker->answerAll();
        }
    }

    const auto deadline = end_by_.value_or(Clock::now() + kShutDownLimit);
    const auto allClosed = [&] {
        return std::all_of(closing.begin(), closing.end(), [](const auto &connection) { return connection->closed(); });
    };
    while (!allClosed() && Clock::now() < deadline) driveAll();
    if (!allClosed()) {
        for (WorkerSet *set : network) {
            for (auto &worker : *set) {
                const MutexLock lock(worker->mutex());
                worker->cutOff();
            }
        }
        for (auto &connection : closing) connection->abandon("this agent has shut down");
        driveAll(); // requests that were outstanding learn of it
    }
    closing.clear();
    const auto nothingOwed = [&] { // over shared memory only what can be had without a pause
        return (!links_ || links_->hasParted()) && std::all_of(network.begin(), network.end(), [](WorkerSet *set) {
                   return std::all_of(set->begin(), set->end(), [](const auto &worker) { return worker->idle(); });
               });
    };
    // Let them answer the greetings and transfers of peers.
    auto silent_since = Clock::now();
    for (auto now = silent_since; now < deadline; now = Clock::now()) {
        if (driveAll()) {
            silent_since = now;
        } else {
            std::this_thread::sleep_for(kBreath);
        }
        if (now >= silent_since + kSilence && nothingOwed()) break;
    }

    if (links_) {
        links_->stop();
        links_->dropWorkers();
    }
    {
        const MutexLock lock(mutex_);
        for (LocalMemory *memory : memories_) memory->unmap();
        // A request that could not be ended keeps its workers.
        const MutexLock roster_lock(roster_mutex_);
        for (const auto &[worker, index] : roster_) {
            if (fabricOf(*worker) == Fabric::kLocal) left_workers_[static_cast<size_t>(Fabric::kLocal)] = true;
        }
        roster_.clear();
    }
    for (WorkerSet *set : network) {
        for (auto &worker : *set) end(std::move(worker));
        set->clear();
    }
    {
        const MutexLock lock(mutex_);
        const MutexLock subsets_lock(subsets_mutex_);
        for (auto &[devices, subset] : subsets_) {
            if (left_workers_[static_cast<size_t>(Fabric::kPlain)]) static_cast<void>(subset.context.release());
        }
        subsets_.clear();
        for (size_t fabric = 0; fabric < kFabricCount; ++fabric) {
            if (left_workers_[fabric]) static_cast<void>(contexts_[fabric].release());
            contexts_[fabric].reset();
        }
    }
    links_.reset(); // peers may now count on silence
}

} // namespace nx::ucx
