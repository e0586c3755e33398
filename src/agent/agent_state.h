// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Everything an agent has: parts that synchronise themselves, and the calls that join several of them. agent.cpp turns
// their results into the public API's. The order of the parts' locks is in docs/threads.md.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "agent/backends.h"
#include "agent/credentials.h"
#include "agent/local_metadata.h"
#include "agent/memory_views.h"
#include "agent/metadata_exchange.h"
#include "agent/peers.h"
#include "agent/registrations.h"
#include "agent/requests.h"
#include "agent/staging.h"
#include "agent/waiting.h"
#include "memory/side.h"
#include "nixl.h"
#include "telemetry/recorder.h"

namespace nx::agent {

/// A descriptor list resolved for later requests, once per backend that covers it. Immutable.
struct PreparedList {
    struct Resolved {
        std::shared_ptr<Backend> backend;
        std::shared_ptr<const memory::Side> side;
    };

    bool is_local = true;
    std::string agent;          ///< of the remote side
    std::shared_ptr<Peer> peer; ///< null for local lists and for the own agent
    nixl_mem_t memory = DRAM_SEG;
    mutable std::atomic<uint64_t> epoch{0}; ///< when it was found whole last
    std::vector<Resolved> resolved;
};

/// What programs repeat until a peer's metadata has arrived: that it is not found yet is no failure to report.
enum class Polled { kNo, kYes };

} // namespace nx::agent

class nixlAgentData {
public:
    nixlAgentData(const std::string &name,
                  const nixlAgentConfig &config,
                  const nx::agent::PeerLimits &peer_limits = {});
    ~nixlAgentData();

    nixlAgentData(const nixlAgentData &) = delete;
    nixlAgentData &
    operator=(const nixlAgentData &) = delete;

    // agent.cpp
    /// FORKED if this process is a child of the one that made the agent.
    nixl_status_t
    enter() const noexcept;
    /// Ends an API call: logs a failure once, remembers its sentence, returns its code.
    nixl_status_t
    finish(const char *call,
           nixl_status_t status,
           const std::string &sentence,
           nx::agent::Polled polled = nx::agent::Polled::kNo) const noexcept;

    // telemetry.cpp
    /// Null if nobody takes events. Throws std::runtime_error.
    std::unique_ptr<nx::telemetry::Recorder>
    makeRecorder() const;
    void
    recordError(nixl_status_t status) const noexcept;
    /// Records the bytes of a whole list.
    void
    record(nixl_telemetry_event_type_t type, const nixl_reg_dlist_t &descs) const noexcept;

    // transfers.cpp
    template<class Desc>
    nx::Status
    prepare(bool is_local,
            const std::string &agent,
            nixl_mem_t memory,
            std::span<const Desc> elements,
            nixlDlistH *&handle,
            const nixl_opt_args_t *args);
    nx::Status
    makeRequest(nixl_xfer_op_t operation,
                const nixlDlistH *local,
                std::span<const int> local_indices,
                const nixlDlistH *remote,
                std::span<const int> remote_indices,
                nixlXferReqH *&handle,
                const nixl_opt_args_t *args);
    nx::Status
    createRequest(nixl_xfer_op_t operation,
                  const nixl_xfer_dlist_t &local,
                  const nixl_xfer_dlist_t &remote,
                  const std::string &agent,
                  nixlXferReqH *&handle,
                  const nixl_opt_args_t *args);
    nixl_status_t
    post(nixlXferReqH *handle, const nixl_opt_args_t *args);
    nixl_status_t
    status(nixlXferReqH *handle);
    /// As status(), once the request does not run any more. IN_PROG: the time is over.
    nixl_status_t
    waitFor(nixlXferReqH *handle, std::optional<std::chrono::microseconds> timeout);
    nx::Status
    waitForAny(std::span<nixlXferReqH *const> handles,
               std::optional<std::chrono::microseconds> timeout,
               std::vector<size_t> &which);
    nixl_status_t
    telemetry(const nixlXferReqH *handle, nixl_xfer_telem_t &out);
    /// Does not wait. If it says no, the peer's metadata may be fetched again behind it.
    bool
    remoteResolves(const std::string &agent, const nixl_xfer_dlist_t &descs) const;

    // notifications.cpp
    nx::Status
    getNotifs(nixl_notifs_t &notifs, const nixl_opt_args_t *args);
    nx::Status
    waitForNotifs(nixl_notifs_t &notifs, std::optional<std::chrono::microseconds> timeout, const nixl_opt_args_t *args);
    nx::Status
    genNotif(const std::string &agent, const std::string &message, const nixl_opt_args_t *args) const;

    // Constant after construction:
    const std::string name;
    const nixlAgentConfig config;
    const nx::wire::Incarnation incarnation;
    const uint64_t fork_generation;
    const bool measures;                         ///< telemetry was asked for: every transfer is timed
    const std::chrono::milliseconds stall_limit; ///< of new requests
    uint16_t listen_port = 0;                    ///< 0: not listening

    const nx::agent::Credentials credentials;

    // Self-synchronised:
    nx::agent::Backends backends;
    nx::agent::Waiting waiting;
    nx::agent::Staging staging;
    nx::agent::Requests requests;
    nx::agent::Registrations registrations;
    nx::agent::Peers peers;
    nx::agent::MemoryViews views;
    nx::agent::LocalMetadata local_metadata;
    nx::agent::MetadataExchange exchange;
    nx::HandleTable<nx::agent::PreparedList> lists{2};

    /// Null if nobody takes events. Last: its thread looks at the backends.
    const std::unique_ptr<nx::telemetry::Recorder> recorder;

private:
    /// Ends a call that has asked for a request's status. `sentence`: what that left.
    nixl_status_t
    report(const char *call,
           const nx::agent::TransferRequest &request,
           nixl_status_t status,
           const std::string &sentence) const;
    /// Ends a call that meets a failure which was told and logged before: the caller still gets its sentence.
    nixl_status_t
    repeatFailure(const char *call, const nx::agent::TransferRequest &request, nixl_status_t status) const;
    template<class Desc>
    nx::Status
    prepareOnce(bool is_local,
                const std::string &agent,
                nixl_mem_t memory,
                std::span<const Desc> elements,
                nixlDlistH *&handle,
                const nixl_opt_args_t *args,
                std::shared_ptr<nx::agent::Peer> &lacking);
    nx::Status
    createOnce(nixl_xfer_op_t operation,
               const nixl_xfer_dlist_t &local,
               const nixl_xfer_dlist_t &remote,
               const std::string &agent,
               nixlXferReqH *&handle,
               const nixl_opt_args_t *args,
               const nx::agent::BackendList &candidates,
               std::shared_ptr<nx::agent::Peer> &lacking);
};

namespace nx::agent {

/// What NIXL_TELEMETRY_ENABLE says, else the configuration. Throws std::runtime_error if it says nonsense.
bool
telemetryWanted(const nixlAgentConfig &config);

/// The message asked for in `args`, in its preferred form or its older one. Null: none.
const nixl_blob_t *
requestedNotification(const nixl_opt_args_t *args) noexcept;

/// INVALID_PARAM: it is longer than any may be. Null is fine.
Status
checkNotification(const nixl_blob_t *notification);

} // namespace nx::agent
