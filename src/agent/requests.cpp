// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/requests.h"

#include "utils/common/nixl_log.h"

namespace nx::agent {

namespace {

// What is kept of the time to settle at the agent's end for ending by force what does not.
constexpr auto kForcing = 2 * kSettleGuard;

uint64_t
tokenOf(const nixlXferReqH *handle) {
    return reinterpret_cast<uint64_t>(handle);
}

Status
noneToRelease() {
    return {NIXL_ERR_INVALID_PARAM, "the handle is no request of this agent (released already?)"};
}

} // namespace

Status
noRequest() {
    return {NIXL_ERR_INVALID_PARAM, "the handle is no request of this agent"};
}

Requests::Requests(const std::string &agent,
                   bool watched,
                   Waiting &waiting,
                   Failed failed,
                   std::function<void()> looked)
    : agent_(agent),
      waiting_(waiting),
      failed_(std::move(failed)),
      looked_(std::move(looked)),
      watcher_(agent, [this] { return look(); }) {
    if (!watched) watcher_.stop();
}

Requests::Pin
Requests::find(const nixlXferReqH *handle) {
    auto request = table_.find(tokenOf(handle));
    if (request && request->dropped.load(std::memory_order_relaxed)) return {};
    return request;
}

Status
Requests::add(TransferRequest::Parts parts, const nixl_opt_b_args_t &args, nixlXferReqH *&handle) {
    const auto peer = parts.peer;
    parts.requests = &table_;
    parts.waiting = &waiting_;
    // In the table before the backend sees its memory: whoever removes memory looks there for who uses it.
    struct Entry {
        ~Entry() {
            if (token) table.remove(token);
        }
        HandleTable<TransferRequest> &table;
        uint64_t token;
    } entry{table_, table_.insert(std::make_unique<TransferRequest>(std::move(parts)))};
    if (!entry.token) return {NIXL_ERR_NO_MEMORY, "this process has no handle left for a request"};
    const auto request = table_.find(entry.token);
    auto status = request->prepare(&args);
    // Of a peer that was removed or replaced meanwhile, the backend may have joined the old ranges with the new
    // connection.
    if (peer && !peer->alive() && (status.ok() || !peer->lost())) {
        return {NIXL_ERR_NOT_FOUND,
                "remote agent " + quoted(peer->name) + " was removed while the request was being made"};
    }
    if (!status.ok()) return status;
    handle = reinterpret_cast<nixlXferReqH *>(std::exchange(entry.token, 0));
    return {};
}

Status
Requests::release(nixlXferReqH *handle) {
    const auto request = find(handle);
    if (!request) return noneToRelease();
    request->cancel();
    if (!request->settle(std::chrono::steady_clock::now() + kSettleGuard)) {
        return {NIXL_ERR_REPOST_ACTIVE,
                "the transfer was cancelled but backend " + request->backend()->type +
                    " still uses its buffers; the handle stays valid, release it again later"};
    }
    switch (request->retire()) {
    case NIXL_SUCCESS: break;
    case NIXL_ERR_REPOST_ACTIVE: return {NIXL_ERR_REPOST_ACTIVE, "another thread posted the request meanwhile"};
    default: return {NIXL_ERR_INVALID_PARAM, "another thread released the request meanwhile"};
    }
    table_.remove(tokenOf(handle));
    waiting_.changed();
    return {};
}

Status
Requests::drop(nixlXferReqH *handle) {
    const auto request = find(handle);
    if (!request || request->dropped.exchange(true)) return noneToRelease();
    request->cancel();
    {
        const MutexLock lock(dropped_mutex_);
        dropped_.push_back(tokenOf(handle));
        dropped_count_.store(dropped_.size());
    }
    reapDropped();
    waiting_.changed();
    return {};
}

Status
Requests::setLimits(const nixlXferReqH *handle, const nixlx::Limits &limits) {
    const auto request = find(handle);
    if (!request) return noRequest();
    for (const auto &[limit, what] : {std::pair(limits.deadline, "deadline"), std::pair(limits.stall, "stall limit")}) {
        if (!limit || *limit == nixlx::Limits::kNone) continue;
        if (*limit >= kLimitMin && *limit <= kLimitMax) continue;
        return {NIXL_ERR_INVALID_PARAM,
                std::string("a ") + what + " of " + std::to_string(limit->count()) +
                    " ms is neither from 1 ms to 24 h nor none; no limit was changed"};
    }
    if (request->setLimits(limits) == NIXL_SUCCESS) return {};
    return {NIXL_ERR_REPOST_ACTIVE, "the request is running; set its limits before it is posted again"};
}

void
Requests::reapDropped() {
    std::vector<uint64_t> tokens;
    {
        const MutexLock lock(dropped_mutex_);
        tokens.swap(dropped_);
    }
    std::erase_if(tokens, [&](uint64_t token) {
        const auto request = table_.find(token);
        if (!request) return true;
        std::string ignored;
        if (request->status(ignored) == NIXL_IN_PROG) return false;
        (void)request->retire();
        table_.remove(token);
        return true;
    });
    const MutexLock lock(dropped_mutex_);
    dropped_.insert(dropped_.end(), tokens.begin(), tokens.end());
    dropped_count_.store(dropped_.size());
}

std::vector<Requests::Pin>
Requests::leaveTo(const std::shared_ptr<const memory::RemovedWindows> &removed, const Peer *peer) {
    std::vector<Pin> in_flight;
    table_.forEach([&](uint64_t token) {
        auto request = table_.find(token);
        if (request && request->keep(removed, peer)) in_flight.push_back(std::move(request));
    });
    return in_flight;
}

std::optional<std::chrono::milliseconds>
Requests::look() noexcept {
    std::optional<std::chrono::milliseconds> soonest;
    table_.forEach([&](uint64_t token) {
        const auto request = table_.find(token);
        if (!request || !request->inFlight()) return;
        try {
            std::string sentence;
            const auto status = request->tryStatus(sentence);
            if (status && *status < 0 && !request->dropped) failed_(*status, sentence);
        }
        catch (const std::exception &) {
            // Out of memory for a sentence; whoever asks for the status gets what is there.
        }
        if (request->inFlight()) soonest = std::min(soonest.value_or(request->lookEvery()), request->lookEvery());
    });
    looked_();
    return soonest == nixlx::Limits::kNone ? std::nullopt : soonest;
}

void
Requests::settle(std::chrono::steady_clock::time_point deadline) {
    table_.forEach([&](uint64_t token) {
        if (const auto request = table_.find(token)) request->cancel();
    });
    table_.forEach([&](uint64_t token) {
        const auto request = table_.find(token);
        if (request && !request->settle(deadline - kForcing, Force::kAlways)) {
            NIXL_ERROR << "agent " << quoted(agent_) << ": a transfer over backend " << request->backend()->type
                       << " did not end in time at the agent's end; its memory may still be written to";
        }
    });
}

void
Requests::clear() {
    table_.forEach([&](uint64_t token) { table_.remove(token); });
}

} // namespace nx::agent
