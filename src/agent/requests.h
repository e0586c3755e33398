// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The requests of one agent: found by handle, looked after, given up when their memory or peer goes. Self-synchronised.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "agent/transfer_request.h"
#include "agent/waiting.h"
#include "agent/watcher.h"
#include "base/handle_table.h"
#include "base/mutex.h"

namespace nx::agent {

/// For a handle that means no request of the agent: INVALID_PARAM.
Status
noRequest();

class Requests {
public:
    using Pin = HandleTable<TransferRequest>::Pin;
    /// Is told of a request that failed while nobody asked for it.
    using Failed = std::function<void(nixl_status_t, const std::string &sentence)>;

    /// `watched`: there are progress threads, so something happens while nobody asks. `looked` is called after somebody
    /// looked after the requests on nobody's behalf; must not throw.
    Requests(const std::string &agent, bool watched, Waiting &waiting, Failed failed, std::function<void()> looked);

    /// Empty: it is none of this agent, or its owner gave it away.
    Pin
    find(const nixlXferReqH *handle);

    /// Makes a request and prepares it. `args`: for the backend.
    Status
    add(TransferRequest::Parts parts, const nixl_opt_b_args_t &args, nixlXferReqH *&handle);

    /// REPOST_ACTIVE: its buffers are not quiet yet; the handle stays valid.
    Status
    release(nixlXferReqH *handle);

    /// The handle is invalid at once; the request goes when it is quiet.
    Status
    drop(nixlXferReqH *handle);

    Status
    setLimits(const nixlXferReqH *handle, const nixlx::Limits &limits);

    /// Frees dropped requests that have become quiet.
    void
    reap() {
        if (dropped_count_.load(std::memory_order_relaxed)) [[unlikely]]
            reapDropped();
    }

    /// Of a request that was just posted.
    void
    watch(const TransferRequest &request) noexcept {
        watcher_.expect(request.lookEvery());
    }

    /// Leaves memory that was removed to the requests that use it, until they do not; no other uses it any more.
    /// Returns those that are posted on it. `peer`: whose it is; null: this agent's.
    std::vector<Pin>
    leaveTo(const std::shared_ptr<const memory::RemovedWindows> &removed, const Peer *peer);

    /// Nobody looks after them any more. Waits for a look under way.
    void
    stopWatching() noexcept {
        watcher_.stop();
    }

    /// At the agent's end: cancels all and waits for them until `deadline`, then ends them by force.
    void
    settle(std::chrono::steady_clock::time_point deadline);

    void
    clear();

    /// Does for the requests in flight what asking for their status would do; how soon to come again. Nothing: none
    /// is in flight, or none has a limit.
    std::optional<std::chrono::milliseconds>
    look() noexcept;

private:
    void
    reapDropped();
    const std::string &agent_;
    Waiting &waiting_;
    const Failed failed_;
    const std::function<void()> looked_;
    HandleTable<TransferRequest> table_{3};
    std::atomic<size_t> dropped_count_{0};
    Mutex dropped_mutex_;                                         // held for a few instructions; no call out of it
    std::vector<uint64_t> dropped_ NX_GUARDED_BY(dropped_mutex_); ///< tokens of those that their owners gave away
    Watcher watcher_;                                             ///< last: it looks at the others
};

} // namespace nx::agent
