// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer_request.h"

#include <algorithm>
#include <ctime>
#include <sched.h>

#include "base/last_error.h"

namespace nx::agent {

namespace {

std::string
statusName(nixl_status_t status) {
    return nixlEnumStrings::statusStr(status);
}

// Time between two looks counts at most so much of the limit it counts towards: whoever was not looked after, because
// the program or this whole process stood still, gets the chance to show that it goes on.
constexpr int kLooksPerLimit = 4;
// Whoever looks on nobody's behalf does it so often per limit, but neither all the time nor so seldom that a limit
// passes late.
constexpr int kWatchesPerLimit = 8;
constexpr std::chrono::milliseconds kWatchMin{10}, kWatchMax{1000};

// Changes every few milliseconds. A few nanoseconds to read, where the exact clock may take a system call.
int64_t
clockTick() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
}

} // namespace

TransferRequest::TransferRequest(Parts parts)
    : parts_(std::move(parts)),
      valid_epoch_(parts_.resolved_at),
      notification_(parts_.notification ? std::move(*parts_.notification) : std::string()),
      notifies_(parts_.notification.has_value()),
      stall_limit_(parts_.stall_limit) {
    telemetry_.totalBytes = parts_.plan->plan.total_bytes;
    telemetry_.descCount = parts_.descriptor_count ? parts_.descriptor_count : parts_.plan->plan.block_count;
    look_every_ = usualLookLocked();
}

Status
TransferRequest::prepare(const nixl_opt_b_args_t *args) {
    const MutexLock lock(mutex_);
    std::string sentence;
    if (const auto status = beginUseLocked(Use::kPreparing, sentence); status != NIXL_SUCCESS) {
        return {status, std::move(sentence)};
    }
    const auto status =
        call("preparing the transfer", [&](auto &engine) { return engine.prepare(parts_.plan->plan, args, handle_); });
    endUseLocked();
    if (status >= 0) return {};
    handle_ = nullptr;
    return {status,
            "backend " + parts_.backend->type + ": " +
                takeBackendSentence("preparing the transfer failed with " + statusName(status))};
}

TransferRequest::~TransferRequest() {
    if (inFlight()) {
        for (const auto &removed : kept_) removed->abandon();
    } else if (handle_) {
        (void)call("releasing the transfer", [&](auto &engine) { engine.release(handle_); });
    }
}

// Memory of this agent; a peer's goes all at once, with the peer.
bool
TransferRequest::memoryGone() const {
    const auto &plan = *parts_.plan;
    const auto &local = plan.local->windows(), &remote = plan.remote->windows();
    return std::any_of(plan.runs.begin(), plan.runs.end(), [&](const nixlx::Run &run) {
        return local[run.local_segment]->revoked() || (!parts_.peer && remote[run.remote_segment]->revoked());
    });
}

// If everything the plan was made from is still there, it stays with the backend until the end of the use.
nixl_status_t
TransferRequest::beginUseLocked(Use use, std::string &sentence) {
    const MutexLock lock(use_mutex_);
    if (parts_.peer && !parts_.peer->alive()) {
        sentence = "remote agent '" + parts_.peer->name +
            "' was disconnected after transfer request creation; load its metadata again and make a new request";
        return NIXL_ERR_NOT_FOUND;
    }
    if (const uint64_t epoch = parts_.epoch->load(std::memory_order_acquire); epoch != valid_epoch_) {
        if (memoryGone()) {
            sentence = "memory of the request was deregistered after the request was made";
            return NIXL_ERR_NOT_FOUND;
        }
        valid_epoch_ = epoch;
    }
    use_ = use;
    return NIXL_SUCCESS;
}

void
TransferRequest::endUseLocked() {
    std::vector<std::shared_ptr<const memory::RemovedWindows>> kept; // the backend may let go at their end
    const MutexLock lock(use_mutex_);
    use_ = Use::kNone;
    kept.swap(kept_);
}

bool
TransferRequest::keep(const std::shared_ptr<const memory::RemovedWindows> &removed, const Peer *peer) {
    const MutexLock lock(use_mutex_);
    if (use_ == Use::kNone || (peer ? peer != parts_.peer.get() : !memoryGone())) return false;
    kept_.push_back(removed);
    return use_ == Use::kPosted;
}

