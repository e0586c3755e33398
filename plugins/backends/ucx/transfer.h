// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// One request, posted any number of times.
//
// | stage       | meaning                                             | left when                    | for            |
// |-------------|-----------------------------------------------------|------------------------------|----------------|
// | Prepared    | never posted                                        | post                         | Moving         |
// | Moving      | lanes give blocks to UCX, or wait for its last word | every lane is quiet: failed, | Final          |
// |             |                                                     | cancelled or no message      |                |
// |             |                                                     | else                         | Notifying      |
// | Notifying   | the data is in place, the message waits for a place | UCX has sent or failed it    | Final          |
// |             | at the peer, then is on its way                     |                              |                |
// | Final       | SUCCESS, CANCELED or an error; nothing refers to    | post                         | Moving         |
// |             | the caller's memory any more                        |                              |                |
//
// A cancelled or failed request stops giving blocks and stays Moving until UCX has ended all it was given: what is with
// UCX cannot be called back. forceQuiet() closes the connection by force, after which UCX ends it all and lets nothing
// of it in any more.
//
// A lane is the part of a request that goes through one worker, normally all of it:
//
// | stage     | meaning                                    | left when                               | for       |
// |-----------|--------------------------------------------|-----------------------------------------|-----------|
// | Idle      | not posted, or quiet                       | start                                   | Issuing   |
// |           |                                            | it is the last one: the message         | Awaiting  |
// | Issuing   | blocks are left, UCX has a window of them  | none left (then one flush for a WRITE), | Draining  |
// |           |                                            | or the request stops                    |           |
// |           |                                            | it is given up                          | Idle      |
// | Draining  | waits for operations and flush             | the last has ended                      | Settling  |
// |           |                                            | there was none, or it is given up       | Idle      |
// | Settling  | is quiet; the next step tells the request, | that step                               | Idle      |
// |           | after UCX's last word on the endpoint      |                                         |           |
// | Awaiting  | takes a place for the request's message,   | UCX sends it                            | Notifying |
// |           | or waits for one                           | it is sent, not needed, or has failed   | Idle      |
// | Notifying | UCX sends the request's message            | sent or failed                          | Settling  |
// |           |                                            | it is given up                          | Idle      |
//
// Owned by one caller at a time, as a NIXL handle is; a lane's members are guarded by its worker's lock, the members
// of Transfer marked so are shared by the lanes. Publishing the final status is the last thing a lane does.
#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "kit/cursor.h"
#include "kit/request_base.h"
#include "ucx/connection.h"
#include "ucx/driver.h"
#include "ucx/memory.h"

namespace nx::ucx {

class Runtime;
class Transfer;

class Lane final : public Task {
public:
    /// Blocks first_block ... first_block + block_count - 1 of the request.
    Lane(Transfer &transfer, size_t worker_index, uint64_t first_block, uint64_t block_count);

    /// Connects. Takes the lock.
    Status
    prepare();

    /// Takes the lock. `inline_time`: how long to work on it before returning.
    void
    start(std::chrono::nanoseconds inline_time);

    Worker &
    worker() noexcept {
        return worker_;
    }

    /// The worker's, which guards the lane.
    kit::HandoverMutex &
    mutex() noexcept NX_RETURN_CAPABILITY(worker_.mutex()) {
        return worker_.mutex();
    }

    size_t
    workerIndex() const noexcept {
        return worker_index_;
    }

    const Endpoint &
    endpoint() const noexcept {
        return *endpoint_;
    }

    /// Of the posted request. From any thread.
    uint64_t
    bytesDone() const noexcept {
        return bytes_done_.load(std::memory_order_relaxed);
    }

    /// Lock held. kPending: this lane goes on by itself. kNotConnected: the peer is gone.
    Code
    notify(std::string_view message, uint64_t cost) NX_REQUIRES(mutex());

    /// Should the request's message wait for a place, it does not any more: the lane is continued.
    void
    leaveTurn();

    /// Lock held. Should it have got one, it is not needed.
    void
    giveTurnBack() NX_REQUIRES(mutex());

    bool
    advance() noexcept override NX_REQUIRES(mutex());

    /// If nothing of the peer can arrive any more: settles without what UCX keeps for ever. Without memory for that it
    /// does nothing. `by_force`: sees to it that nothing can; the connection is severed, and the worker serves no
    /// other peer. Takes the lock.
    void
    giveUp(bool by_force) noexcept;

private:
    enum class Stage { kIdle, kIssuing, kDraining, kSettling, kAwaiting, kNotifying };

    /// What UCX reports to. The worker keeps it if UCX keeps an operation for ever.
    struct Reports final : Operation {
        explicit Reports(Lane &lane) : lane(&lane), pulse(*this) {}

        void
        finished(Code code) noexcept override;

        /// A flush between pieces: its end says that the peer has taken what was before it.
        struct Pulse final : Operation {
            explicit Pulse(Reports &reports) : reports(reports) {}

            void
            finished(Code code) noexcept override;

            Reports &reports;
        };

