// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The public face: every method checks for a fork, calls the concept's own code, reports the outcome once.
#include "nixl.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdexcept>
#include <sys/random.h>

#include "agent/agent_state.h"
#include "agent/chosen_store.h"
#include "base/config.h"
#include "base/last_error.h"
#include "plugin/manager.h"
#include "utils/common/nixl_log.h"

using nx::Status;

namespace {

constexpr size_t kNameMax = 4096;
constexpr std::string_view kLocalSideName = "NIXL_INIT_AGENT"; // to the Python API, as "" is
constexpr std::chrono::seconds kShutdownLimit{1};

// Counts forks on the child's side, so that a child finds out that an agent is not its own.
std::atomic<uint64_t> fork_count{0};

uint64_t
forkGeneration() {
    static const int registered = pthread_atfork(nullptr, nullptr, [] { fork_count.fetch_add(1); });
    (void)registered;
    return fork_count.load();
}

nx::wire::Incarnation
randomIncarnation() {
    nx::wire::Incarnation bytes{};
    if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
        throw std::runtime_error(nx::withErrno("agent: getrandom", errno));
    }
    return bytes;
}

// "none" or 0: no limit.
std::chrono::milliseconds
stallLimit() {
    const std::string name = "NIXL_STALL_LIMIT_MS";
    const auto text = nx::configString(name);
    if (!text.ok()) throw std::runtime_error("agent: " + text.message());
    if (!*text) return nx::agent::kStallLimit;
    const auto number = **text == "none" ? 0 : nx::parseUnsigned(**text);
    if (!number || *number > static_cast<uint64_t>(nx::agent::kLimitMax.count())) {
        throw std::runtime_error("agent: " + name + " is " + nx::quoted(**text) +
                                 ", which is neither a number of milliseconds up to 24 h nor none");
    }
    return *number == 0 ? nixlx::Limits::kNone : std::chrono::milliseconds(*number);
}

} // namespace

nixlAgentData::nixlAgentData(const std::string &agent_name,
                             const nixlAgentConfig &agent_config,
                             const nx::agent::PeerLimits &peer_limits)
    : name(agent_name),
      config(agent_config),
      incarnation(randomIncarnation()),
      fork_generation(forkGeneration()),
      measures(nx::agent::telemetryWanted(agent_config)),
      stall_limit(stallLimit()),
      credentials(name),
      backends(name, config),
      waiting(
          backends,
          config.useProgThread ? nx::agent::Waiting::Drive() : [this] { return requests.look(); }),
      staging(name, config.useProgThread, waiting),
      requests(
          name,
          config.useProgThread,
          waiting,
          [this](nixl_status_t status, const std::string &sentence) {
              (void)finish("getXferStatus", status, sentence);
          },
          [this] { peers.forgetLost(); }),
      registrations(name, backends, requests),
      peers(name, incarnation, peer_limits, credentials, backends, requests),
      views(name, backends, registrations, peers),
      local_metadata(name, incarnation, credentials, backends, registrations),
      exchange(name, incarnation, config.etcdWatchTimeout, credentials, backends, peers, local_metadata),
      recorder(makeRecorder()) {}

nixlAgentData::~nixlAgentData() {
    const auto deadline = std::chrono::steady_clock::now() + kShutdownLimit;
    requests.stopWatching();
    exchange.stop(); // early: it calls into the rest
    requests.settle(deadline);
    staging.stop();
    views.clear();
    const auto created = backends.all();
    for (const auto &backend : *created) { // first: a peer is told of the end, not of memory that is gone
        (void)backend->call("endBy", [&](auto &engine) { engine.endBy(deadline); });
    }
    registrations.clear();
    peers.forgetAll();
    requests.clear();
    lists.forEach([&](uint64_t token) { lists.remove(token); });
}

nixl_status_t
nixlAgentData::enter() const noexcept {
    if (fork_generation == fork_count.load(std::memory_order_relaxed)) [[likely]]
        return NIXL_SUCCESS;
    nx::setLastError("the agent was created by a parent process; create one in this process");
    return NIXL_ERR_FORKED;
}

