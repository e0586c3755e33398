// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "loopback/engine.h"

#include <new>

#include "wire/notification.h"

namespace nx::loopback {

namespace {

/// The status of a failed control call, its sentence left for the agent.
nixl_status_t
report(const Status &status) {
    return nixlx::fail(status.code(), status.message());
}

nixl_status_t
unknownPeer(const std::string &agent) {
    return nixlx::fail(NIXL_ERR_NOT_FOUND,
                       "agent " + quoted(agent) + " is not known to the loopback engine; load its metadata first");
}

/// An engine's functions do not throw. The sentence is short enough to need no memory.
template<class Body>
nixl_status_t
guarded(Body body) noexcept {
    try {
        return body();
    }
    catch (const std::bad_alloc &) {
        return nixlx::fail(NIXL_ERR_NO_MEMORY, "out of memory");
    }
}

/// A plan made of NIXL 1.4's two lists.
struct ListPlan {
    ListPlan(nixl_xfer_op_t operation,
             const nixl_meta_dlist_t &local,
             const nixl_meta_dlist_t &remote,
             const std::string &remote_agent)
        : agent(remote_agent),
          plan{operation, local.getType(), remote.getType(), agent, {}, {}, {}, 0, 0} {
        for (int i = 0; i < local.descCount(); ++i) {
            runs.push_back({local[i].addr, remote[i].addr, local[i].len, 0, 0, 1, segment(local_segments, local[i]),
                            segment(remote_segments, remote[i])});
            plan.total_bytes += local[i].len;
        }
        plan.block_count = runs.size();
        plan.local_segments = local_segments;
        plan.remote_segments = remote_segments;
        plan.runs = runs;
    }
    ListPlan(const ListPlan &) = delete;
    ListPlan &
    operator=(const ListPlan &) = delete;

    static uint32_t
    segment(std::vector<nixlx::Segment> &segments, const nixlMetaDesc &desc) {
        if (segments.empty() || segments.back().metadata != desc.metadataP) {
            segments.push_back({desc.metadataP, desc.devId});
        }
        return static_cast<uint32_t>(segments.size() - 1);
    }

