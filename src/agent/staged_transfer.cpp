// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/staged_transfer.h"

#include <algorithm>
#include <utility>

#include "agent/peer.h"

namespace nx::agent {

namespace {

using Clock = std::chrono::steady_clock;

// Some backends move the bytes in the calls that begin a transfer.
constexpr std::chrono::milliseconds kTurn{1};

nixl_status_t
notify(const Backend &backend, const std::string &agent, const std::string &message) {
    return backend.call<nixlx::Notifications>("genNotif",
                                              [&](auto &messages) { return messages.genNotif(agent, message); });
}

} // namespace

/// A backend's transfer between the bounce memory and one end. Not destroyed while it runs.
class StagedTransfer::Leg {
public:
    Leg(Half &half, bool reads, const nixlx::Plan &whole, const Passage &passage)
        : half(half),
          reads(reads),
          bounce_{half.end.bounce, 0} {
        uint64_t at = reinterpret_cast<uintptr_t>(passage.memory);
        for (const auto &run : passage.portion.runs) {
            append(at, run);
            at += run.length * run.count;
        }
        plan_.operation = reads ? NIXL_READ : NIXL_WRITE;
        plan_.local_memory = DRAM_SEG;
        plan_.remote_memory = half.is_local ? whole.local_memory : whole.remote_memory;
        plan_.remote_agent = half.agent;
        plan_.local_segments = {&bounce_, 1};
        plan_.remote_segments = half.is_local ? whole.local_segments : whole.remote_segments;
        plan_.runs = runs_;
        plan_.total_bytes = passage.portion.bytes;
        plan_.is_part = passage.portion.bytes < whole.total_bytes;
        for (const auto &run : runs_) plan_.block_count += run.count;
    }

    ~Leg() {
        if (handle_) (void)backend().call("releasing a leg", [&](auto &engine) { engine.release(handle_); });
    }

    Leg(const Leg &) = delete;
    Leg &
    operator=(const Leg &) = delete;

    nixl_status_t
    start(const nixl_opt_b_args_t &args) {
        const auto prepared =
            backend().call("preparing a leg", [&](auto &engine) { return engine.prepare(plan_, &args, handle_); });
        if (prepared < 0) {
            handle_ = nullptr;
            return told(prepared);
        }
        return told(backend().call("posting a leg", [&](auto &engine) { return engine.post(handle_, nullptr); }));
    }

    nixl_status_t
    check() {
        if (status_ != NIXL_IN_PROG) return status_;
        return told(backend().call("asking for a leg's status", [&](auto &engine) { return engine.check(handle_); }));
    }

    /// One of a backend of 1.4 is waited for: what that says to be cancelled may still move, and the memory in between
    /// serves others next.
    void
    cancel() noexcept {
        if (status_ != NIXL_IN_PROG || backend().legacy()) return;
        (void)backend().call("cancelling a leg", [&](auto &engine) { engine.cancel(handle_); });
    }

    bool
    force() {
        if (status_ != NIXL_IN_PROG) return false;
        bool forced = false;
        (void)backend().call<nixlx::ForcedQuiet>("forcing a leg to its end",
                                                 [&](auto &engine) { forced = engine.forceQuiet(handle_); });
        return forced;
    }

    uint64_t
    bytesDone() const {
        if (!handle_) return 0;
        return backend().ask([&](auto &engine) { return engine.bytesDone(handle_); }).value_or(0);
    }

    std::optional<uint64_t>
    pathMark() const {
        if (!handle_) return 0;
        return backend().ask([&](auto &engine) { return engine.pathMark(handle_); });
    }

    std::string
    path() const {
        if (!handle_) return {};
        return backend().ask([&](auto &engine) { return engine.describe(handle_).path; });
    }

