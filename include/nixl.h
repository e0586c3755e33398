// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The agent: one per process part that moves data. It owns backends, registered memory, what is known of peers, and
// requests. Every method may be called from any thread. A call that fails changes nothing, writes no out-parameter
// (but a null handle of a list or request) and leaves its sentence in nixlx::lastError(). Handles are checked tokens: a
// stale, foreign or doubled one is an error status, never undefined behaviour. All handles end with the agent.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nixl_descriptors.h"
#include "nixl_params.h"
#include "nixl_types.h"
#include "nixlx/limits.h"
#include "nixlx/report.h"

#pragma GCC visibility push(default)

class nixlAgent {
private:
    std::unique_ptr<nixlAgentData> data;

public:
    /// Throws std::invalid_argument for an empty name or a name longer than 4096 bytes, std::runtime_error for a
    /// broken configuration (file, listener, telemetry, stall limit).
    nixlAgent(const std::string &name, const nixlAgentConfig &cfg);

    /// Cancels what is in flight, waits for it up to the shutdown limit (1 s), then drops the connections of what is
    /// not quiet, and deregisters what is left.
    ~nixlAgent();

    nixlAgent(const nixlAgent &) = delete;
    nixlAgent(nixlAgent &&) = delete;
    nixlAgent &
    operator=(const nixlAgent &) = delete;
    nixlAgent &
    operator=(nixlAgent &&) = delete;

    // ---- Backends ------------------------------------------------------------------------------------------------

    /// Names of all plugins found or built in, in no order.
    nixl_status_t
    getAvailPlugins(std::vector<nixl_backend_t> &plugins);

    /// Memory kinds and options a plugin advertises. NOT_FOUND: no such plugin.
    nixl_status_t
    getPluginParams(const nixl_backend_t &type, nixl_mem_list_t &mems, nixl_b_params_t &params) const;

    /// Memory kinds an instantiated backend really has, and the parameters it was created with.
    nixl_status_t
    getBackendParams(const nixlBackendH *backend, nixl_mem_list_t &mems, nixl_b_params_t &params) const;

    /// Creates the backend `type`, at most one of each. INVALID_PARAM: exists already; NOT_ALLOWED: conflicts with
    /// one that exists; NOT_FOUND: no plugin of this name; BACKEND: the plugin refused (sentence says why).
    nixl_status_t
    createBackend(const nixl_backend_t &type, const nixl_b_params_t &params, nixlBackendH *&backend);

    // ---- Registration --------------------------------------------------------------------------------------------

    /// Registers every descriptor with each candidate backend, all or nothing per backend. SUCCESS if at least one
    /// backend took the list. NOT_FOUND: no backend for this kind of memory; BACKEND: all refused. Memory must stay
    /// valid until deregistered. Ranges may nest, overlap, repeat and touch.
    nixl_status_t
    registerMem(const nixl_reg_dlist_t &descs, const nixl_opt_args_t *extra_params = nullptr);

    /// Each descriptor must equal a registered one (address, length, device id); otherwise NOT_FOUND and that
    /// backend keeps all. A range registered twice needs two calls. A barrier: requests of this agent that run on the
    /// memory are cancelled and waited for, peers that copy by themselves shut out; on SUCCESS it may be freed.
    /// REPOST_ACTIVE, after the settle guard (150 ms): it is deregistered, but a request did not become quiet; free it
    /// when that request's status is final. Or a peer stands still within a copy, as the sentence says: it is still
    /// registered, for all its peers; deregister it again when that peer goes on or ends.
    nixl_status_t
    deregisterMem(const nixl_reg_dlist_t &descs, const nixl_opt_args_t *extra_params = nullptr);

    /// Asks one backend about files or objects: per element a map of properties, or nothing if absent.
    /// Exactly one backend must be given in `extra_params`.
    nixl_status_t
    queryMem(const nixl_reg_dlist_t &descs,
             std::vector<nixl_query_resp_t> &resp,
             const nixl_opt_args_t *extra_params) const;

    // ---- Connections and transfers -------------------------------------------------------------------------------

    /// Connects now instead of on first use. NOT_FOUND: metadata of `remote_agent` is not loaded.
    nixl_status_t
    makeConnection(const std::string &remote_agent, const nixl_opt_args_t *extra_params = nullptr);