nixl_status_t
nixlAgentData::finish(const char *call,
                      nixl_status_t status,
                      const std::string &sentence,
                      nx::agent::Polled polled) const noexcept {
    if (status >= 0) [[likely]]
        return status;
    recordError(status);
    const bool expected = status == NIXL_ERR_REPOST_ACTIVE || status == NIXL_ERR_CANCELED ||
        (status == NIXL_ERR_NOT_FOUND && polled == nx::agent::Polled::kYes);
    try {
        std::string whole = std::string(call) + ": " + sentence;
        const std::string line =
            whole + " (" + nixlEnumStrings::statusStr(status) + ", agent " + nx::quoted(name) + ")";
        if (expected) {
            NIXL_INFO << line;
        } else {
            NIXL_ERROR << line;
        }
        nx::setLastError(std::move(whole));
    }
    catch (const std::exception &) {
        nx::setLastError({}); // out of memory for a sentence
    }
    return status;
}

namespace {

// Runs one API call that reports its outcome itself. Exceptions (memory, code of plugins) become statuses here and
// nowhere else; peers that backends have lost meanwhile are forgotten.
template<class Body>
nixl_status_t
contained(nixlAgentData &data, const char *what, Body body) {
    if (const auto status = data.enter(); status != NIXL_SUCCESS) return status;
    try {
        const auto status = body();
        data.peers.forgetLost();
        return status;
    }
    catch (const std::bad_alloc &) {
        return data.finish(what, NIXL_ERR_NO_MEMORY, "out of memory");
    }
    catch (const std::exception &e) {
        return data.finish(what, NIXL_ERR_UNKNOWN, std::string("unexpected exception: ") + e.what());
    }
    catch (...) {
        return data.finish(what, NIXL_ERR_BACKEND, "a plugin threw something that is no std::exception");
    }
}

template<class Body>
nixl_status_t
call(nixlAgentData &data, const char *what, Body body, nx::agent::Polled polled = nx::agent::Polled::kNo) {
    return contained(data, what, [&] {
        const Status status = body();
        return data.finish(what, status.code(), status.message(), polled);
    });
}

/// call() with the request that the handle means.
template<class Body>
nixl_status_t
requestCall(nixlAgentData &data, const char *what, const nixlXferReqH *handle, Body body) {
    return call(data, what, [&]() -> Status {
        const auto request = data.requests.find(handle);
        if (!request) return nx::agent::noRequest();
        return body(*request);
    });
}

/// call() with the backend that the handle means.
template<class Body>
nixl_status_t
backendCall(nixlAgentData &data, const char *what, const nixlBackendH *handle, Body body) {
    return call(data, what, [&]() -> Status {
        const auto backend = data.backends.find(handle);
        if (!backend) return {NIXL_ERR_INVALID_PARAM, "the handle is no backend of this agent"};
        body(*backend);
        return {};
    });
}

/// call() that puts what it makes into `out`.
template<class T, class Body>
nixl_status_t
callInto(nixlAgentData &data, const char *what, T &out, Body body) {
    return call(data, what, [&]() -> Status {
        auto made = body();
        if (!made.ok()) return std::move(made).status();
        out = *std::move(made);
        return {};
    });
}

template<class Body>
nixl_status_t
polledCall(nixlAgentData &data, const char *what, Body body) {
    return call(data, what, std::move(body), nx::agent::Polled::kYes);
}

} // namespace

nixlAgent::nixlAgent(const std::string &name, const nixlAgentConfig &cfg) {
    if (name.empty()) throw std::invalid_argument("nixlAgent: the agent's name is empty");
    if (name.size() > kNameMax) {
        throw std::invalid_argument("nixlAgent: the agent's name has " + std::to_string(name.size()) +
                                    " bytes, more than " + std::to_string(kNameMax));
    }
    if (name == kLocalSideName) {
        throw std::invalid_argument("nixlAgent: the name " + nx::quoted(name) +
                                    " means \"the local side\" in lists of descriptors, so no peer could name this "
                                    "agent; give it another name");
    }
    const auto store = nx::agent::chosenStore(nx::plugin::Manager::instance().availableStores());
    if (!store.ok()) throw std::runtime_error("nixlAgent: " + store.message());
    data = std::make_unique<nixlAgentData>(name, cfg);
    if (!cfg.useListenThread) return;
    const auto port = data->exchange.listen(cfg.listenPort);
    if (!port.ok()) throw std::runtime_error("nixlAgent: MD listener: " + port.message());
    data->listen_port = *port;
    NIXL_INFO << "MD listener is listening on port " << *port;
}

