// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Everything an agent has. The methods are spread over one file per concept (backends, registration, transfers,
// connections, notifications, metadata); agent.cpp turns their results into the public API's.
//
// Locks, in the order in which they may be taken (docs/threads.md): peers_mutex, then local_mutex, then a request's own
// mutex. peers_mutex is held across backend calls that load or drop a peer, so that a peer's state in the agent and in
// the backends changes as one; nothing on the data path takes it except to forget a peer that was lost.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "agent/load_plan.h"
#include "agent/sections.h"
#include "agent/transfer_request.h"
#include "agent/watcher.h"
#include "base/error.h"
#include "base/handle_table.h"
#include "base/mutex.h"
#include "memory/side.h"
#include "metadata/directory_client.h"
#include "metadata/exchange.h"
#include "nixl.h"
#include "telemetry/recorder.h"

namespace nx::agent {

/// A descriptor list resolved for later requests, once per backend that covers it. Immutable.
struct PreparedList {
    struct Face {
        std::shared_ptr<Backend> backend;
        std::shared_ptr<const memory::Side> side;
    };

    bool is_local = true;
    std::string agent;          ///< of the remote side
    std::shared_ptr<Peer> peer; ///< null for local lists and for the own agent
    nixl_mem_t memory = DRAM_SEG;
    mutable std::atomic<uint64_t> epoch{0}; ///< when it was found whole last
    std::vector<Face> faces;
    std::vector<std::pair<std::string, std::string>> refused; ///< backend, why it is no face
};

using PeerMap = std::unordered_map<std::string, std::shared_ptr<Peer>>;

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
    finish(const char *call, const nx::Status &status) const;
    nixl_status_t
    finish(const char *call, nixl_status_t status, const std::string &sentence) const;

    // telemetry.cpp
    /// Null if nobody takes events. Throws std::runtime_error.
    std::unique_ptr<nx::telemetry::Recorder>
    makeRecorder() const;
    void
    recordError(nixl_status_t status) const noexcept;
    /// Records the bytes of a whole list.
    void
    record(nixl_telemetry_event_type_t type, const nixl_reg_dlist_t &descs) const noexcept;

    // backends.cpp
    nx::Status
    createBackend(const nixl_backend_t &type, const nixl_b_params_t &params, nixlBackendH *&handle);
    std::shared_ptr<nx::agent::Backend>
    backendOf(const nixlBackendH *handle) const;
    nixlBackendH *
    handleOf(const nx::agent::Backend &backend) const;
    /// The hinted backends in the hints' order, or all in the order of creation.
    nx::Result<nx::agent::Backends>
    candidates(const nixl_opt_args_t *args) const;

    // registration.cpp
    nx::Status
    registerMem(const nixl_reg_dlist_t &descs, const nixl_opt_args_t *args);
    nx::Status
    deregisterMem(const nixl_reg_dlist_t &descs, const nixl_opt_args_t *args);
    nx::Status
    queryMem(const nixl_reg_dlist_t &descs, std::vector<nixl_query_resp_t> &resp, const nixl_opt_args_t *args) const;

    // connections.cpp
    nx::Status
    loadRemote(std::string_view blob, std::string &agent_name);
    nx::Status
    loadRemote(const nx::wire::Metadata &metadata);
    static nx::Result<nx::wire::Metadata>
    decodeRemote(std::string_view blob);
    nx::Status
    invalidateRemote(const std::string &agent);
    /// Nothing is done if the agent is known by another start, or not at all.
    void
    invalidateStart(const std::string &agent, const nx::wire::Incarnation &start);
    nx::Status
    makeConnection(const std::string &agent, const nixl_opt_args_t *args);
    std::shared_ptr<nx::agent::Peer>
    findPeer(const std::string &agent) const;
    /// A backend lost the connection: forgets this start of the peer, if that has not happened yet.
    void
    peerLost(const std::shared_ptr<nx::agent::Peer> &peer) const;