    /// Resolves a list once for many requests. `agent_name`: "" for local memory, a peer or the own name for the
    /// remote side. The handle refers to the memory and peer as known now; once one of them goes, requests made from
    /// it fail with NOT_FOUND.
    nixl_status_t
    prepXferDlist(const std::string &agent_name,
                  const nixl_xfer_dlist_t &descs,
                  nixlDlistH *&dlist_hndl,
                  const nixl_opt_args_t *extra_params = nullptr) const;
    nixl_status_t
    prepXferDlist(const nixl_xfer_dlist_t &descs,
                  nixlDlistH *&dlist_hndl,
                  const nixl_opt_args_t *extra_params = nullptr) const;
    nixl_status_t
    prepXferDlist(const std::string &agent_name,
                  const nixlDescList<nixlStrideDesc> &descs,
                  nixlDlistH *&dlist_hndl,
                  const nixl_opt_args_t *extra_params = nullptr) const;
    nixl_status_t
    prepXferDlist(const nixlDescList<nixlStrideDesc> &descs,
                  nixlDlistH *&dlist_hndl,
                  const nixl_opt_args_t *extra_params = nullptr) const;

    /// Makes a request from two prepared lists: element local_indices[i] with element remote_indices[i]. The lists
    /// may be released before the request. INVALID_PARAM: handles, sides, index counts, an index out of range or a
    /// length that differs.
    nixl_status_t
    makeXferReq(const nixl_xfer_op_t &operation,
                const nixlDlistH *local_side,
                const std::vector<int> &local_indices,
                const nixlDlistH *remote_side,
                const std::vector<int> &remote_indices,
                nixlXferReqH *&req_hndl,
                const nixl_opt_args_t *extra_params = nullptr) const;
    nixl_status_t
    makeXferReq(nixl_xfer_op_t operation,
                const nixlDlistH &local_side,
                std::span<const int> local_indices,
                const nixlDlistH &remote_side,
                std::span<const int> remote_indices,
                nixlXferReqH *&req_hndl,
                const nixl_opt_args_t *extra_params = nullptr) const;

    /// Makes a request from two lists of equal count and lengths. The own name, or none, for memory and stores of one's
    /// own.
    nixl_status_t
    createXferReq(const nixl_xfer_op_t &operation,
                  const nixl_xfer_dlist_t &local_descs,
                  const nixl_xfer_dlist_t &remote_descs,
                  const std::string &remote_agent,
                  nixlXferReqH *&req_hndl,
                  const nixl_opt_args_t *extra_params = nullptr) const;

    nixl_status_t
    estimateXferCost(const nixlXferReqH *req_hndl,
                     std::chrono::microseconds &duration,
                     std::chrono::microseconds &err_margin,
                     nixl_cost_t &method,
                     const nixl_opt_args_t *extra_params = nullptr) const;

    /// Starts the request, or starts it again after it ended. SUCCESS: done already; IN_PROG: poll getXferStatus.
    /// REPOST_ACTIVE: still running. `extra_params` with a notification replaces the stored one; without one it
    /// clears it; null keeps it.
    nixl_status_t
    postXferReq(nixlXferReqH *req_hndl, const nixl_opt_args_t *extra_params = nullptr) const;

    /// NOT_POSTED, IN_PROG, SUCCESS or why it failed. A final status means nobody touches the buffers any more.
    nixl_status_t
    getXferStatus(nixlXferReqH *req_hndl) const;

    nixl_status_t
    getXferTelemetry(const nixlXferReqH *req_hndl, nixl_xfer_telem_t &telemetry) const;

    nixl_status_t
    queryXferBackend(const nixlXferReqH *req_hndl, nixlBackendH *&backend) const;

    /// Cancels if running and waits for quiet buffers up to the settle guard (150 ms), then forces a request that is
    /// past one of its limits (setXferLimits) and waits as long again. REPOST_ACTIVE: not quiet yet, the handle stays
    /// valid.
    nixl_status_t
    releaseXferReq(nixlXferReqH *req_hndl) const;

    nixl_status_t
    prepMemView(const nixl_remote_dlist_t &descs,
                nixlMemViewH &mvh,
                const nixl_opt_args_t *extra_params = nullptr) const;
    nixl_status_t
    prepMemView(const nixl_local_dlist_t &descs,
                nixlMemViewH &mvh,
                const nixl_opt_args_t *extra_params = nullptr) const;
    void
    releaseMemView(nixlMemViewH mvh) const;