    /// Of one that failed: "writing 65536 bytes of FILE_SEG of 'A' over POSIX: ...".
    std::string
    sentence() const {
        return std::string(reads ? "reading " : "writing ") + std::to_string(plan_.total_bytes) + " bytes of " +
            nixlEnumStrings::memTypeStr(plan_.remote_memory) + " of " + quoted(half.agent) + " over " + backend().type +
            ": " + sentence_;
    }

    Half &half;
    const bool reads;

private:
    const Backend &
    backend() const {
        return *half.end.backend;
    }

    nixl_status_t
    told(nixl_status_t status) {
        status_ = status;
        if (status >= 0) return status;
        sentence_ = backendFailure("the transfer", status);
        if (!handle_) return status;
        auto info = backend().ask([&](auto &engine) { return engine.describe(handle_); });
        if (!info.error.empty()) sentence_ = std::move(info.error);
        return status;
    }

    // The blocks of `run` at this end, which lie in the bounce memory at `at`. What touches is one block.
    void
    append(uint64_t at, const nixlx::Run &run) {
        const uint64_t address = half.is_local ? run.local : run.remote;
        const uint64_t stride = half.is_local ? run.local_stride : run.remote_stride;
        const uint32_t segment = half.is_local ? run.local_segment : run.remote_segment;
        if (run.count > 1 && stride != run.length) {
            runs_.push_back({at, address, run.length, run.length, stride, run.count, 0, segment});
            return;
        }
        const uint64_t length = run.length * run.count;
        if (!runs_.empty()) {
            auto &last = runs_.back();
            if (last.count == 1 && last.remote_segment == segment && last.remote + last.length == address) {
                last.length += length;
                return;
            }
        }
        runs_.push_back({at, address, length, 0, 0, 1, 0, segment});
    }

