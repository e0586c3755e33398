// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/runtime.h"

#include <algorithm>
#include <stdexcept>
#include <thread>

#include "base/thread.h"
#include "ucx/memory.h"
#include "utils/common/nixl_log.h"

namespace nx::ucx {

namespace {

using Clock = std::chrono::steady_clock;

// How long nothing must happen before workers are destroyed.
constexpr std::chrono::milliseconds kSilence{10};
constexpr auto kShutDownLimit = std::chrono::seconds(1);
constexpr std::chrono::microseconds kBreath{20};
// How long a call that fetches notifications goes on taking in more of them; and how long it waits for more after so
// many that their sender was probably held up by a full queue (UCX before 1.18: 64, see kBusyNapsPerWait).
constexpr std::chrono::milliseconds kTakeInLimit{2};
constexpr std::chrono::microseconds kRefillTime{200};
constexpr size_t kBurst = 64;

/// So that UCX's own threads inherit that signals are blocked. Throws std::system_error if there can be no thread.
template<class Start>
Status
onStartThread(Start start) {
    Status status;
    Thread("nixl-ucx-start", [&] {
        try {
            status = start();
        }
        catch (const std::exception &error) {
            status = {NIXL_ERR_BACKEND, std::string("starting UCX failed: ") + error.what()};
        }
    }).join();
    return status;
}

} // namespace

Runtime::Runtime(std::string agent, Options options, bool progress_thread)
    : agent_(std::move(agent)),
      options_(std::move(options)),
      host_(kit::hostIdentity()),
      mail_(agent_, bell_),
      peers_(*this) {
    // UCX rewrites the code of mmap, munmap and others when it is loaded: the caller, who would use them, waits.
    const Status status = onStartThread([&] { return start(progress_thread); });
    if (!status.ok()) throw std::runtime_error(status.message());
}

Status
Runtime::start(bool progress_thread) {
    auto library = Library::load(options_.library);
    if (!library.ok()) return std::move(library).status();
    library_ = *library;
    auto pool = WorkerPool::create(*library_, agent_, options_, progress_thread, mail_, bell_);
    if (!pool.ok()) return std::move(pool).status();
    pool_ = *std::move(pool);
    if (options_.links_serve_dram) tryLocalFabric();
    NIXL_INFO << "ucx: agent " << quoted(agent_) << " uses UCX " << library_->version() << " at " << library_->path()
              << ", " << library_->why()
              << "; a peer that reaches memory which was freed while it is registered may end this process";
    return {};
}

Status
Runtime::startLinks() {
    if (auto status = pool_->createLocalContext(); !status.ok()) return status;
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

bool
Runtime::makeLocalFabric() {
    if (fabric_tried_) return hasLocalFabric();
    try {
        const Status status = onStartThread([this] {
            tryLocalFabric();
            return Status();
        });
        if (!status.ok()) noLocalFabric(status);
    }
    catch (const std::system_error &error) {
        noLocalFabric({NIXL_ERR_BACKEND, std::string("starting a thread: ") + error.what()});
    }
    return hasLocalFabric();
}

void
Runtime::tryLocalFabric() {
    const MutexLock lock(fabric_mutex_);
    if (fabric_tried_) return;
    if (auto status = startLinks(); status.ok()) {
        shareMemories();
    } else {
        noLocalFabric(status);
        pool_->dropLocalContext();
    }
    fabric_tried_ = true;
}

void
Runtime::noLocalFabric(const Status &why) {
    NIXL_INFO << "ucx: no shared memory with peers of this host: " << why.message();
}

/// From here on everybody finds them in both contexts, or counted.
void
Runtime::shareMemories() {
    const MutexLock lock(memories_mutex_);
    size_t partial = 0;
    for (LocalMemory *memory : memories_) {
        memory->share();
        partial += !memory->mapping(Fabric::kLocal); // none is in that one alone
    }
    partial_memories_ = partial;
    has_local_fabric_.store(true, std::memory_order_release);
}

PeerInfo
Runtime::ownInfo() const {
    return {host_, hasLocalFabric() ? links_->name() : std::string(), PeerInfo::kKeepsCredits};
}

void
Runtime::addMemory(LocalMemory &memory) {
    const MutexLock lock(memories_mutex_);
    memories_.insert(&memory);
    if (hasLocalFabric()) memory.share(); // it may have come meanwhile
    if (isPartial(memory)) ++partial_memories_;
}

void
Runtime::removeMemory(LocalMemory &memory) {
    const MutexLock lock(memories_mutex_);
    if (memories_.erase(&memory) && isPartial(memory)) --partial_memories_; // it may have failed before it was added
}

bool
Runtime::isPartial(const LocalMemory &memory) const {
    return !memory.mapping(Fabric::kPlain) || (hasLocalFabric() && !memory.mapping(Fabric::kLocal));
}

/// One step takes in a few messages, or what a short queue holds.
void
Runtime::takeIn() {
    kit::Inbox &inbox = mail_.inbox();
    const size_t before = inbox.count();
    size_t count = before;
    const auto more = [&](bool all) {
        all ? pool_->driveRound() : pool_->progress(nullptr);
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
    if (!pool_->hasProgressThread()) {
        takeIn();
    } else if (inbox.empty()) {
        pool_->progress(nullptr);
    }
    if (!mail_.takeAll(out)) return;
    for (size_t i = 0; i < pool_->workerCount(); ++i) pool_->nudge(i);
    pool_->driveRound(); // the answers
}

Runtime::~Runtime() {
    if (links_) links_->refuse();
    auto closing = peers_.closeAll();
    pool_->stop();

    const auto deadline = end_by_.value_or(Clock::now() + kShutDownLimit);
    const auto allClosed = [&] {
        return std::all_of(closing.begin(), closing.end(), [](const auto &connection) { return connection->closed(); });
    };
    while (!allClosed() && Clock::now() < deadline) pool_->driveAll();
    if (!allClosed()) {
        pool_->cutOff();
        for (auto &connection : closing) connection->abandon("this agent has shut down");
        pool_->driveAll(); // requests that were outstanding learn of it
    }
    closing.clear();
    // Let them answer the greetings and transfers of peers; over shared memory only what can be had without a pause.
    auto silent_since = Clock::now();
    for (auto now = silent_since; now < deadline; now = Clock::now()) {
        if (pool_->driveAll()) {
            silent_since = now;
        } else {
            std::this_thread::sleep_for(kBreath);
        }
        if (now >= silent_since + kSilence && (!links_ || links_->hasParted()) && pool_->idle()) break;
    }

    if (links_) {
        links_->stop();
        links_->dropWorkers();
    }
    decltype(memories_) memories;
    {
        const MutexLock lock(memories_mutex_);
        memories.swap(memories_);
    }
    for (LocalMemory *memory : memories) memory->unmap();
    pool_.reset();
    links_.reset(); // peers may now count on silence
}

} // namespace nx::ucx