    // metadata.cpp
    nx::Result<std::string>
    localMetadata() const;
    /// The same as one blob for all who send it, made anew when backends or registrations have changed.
    nx::Result<nx::metadata::Blob>
    publishedMetadata();
    nx::Result<std::string>
    localPartialMetadata(const nixl_reg_dlist_t &descs, const nixl_opt_args_t *args) const;
    /// Does not wait. If it says no, the peer's metadata may be fetched again behind it.
    bool
    remoteResolves(const std::string &agent, const nixl_xfer_dlist_t &descs);
    /// Begins to fetch a peer's metadata once more, if it is known where and the last time was not just now.
    void
    beginRefetch(const std::shared_ptr<nx::agent::Peer> &peer);
    /// attempt(lacking) puts into `lacking` the peer of whom a range is not known. Then it gets a second chance with
    /// metadata that is newer, if there is any. Holds no lock while it waits.
    template<class Attempt>
    nx::Status
    withFreshMetadata(Attempt attempt) {
        std::shared_ptr<nx::agent::Peer> lacking;
        auto status = attempt(lacking);
        if (status.ok() || !lacking) return status;
        beginRefetch(lacking);
        const auto told = lacking->origin.wait();
        if (told.look_again) {
            lacking = nullptr;
            status = attempt(lacking);
            if (status.ok() || !lacking) return status;
        }
        return {status.code(), status.message() + "; " + told.sentence};
    }
    /// Throws std::runtime_error if it cannot.
    void
    listen(uint16_t port);
    /// These go to the listener at the address in `args`, without one to the directory that NIXL_DIRECTORY names.
    /// NOT_SUPPORTED: there is neither.
    nx::Status
    sendLocal(const nixl_opt_args_t *args);
    nx::Status
    sendLocalPartial(const nixl_reg_dlist_t &descs, const nixl_opt_args_t *args);
    nx::Status
    fetchRemote(const std::string &agent, const nixl_opt_args_t *args);
    nx::Status
    invalidateLocal(const nixl_opt_args_t *args);
    nx::Status
    waitMetadata(std::chrono::milliseconds timeout, const nixl_opt_args_t *args);

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
    nixl_status_t
    telemetry(const nixlXferReqH *handle, nixl_xfer_telem_t &out);
    nx::Status
    release(nixlXferReqH *handle);
    nx::Status
    drop(nixlXferReqH *handle);
    nx::Status
    setLimits(const nixlXferReqH *handle, const nixlx::Limits &limits);
    /// Frees dropped requests that have become quiet.
    void
    reapDropped();
    /// Does for the requests in flight what asking for their status would do; how soon to come again.
    std::optional<std::chrono::milliseconds>
    lookAfterRequests() noexcept;
    nx::HandleTable<nx::agent::TransferRequest>::Pin
    findRequest(const nixlXferReqH *handle);

    // memory_views.cpp
    nx::Status
    prepRemoteView(const nixl_remote_dlist_t &descs, nixlMemViewH &view, const nixl_opt_args_t *args);
    nx::Status
    prepLocalView(const nixl_local_dlist_t &descs, nixlMemViewH &view, const nixl_opt_args_t *args);
    void
    releaseView(nixlMemViewH view);

    // notifications.cpp
    nx::Status
    getNotifs(nixl_notifs_t &notifs, const nixl_opt_args_t *args);
    nx::Status
    genNotif(const std::string &agent, const std::string &message, const nixl_opt_args_t *args);

    // Constant after construction:
    const std::string name;
    const nixlAgentConfig config;
    const nx::wire::Incarnation incarnation;
    const uint64_t fork_generation;
    const bool measures;                         ///< telemetry was asked for: every transfer is timed
    const std::chrono::milliseconds stall_limit; ///< of new requests
    const nx::agent::PeerLimits peer_limits;

    // Self-synchronised:
    nx::Snapshot<nx::agent::Local> local_state; ///< replaced under local_mutex
    nx::agent::Epoch epoch{0};
    mutable nx::HandleTable<std::shared_ptr<nx::agent::Backend>> backend_handles{1};
    nx::HandleTable<nx::agent::PreparedList> lists{2};
    mutable nx::HandleTable<nx::agent::TransferRequest> requests{3};
    nx::agent::Watcher watcher; ///< stopped without progress thread: then nothing moves while nobody asks

    nx::Mutex creation_mutex NX_ACQUIRED_BEFORE(local_mutex); ///< held while a backend is created

