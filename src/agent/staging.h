// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The staged transfers of one agent (staged_transfer.h): the memory they go through, a backend for each pair of
// backends that carry them, and the thread that moves them on where there are progress threads. It starts when it is
// first needed and sleeps without a timer while nothing is staged. Self-synchronised.
#pragma once

#include <atomic>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "agent/backend.h"
#include "agent/bounce.h"
#include "agent/staged_transfer.h"
#include "agent/waiting.h"
#include "base/mutex.h"
#include "base/thread.h"

namespace nx::agent {

class Staging {
public:
    /// `driven`: there are progress threads, so transfers go on while nobody asks.
    Staging(const std::string &agent, bool driven, Waiting &waiting)
        : agent_(agent),
          waiting_(waiting),
          driven_(driven) {}
    ~Staging() {
        stop();
    }
    Staging(const Staging &) = delete;
    Staging &
    operator=(const Staging &) = delete;

    /// What carries transfers between memory of this agent that `local` reaches and memory that `remote` reaches.
    /// A failure's sentence says which of them does not take the memory in between.
    Result<std::shared_ptr<Backend>>
    backendFor(const std::shared_ptr<Backend> &local, const std::shared_ptr<Backend> &remote);

    /// Nothing moves on by itself any more. The caller waits for what the thread is at.
    void
    stop() noexcept;

private:
    class Engine;
    using Shared = std::shared_ptr<StagedTransfer>;

    /// To be advanced with the others until it is over. Before: a place for it in that list.
    void
    began(std::list<Shared> &&transfer) noexcept;
    void
    ended(const Shared &transfer) noexcept;
    void
    told(const StagedTransfer::Advanced &advanced) noexcept;
    void
    startThread();
    void
    run();
    bool
    advanceAll(Waiting::Again &again);
    void
    advanceOthers() noexcept;
    std::vector<Shared>
    running();

    const std::string &agent_;
    Waiting &waiting_;
    Bounce bounce_;

    Mutex making_; ///< held while the backends register the memory
    std::map<std::pair<const Backend *, const Backend *>, std::shared_ptr<Backend>> backends_ NX_GUARDED_BY(making_);

    std::atomic<bool> driven_; ///< the thread moves transfers on, or will; changed under mutex_

    Mutex mutex_; ///< held for a few instructions; no call out of it
    CondVar wake_;
    std::list<Shared> running_ NX_GUARDED_BY(mutex_);
    bool stop_ NX_GUARDED_BY(mutex_) = false;
    Thread thread_; ///< made with mutex_ held, and not once stop_ is set
};

} // namespace nx::agent