        Lane *lane; ///< null: nobody listens any more
        Pulse pulse;
        uint64_t outstanding = 0;
        uint64_t pulses = 0; ///< among them
    };

    /// Does a stage follow the current one, as the table above has it.
    bool
    leadsTo(Stage next) noexcept NX_REQUIRES(mutex());
    /// The only one who writes the stage.
    void
    enter(Stage next) noexcept NX_REQUIRES(mutex());

    void
    reported(Code code) NX_REQUIRES(mutex());
    void
    ended() NX_REQUIRES(mutex());
    void
    givePulse() NX_REQUIRES(mutex());
    void
    leaveReports() NX_REQUIRES(mutex());

    void
    rewind() NX_REQUIRES(mutex());
    bool
    issue() NX_REQUIRES(mutex());
    Code
    issueNext(uint64_t length) NX_REQUIRES(mutex());
    ucp_rkey *
    keyOf(const nixlx::Run &run) noexcept NX_REQUIRES(mutex());
    void
    pieceDone() NX_REQUIRES(mutex());
    void
    drain() NX_REQUIRES(mutex());
    void
    settle() NX_REQUIRES(mutex());

    Transfer &transfer_;
    Worker &worker_;
    const size_t worker_index_;
    Connection::Mark &mark_;
    const uint64_t first_block_;
    const uint64_t block_count_;
    // Constant after prepare:
    Endpoint *endpoint_ = nullptr;
    static constexpr uint32_t kNoSegment = UINT32_MAX;
    uint32_t key_segment_ NX_GUARDED_BY(mutex()) = kNoSegment;
    /// Of that remote segment: mostly the next run's, too.
    ucp_rkey *key_ NX_GUARDED_BY(mutex()) = nullptr;
    Stage stage_ NX_GUARDED_BY(mutex()) = Stage::kIdle;
    /// The window is full; not among the worker's tasks.
    bool parked_ NX_GUARDED_BY(mutex()) = false;
    uint64_t resume_at_ NX_GUARDED_BY(mutex()) = 0;           ///< so few outstanding operations end that
    std::shared_ptr<Reports> reports_ NX_GUARDED_BY(mutex()); ///< shared with a worker that keeps it
    kit::Cursor given_ NX_GUARDED_BY(mutex());                ///< behind what UCX was given
    /// Behind as many pieces as are done, as if they ended in order.
    kit::Cursor done_ NX_GUARDED_BY(mutex());
    uint64_t pieces_outstanding_ NX_GUARDED_BY(mutex()) = 0;
    uint64_t unpulsed_bytes_ NX_GUARDED_BY(mutex()) = 0; ///< given since the last pulse
    Outbox::Turn turn_;                                  ///< for the request's message

    std::atomic<uint64_t> bytes_done_{0}; ///< written with the lock held
};

class Transfer final : public kit::RequestBase {
public:
    /// `plan` outlives the request, which takes the connection that the plan's remote ranges were loaded for.
    /// `worker_index`: for requests that are not split.
    static Result<std::unique_ptr<Transfer>>
    create(Runtime &runtime, const nixlx::Plan &plan, size_t worker_index);

    nixl_status_t
    post(const std::string *notification);
    nixl_status_t
    check();
    void
    cancel();
    bool
    forceQuiet();

    uint64_t
    bytesDone() const noexcept override;

    /// Of the connection it uses.
    uint64_t
    pathMark() const noexcept {
        return connection_->pathMark(fabric_);
    }

    Fabric
    fabric() const noexcept {
        return fabric_;
    }

private:
    friend class Lane;

    Transfer(Runtime &runtime, const nixlx::Plan &plan) : runtime_(runtime), plan_(plan) {}

    Status
    resolve();
    Status
    prepareLanes(size_t worker_index);

    const LocalMemory &
    localOf(const nixlx::Run &run) const noexcept {
        return *static_cast<const LocalMemory *>(plan_.local_segments[run.local_segment].metadata);
    }

    RemoteMemory &
    remoteOf(const nixlx::Run &run) const noexcept {
        return *static_cast<RemoteMemory *>(plan_.remote_segments[run.remote_segment].metadata);
    }

    using RequestBase::fail;
    void
    fail(Code code, const Endpoint &endpoint) noexcept;
    /// By the last lane to become quiet, lock held.
    void
    allQuiet(Lane &lane) NX_REQUIRES(lane.mutex());

    Runtime &runtime_;
    const nixlx::Plan &plan_;
    // Constant after create:
    std::shared_ptr<Connection> connection_;
    Fabric fabric_ = Fabric::kPlain;
    std::deque<Lane> lanes_;
    // Of the posted request; changed by the owner while quiet, and by the lane that sends the message:
    bool notify_ = false; ///< the message has not been sent
    std::string message_;
    uint64_t message_cost_ = 0;
    // Shared by the lanes:
    std::atomic<bool> cut_short_{false}; ///< blocks were left out
    std::atomic<size_t> lanes_moving_{0};
};

} // namespace nx::ucx