nixlAgent::~nixlAgent() {
    // A forked child owns neither the threads nor the connections of its parent: it leaves everything alone.
    if (data->enter() != NIXL_SUCCESS) (void)data.release();
}

nixl_status_t
nixlAgent::getAvailPlugins(std::vector<nixl_backend_t> &plugins) {
    return call(*data, "getAvailPlugins", [&]() -> Status {
        plugins = nx::plugin::Manager::instance().available();
        return {};
    });
}

nixl_status_t
nixlAgent::getPluginParams(const nixl_backend_t &type, nixl_mem_list_t &mems, nixl_b_params_t &params) const {
    return call(*data, "getPluginParams", [&]() -> Status {
        auto plugin = nx::plugin::Manager::instance().load(type);
        if (!plugin.ok()) return {NIXL_ERR_NOT_FOUND, plugin.message()};
        auto plugin_mems = (*plugin)->memories();
        params = (*plugin)->options();
        mems = std::move(plugin_mems);
        return {};
    });
}

nixl_status_t
nixlAgent::getPluginOption(const nixl_backend_t &type, const std::string &role, std::string &option) const {
    return call(*data, "getPluginOption", [&]() -> Status {
        auto plugin = nx::plugin::Manager::instance().load(type);
        if (!plugin.ok()) return std::move(plugin).status();
        option = (*plugin)->optionFor(role);
        return {};
    });
}

nixl_status_t
nixlAgent::getBackendParams(const nixlBackendH *backend, nixl_mem_list_t &mems, nixl_b_params_t &params) const {
    return backendCall(*data, "getBackendParams", backend, [&](auto &found) {
        params = found.params();
        mems = found.memories();
    });
}

nixl_status_t
nixlAgent::createBackend(const nixl_backend_t &type, const nixl_b_params_t &params, nixlBackendH *&backend) {
    return call(*data, "createBackend", [&] {
        auto status = data->backends.create(type, params, data->recorder != nullptr, backend);
        if (status.ok()) {
            data->exchange.retry(); // peers may have been quicker than this agent
            data->waiting.changed();
        }
        return status;
    });
}

nixl_status_t
nixlAgent::registerMem(const nixl_reg_dlist_t &descs, const nixl_opt_args_t *extra_params) {
    const auto status = call(*data, "registerMem", [&] { return data->registrations.add(descs, extra_params); });
    if (status == NIXL_SUCCESS) data->record(nixl_telemetry_event_type_t::AGENT_MEMORY_REGISTERED, descs);
    return status;
}

nixl_status_t
nixlAgent::deregisterMem(const nixl_reg_dlist_t &descs, const nixl_opt_args_t *extra_params) {
    bool removed = false;
    const auto status =
        call(*data, "deregisterMem", [&] { return data->registrations.remove(descs, extra_params, removed); });
    if (removed) data->record(nixl_telemetry_event_type_t::AGENT_MEMORY_DEREGISTERED, descs);
    return status;
}

nixl_status_t
nixlAgent::queryMem(const nixl_reg_dlist_t &descs,
                    std::vector<nixl_query_resp_t> &resp,
                    const nixl_opt_args_t *extra_params) const {
    return call(*data, "queryMem", [&] { return data->registrations.query(descs, resp, extra_params); });
}

nixl_status_t
nixlAgent::makeConnection(const std::string &remote_agent, const nixl_opt_args_t *extra_params) {
    return polledCall(*data, "makeConnection", [&] { return data->peers.connect(remote_agent, extra_params); });
}

nixl_status_t
nixlAgent::prepXferDlist(const std::string &agent_name,
                         const nixl_xfer_dlist_t &descs,
                         nixlDlistH *&dlist_hndl,
                         const nixl_opt_args_t *extra_params) const {
    dlist_hndl = nullptr;
    return polledCall(*data, "prepXferDlist", [&] {
        return data->prepare<nixlBasicDesc>(agent_name.empty(), agent_name, descs.getType(),
                                            {descs.begin(), descs.end()}, dlist_hndl, extra_params);
    });
}

