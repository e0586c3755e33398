// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// One request. It moves its plan in slices small enough that nobody waits for more than about a millisecond, then
// delivers its notification.
//
//   advance() while IN_PROG   next state (kit/request_base.h)
//   bytes left                IN_PROG
//   peer inbox full           IN_PROG, waitsForInbox()
//   all delivered             SUCCESS
//   after cancel()            CANCELED
//   refused, gone             an error
//
// Between post() and a final state one thread advances it, the caller's or the progress thread; the final state is the
// last thing it does with the transfer.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/thread.h"
#include "kit/request_base.h"
#include "loopback/connection.h"
#include "loopback/memory.h"

namespace nx::loopback {

inline constexpr uint64_t kSliceBytes = uint64_t{2} << 20;
inline constexpr uint64_t kSliceBlocks = 16384;

class Transfer final : public kit::RequestBase {
public:
    /// `sender` is whose transfer it is. `plan` outlives the transfer.
    Transfer(const nixlx::Plan &plan, std::shared_ptr<Endpoint> sender, std::shared_ptr<Endpoint> peer);

    /// Checks that both sides still exist and moves the first slice. Requires quiet().
    nixl_status_t
    post(const std::string *notification);

    /// Moves the next slice. Requires !quiet().
    nixl_status_t
    advance();

    /// In progress, and nothing to do before the peer makes room in its inbox, of which the sender is told.
    bool
    waitsForInbox() const noexcept {
        return waits_for_inbox_;
    }

    const nixlx::Plan &
    plan() const noexcept {
        return plan_;
    }

    Transfer *next = nullptr; ///< in the progress thread's queue

private:
    /// Enters the state that `transition` returns.
    template<class Transition>
    nixl_status_t
    enter(Transition transition) noexcept;
    // The transitions.
    nixl_status_t
    open(const std::string *notification);
    nixl_status_t
    step();
    nixl_status_t
    moveSlice();
    nixl_status_t
    deliver();
    nixl_status_t
    refuse(const Window &window, bool local);

    const nixlx::Plan &plan_;
    const std::shared_ptr<Endpoint> sender_;
    const std::shared_ptr<Endpoint> peer_;
    struct Pair {
        std::shared_ptr<Window> local;
        std::shared_ptr<Window> remote;
    };
    std::vector<Pair> windows_; ///< one per run of the plan, found anew at each post
    std::string notification_;
    bool has_notification_ = false;
    bool waits_for_inbox_ = false;
    // How far it came: run, block of the run, byte of the block.
    size_t run_ = 0;
    uint64_t block_ = 0;
    uint64_t offset_ = 0;
};

/// The progress thread: finishes transfers in turns, a slice at a time, and sleeps while there are none or all wait for
/// a peer's inbox. Guarded.
class Progress {
public:
    /// Throws std::system_error if the thread cannot be started.
    Progress();
    /// Transfers that are not finished stay as they are.
    ~Progress();

    /// Takes over a transfer in progress until it is final.
    void
    add(Transfer &transfer);

    /// A transfer that waited may go on: there may be a place for it, or it was cancelled.
    void
    look();

private:
    void
    run();
    /// Waits for one. Null: the thread is to end.
    Transfer *
    takeNext() NX_EXCLUDES(mutex_);
    void
    appendLocked(Transfer &transfer) NX_REQUIRES(mutex_);

    Mutex mutex_;
    CondVar wake_;
    Transfer *first_ NX_GUARDED_BY(mutex_) = nullptr;
    Transfer *last_ NX_GUARDED_BY(mutex_) = nullptr;
    size_t length_ NX_GUARDED_BY(mutex_) = 0;
    size_t fruitless_ NX_GUARDED_BY(mutex_) = 0; ///< turns in a row that only met full inboxes
    bool stopping_ NX_GUARDED_BY(mutex_) = false;

    Thread thread_; // last: it uses all of the above
};

} // namespace nx::loopback