nixl_status_t
TransferRequest::post(std::optional<const std::string *> notification, std::string &sentence) {
    const MutexLock lock(mutex_);
    if (retired_) {
        sentence = "the request was released";
        return NIXL_ERR_INVALID_PARAM;
    }
    if (inFlight()) {
        const auto status = checkLocked(sentence);
        if (status == NIXL_IN_PROG) {
            sentence = "the request is still running; poll it until it is done before posting it again";
            return NIXL_ERR_REPOST_ACTIVE;
        }
        if (status == NIXL_ERR_REMOTE_DISCONNECT || severed_) return status;
        sentence.clear();
    }
    if (notification && *notification) {
        if (!parts_.backend->notif) {
            sentence = "backend " + parts_.backend->type + " cannot send notifications";
            return NIXL_ERR_BACKEND;
        }
        notification_.reserve((*notification)->size()); // before anything has to be undone
    }
    if (const auto status = beginUseLocked(Use::kPosted, sentence); status != NIXL_SUCCESS) return status;
    if (notification) {
        notifies_ = *notification;
        if (notifies_) notification_ = **notification;
    }

    std::chrono::steady_clock::time_point start;
    if (parts_.measure) {
        start = std::chrono::steady_clock::now();
        telemetry_.startTime = start;
    }
    enterLocked(State::kPosted);
    status_ = NIXL_IN_PROG;
    error_.clear();
    severed_ = false;
    ++attempts_;
    const std::string *const stored = notifies_ ? &notification_ : nullptr;
    const auto engine_status = call("posting the transfer", [&](auto &engine) { return engine.post(handle_, stored); });
    if (parts_.measure) {
        telemetry_.postDuration =
            std::chrono::duration_cast<chrono_period_us_t>(std::chrono::steady_clock::now() - start);
    }
    if (engine_status == NIXL_IN_PROG) {
        tick_ = clockTick();
        posted_at_ = looked_at_ = Clock::now();
        path_mark_ = pathMarkLocked();
        still_for_ = settling_for_ = {};
        forced_ = false;
    }
    return advanceLocked(engine_status, sentence);
}

nixl_status_t
TransferRequest::status(std::string &sentence) {
    const MutexLock lock(mutex_);
    return inFlight() ? checkLocked(sentence) : status_;
}

std::optional<nixl_status_t>
TransferRequest::tryStatus(std::string &sentence) {
    if (!mutex_.try_lock()) return {};
    const MutexLock lock(mutex_, std::adopt_lock);
    if (!inFlight()) return {};
    return checkLocked(sentence);
}

nixl_status_t
TransferRequest::checkLocked(std::string &sentence) {
    const auto check = [&] {
        return call("asking for the transfer's status", [&](auto &engine) { return engine.check(handle_); });
    };
    const auto status = advanceLocked(check(), sentence);
    if (status != NIXL_IN_PROG || !enforceLimitsLocked()) return status;
    return advanceLocked(check(), sentence);
}

nixl_status_t
TransferRequest::setLimits(const nixlx::Limits &limits) {
    const MutexLock lock(mutex_);
    if (inFlight()) return NIXL_ERR_REPOST_ACTIVE;
    deadline_ = limits.deadline.value_or(deadline_);
    stall_limit_ = limits.stall.value_or(stall_limit_);
    look_every_ = usualLookLocked();
    return NIXL_SUCCESS;
}

std::chrono::milliseconds
TransferRequest::usualLookLocked() const {
    const auto stall = parts_.backend->legacy() ? nixlx::Limits::kNone : stall_limit_; // of those none can pass
    const auto limit = std::min(deadline_, stall);
    return limit == nixlx::Limits::kNone ? limit : std::clamp(limit / kWatchesPerLimit, kWatchMin, kWatchMax);
}

std::optional<TransferRequest::Cause>
TransferRequest::passedLimitLocked() const {
    if (deadline_ != nixlx::Limits::kNone && looked_at_ - posted_at_ >= deadline_) return Cause::kDeadline;
    if (stall_limit_ != nixlx::Limits::kNone && still_for_ >= stall_limit_) return Cause::kStall;
    return {};
}

// Looks at the clock of a request in flight, after the engine has had its turn. True if something was done about it.
bool
TransferRequest::enforceLimitsLocked() {
    const int64_t tick = clockTick();
    if (tick == tick_) [[likely]]
        return false;
    tick_ = tick;
    const auto now = Clock::now();
    const Clock::duration since = now - std::exchange(looked_at_, now);
    const bool posted = state_ == State::kPosted;
    const auto limit = !posted ? kSettleGuard : stall_limit_ == nixlx::Limits::kNone ? kPathSilence : stall_limit_;
    const auto mark = pathMarkLocked();
    if (!mark || mark != path_mark_) {
        path_mark_ = mark;
        still_for_ = {};
    } else {
        still_for_ += std::min<Clock::duration>(since, limit / kLooksPerLimit);
    }
    if (posted) {
        const auto passed = passedLimitLocked();
        if (passed) settleLocked(*passed);
        return passed.has_value();
    }
    settling_for_ += std::min<Clock::duration>(since, kSettleGuard / kLooksPerLimit);
    return settling_for_ >= kSettleGuard && mayForceLocked(still_for_ >= kSettleGuard) && forceLocked();
}