    mutable nx::Mutex local_mutex;
    std::vector<uint64_t> backend_tokens NX_GUARDED_BY(local_mutex); ///< by order

    mutable nx::Mutex peers_mutex NX_ACQUIRED_BEFORE(local_mutex);
    mutable nx::Snapshot<nx::agent::PeerMap> peers;            ///< replaced under peers_mutex
    mutable size_t peers_bytes NX_GUARDED_BY(peers_mutex) = 0; ///< what is held of all of them

    // Each is taken last:
    nx::Mutex exchange_mutex, published_mutex, dropped_mutex, views_mutex;
    /// Each is made when it is first needed.
    std::unique_ptr<nx::metadata::Exchange> exchange NX_GUARDED_BY(exchange_mutex);
    std::unique_ptr<nx::metadata::DirectoryClient> directory NX_GUARDED_BY(exchange_mutex);
    uint16_t listen_port = 0; ///< constant after construction; 0: not listening
    struct {
        nx::metadata::Blob blob;
        std::weak_ptr<const nx::agent::Local> made_of;
    } published NX_GUARDED_BY(published_mutex);
    /// Tokens of requests whose owners gave them away.
    std::vector<uint64_t> dropped NX_GUARDED_BY(dropped_mutex);
    std::atomic<size_t> dropped_count{0};
    std::unordered_map<nixlMemViewH, std::shared_ptr<nx::agent::Backend>> views NX_GUARDED_BY(views_mutex);

    /// Null if nobody takes events. Last: its thread looks at the backends.
    const std::unique_ptr<nx::telemetry::Recorder> recorder;

private:
    /// Ends a call that meets a failure which was told and logged before: the caller still gets its sentence.
    nixl_status_t
    repeatFailure(const char *call, const nx::agent::TransferRequest &request, nixl_status_t status) const;
    nx::Status
    registerWith(const std::shared_ptr<nx::agent::Backend> &backend,
                 const nixl_reg_dlist_t &descs,
                 std::vector<std::shared_ptr<nx::memory::Window>> &windows);
    /// Leaves memory that was removed to the requests that use it, until they do not; no other uses it any more.
    /// Returns those that are posted on it. `peer`: whose it is; null: this agent's.
    std::vector<nx::HandleTable<nx::agent::TransferRequest>::Pin>
    leaveToUsers(const std::shared_ptr<const nx::memory::RemovedWindows> &removed, const nx::agent::Peer *peer) const;
    void
    commitWindows(nixl_mem_t memory, size_t order, std::vector<std::shared_ptr<nx::memory::Window>> windows);
    nx::Result<nx::metadata::Exchange *>
    startedExchange();
    nx::Result<nx::metadata::DirectoryClient *>
    startedDirectory();
    void
    forgetPeerLocked(const std::shared_ptr<nx::agent::Peer> &peer) const NX_REQUIRES(peers_mutex);
    nx::Status
    loadLocked(const nx::wire::Metadata &metadata) NX_REQUIRES(peers_mutex);
    void
    commitLocked(const nx::agent::LoadPlan &plan, nx::agent::Sections loaded) NX_REQUIRES(peers_mutex);
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
               std::shared_ptr<nx::agent::Peer> &lacking);
    nx::Status
    prepRemoteViewOnce(const nixl_remote_dlist_t &descs,
                       nixlMemViewH &view,
                       const nixl_opt_args_t *args,
                       std::shared_ptr<nx::agent::Peer> &lacking);
    nx::Status
    finishRequest(nx::agent::TransferRequest::Parts parts, nixlXferReqH *&handle, const nixl_opt_args_t *args);
};

namespace nx::agent {

/// What NIXL_TELEMETRY_ENABLE says, else the configuration. Throws std::runtime_error if it says nonsense.
bool
telemetryWanted(const nixlAgentConfig &config);

/// The message asked for in `args`: in its preferred form or its older one.
std::optional<std::string>
requestedNotification(const nixl_opt_args_t *args);

/// INVALID_PARAM: it is longer than any may be.
Status
checkNotification(const std::optional<nixl_blob_t> &notification);

} // namespace nx::agent
