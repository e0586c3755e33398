// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "shm/engine.h"

#include <stdexcept>

#include "shm/transfer.h"
#include "utils/common/nixl_log.h"
#include "wire/notification.h"

namespace nx::shm {

namespace {

constexpr auto kSettleGuard = std::chrono::milliseconds(150);

/// The status of a call, its sentence left for the agent.
nixl_status_t
report(const Status &status) {
    return status.ok() ? NIXL_SUCCESS : nixlx::fail(status.code(), status.message());
}

Transfer &
transferOf(nixlBackendReqH *request) {
    return *static_cast<Transfer *>(request);
}

} // namespace

nixlx::Engine *
Engine::create(const nixlBackendInitParams *params) {
    auto board = Board::create();
    if (!board.ok()) throw std::runtime_error(board.message());
    return new Engine(params, *std::move(board));
}

Engine::Engine(const nixlBackendInitParams *params, std::unique_ptr<Board> board)
    : agent_(params->localAgent),
      host_(kit::hostIdentity()),
      board_(std::move(board)),
      inbox_("backend SHM of agent " + quoted(agent_)),
      links_([&] {
          auto links = Links::create(agent_, *board_, blocks_, inbox_, params->enableProgTh);
          if (!links.ok()) throw std::runtime_error(links.message());
          return *std::move(links);
      }()) {}

Engine::~Engine() = default;

void
Engine::endBy(std::chrono::steady_clock::time_point deadline) {
    links_->announceEnd(deadline);
}

// ---- Memory --------------------------------------------------------------------------------------------------------

nixl_status_t
Engine::registerMem(const nixlBlobDesc &mem, nixl_mem_t, nixlBackendMD *&out) {
    const auto block = nixlx::findShared(mem.addr, mem.len);
    WindowInfo window{.address = mem.addr, .length = mem.len, .device = mem.devId};
    if (block) {
        window.block = block->id;
        window.offset = mem.addr - block->base;
        blocks_.add(*block);
    }
    const auto key = board_->open(window);
    if (!key.ok()) {
        if (block) blocks_.remove(block->id);
        return report(key.status());
    }
    try {
        out = new LocalMemory(*key, mem, window.block);
    }
    catch (...) {
        board_->close(*key);
        if (block) blocks_.remove(block->id);
        throw;
    }
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::deregisterMem(nixlBackendMD *meta) {
    const std::unique_ptr<LocalMemory> memory(static_cast<LocalMemory *>(meta));
    const bool closed = !memory->shut && board_->shut(memory->key);
    board_->forget(memory->key);
    if (memory->block) blocks_.remove(memory->block);
    if (!closed || links_->waitQuiet(std::chrono::steady_clock::now() + kSettleGuard)) return NIXL_SUCCESS;
    // Only who does not ask with shutOut() before, as programs of NIXL 1.4.
    return nixlx::fail(NIXL_ERR_REPOST_ACTIVE,
                       "a peer that stands still was copying, maybe from or to this memory; do not free it before that "
                       "peer goes on or ends");
}

nixl_status_t
Engine::shutOut(std::span<nixlBackendMD *const> registrations) {
    bool closed = false;
    for (nixlBackendMD *const each : registrations) {
        auto &memory = *static_cast<LocalMemory *>(each);
        closed = board_->shut(memory.key) || closed;
        memory.shut = true;
    }
    try {
        if (!closed || links_->waitQuiet(std::chrono::steady_clock::now() + kSettleGuard)) return NIXL_SUCCESS;
    }
    catch (...) {
        letIn(registrations);
        throw;
    }
    letIn(registrations);
    return nixlx::fail(NIXL_ERR_REPOST_ACTIVE,
                       "a peer that stands still is copying, maybe from or to this memory, which stays registered; do "
                       "not free it, and deregister it again when that peer goes on or ends");
}

void
Engine::letIn(std::span<nixlBackendMD *const> registrations) noexcept {
    for (nixlBackendMD *const each : registrations) {
        auto &memory = *static_cast<LocalMemory *>(each);
        board_->reopen(memory.key);
        memory.shut = false;
    }
}

nixl_status_t
Engine::getPublicData(const nixlBackendMD *meta, std::string &data) const {
    data = encodeKey(static_cast<const LocalMemory *>(meta)->key);
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::loadLocalMD(nixlBackendMD *input, nixlBackendMD *&output) {
    const auto &own = *static_cast<const LocalMemory *>(input);
    auto memory = std::make_unique<RemoteMemory>(nullptr, own.key, own.range.addr, own.range.len);
    memory->here = reinterpret_cast<std::byte *>(own.range.addr);
    output = memory.release();
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::loadRemoteMD(const nixlBlobDesc &mem, nixl_mem_t, const std::string &remote_agent, nixlBackendMD *&output) {
    const auto key = decodeKey(mem.metaInfo);
    if (!key.ok()) return report(key.status());
    const auto link = find(remote_agent);
    if (!link.ok()) return report(link.status());
    auto memory = std::make_unique<RemoteMemory>(*link, *key, mem.addr, mem.len);
    // A registration that is over already, or lies elsewhere, is refused when it is used.
    const auto window = (*link)->look(*key);
    if ((*link)->isThisProcess()) {
        memory->here = reinterpret_cast<std::byte *>(mem.addr);
    } else if (window && window->block && mem.addr >= window->address) {
        const uint64_t offset = window->offset + (mem.addr - window->address);
        auto block = (*link)->block(window->block);
        if (block && offset <= block->bytes() && mem.len <= block->bytes() - offset) {
            memory->here = block->data() + offset;
            memory->block = std::move(block);
        }
    }
    output = memory.release();
    return NIXL_SUCCESS;
}

// ---- Peers ---------------------------------------------------------------------------------------------------------

nixl_status_t
Engine::getConnInfo(std::string &info) const {
    info = links_->listener() + " " + host_;
    return NIXL_SUCCESS;
}

/// The name of its listener, from connection info.
Result<std::string>
Engine::listenerOf(const std::string &connection_info) const {
    std::string name = connection_info.substr(0, connection_info.find(' '));
    if (Status checked = kit::checkLocalName(kSockets, name); !checked.ok()) return checked;
    if (connection_info == name + " " + host_) return name;
    return {NIXL_ERR_NOT_SUPPORTED, "it runs on another host, in another container or for another user"};
}

nixl_status_t
Engine::validatePeer(const std::string &connection_info,
                     const std::string *,
                     std::span<const std::string> public_data) const {
    for (const std::string &data : public_data) {
        if (const auto key = decodeKey(data); !key.ok()) return report(key.status());
    }
    return report(listenerOf(connection_info).status());
}

nixl_status_t
Engine::loadPeer(const std::string &remote_agent, const std::string &connection_info, const std::string *) {
    const auto listener = listenerOf(connection_info);
    if (!listener.ok()) return report(listener.status());
    {
        const MutexLock lock(mutex_);
        const auto known = peers_.find(remote_agent);
        if (known != peers_.end() && !known->second->ended()) {
            if (known->second->listener() == *listener) return NIXL_SUCCESS;
            return nixlx::fail(NIXL_ERR_NOT_ALLOWED,
                               "agent " + quoted(remote_agent) + " is linked to another engine; disconnect it first");
        }
    }
    auto link = links_->meet(*listener);
    if (link.code() ==
        NIXL_ERR_REMOTE_DISCONNECT) { // not the peer that is known by this name, but the one to be loaded
        return nixlx::fail(NIXL_ERR_BACKEND, "peer " + quoted(remote_agent) + ": " + link.message());
    }
    if (!link.ok()) return report(link.status());
    if (const Status &may_copy = (*link)->mayCopy(); may_copy.code() == NIXL_ERR_MISMATCH) {
        return nixlx::fail(NIXL_ERR_NOT_SUPPORTED, "peer " + quoted(remote_agent) + ": " + may_copy.message());
    } else if (!may_copy.ok()) {
        NIXL_INFO << "backend SHM of agent " << quoted(agent_) << ": what agent " << quoted(remote_agent)
                  << " has not got from nixlx::allocShared is copied by both sides: " << may_copy.message();
    }
    const MutexLock lock(mutex_);
    inbox_.setKnown(remote_agent, true);
    peers_[remote_agent] = *std::move(link);
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::connect(const std::string &remote_agent) {
    const auto link = find(remote_agent); // loadPeer has connected
    if (!link.ok()) return report(link.status());
    if (!(*link)->ended()) return NIXL_SUCCESS;
    return report((*link)->gone());
}

nixl_status_t
Engine::disconnect(const std::string &remote_agent) {
    const MutexLock lock(mutex_);
    if (peers_.erase(remote_agent) == 0) {
        return nixlx::fail(NIXL_ERR_NOT_FOUND, "agent " + quoted(remote_agent) + " is not known");
    }
    inbox_.setKnown(remote_agent, false);
    return NIXL_SUCCESS;
}

Result<std::shared_ptr<Link>>
Engine::find(const std::string &agent) const {
    {
        const MutexLock lock(mutex_);
        const auto found = peers_.find(agent);
        if (found != peers_.end()) return found->second;
    }
    if (agent != agent_) {
        return {NIXL_ERR_NOT_FOUND, "agent " + quoted(agent) + " is not known; load its metadata first"};
    }
    auto link = links_->meet(links_->listener());
    if (!link.ok()) return link;
    const MutexLock lock(mutex_);
    inbox_.setKnown(agent, true);
    return peers_.emplace(agent, *std::move(link)).first->second;
}

// ---- Notifications -------------------------------------------------------------------------------------------------

nixl_status_t
Engine::getNotifs(notif_list_t &notifications) {
    links_->look();
    if (!inbox_.empty()) links_->emptied(inbox_.takeAll(notifications));
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::genNotif(const std::string &remote_agent, const std::string &message) const {
    if (Status checked = wire::checkNotification(message); !checked.ok()) return report(checked);
    const auto link = find(remote_agent);
    if (!link.ok()) return report(link.status());
    return report(links_->tell(**link, message));
}

// ---- Requests ------------------------------------------------------------------------------------------------------

nixl_status_t
Engine::prepare(const nixlx::Plan &plan, const nixl_opt_b_args_t *, nixlBackendReqH *&request) {
    // By its memory, not by its name: a peer of that name may have been loaded anew since.
    std::shared_ptr<Link> link;
    if (!plan.runs.empty()) {
        const nixlx::Segment &segment = plan.remote_segments[plan.runs[0].remote_segment];
        link = static_cast<const RemoteMemory *>(segment.metadata)->link;
    }
    if (!link) {
        auto found = find(std::string(plan.remote_agent));
        if (!found.ok()) return report(found.status());
        link = *std::move(found);
    }
    request = new Transfer(plan, std::move(link), links_->progress(), *links_);
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::post(nixlBackendReqH *request, const std::string *notification) {
    return transferOf(request).post(notification);
}

nixl_status_t
Engine::check(nixlBackendReqH *request) {
    Transfer &transfer = transferOf(request);
    if (!transfer.quiet()) transfer.advance();
    return transfer.outcome();
}

void
Engine::cancel(nixlBackendReqH *request) {
    transferOf(request).cancel();
}

nixlx::RequestInfo
Engine::describe(const nixlBackendReqH *request) const {
    const auto &transfer = *static_cast<const Transfer *>(request);
    return transfer.describe(transfer.path());
}

std::optional<uint64_t>
Engine::bytesDone(const nixlBackendReqH *request) const {
    return static_cast<const Transfer *>(request)->bytesDone();
}

std::optional<nixlx::Cost>
Engine::cost(nixl_mem_t, nixl_mem_t, std::string_view) const {
    return nixlx::Cost{.start_us = 0.5, .block_us = 0.25, .byte_us = 1 / 5.6e3}; // one core, copied by the kernel
}

} // namespace nx::shm
