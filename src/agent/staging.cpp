// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/staging.h"

#include <algorithm>
#include <system_error>

#include "agent/peer.h"
#include "utils/common/nixl_log.h"

namespace nx::agent {

namespace {

// Without memory it tries again so soon.
constexpr std::chrono::milliseconds kPatience{10};

} // namespace

/// Makes a backend of two. The memory of its plans is registered with those.
class Staging::Engine final : public nixlx::Engine, public nixlx::ForcedQuiet {
public:
    Engine(Staging &staging, StagedEnd local, StagedEnd remote)
        : staging_(staging),
          local_(std::move(local)),
          remote_(std::move(remote)) {}

    nixl_status_t
    registerMem(const nixlBlobDesc &, nixl_mem_t, nixlBackendMD *&) override {
        return NIXL_ERR_NOT_SUPPORTED;
    }

    nixl_status_t
    prepare(const nixlx::Plan &plan, const nixl_opt_b_args_t *args, nixlBackendReqH *&request) override {
        const nixl_mem_t sink = plan.operation == NIXL_READ ? plan.local_memory : plan.remote_memory;
        for (const auto &run : plan.runs) {
            if (sink != OBJ_SEG || run.length <= Bounce::kBytes) continue;
            return nixlx::fail(NIXL_ERR_NOT_SUPPORTED,
                               "an object of " + std::to_string(run.length) +
                                   " bytes is written whole, and the memory in between has " +
                                   std::to_string(Bounce::kBytes) + "; make smaller objects of it");
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
        transfer->start(notification);
        if (staging_.driven_) {
            staging_.began(transfer);
            return NIXL_IN_PROG;
        }
        return check(request);
    }

    nixl_status_t
    check(nixlBackendReqH *request) override {
        const auto advanced = of(request)->tryAdvance();
        if (!advanced) return NIXL_IN_PROG;
        staging_.told(*advanced);
        return advanced->status;
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
    StagedEnd ends[2] = {{local, nullptr}, {remote, nullptr}};
    for (auto &end : ends) {
        auto registered = bounce_.registrationWith(end.backend);
        if (!registered.ok()) return std::move(registered).status();
        end.bounce = *registered;
    }
    known = Backend::joining(*local, *remote, std::make_unique<Engine>(*this, ends[0], ends[1]),
                             driven_ ? Backend::Sleep::kWoken : Backend::Sleep::kLikeBoth);
    return known;
}

void
Staging::began(const Shared &transfer) {
    {
        const MutexLock lock(mutex_);
        if (!driven_) return;
        if (std::find(running_.begin(), running_.end(), transfer) == running_.end()) running_.push_back(transfer);
        if (!thread_.joinable()) {
            try {
                thread_ = Thread("nixl-staging", [this] { run(); });
            }
            catch (const std::system_error &error) {
                driven_ = false;
                running_.clear();
                NIXL_WARN << "agent " << quoted(agent_) << ": starting a thread failed: " << error.what()
                          << "; staged transfers move on only while the program asks for their status";
            }
        }
    }
    wake_.notifyOne();
    waiting_.changed();
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

/// Until nothing moves without waiting. False: nothing is left to be moved on.
bool
Staging::advanceAll(Waiting::Again &again) {
    for (;;) {
        std::vector<Shared> running;
        {
            const MutexLock lock(mutex_);
            if (stop_) return false;
            running = running_;
        }
        if (running.empty()) return false;
        bool more = false;
        for (const auto &transfer : running) {
            const auto advanced = transfer->advance();
            more |= advanced.more;
            again.polled |= transfer->polled();
            told(advanced);
            if (advanced.status == NIXL_IN_PROG) continue;
            const MutexLock lock(mutex_);
            if (!transfer->running()) std::erase(running_, transfer); // else it was posted again meanwhile
        }
        if (!more) return true;
    }
}

} // namespace nx::agent