    /// (sic) Releases a prepared list.
    nixl_status_t
    releasedDlistH(nixlDlistH *dlist_hndl) const;

    // ---- Notifications -------------------------------------------------------------------------------------------

    /// Appends what arrived since the last call, by sender. Also makes progress when there is no progress thread.
    nixl_status_t
    getNotifs(nixl_notifs_t &notif_map, const nixl_opt_args_t *extra_params = nullptr);

    /// Sends a message that is not ordered with any transfer.
    nixl_status_t
    genNotif(const std::string &remote_agent,
             const nixl_blob_t &msg,
             const nixl_opt_args_t *extra_params = nullptr) const;

    // ---- Metadata ------------------------------------------------------------------------------------------------

    /// Everything a peer needs: how to connect and what is registered.
    nixl_status_t
    getLocalMD(nixl_blob_t &str) const;

    nixl_status_t
    getLocalPartialMD(const nixl_reg_dlist_t &descs,
                      nixl_blob_t &str,
                      const nixl_opt_args_t *extra_params = nullptr) const;

    /// Decodes and validates fully, then takes over; a bad blob changes nothing. Loading again adds what is new.
    /// MISMATCH: not metadata; NOT_ALLOWED: other connection info or keys than loaded before; BACKEND: no backend in
    /// common; INVALID_PARAM: the agent's own blob.
    nixl_status_t
    loadRemoteMD(const nixl_blob_t &remote_metadata, std::string &agent_name);

    nixl_status_t
    invalidateRemoteMD(const std::string &remote_agent);

    // The next four talk to the agent that listens at `extra_params`' ipAddr (numeric IPv4 or IPv6, or a host name) and
    // port, whether this agent listens or not. They return when the message is made; it is delivered behind the
    // caller's back, over one connection per address and in the calls' order. SUCCESS therefore promises nothing about
    // the peer: ask waitMetadata(), or poll checkRemoteMD(). A failure that comes later is logged once.
    // INVALID_PARAM: no address or port; NOT_SUPPORTED: no ipAddr (there is no metadata store yet).

    /// Sends getLocalMD(); the peer loads it. Fails as getLocalMD() does.
    nixl_status_t
    sendLocalMD(const nixl_opt_args_t *extra_params = nullptr) const;

    /// Sends getLocalPartialMD(); the peer loads it. Fails as getLocalPartialMD() does.
    nixl_status_t
    sendLocalPartialMD(const nixl_reg_dlist_t &descs, const nixl_opt_args_t *extra_params = nullptr) const;

    /// Asks the peer for its getLocalMD() and loads what comes, whosever it is.
    nixl_status_t
    fetchRemoteMD(const std::string remote_name, const nixl_opt_args_t *extra_params = nullptr);

    /// Tells the peer to forget this agent.
    nixl_status_t
    invalidateLocalMD(const nixl_opt_args_t *extra_params = nullptr) const;

    /// SUCCESS when the peer is known and one backend resolves all of `descs`; NOT_FOUND otherwise.
    nixl_status_t
    checkRemoteMD(const std::string remote_name, const nixl_xfer_dlist_t &descs) const;

    // ---- Beyond NIXL 1.4 -----------------------------------------------------------------------------------------

    /// What is known of a request: which backend and path, why it was chosen, bytes, attempts, the error's sentence.
    nixl_status_t
    getXferReport(const nixlXferReqH *req_hndl, nixlx::Report &report) const;

    /// Sets how long each later post of the request may take. When a limit passes the request is cancelled and ends
    /// with TIMEOUT once its buffers are quiet. If they are not within the settle guard (150 ms), the connection to the
    /// peer is dropped where the backend can do that and nothing moves on it (for 3 s, if other requests to the peer
    /// are in flight): the peer is lost then and can be loaded again. Noticed without any call if the agent has
    /// useProgThread, otherwise by getXferStatus, postXferReq, releaseXferReq and deregisterMem; of the time between
    /// two of them at most a quarter of the stall limit counts towards it. INVALID_PARAM: no request of this agent, or
    /// a limit that is neither Limits::kNone nor from 1 ms to 24 h; REPOST_ACTIVE: it is running. Without effect on a
    /// backend that cannot tell how far it is: the stall limit.
    nixl_status_t
    setXferLimits(const nixlXferReqH *req_hndl, const nixlx::Limits &limits) const;