nixl_status_t
nixlAgent::prepXferDlist(const nixl_xfer_dlist_t &descs,
                         nixlDlistH *&dlist_hndl,
                         const nixl_opt_args_t *extra_params) const {
    return prepXferDlist(NIXL_INIT_AGENT, descs, dlist_hndl, extra_params);
}

nixl_status_t
nixlAgent::prepXferDlist(const std::string &agent_name,
                         const nixlDescList<nixlStrideDesc> &descs,
                         nixlDlistH *&dlist_hndl,
                         const nixl_opt_args_t *extra_params) const {
    dlist_hndl = nullptr;
    return polledCall(*data, "prepXferDlist", [&] {
        return data->prepare<nixlStrideDesc>(agent_name.empty(), agent_name, descs.getType(),
                                             {descs.begin(), descs.end()}, dlist_hndl, extra_params);
    });
}

nixl_status_t
nixlAgent::prepXferDlist(const nixlDescList<nixlStrideDesc> &descs,
                         nixlDlistH *&dlist_hndl,
                         const nixl_opt_args_t *extra_params) const {
    return prepXferDlist(NIXL_INIT_AGENT, descs, dlist_hndl, extra_params);
}

nixl_status_t
nixlAgent::makeXferReq(const nixl_xfer_op_t &operation,
                       const nixlDlistH *local_side,
                       const std::vector<int> &local_indices,
                       const nixlDlistH *remote_side,
                       const std::vector<int> &remote_indices,
                       nixlXferReqH *&req_hndl,
                       const nixl_opt_args_t *extra_params) const {
    req_hndl = nullptr;
    return call(*data, "makeXferReq", [&] {
        return data->makeRequest(operation, local_side, local_indices, remote_side, remote_indices, req_hndl,
                                 extra_params);
    });
}

nixl_status_t
nixlAgent::makeXferReq(nixl_xfer_op_t operation,
                       const nixlDlistH &local_side,
                       std::span<const int> local_indices,
                       const nixlDlistH &remote_side,
                       std::span<const int> remote_indices,
                       nixlXferReqH *&req_hndl,
                       const nixl_opt_args_t *extra_params) const {
    req_hndl = nullptr;
    return call(*data, "makeXferReq", [&] {
        return data->makeRequest(operation, &local_side, local_indices, &remote_side, remote_indices, req_hndl,
                                 extra_params);
    });
}

nixl_status_t
nixlAgent::createXferReq(const nixl_xfer_op_t &operation,
                         const nixl_xfer_dlist_t &local_descs,
                         const nixl_xfer_dlist_t &remote_descs,
                         const std::string &remote_agent,
                         nixlXferReqH *&req_hndl,
                         const nixl_opt_args_t *extra_params) const {
    req_hndl = nullptr;
    return polledCall(*data, "createXferReq", [&] {
        return data->createRequest(operation, local_descs, remote_descs, remote_agent, req_hndl, extra_params);
    });
}

nixl_status_t
nixlAgent::estimateXferCost(const nixlXferReqH *req_hndl,
                            std::chrono::microseconds &duration,
                            std::chrono::microseconds &err_margin,
                            nixl_cost_t &method,
                            const nixl_opt_args_t *extra_params) const {
    return requestCall(*data, "estimateXferCost", req_hndl, [&](auto &request) -> Status {
        if (request.peer() && !request.peer()->alive()) {
            return {NIXL_ERR_NOT_FOUND, "remote agent '" + request.peer()->name + "' is not loaded any more"};
        }
        const auto status = request.estimate(duration, err_margin, method, extra_params);
        if (status < 0) return {status, "backend " + request.backend()->type + " has no cost model"};
        return {};
    });
}

nixl_status_t
nixlAgent::postXferReq(nixlXferReqH *req_hndl, const nixl_opt_args_t *extra_params) const {
    return contained(*data, "postXferReq", [&] { return data->post(req_hndl, extra_params); });
}

nixl_status_t
nixlAgent::getXferStatus(nixlXferReqH *req_hndl) const {
    return contained(*data, "getXferStatus", [&] { return data->status(req_hndl); });
}

