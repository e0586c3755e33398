// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// One transfer request and its only state machine:
//
//   state      | event                          | next state
//   -----------+--------------------------------+-----------
//   Prepared   | post                           | Posted, or Final when the engine finished or failed at once
//   Posted     | engine reports a final status  | Final
//   Posted     | cancel                         | Settling
//   Settling   | engine reports a final status  | Final
//   Final      | post                           | Posted (or Final again)
//
// Final means: nobody touches the buffers any more. Guarded: one mutex per request, held across calls into the engine,
// because an engine must not see two calls for one request at once.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "agent/sections.h"
#include "memory/plan.h"
#include "nixlx/report.h"
#include "telemetry/recorder.h"

namespace nx::agent {

/// Counts removals of local registrations: while it stands still, what was resolved earlier is still registered.
using Epoch = std::atomic<uint64_t>;

class TransferRequest {
public:
    struct Parts {
        std::shared_ptr<Backend> backend;
        std::shared_ptr<Peer> peer; ///< null for transfers to oneself
        std::unique_ptr<memory::OwnedPlan> plan;
        std::vector<nixlx::Candidate> candidates;
        std::optional<std::string> notification;
        const Epoch *epoch = nullptr;
        bool measure = false;                    ///< take times for telemetry
        telemetry::Recorder *recorder = nullptr; ///< null: no events
    };

    /// Asks the backend to prepare. The backend's status and sentence on failure.
    static Result<std::unique_ptr<TransferRequest>>
    create(Parts parts, const nixl_opt_b_args_t *args);

    /// Requires that it is not in flight, or that the process is at its end (the engine's side is then leaked).
    ~TransferRequest();

    /// Starts (again). `notification`: absent keeps the stored one; an empty optional inside clears it. A failure's
    /// sentence is in `sentence`.
    nixl_status_t
    post(const std::optional<std::optional<std::string>> &notification, std::string &sentence);

    /// `sentence` is set when this call is the one that saw the failure.
    nixl_status_t
    status(std::string &sentence);

    /// Asks a running request to end; no effect otherwise.
    void
    cancel();

    /// Like cancel(), if memory of this agent that the request uses was deregistered. True if it was running on such.
    bool
    cancelIfDeregistered();

    /// Waits until the request is not in flight, at most until `deadline`. True if it is not.
    bool
    settle(std::chrono::steady_clock::time_point deadline);

    /// Makes every later post() fail. False if it is in flight, or retired already.
    bool
    retire();

    nixl_status_t
    telemetry(nixl_xfer_telem_t &out) const;
    nixlx::Report
    report() const;
    nixl_status_t
    estimate(std::chrono::microseconds &duration,
             std::chrono::microseconds &err_margin,
             nixl_cost_t &method,
             const nixl_opt_args_t *args) const;

    const std::shared_ptr<Backend> &
    backend() const noexcept {
        return parts_.backend;
    }

    const std::shared_ptr<Peer> &
    peer() const noexcept {
        return parts_.peer;
    }

    nixl_xfer_op_t
    operation() const noexcept {
        return parts_.plan->plan.operation;
    }

    std::atomic<bool> dropped{false}; ///< its owner gave the handle away

private:
    enum class State { kPrepared, kPosted, kSettling, kFinal };

    explicit TransferRequest(Parts parts);

    bool
    inFlight() const noexcept {
        return state_ == State::kPosted || state_ == State::kSettling;
    }

    nixl_status_t
    advanceLocked(nixl_status_t engine_status, std::string &sentence);
    nixl_status_t
    checkLocked(std::string &sentence);
    nixl_status_t
    validateLocked(std::string &sentence);
    bool
    acquireMappings() const;
    void
    releaseMappings() const;
    bool
    memoryGone() const;
    std::optional<double>
    predict() const;

    // Constant after creation:
    Parts parts_;
    std::vector<std::shared_ptr<memory::Mapping>> mappings_; ///< distinct ones of the plan
    nixlBackendReqH *handle_ = nullptr;

    // Guarded by mutex_:
    mutable std::mutex mutex_;
    State state_ = State::kPrepared;
    nixl_status_t status_ = NIXL_ERR_NOT_POSTED;
    bool retired_ = false;
    uint64_t valid_epoch_ = 0;
    uint64_t attempts_ = 0;
    std::string error_;
    nixl_xfer_telem_t telemetry_;
};

} // namespace nx::agent