    /// Asks a running request to end and returns at once: it ends with CANCELED when its buffers are quiet, or with
    /// SUCCESS if it finished first. No effect on one that does not run. INVALID_PARAM: no request of this agent.
    nixl_status_t
    cancelXferReq(nixlXferReqH *req_hndl) const;

    /// Gives the handle away: it becomes invalid at once, a running transfer is cancelled and its memory stays
    /// registered until it is quiet. For owners that cannot wait, such as a garbage collector. SUCCESS or
    /// INVALID_PARAM.
    nixl_status_t
    dropXferReq(nixlXferReqH *req_hndl) const;

    /// Waits until every metadata call made before (with an ipAddr in `extra_params`: every one to that address) has an
    /// outcome, at most `timeout`. SUCCESS: metadata was loaded here, or loaded there (an agent of NIXL 1.4 does not
    /// say so: then delivered), or the peer was told to forget. IN_PROG: not yet. Otherwise the first failure nobody
    /// has asked for yet: NOT_FOUND (nobody listens there, no such host, nothing to publish), TIMEOUT,
    /// REMOTE_DISCONNECT, MISMATCH (another agent answered than was asked for), or what loading answered.
    nixl_status_t
    waitMetadata(std::chrono::milliseconds timeout, const nixl_opt_args_t *extra_params = nullptr) const;

    // Waiting without polling. A timeout that is nothing is for ever; 0, or less, looks once. The end of a wait's own
    // time is IN_PROG, so that it is not taken for a request that ended with TIMEOUT. Any number of threads may wait at
    // once, for the same or for other things. Who waits sleeps, and is woken when something happens; only for backends
    // written for NIXL 1.4 it looks again and again, every 5 ms at last. Limits of requests are kept meanwhile, and
    // without progress thread who waits makes the progress. The agent must not be destroyed while somebody waits.

    /// Waits until the request does not run any more, and returns what getXferStatus would. Released or dropped
    /// meanwhile: INVALID_PARAM, or the status with which that ended it.
    nixl_status_t
    waitXfer(nixlXferReqH *req_hndl, std::optional<std::chrono::microseconds> timeout = std::nullopt) const;

    /// Waits until at least one of the requests does not run. SUCCESS: `which` has the positions of all of these, in
    /// order; how each has ended is for getXferStatus to say. INVALID_PARAM: there are none, or one of them is no
    /// request of this agent, or not any more.
    nixl_status_t
    waitAny(std::span<nixlXferReqH *const> req_hndls,
            std::optional<std::chrono::microseconds> timeout,
            std::vector<size_t> &which) const;

    /// Waits until getNotifs has something, and appends that. Where several threads wait, one of them gets it. Fails as
    /// getNotifs does.
    nixl_status_t
    waitNotifs(nixl_notifs_t &notif_map,
               std::optional<std::chrono::microseconds> timeout = std::nullopt,
               const nixl_opt_args_t *extra_params = nullptr);

    /// A descriptor for the program's own event loop: always the same one, close-on-exec, the agent's until its end.
    /// The program polls it for reading, level-triggered, and does nothing else with it. While it is readable something
    /// may have happened: the program looks at all it waits for (getXferStatus, waitAny with no time, getNotifs), and
    /// then calls eventFd again. That call alone makes it unreadable, unless something has happened since the call
    /// before it; without one it stays readable. Without progress thread these looks and this call make the progress,
    /// and it is also readable when the limit of a request has to be looked after. One loop at a time; other threads
    /// may wait meanwhile. BACKEND: the system refuses descriptors.
    nixl_status_t
    eventFd(int &fd);

    /// Port on which this agent listens for metadata. NOT_FOUND: it does not listen.
    nixl_status_t
    getListenPort(uint16_t &port) const;

    /// Name of the option of a plugin that plays `role`, whatever the plugin calls it, for createBackend. The one role
    /// so far is "threads": how many of its own move data. Empty: it has no such option, or was written for NIXL 1.4,
    /// whose options have no roles. NOT_FOUND: no such plugin; BACKEND: it cannot be used.
    nixl_status_t
    getPluginOption(const nixl_backend_t &type, const std::string &role, std::string &option) const;

    /// Name of a backend of this agent; INVALID_PARAM for a handle that is not one.
    nixl_status_t
    getBackendType(const nixlBackendH *backend, nixl_backend_t &type) const;
};

#pragma GCC visibility pop
