// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/staging.h"

#include <algorithm>
#include <unordered_map>

#include "agent/peer.h"
#include "utils/common/nixl_log.h"

namespace nx::agent {

namespace {

// What was in the way is tried again so soon: the lack of memory, another thread.
constexpr std::chrono::milliseconds kPatience{2};

} // namespace

/// Makes a backend of two. The memory of its plans is registered with those.
class Staging::Engine final : public nixlx::Engine, public nixlx::ForcedQuiet {
public:
    Engine(Staging &staging, const StagedEnd &local, const StagedEnd &remote)
        : staging_(staging),
          local_(local),
          remote_(remote) {}

    nixl_status_t
    registerMem(const nixlBlobDesc &, nixl_mem_t, nixlBackendMD *&) override {
        return NIXL_ERR_NOT_SUPPORTED;
    }

    nixl_status_t
    prepare(const nixlx::Plan &plan, const nixl_opt_b_args_t *args, nixlBackendReqH *&request) override {
        if (StagedTransfer::sinkOf(plan) == OBJ_SEG) {
            if (const auto status = checkObjects(plan); status < 0) return status;
        }
        auto made = std::make_unique<Request>();
        made->transfer = std::make_shared<StagedTransfer>(plan, local_, remote_, staging_.agent_, args->customParam,
                                                          staging_.bounce_);
        request = made.release();
        return NIXL_SUCCESS;
    }

    nixl_status_t
    post(nixlBackendReqH *request, const std::string *notification) override {
        const auto &transfer = of(request);
        std::list<Shared> place{transfer};
        transfer->start(notification);
        staging_.began(std::move(place));
        return staging_.driven_ ? NIXL_IN_PROG : check(request);
    }

    nixl_status_t
    check(nixlBackendReqH *request) override {
        const auto &transfer = of(request);
        auto advanced = transfer->tryAdvance();
        if (advanced && advanced->refused && !staging_.driven_) {
            staging_.advanceOthers();
            advanced = transfer->tryAdvance();
        }
        if (!advanced) return NIXL_IN_PROG;
        staging_.told(*advanced);
        if (advanced->status != NIXL_IN_PROG) staging_.ended(transfer);
        return advanced->status;
    }

    void
    release(nixlBackendReqH *request) override {
        staging_.ended(of(request));
        delete request;
    }

    void
    cancel(nixlBackendReqH *request) override {
        of(request)->cancel();
    }

    nixlx::RequestInfo
    describe(const nixlBackendReqH *request) const override {
        return of(request)->describe();
    }

    std::optional<uint64_t>
    bytesDone(const nixlBackendReqH *request) const override {
        return of(request)->bytesDone();
    }

    std::optional<uint64_t>
    pathMark(const nixlBackendReqH *request) const override {
        return of(request)->pathMark();
    }

    void *
    ability(std::string_view name, uint32_t version) noexcept override {
        return nixlx::offer<nixlx::ForcedQuiet>(this, name, version);
    }

    bool
    forceQuiet(nixlBackendReqH *request) override {
        return of(request)->force();
    }

private:
    static nixl_status_t
    checkObjects(const nixlx::Plan &plan) {
        std::unordered_map<uint32_t, uint64_t> sizes;
        for (const auto &run : plan.runs) {
            auto &size = sizes[plan.operation == NIXL_READ ? run.local_segment : run.remote_segment];
            size += run.length * run.count;
            if (size <= Bounce::kLargest) continue;
            return nixlx::fail(NIXL_ERR_NOT_SUPPORTED,
                               "an object is written all at once, and one of " + std::to_string(size) +
                                   " bytes or more does not fit into the " + std::to_string(Bounce::kLargest) +
                                   " bytes of host memory in between; make smaller objects of it");
        }
        return NIXL_SUCCESS;
    }

    struct Request : nixlBackendReqH {
        Shared transfer; ///< the thread may be the last to look at it
    };

    static const Shared &
    of(const nixlBackendReqH *request) {
        return static_cast<const Request *>(request)->transfer;
    }

