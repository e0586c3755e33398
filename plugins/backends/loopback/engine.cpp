// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "loopback/engine.h"

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

Transfer &
transferOf(nixlBackendReqH *request) {
    return *static_cast<Transfer *>(request);
}

} // namespace

Engine::Engine(const nixlBackendInitParams *params)
    : agent_(params->localAgent),
      process_(Process::instance()),
      endpoint_(process_->createEndpoint(agent_)),
      progress_(params->enableProgTh ? std::make_unique<Progress>() : nullptr) {
    if (progress_) endpoint_->tellOfRoom([this] { progress_->look(); });
}

Engine::~Engine() {
    process_->removeEndpoint(*endpoint_);
    endpoint_->shutDown();
}

// ---- Memory ------------------------------------------------------------------------------------------------------

nixl_status_t
Engine::registerMem(const nixlBlobDesc &mem, nixl_mem_t memory, nixlBackendMD *&out) {
    WindowKey key = windowKey(mem, memory, mem.metaInfo);
    if (key.length > UINT64_MAX - key.address) {
        return nixlx::fail(NIXL_ERR_INVALID_PARAM, toString(key) + " passes the end of the address space");
    }
    std::shared_ptr<Store> store = process_->openStore(key);
    out = new LocalMemory(endpoint_->open(std::move(key), std::move(store)));
    return NIXL_SUCCESS;
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
    output = new RemoteMemory(endpoint_, static_cast<LocalMemory *>(input)->window->key());
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::loadRemoteMD(const nixlBlobDesc &input,
                     nixl_mem_t memory,
                     const std::string &remote_agent,
                     nixlBackendMD *&output) {
    std::shared_ptr<Endpoint> peer = findPeer(remote_agent);
    if (!peer) return unknownPeer(remote_agent);
    output = new RemoteMemory(std::move(peer), windowKey(input, memory, input.metaInfo));
    return NIXL_SUCCESS;
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
Engine::loadPeer(const std::string &remote_agent, const std::string &connection_info, const std::string *) {
    Result<std::shared_ptr<Endpoint>> found = process_->find(connection_info);
    if (!found.ok()) return report(found.status());
    const MutexLock lock(mutex_);
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
    const MutexLock lock(mutex_);
    peers_.erase(remote_agent);
    return NIXL_SUCCESS;
}

std::shared_ptr<Endpoint>
Engine::findPeer(const std::string &agent) const {
    if (agent == agent_) return endpoint_;
    const MutexLock lock(mutex_);
    const auto found = peers_.find(agent);
    return found == peers_.end() ? nullptr : found->second;
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
    switch (const nixl_status_t status = peer->deliver(agent_, message)) {
    case NIXL_SUCCESS: return status;
    case NIXL_IN_PROG:
        return nixlx::fail(NIXL_ERR_REPOST_ACTIVE,
                           std::to_string(kit::kShareBytes >> 20) + " MiB of notifications wait at agent " +
                               quoted(remote_agent) + " to be fetched; send it again later");
    case NIXL_ERR_INVALID_PARAM: return report(wire::checkNotification(message));
    default: return nixlx::fail(status, "agent " + quoted(remote_agent) + " is gone");
    }
}

// ---- Waiting -----------------------------------------------------------------------------------------------------

int
Engine::descriptor() const noexcept {
    return endpoint_->bell().descriptor();
}

bool
Engine::arm() noexcept {
    return unfinished_ == 0 && endpoint_->bell().arm();
}

// ---- Requests ----------------------------------------------------------------------------------------------------

nixl_status_t
Engine::prepare(const nixlx::Plan &plan, const nixl_opt_b_args_t *, nixlBackendReqH *&request) {
    std::shared_ptr<Endpoint> peer = findPeer(std::string(plan.remote_agent));
    if (!peer) return unknownPeer(std::string(plan.remote_agent));
    request = new Transfer(plan, endpoint_, std::move(peer));
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::post(nixlBackendReqH *request, const std::string *notification) {
    Transfer &transfer = transferOf(request);
    if (transfer.post(notification) != NIXL_IN_PROG) return transfer.outcome();
    if (progress_) {
        progress_->add(transfer);
    } else if (!transfer.waitsForInbox()) {
        ++unfinished_;
    }
    return NIXL_IN_PROG;
}

nixl_status_t
Engine::check(nixlBackendReqH *request) {
    Transfer &transfer = transferOf(request);
    if (transfer.quiet() || progress_) return transfer.outcome();
    const bool was_unfinished = !transfer.waitsForInbox();
    const bool is_unfinished = transfer.advance() == NIXL_IN_PROG && !transfer.waitsForInbox();
    if (was_unfinished && !is_unfinished) --unfinished_;
    return transfer.outcome();
}

void
Engine::cancel(nixlBackendReqH *request) {
    transferOf(request).cancel();
    if (progress_) progress_->look();
}

std::optional<uint64_t>
Engine::bytesDone(const nixlBackendReqH *request) const {
    return static_cast<const Transfer *>(request)->bytesDone();
}

nixlx::RequestInfo
Engine::describe(const nixlBackendReqH *request) const {
    return static_cast<const Transfer *>(request)->describe("memory of this process");
}

std::optional<nixlx::Cost>
Engine::cost(nixl_mem_t, nixl_mem_t, std::string_view) const {
    return nixlx::Cost{.start_us = 0.5, .block_us = 0.02, .byte_us = 1 / 8e3}; // one core, cold caches
}

} // namespace nx::loopback