    const std::string agent;
    std::vector<nixlx::Segment> local_segments;
    std::vector<nixlx::Segment> remote_segments;
    std::vector<nixlx::Run> runs;
    nixlx::Plan plan;
};

/// A transfer that brings its own plan. The plan is a base class so that it is there before the transfer and after.
class ListTransfer : private ListPlan, public Transfer {
public:
    ListTransfer(nixl_xfer_op_t operation,
                 const nixl_meta_dlist_t &local,
                 const nixl_meta_dlist_t &remote,
                 const std::string &sender,
                 std::shared_ptr<Endpoint> peer)
        : ListPlan(operation, local, remote, peer->agent()),
          Transfer(ListPlan::plan, sender, std::move(peer)) {}
};

Transfer &
transferOf(nixlBackendReqH *request) {
    return *static_cast<Transfer *>(request);
}

} // namespace

Engine::Engine(const nixlBackendInitParams *params)
    : nixlBackendEngine(params),
      process_(Process::instance()),
      endpoint_(process_->createEndpoint(localAgent)),
      progress_(params->enableProgTh ? std::make_unique<Progress>() : nullptr) {}

Engine::~Engine() {
    process_->removeEndpoint(*endpoint_);
    endpoint_->shutDown();
}

nixl_mem_list_t
Engine::getSupportedMems() const {
    return {DRAM_SEG, VRAM_SEG, BLK_SEG, OBJ_SEG, FILE_SEG};
}

// ---- Memory ------------------------------------------------------------------------------------------------------

nixl_status_t
Engine::registerMem(const nixlBlobDesc &mem, const nixl_mem_t &nixl_mem, nixlBackendMD *&out) {
    return guarded([&] {
        WindowKey key = windowKey(mem, nixl_mem, mem.metaInfo);
        if (key.length > UINT64_MAX - key.address) {
            return nixlx::fail(NIXL_ERR_INVALID_PARAM, toString(key) + " passes the end of the address space");
        }
        std::shared_ptr<Store> store = process_->openStore(key);
        out = new LocalMemory(endpoint_->open(std::move(key), std::move(store)));
        return NIXL_SUCCESS;
    });
}

nixl_status_t
Engine::deregisterMem(nixlBackendMD *meta) {
    const std::unique_ptr<LocalMemory> memory(static_cast<LocalMemory *>(meta));
    endpoint_->close(memory->window);
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::getPublicData(const nixlBackendMD *meta, std::string &data) const {
    data = static_cast<const LocalMemory *>(meta)->window->key().name;
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::loadLocalMD(nixlBackendMD *input, nixlBackendMD *&output) {
    return guarded([&] {
        output = new RemoteMemory(endpoint_, static_cast<LocalMemory *>(input)->window->key());
        return NIXL_SUCCESS;
    });
}

nixl_status_t
Engine::loadRemoteMD(const nixlBlobDesc &input,
                     const nixl_mem_t &nixl_mem,
                     const std::string &remote_agent,
                     nixlBackendMD *&output) {
    return guarded([&] {
        std::shared_ptr<Endpoint> peer = findPeer(remote_agent);
        if (!peer) return unknownPeer(remote_agent);
        output = new RemoteMemory(std::move(peer), windowKey(input, nixl_mem, input.metaInfo));
        return NIXL_SUCCESS;
    });
}

nixl_status_t
Engine::unloadMD(nixlBackendMD *input) {
    delete input;
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::queryMem(const nixl_reg_dlist_t &descs, std::vector<nixl_query_resp_t> &resp) const {
    if (!isStorage(descs.getType())) {
        return nixlx::fail(NIXL_ERR_NOT_SUPPORTED,
                           "the loopback engine answers queries about files, objects and blocks only");
    }
    std::vector<nixl_query_resp_t> found;
    for (const nixlBlobDesc &desc : descs) {
        const auto store = process_->findStore(windowKey(desc, descs.getType(), desc.metaInfo));
        found.push_back(store ? nixl_query_resp_t({{"size", std::to_string(store->size())}}) : std::nullopt);
    }
    resp = std::move(found);
    return NIXL_SUCCESS;
}

// ---- Peers -------------------------------------------------------------------------------------------------------

nixl_status_t
Engine::getConnInfo(std::string &info) const {
    info = process_->address(*endpoint_);
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::loadRemoteConnInfo(const std::string &remote_agent, const std::string &info) {
    Result<std::shared_ptr<Endpoint>> found = process_->find(info);
    if (!found.ok()) return report(found.status());
    std::lock_guard lock(mutex_);
    const auto [peer, added] = peers_.emplace(remote_agent, *found);
    if (!added && peer->second != *found) {
        return nixlx::fail(NIXL_ERR_NOT_ALLOWED,
                           "agent " + quoted(remote_agent) + " is connected to another engine; disconnect it first");
    }
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::connect(const std::string &remote_agent) {
    const std::shared_ptr<Endpoint> peer = findPeer(remote_agent);
    if (!peer) return unknownPeer(remote_agent);
    if (peer->alive()) return NIXL_SUCCESS;
    return nixlx::fail(NIXL_ERR_REMOTE_DISCONNECT, "agent " + quoted(remote_agent) + " is gone");
}

nixl_status_t
Engine::disconnect(const std::string &remote_agent) {
    std::lock_guard lock(mutex_);
    peers_.erase(remote_agent);
    return NIXL_SUCCESS;
}

std::shared_ptr<Endpoint>
Engine::findPeer(const std::string &agent) const {
    if (agent == localAgent) return endpoint_;
    std::lock_guard lock(mutex_);
    const auto found = peers_.find(agent);
    return found == peers_.end() ? nullptr : found->second;
}

nixl_status_t
Engine::getPeerInfo(std::string &info) const {
    info.clear(); // the connection info says everything
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::loadPeerInfo(const std::string &, const std::string &) {
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::validatePeer(const std::string &connection_info, const std::string *, std::span<const std::string>) const {
    // Public data is the name of a window: the target finds it or does not.
    return report(process_->find(connection_info).status());
}

// ---- Notifications -----------------------------------------------------------------------------------------------

nixl_status_t
Engine::getNotifs(notif_list_t &notifications) {
    endpoint_->takeNotifications(notifications);
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::genNotif(const std::string &remote_agent, const std::string &message) const {
    const std::shared_ptr<Endpoint> peer = findPeer(remote_agent);
    if (!peer) return unknownPeer(remote_agent);
    return guarded([&] {
        switch (const nixl_status_t status = peer->deliver(localAgent, message)) {
        case NIXL_SUCCESS: return status;
        case NIXL_IN_PROG:
            return nixlx::fail(NIXL_ERR_REPOST_ACTIVE,
                               std::to_string(kit::kShareBytes >> 20) + " MiB of notifications wait at agent " +
                                   quoted(remote_agent) + " to be fetched; send it again later");
        case NIXL_ERR_INVALID_PARAM: return report(wire::checkNotification(message));
        default: return nixlx::fail(status, "agent " + quoted(remote_agent) + " is gone");
        }
    });
}

// ---- Requests ----------------------------------------------------------------------------------------------------

nixl_status_t
Engine::prepare(const nixlx::Plan &plan, const nixl_opt_b_args_t *, nixlBackendReqH *&request) {
    return guarded([&] {
        std::shared_ptr<Endpoint> peer = findPeer(std::string(plan.remote_agent));
        if (!peer) return unknownPeer(std::string(plan.remote_agent));
        request = new Transfer(plan, localAgent, std::move(peer));
        return NIXL_SUCCESS;
    });
}

nixl_status_t
Engine::post(nixlBackendReqH *request, const std::string *notification) {
    return start(transferOf(request), notification);
}

nixl_status_t
Engine::check(nixlBackendReqH *request) {
    return poll(transferOf(request));
}

void
Engine::cancel(nixlBackendReqH *request) {
    transferOf(request).cancel();
}

bool
Engine::forceQuiet(nixlBackendReqH *) {
    return false; // nothing to force: a cancelled transfer ends with its slice, whatever the peer does
}

std::optional<uint64_t>
Engine::bytesDone(const nixlBackendReqH *request) const {
    return static_cast<const Transfer *>(request)->bytesDone();
}

void
Engine::release(nixlBackendReqH *request) {
    delete request;
}

nixlx::RequestInfo
Engine::describe(const nixlBackendReqH *request) const {
    const auto &transfer = *static_cast<const Transfer *>(request);
    return {"memory of this process", transfer.status() == NIXL_IN_PROG ? std::string() : transfer.error()};
}

std::optional<double>
Engine::predict(const nixlx::Plan &plan) const {
    constexpr double kStartMicros = 0.5, kBlockMicros = 0.02, kBytesPerMicro = 8000; // one core, cold caches
    return kStartMicros + kBlockMicros * plan.block_count + plan.total_bytes / kBytesPerMicro;
}

nixl_status_t
Engine::start(Transfer &transfer, const std::string *notification) const {
    const nixl_status_t status = transfer.post(notification);
    if (status == NIXL_IN_PROG && progress_) progress_->add(transfer);
    return status < 0 ? nixlx::fail(status, transfer.error()) : status;
}

nixl_status_t
Engine::poll(Transfer &transfer) const {
    nixl_status_t status = transfer.status();
    if (status == NIXL_IN_PROG && !progress_) status = transfer.advance();
    return status < 0 ? nixlx::fail(status, transfer.error()) : status;
}

// ---- Requests as in NIXL 1.4 -------------------------------------------------------------------------------------

nixl_status_t
Engine::prepXfer(const nixl_xfer_op_t &operation,
                 const nixl_meta_dlist_t &local,
                 const nixl_meta_dlist_t &remote,
                 const std::string &remote_agent,
                 nixlBackendReqH *&handle,
                 const nixl_opt_b_args_t *) const {
    return guarded([&] {
        std::shared_ptr<Endpoint> peer = findPeer(remote_agent);
        if (!peer) return unknownPeer(remote_agent);
        if (local.descCount() != remote.descCount()) {
            return nixlx::fail(NIXL_ERR_INVALID_PARAM, "the local and the remote list differ in length");
        }
        handle = new ListTransfer(operation, local, remote, localAgent, std::move(peer));
        return NIXL_SUCCESS;
    });
}

nixl_status_t
Engine::postXfer(const nixl_xfer_op_t &,
                 const nixl_meta_dlist_t &,
                 const nixl_meta_dlist_t &,
                 const std::string &,
                 nixlBackendReqH *&handle,
                 const nixl_opt_b_args_t *opt_args) const {
    return start(transferOf(handle), opt_args && opt_args->hasNotif ? &opt_args->notifMsg : nullptr);
}

nixl_status_t
Engine::checkXfer(nixlBackendReqH *handle) const {
    return poll(transferOf(handle));
}

nixl_status_t
Engine::releaseReqH(nixlBackendReqH *handle) const {
    Transfer &transfer = transferOf(handle);
    if (transfer.status() == NIXL_IN_PROG) {
        transfer.cancel();
        if (poll(transfer) == NIXL_IN_PROG) {
            return nixlx::fail(NIXL_ERR_REPOST_ACTIVE,
                               "the progress thread is moving data of the request; release it again");
        }
    }
    delete handle;
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::estimateXferCost(const nixl_xfer_op_t &,
                         const nixl_meta_dlist_t &,
                         const nixl_meta_dlist_t &,
                         const std::string &,
                         nixlBackendReqH *const &handle,
                         std::chrono::microseconds &duration,
                         std::chrono::microseconds &err_margin,
                         nixl_cost_t &method,
                         const nixl_opt_args_t *) const {
    duration = std::chrono::microseconds(static_cast<int64_t>(*predict(transferOf(handle).plan())) + 1);
    err_margin = duration;
    method = nixl_cost_t::ANALYTICAL_BACKEND;
    return NIXL_SUCCESS;
}

} // namespace nx::loopback