void
TransferRequest::settleLocked(Cause cause) {
    if (state_ == State::kPosted) cause_ = cause;
    enterLocked(State::kSettling);
    if (cause_ != Cause::kAsked) look_every_ = kSettleGuard / kLooksPerLimit;
    (void)call("cancelling the transfer", [&](auto &engine) { engine.cancel(handle_); });
    parts_.waiting->changed(); // to be looked at more often, and perhaps at its end
}

// Of one that settles: dropping the connection costs the others that use it their transfers. So it is not done while
// anything moves there, nor soon while somebody still hopes for it.
bool
TransferRequest::mayForceLocked(bool still) const {
    if (forced_ || (cause_ == Cause::kAsked && !passedLimitLocked())) return false;
    if (!path_mark_) return true;
    return still_for_ >= kPathSilence || (still && !sharesItsPeer());
}

bool
TransferRequest::sharesItsPeer() const {
    bool shared = false;
    parts_.requests->forEach([&](uint64_t token) {
        if (shared) return;
        const auto other = parts_.requests->find(token);
        shared = other && other->peer() == peer() && other->state_.load(std::memory_order_relaxed) == State::kPosted;
    });
    return shared;
}

// Once per post.
bool
TransferRequest::forceLocked() {
    look_every_ = usualLookLocked();
    if (std::exchange(forced_, true)) return false;
    bool forced = false;
    (void)call<nixlx::ForcedQuiet>("forcing the transfer to its end",
                                   [&](auto &engine) { forced = engine.forceQuiet(handle_); });
    if (!forced) return false;
    severed_ = true;
    if (parts_.peer) parts_.peer->lose();
    return true;
}

std::string
TransferRequest::timeoutSentenceLocked() const {
    const auto done = bytesDoneLocked();
    const bool stalled = cause_ == Cause::kStall;
    std::string text = stalled ? "no byte moved for " + std::to_string(stall_limit_.count()) + " ms (the stall limit)"
                               : "it took longer than its deadline of " + std::to_string(deadline_.count()) + " ms";
    text += ": backend " + parts_.backend->type + " had moved " + (done ? std::to_string(*done) : "an unknown part") +
        " of " + std::to_string(parts_.plan->plan.total_bytes) + " bytes " +
        (parts_.plan->plan.operation == NIXL_READ ? "from " : "to ") +
        quoted(std::string(parts_.plan->plan.remote_agent));
    return text +
        (severed_ ? "; the connection was dropped, load the agent's metadata again to go on"
                  : "; post it again, or allow more time (setXferLimits)");
}

// The only place where a request in flight changes its state.
nixl_status_t
TransferRequest::advanceLocked(nixl_status_t engine_status, std::string &sentence) {
    if (engine_status == NIXL_IN_PROG) return NIXL_IN_PROG;
    const bool settling = state_ == State::kSettling;
    enterLocked(State::kFinal);
    if (settling) look_every_ = usualLookLocked();
    status_ = engine_status;
    endUseLocked();
    if (parts_.measure) {
        telemetry_.xferDuration =
            std::chrono::duration_cast<chrono_period_us_t>(std::chrono::steady_clock::now() - telemetry_.startTime);
    }
    if (engine_status == NIXL_SUCCESS) {
        if (parts_.recorder) parts_.recorder->addTransfer(operation(), telemetry_);
        return status_;
    }
    if (settling && cause_ != Cause::kAsked) {
        severed_ = severed_ || engine_status == NIXL_ERR_REMOTE_DISCONNECT;
        status_ = NIXL_ERR_TIMEOUT;
        error_ = timeoutSentenceLocked();
    } else if (settling && (engine_status == NIXL_ERR_CANCELED || severed_)) {
        status_ = NIXL_ERR_CANCELED;
        error_ = "the transfer was cancelled";
    } else if (parts_.peer && !parts_.peer->alive() && !parts_.peer->lost()) {
        status_ = NIXL_ERR_NOT_FOUND;
        error_ = "remote agent '" + parts_.peer->name + "' was removed while the transfer was running";
    } else {
        const auto info = describeLocked();
        error_ = "backend " + parts_.backend->type + ": " +
            (info.error.empty() ? takeBackendSentence("the transfer ended with " + statusName(engine_status))
                                : info.error);
    }
    sentence = error_;
    return status_;
}