    const nixlx::Segment bounce_;
    std::vector<nixlx::Run> runs_;
    nixlx::Plan plan_{};
    nixlBackendReqH *handle_ = nullptr;
    nixl_status_t status_ = NIXL_ERR_NO_MEMORY; ///< until it is started
    std::string sentence_;
};

memory::PortionLimits
StagedTransfer::limitsOf(const nixlx::Plan &plan) noexcept {
    using Whole = memory::PortionLimits::Whole;
    // An object is written by one request, or what was written last would be all of it; one that is read by several
    // could be another one meanwhile.
    const bool into_remote = plan.operation == NIXL_WRITE;
    const bool remote = plan.remote_memory == OBJ_SEG && (into_remote || plan.local_memory != OBJ_SEG);
    const bool local = plan.local_memory == OBJ_SEG && !remote;
    return {kPortionBytes, kPortionBlocks,
            remote      ? Whole::kRemoteSegments
                : local ? Whole::kLocalSegments
                        : Whole::kNothing,
            Bounce::kLargest};
}

StagedTransfer::StagedTransfer(const nixlx::Plan &plan,
                               const StagedEnd &local,
                               const StagedEnd &remote,
                               const std::string &agent,
                               const std::string &custom_param,
                               Bounce &bounce)
    : plan_(plan),
      limits_(limitsOf(plan)),
      ordered_(plan.runs.begin(), plan.runs.end()),
      holder_(plan.remote_agent),
      bounce_(bounce),
      polled_(local.backend->polled || remote.backend->polled),
      local_{local, true, agent},
      remote_{remote, false, std::string(plan.remote_agent)},
      portions_(ordered_, limits_) {
    leg_args_.customParam = custom_param;
    passages_.reserve(kPortionsInFlight);
    using Whole = memory::PortionLimits::Whole;
    if (limits_.whole == Whole::kNothing) return;
    const auto placeOf = [&](const nixlx::Run &run) {
        return limits_.whole == Whole::kLocalSegments ? std::pair(run.local_segment, run.local)
                                                      : std::pair(run.remote_segment, run.remote);
    };
    std::sort(ordered_.begin(), ordered_.end(),
              [&](const nixlx::Run &a, const nixlx::Run &b) { return placeOf(a) < placeOf(b); });
}

StagedTransfer::~StagedTransfer() = default;

void
StagedTransfer::start(const std::string *notification) {
    const MutexLock lock(mutex_);
    notification_ = notification ? std::optional(*notification) : std::nullopt;
    portions_ = memory::Portions(ordered_, limits_);
    next_ = portions_.next();
    local_.bytes = remote_.bytes = 0;
    error_.clear();
    outcome_ = NIXL_SUCCESS;
    status_ = NIXL_IN_PROG;
    running_ = true;
    bytes_done_ = 0;
    publishLocked();
}

std::optional<StagedTransfer::Advanced>
StagedTransfer::tryAdvance() noexcept {
    if (!mutex_.try_lock()) return {};
    const MutexLock lock(mutex_, std::adopt_lock);
    Advanced advanced;
    if (status_ == NIXL_IN_PROG) {
        try {
            advanceLocked(advanced);
        }
        catch (const std::bad_alloc &) {
            failLocked(NIXL_ERR_NO_MEMORY, {});
            advanced.more = true;
        }
        publishLocked();
    }
    advanced.status = status_;
    return advanced;
}

/// Where it throws it can be called again, and then neither counts anything twice nor needs memory to end.
void
StagedTransfer::advanceLocked(Advanced &advanced) {
    const auto until = Clock::now() + kTurn;
    for (size_t i = 0; i < passages_.size();) {
        Passage &passage = passages_[i];
        const auto status = passage.leg ? passage.leg->check() : NIXL_ERR_NO_MEMORY;
        if (status == NIXL_IN_PROG) {
            ++i;
            continue;
        }
        if (overLocked(passage, status)) {
            advanced.stirs |= leaveLocked(i);
        } else {
            ++i;
        }
        advanced.more = true;
        if (Clock::now() >= until) return;
    }
    while (admitLocked(advanced)) {
        advanced.more = true;
        if (Clock::now() >= until) return;
    }
    if (passages_.empty() && (outcome_ != NIXL_SUCCESS || next_.bytes == 0)) endLocked();
    if (status_ == NIXL_IN_PROG) return;
    advanced.more = false;
    advanced.stirs = true;
}

/// Begins with the next portion. False: not now.
bool
StagedTransfer::admitLocked(Advanced &advanced) {
    if (outcome_ != NIXL_SUCCESS || next_.bytes == 0 || passages_.size() == kPortionsInFlight) return false;
    std::byte *const memory = bounce_.take(next_.bytes, {this, holder_, !passages_.empty()});
    if (!memory) {
        advanced.refused = true;
        return false;
    }
    passages_.push_back({std::move(next_), memory, nullptr});
    next_ = {};
    const size_t index = passages_.size() - 1;
    if (overLocked(passages_[index], beginLegLocked(passages_[index], true))) advanced.stirs |= leaveLocked(index);
    next_ = portions_.next();
    return true;
}

/// True: others want the memory that it leaves.
bool
StagedTransfer::leaveLocked(size_t index) noexcept {
    Passage &passage = passages_[index];
    passage.leg.reset();
    const bool wanted = bounce_.give(passage.memory, passage.portion.bytes, holder_);
    if (&passage != &passages_.back()) passage = std::move(passages_.back());
    passages_.pop_back();
    return wanted;
}

/// What follows from the status of the passage's leg. True: the passage is over.
bool
StagedTransfer::overLocked(Passage &passage, nixl_status_t status) {
    while (status != NIXL_IN_PROG) {
        if (!passage.leg) return true;
        auto &leg = *passage.leg;
        Half &half = leg.half;
        const bool first = outcome_ == NIXL_SUCCESS;
        if (first && half.path.empty()) half.path = leg.path();
        std::string sentence = first && status < 0 ? leg.sentence() : std::string();
        half.bytes += status == NIXL_SUCCESS ? passage.portion.bytes : leg.bytesDone();
        if (status < 0) {
            // Only the peer's own leg says that it is lost.
            const bool own = half.agent == local_.agent && status == NIXL_ERR_REMOTE_DISCONNECT;
            failLocked(own ? NIXL_ERR_BACKEND : status, std::move(sentence));
        }
        if (!leg.reads || outcome_ != NIXL_SUCCESS) return true;
        status = beginLegLocked(passage, false);
    }
    return false;
}

nixl_status_t
StagedTransfer::beginLegLocked(Passage &passage, bool reads) {
    passage.leg.reset();
    passage.leg = std::make_unique<Leg>(reads ? source() : sink(), reads, plan_, passage);
    return passage.leg->start(leg_args_);
}

/// The first failure counts, but for the loss of the peer, which is never kept from it.
void
StagedTransfer::failLocked(nixl_status_t status, std::string &&sentence) noexcept {
    const bool first = outcome_ == NIXL_SUCCESS;
    if (!first && status != NIXL_ERR_REMOTE_DISCONNECT) return;
    outcome_ = status;
    if (!first) return;
    error_ = std::move(sentence);
    for (const auto &passage : passages_) {
        if (passage.leg) passage.leg->cancel();
    }
}

/// Nothing is under way any more. It stays IN_PROG while the peer has no place for the notification.
void
StagedTransfer::endLocked() {
    if (outcome_ == NIXL_SUCCESS && notification_) {
        const auto &backend = *remote_.end.backend;
        const auto sent = notify(backend, remote_.agent, *notification_);
        inbox_full_ = sent == NIXL_ERR_REPOST_ACTIVE;
        if (inbox_full_) return;
        if (sent < 0) {
            failLocked(sent,
                       "all bytes have arrived, but the notification was not sent: " + backend.type + ": " +
                           backendFailure("genNotif", sent));
        }
    }
    inbox_full_ = false;
    bounce_.forget(this);
    status_ = outcome_;
    running_ = false;
}

void
StagedTransfer::publishLocked() noexcept {
    uint64_t done = sink().bytes, mark = source().bytes + sink().bytes;
    bool known = true;
    for (const auto &passage : passages_) {
        if (!passage.leg) continue;
        if (!passage.leg->reads) done += passage.leg->bytesDone();
        const auto at = passage.leg->pathMark();
        known = known && at;
        mark = (mark ^ at.value_or(0)) * 0x9e3779b97f4a7c15u;
    }
    bytes_done_.store(std::max(done, bytes_done_.load(std::memory_order_relaxed)), std::memory_order_relaxed);
    if (mark != std::exchange(seen_mark_, mark)) bounce_.moved();
    if (passages_.empty()) mark = bounce_.moves(); // it waits behind others
    path_mark_.store(known ? mark << 1 | 1 : 0, std::memory_order_relaxed);
}

void
StagedTransfer::cancel() {
    const MutexLock lock(mutex_);
    if (status_ == NIXL_IN_PROG) failLocked(NIXL_ERR_CANCELED, "the transfer was cancelled");
}

bool
StagedTransfer::force() {
    const MutexLock lock(mutex_);
    bool forced = false;
    for (const auto &passage : passages_) {
        if (!passage.leg) continue;
        const Half &half = passage.leg->half;
        if (&half == &remote_ || remote_.agent == local_.agent) forced |= passage.leg->force();
    }
    return forced;
}

nixlx::RequestInfo
StagedTransfer::describe() const {
    const MutexLock lock(mutex_);
    const auto told = [&](const Half &half, const char *does) {
        return half.end.backend->type + (half.path.empty() ? "" : " (" + half.path + ")") + does +
            std::to_string(half.bytes) + " bytes";
    };
    const bool reads = plan_.operation == NIXL_READ;
    return {"through host memory: " + told(reads ? remote_ : local_, " has read ") + ", " +
                told(reads ? local_ : remote_, " has written "),
            error_};
}

} // namespace nx::agent