    Staging &staging_;
    const StagedEnd local_;
    const StagedEnd remote_;
};

Result<std::shared_ptr<Backend>>
Staging::backendFor(const std::shared_ptr<Backend> &local, const std::shared_ptr<Backend> &remote) {
    const MutexLock lock(making_);
    auto &known = backends_[{local.get(), remote.get()}];
    if (known) return known;
    auto here = bounce_.registrationWith(local);
    if (!here.ok()) return std::move(here).status();
    auto there = bounce_.registrationWith(remote);
    if (!there.ok()) return std::move(there).status();
    startThread();
    known = Backend::joining(
        *local, *remote,
        std::make_unique<Engine>(*this, StagedEnd{local.get(), *here}, StagedEnd{remote.get(), *there}), !driven_);
    return known;
}

void
Staging::startThread() {
    const MutexLock lock(mutex_);
    if (!driven_ || thread_.joinable()) return;
    try {
        thread_ = Thread("nixl-staging", [this] { run(); });
    }
    catch (const std::exception &error) {
        driven_ = false;
        NIXL_WARN << "agent " << quoted(agent_) << ": starting a thread failed: " << error.what()
                  << "; staged transfers move on only while the program asks for their status";
    }
}

void
Staging::began(std::list<Shared> &&transfer) noexcept {
    {
        const MutexLock lock(mutex_);
        if (std::find(running_.begin(), running_.end(), transfer.front()) == running_.end()) {
            running_.splice(running_.end(), transfer);
        }
    }
    wake_.notifyOne();
    waiting_.changed();
}

void
Staging::ended(const Shared &transfer) noexcept {
    const MutexLock lock(mutex_);
    if (!transfer->running()) running_.remove(transfer); // else it was posted again meanwhile
}

std::vector<Staging::Shared>
Staging::running() {
    const MutexLock lock(mutex_);
    return {running_.begin(), running_.end()};
}

/// Others who wait may go on now, or whoever moves it on has more to do.
void
Staging::told(const StagedTransfer::Advanced &advanced) noexcept {
    if (advanced.stirs || (advanced.more && !driven_)) waiting_.changed();
}

void
Staging::stop() noexcept {
    {
        const MutexLock lock(mutex_);
        stop_ = true;
        driven_ = false;
    }
    wake_.notifyOne();
    waiting_.changed();
    thread_.join();
}

void
Staging::run() {
    for (;;) {
        {
            const MutexLock lock(mutex_);
            while (running_.empty() && !stop_) wake_.wait(mutex_);
            if (stop_) return;
        }
        try {
            (void)waiting_.wait({}, [&](Waiting::Again &again) {
                return advanceAll(again) ? std::nullopt : std::optional<Status>(Status());
            });
        }
        catch (const std::bad_alloc &) {
            const MutexLock lock(mutex_);
            if (!stop_) (void)wake_.waitUntil(mutex_, std::chrono::steady_clock::now() + kPatience);
        }
    }
}

/// Those who have the memory may not be looked at by anybody else.
void
Staging::advanceOthers() noexcept {
    try {
        for (const auto &other : running()) (void)other->tryAdvance();
    }
    catch (const std::bad_alloc &) {
        // Their owners will look.
    }
}

/// Until nothing moves without waiting. False: nothing is left to be moved on.
bool
Staging::advanceAll(Waiting::Again &again) {
    while (driven_) {
        const auto all = running();
        if (all.empty()) return false;
        bool more = false;
        for (const auto &transfer : all) {
            const auto advanced = transfer->tryAdvance();
            if (!advanced) { // by somebody who may leave it as it is then
                again.every = std::min(again.every, kPatience);
                continue;
            }
            more |= advanced->more;
            again.polled |= transfer->polled();
            told(*advanced);
            if (advanced->status != NIXL_IN_PROG) ended(transfer);
        }
        if (!more) return true;
    }
    return false;
}

} // namespace nx::agent