void
TransferRequest::cancel() {
    const MutexLock lock(mutex_);
    if (inFlight()) settleLocked(Cause::kAsked);
}

bool
TransferRequest::settle(std::chrono::steady_clock::time_point deadline, Force force) {
    const auto before = [&] {
        const MutexLock lock(mutex_);
        return pathMarkLocked();
    }();
    const auto forced = [&] {
        const MutexLock lock(mutex_);
        if (state_ != State::kSettling) return false;
        const bool still = pathMarkLocked() == before;
        return (force == Force::kAlways || mayForceLocked(still)) && forceLocked();
    };
    std::string ignored;
    while (status(ignored) == NIXL_IN_PROG) {
        if (const auto now = Clock::now(); now >= deadline) {
            if (!forced()) return false;
            deadline = now + kSettleGuard;
        }
        sched_yield(); // the engine's own thread may need the processor to finish
    }
    return true;
}

std::optional<uint64_t>
TransferRequest::pathMarkLocked() const {
    return parts_.backend->ask([&](auto &engine) { return engine.pathMark(handle_); });
}

std::optional<uint64_t>
TransferRequest::bytesDoneLocked() const {
    return parts_.backend->ask([&](auto &engine) { return engine.bytesDone(handle_); });
}

nixlx::RequestInfo
TransferRequest::describeLocked() const {
    return parts_.backend->ask([&](auto &engine) { return engine.describe(handle_); });
}

nixl_status_t
TransferRequest::retire() {
    const MutexLock lock(mutex_);
    if (retired_) return NIXL_ERR_INVALID_PARAM;
    if (inFlight()) return NIXL_ERR_REPOST_ACTIVE;
    retired_ = true;
    return NIXL_SUCCESS;
}

nixl_status_t
TransferRequest::telemetry(nixl_xfer_telem_t &out) const {
    const MutexLock lock(mutex_);
    if (status_ == NIXL_SUCCESS) out = telemetry_;
    return status_;
}

// Nothing if the memory is not registered any more.
std::optional<double>
TransferRequest::predictLocked() const {
    if (retired_ || memoryGone()) return {};
    const auto &plan = parts_.plan->plan;
    const auto cost = parts_.backend->cost(plan.local_memory, plan.remote_memory, plan.remote_agent);
    if (!cost) return {};
    return nixlx::predict(*cost, plan);
}

nixlx::Report
TransferRequest::report() const {
    const MutexLock lock(mutex_);
    nixlx::Report report;
    const auto &plan = parts_.plan->plan;
    report.status = status_;
    report.backend = parts_.backend->shown().type;
    report.path = describeLocked().path;
    if (report.backend != parts_.backend->type) report.path = parts_.backend->type + ": " + report.path;
    report.candidates = parts_.candidates;
    report.total_bytes = plan.total_bytes;
    report.descriptor_count = plan.block_count;
    report.bytes_done = status_ == NIXL_SUCCESS ? plan.total_bytes : bytesDoneLocked().value_or(0);
    report.attempts = attempts_;
    report.settling = state_ == State::kSettling;
    report.stuck = report.settling && settling_for_ >= kSettleGuard;
    report.error = error_;
    for (auto &candidate : report.candidates) {
        if (candidate.chosen && candidate.predicted_us < 0) {
            candidate.predicted_us = predictLocked().value_or(-1);
        }
    }
    return report;
}

nixl_status_t
TransferRequest::estimate(std::chrono::microseconds &duration,
                          std::chrono::microseconds &err_margin,
                          nixl_cost_t &method,
                          const nixl_opt_args_t *args) const {
    const MutexLock lock(mutex_);
    if (const auto *legacy = parts_.backend->legacy()) {
        return call("estimateXferCost",
                    [&](auto &) { return legacy->estimate(handle_, duration, err_margin, method, args); });
    }
    const auto predicted = predictLocked();
    if (!predicted) return NIXL_ERR_NOT_SUPPORTED;
    duration = std::chrono::microseconds(static_cast<int64_t>(*predicted + 0.5));
    err_margin = std::chrono::microseconds(0);
    method = nixl_cost_t::ANALYTICAL_BACKEND;
    return NIXL_SUCCESS;
}

} // namespace nx::agent