nixl_status_t
nixlAgent::getXferTelemetry(const nixlXferReqH *req_hndl, nixl_xfer_telem_t &telemetry) const {
    return contained(*data, "getXferTelemetry", [&] {
        if (data->measures) return data->telemetry(req_hndl, telemetry);
        return data->finish("getXferTelemetry", NIXL_ERR_NO_TELEMETRY,
                            "cannot return values when telemetry is not enabled (captureTelemetry in the agent's "
                            "configuration, or NIXL_TELEMETRY_ENABLE=yes)");
    });
}

nixl_status_t
nixlAgent::queryXferBackend(const nixlXferReqH *req_hndl, nixlBackendH *&backend) const {
    return requestCall(*data, "queryXferBackend", req_hndl, [&](auto &request) -> Status {
        backend = request.backend()->shown().handle;
        return {};
    });
}

nixl_status_t
nixlAgent::releaseXferReq(nixlXferReqH *req_hndl) const {
    return call(*data, "releaseXferReq", [&] { return data->requests.release(req_hndl); });
}

nixl_status_t
nixlAgent::prepMemView(const nixl_remote_dlist_t &descs, nixlMemViewH &mvh, const nixl_opt_args_t *extra_params) const {
    return call(*data, "prepMemView", [&] { return data->views.prepare(descs, mvh, extra_params); });
}

nixl_status_t
nixlAgent::prepMemView(const nixl_local_dlist_t &descs, nixlMemViewH &mvh, const nixl_opt_args_t *extra_params) const {
    return call(*data, "prepMemView", [&] { return data->views.prepare(descs, mvh, extra_params); });
}

void
nixlAgent::releaseMemView(nixlMemViewH mvh) const {
    (void)contained(*data, "releaseMemView", [&] {
        data->views.release(mvh);
        return NIXL_SUCCESS;
    });
}

nixl_status_t
nixlAgent::releasedDlistH(nixlDlistH *dlist_hndl) const {
    return call(*data, "releasedDlistH", [&]() -> Status {
        if (data->lists.remove(reinterpret_cast<uint64_t>(dlist_hndl))) return {};
        return {NIXL_ERR_INVALID_PARAM, "the handle is no prepared list of this agent"};
    });
}

nixl_status_t
nixlAgent::getNotifs(nixl_notifs_t &notif_map, const nixl_opt_args_t *extra_params) {
    return call(*data, "getNotifs", [&] { return data->getNotifs(notif_map, extra_params); });
}

nixl_status_t
nixlAgent::genNotif(const std::string &remote_agent, const nixl_blob_t &msg, const nixl_opt_args_t *args) const {
    return polledCall(*data, "genNotif", [&] { return data->genNotif(remote_agent, msg, args); });
}

nixl_status_t
nixlAgent::getLocalMD(nixl_blob_t &str) const {
    return callInto(*data, "getLocalMD", str, [&] { return data->local_metadata.whole(); });
}

nixl_status_t
nixlAgent::getLocalPartialMD(const nixl_reg_dlist_t &descs,
                             nixl_blob_t &str,
                             const nixl_opt_args_t *extra_params) const {
    return callInto(*data, "getLocalPartialMD", str, [&] { return data->local_metadata.part(descs, extra_params); });
}

nixl_status_t
nixlAgent::loadRemoteMD(const nixl_blob_t &remote_metadata, std::string &agent_name) {
    return call(*data, "loadRemoteMD", [&]() -> Status {
        auto metadata = data->peers.decode(remote_metadata);
        if (!metadata.ok()) {
            // A line of its own: programs count it beside the one that this call ends with.
            if (!nx::wire::startsAsMetadata(remote_metadata)) {
                NIXL_ERROR << "Deserialization failed, missing nixlSerDes tag";
            }
            return std::move(metadata).status();
        }
        auto status = data->peers.load(*metadata);
        if (status.ok()) agent_name = metadata->agent;
        return status;
    });
}

nixl_status_t
nixlAgent::invalidateRemoteMD(const std::string &remote_agent) {
    return polledCall(*data, "invalidateRemoteMD", [&] { return data->peers.forget(remote_agent); });
}

nixl_status_t
nixlAgent::sendLocalMD(const nixl_opt_args_t *extra_params) const {
    return call(*data, "sendLocalMD", [&] { return data->exchange.send(extra_params); });
}

nixl_status_t
nixlAgent::sendLocalPartialMD(const nixl_reg_dlist_t &descs, const nixl_opt_args_t *extra_params) const {
    return call(*data, "sendLocalPartialMD", [&] { return data->exchange.sendPart(descs, extra_params); });
}

nixl_status_t
nixlAgent::fetchRemoteMD(const std::string remote_name, const nixl_opt_args_t *extra_params) {
    return call(*data, "fetchRemoteMD", [&] { return data->exchange.fetch(remote_name, extra_params); });
}

nixl_status_t
nixlAgent::invalidateLocalMD(const nixl_opt_args_t *extra_params) const {
    return call(*data, "invalidateLocalMD", [&] { return data->exchange.withdraw(extra_params); });
}

nixl_status_t
nixlAgent::waitMetadata(std::chrono::milliseconds timeout, const nixl_opt_args_t *extra_params) const {
    return contained(*data, "waitMetadata", [&] {
        const auto outcome = data->exchange.wait(timeout, extra_params);
        // It was logged when it happened.
        if (!outcome.ok()) nx::setLastError("waitMetadata: " + outcome.message());
        return outcome.code();
    });
}

nixl_status_t
nixlAgent::getListenPort(uint16_t &port) const {
    return call(*data, "getListenPort", [&]() -> Status {
        if (data->listen_port == 0) {
            return {NIXL_ERR_NOT_FOUND, "this agent does not listen; set useListenThread in its configuration"};
        }
        port = data->listen_port;
        return {};
    });
}

nixl_status_t
nixlAgent::checkRemoteMD(const std::string remote_name, const nixl_xfer_dlist_t &descs) const {
    return contained(*data, "checkRemoteMD",
                     [&] { return data->remoteResolves(remote_name, descs) ? NIXL_SUCCESS : NIXL_ERR_NOT_FOUND; });
}

nixl_status_t
nixlAgent::getXferReport(const nixlXferReqH *req_hndl, nixlx::Report &report) const {
    return requestCall(*data, "getXferReport", req_hndl, [&](auto &request) -> Status {
        report = request.report();
        return {};
    });
}

nixl_status_t
nixlAgent::setXferLimits(const nixlXferReqH *req_hndl, const nixlx::Limits &limits) const {
    return call(*data, "setXferLimits", [&] { return data->requests.setLimits(req_hndl, limits); });
}

nixl_status_t
nixlAgent::cancelXferReq(nixlXferReqH *req_hndl) const {
    return requestCall(*data, "cancelXferReq", req_hndl, [](auto &request) -> Status {
        request.cancel();
        return {};
    });
}

nixl_status_t
nixlAgent::dropXferReq(nixlXferReqH *req_hndl) const {
    return call(*data, "dropXferReq", [&] { return data->requests.drop(req_hndl); });
}

nixl_status_t
nixlAgent::waitXfer(nixlXferReqH *req_hndl, std::optional<std::chrono::microseconds> timeout) const {
    return contained(*data, "waitXfer", [&] { return data->waitFor(req_hndl, timeout); });
}

nixl_status_t
nixlAgent::waitAny(std::span<nixlXferReqH *const> req_hndls,
                   std::optional<std::chrono::microseconds> timeout,
                   std::vector<size_t> &which) const {
    return call(*data, "waitAny", [&] { return data->waitForAny(req_hndls, timeout, which); });
}

nixl_status_t
nixlAgent::waitNotifs(nixl_notifs_t &notif_map,
                      std::optional<std::chrono::microseconds> timeout,
                      const nixl_opt_args_t *extra_params) {
    return call(*data, "waitNotifs", [&] { return data->waitForNotifs(notif_map, timeout, extra_params); });
}

nixl_status_t
nixlAgent::eventFd(int &fd) {
    return callInto(*data, "eventFd", fd, [&] { return data->waiting.serve(); });
}

nixl_status_t
nixlAgent::getBackendType(const nixlBackendH *backend, nixl_backend_t &type) const {
    return backendCall(*data, "getBackendType", backend, [&](auto &found) { type = found.type; });
}
