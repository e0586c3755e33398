// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Peers: loading what they published, connecting, forgetting them.
#include <algorithm>

#include "agent/agent_state.h"
#include "agent/undo_list.h"
#include "base/last_error.h"
#include "utils/common/nixl_log.h"

using nx::Result;
using nx::Snapshot;
using nx::Status;
using nx::agent::Backend;
using nx::agent::Connections;
using nx::agent::LoadPlan;
using nx::agent::Peer;
using nx::agent::PeerMap;
using nx::agent::Sections;
using nx::agent::UndoList;
using nx::memory::Window;

namespace {

std::string
failure(const std::string &what, nixl_status_t status) {
    return nx::takeBackendSentence(what + " failed with " + nixlEnumStrings::statusStr(status));
}

// Loads the ranges of one section that are new; equal keys of touching ranges share one load.
Status
loadRanges(const std::shared_ptr<Backend> &backend,
           const std::string &agent,
           nixl_mem_t memory,
           std::vector<const nixlBlobDesc *> ranges,
           std::vector<std::shared_ptr<Window>> &windows) {
    const auto byPlace = [](const nixlBlobDesc *a, const nixlBlobDesc *b) {
        return static_cast<const nixlBasicDesc &>(*a) < static_cast<const nixlBasicDesc &>(*b);
    };
    std::stable_sort(ranges.begin(), ranges.end(), byPlace);
    for (size_t first = 0; first < ranges.size();) {
        nixlBlobDesc whole = *ranges[first];
        size_t last = first + 1;
        while (backend->merges_ranges && last < ranges.size()) {
            const auto &next = *ranges[last];
            const uint64_t end = whole.addr + whole.len;
            const bool joins = next.devId == whole.devId && end >= whole.addr && next.addr <= end &&
                next.metaInfo == whole.metaInfo && next.addr + next.len >= next.addr;
            if (!joins) break;
            whole.len = std::max<uint64_t>(end, next.addr + next.len) - whole.addr;
            ++last;
        }
        nixlBackendMD *metadata = nullptr;
        const auto status = backend->call<nixlx::RemotePeers>(
            "loadRemoteMD", [&](auto &peers) { return peers.loadRemoteMD(whole, memory, agent, metadata); });
        if (status < 0) return {status, failure("loadRemoteMD", status)};
        auto owner = nx::memory::ownMapping(
            metadata, nullptr, whole.metaInfo, [backend](nixlBackendMD *loaded, nixlBackendMD *) {
                (void)backend->call("unloadMD", [&](auto &engine) { return engine.unloadMD(loaded); });
            });
        for (; first < last; ++first) windows.push_back(std::make_shared<Window>(*ranges[first], owner));
    }
    return {};
}

void
disconnect(const Backend &backend, const std::string &agent) {
    (void)backend.call<nixlx::RemotePeers>("disconnect", [&](auto &peers) { return peers.disconnect(agent); });
}

// Another start of a name is tried before the known one is given up for it.
Status
validateStart(const LoadPlan &plan) {
    for (const auto &[backend, info, peer_info] : plan.connections) {
        std::vector<std::string> public_data;
        for (const auto &[key, ranges] : plan.ranges) {
            if (key.second != backend->order) continue;
            for (const auto *range : ranges) public_data.push_back(range->metaInfo);
        }
        const auto status = backend->call<nixlx::RemotePeers>(
            "validatePeer", [&](auto &peers) { return peers.validatePeer(*info, peer_info, public_data); });
        if (status < 0 && (status != NIXL_ERR_NOT_SUPPORTED || plan.connections.size() == 1)) {
            return {status,
                    "another start of agent '" + plan.metadata->agent +
                        "' is not loaded, the one that is known stays: " + "backend " + backend->type + ": " +
                        failure("validatePeer", status)};
        }
    }
    return {};
}

// A backend that does not reach the peer, for example one within a process, is left out if another may.
Status
connectAll(LoadPlan &plan, const std::string &name, UndoList &undo) {
    const auto &agent = plan.metadata->agent;
    const auto connections = plan.connections;
    for (const auto &[backend, info, peer_info] : connections) {
        const auto status = backend->call<nixlx::RemotePeers>(
            "loadPeer", [&](auto &peers) { return peers.loadPeer(agent, *info, peer_info); });
        if (status >= 0) {
            undo.push([backend = backend.get(), &agent] { disconnect(*backend, agent); });
        } else if (status == NIXL_ERR_NOT_SUPPORTED && plan.common > 1) {
            NIXL_INFO << "loadRemoteMD: agent " << nx::quoted(name) << ": backend " << backend->type
                      << " does not reach agent '" << agent << "': " << failure("loadPeer", status);
            plan.leaveOut(*backend);
        } else {
            return {status,
                    "error loading connection info for backend '" + backend->type + "' with status " +
                        nixlEnumStrings::statusStr(status) + ": " + failure("loadPeer", status)};
        }
    }
    if (!undo.empty() || plan.known) return {};
    return {NIXL_ERR_BACKEND, "no common backend found: none of those in common reaches agent '" + agent + "'"};
}

// The peer's sections with the new ranges, which the backends unload when the last window of them goes.
Result<Sections>
loadAll(const LoadPlan &plan, const nx::agent::Backends &backends) {
    auto sections = plan.known ? plan.known->sections.copy() : Sections();
    for (const auto &[key, ranges] : plan.ranges) {
        std::vector<std::shared_ptr<Window>> windows;
        const auto &backend = backends[key.second];
        auto status = loadRanges(backend, plan.metadata->agent, key.first, ranges, windows);
        if (!status.ok()) {
            return {status.code(),
                    "error loading remote metadata for agent '" + plan.metadata->agent + "' with status " +
                        nixlEnumStrings::statusStr(status.code()) + ": backend " + backend->type + ": " +
                        status.message()};
        }
        auto &index = sections[key];
        index = index.with(std::move(windows));
    }
    return sections;
}

} // namespace

std::shared_ptr<Peer>
nixlAgentData::findPeer(const std::string &agent) const {
    const auto known = peers.get();
    const auto it = known->find(agent);
    return it == known->end() ? nullptr : it->second;
}

nx::Result<nx::wire::Metadata>
nixlAgentData::decodeRemote(std::string_view blob) {
    auto metadata = nx::wire::decodeMetadata(blob);
    if (metadata.ok()) return metadata;
    return std::move(metadata).status().withContext("failed to deserialize remote metadata");
}

Status
nixlAgentData::loadRemote(std::string_view blob, std::string &agent_name) {
    auto metadata = decodeRemote(blob);
    if (!metadata.ok()) {
        // A line of its own: programs count it beside the one that this call ends with.
        if (!nx::wire::startsAsMetadata(blob)) NIXL_ERROR << "Deserialization failed, missing nixlSerDes tag";
        return std::move(metadata).status();
    }
    auto status = loadRemote(*metadata);
    if (status.ok()) agent_name = metadata->agent;
    return status;
}

Status
nixlAgentData::loadRemote(const nx::wire::Metadata &metadata) {
    if (metadata.agent == name) {
        const bool own = metadata.trailer && metadata.trailer->incarnation == incarnation;
        return {NIXL_ERR_INVALID_PARAM,
                own ? "the metadata is this agent's own"
                    : "the metadata was published by another agent that has this agent's name, " + nx::quoted(name) +
                        "; give every agent a name of its own"};
    }
    const nx::MutexLock lock(peers_mutex);
    return loadLocked(metadata);
}

Status
nixlAgentData::loadLocked(const nx::wire::Metadata &metadata) {
    const auto backends = local_state.get().part(&nx::agent::Local::backends);
    const auto before = peers.get();
    auto plan = judgeLoad(metadata, *backends, {findPeer(metadata.agent), before->size(), peers_bytes}, peer_limits);
    if (!plan.ok()) return std::move(plan).status();
    if (plan->replaced) {
        if (auto status = validateStart(*plan); !status.ok()) return status;
        // A backend knows one start of a name at a time. That this one has ended cannot be undone.
        plan->replaced->lost.store(true);
        forgetPeerLocked(plan->replaced);
    }
    UndoList undo; // goes after what is loaded through its connections
    if (auto status = connectAll(*plan, name, undo); !status.ok()) return status;
    auto sections = loadAll(*plan, *backends);
    if (!sections.ok()) return std::move(sections).status();
    commitLocked(*plan, *std::move(sections));
    undo.keep();
    return {};
}

// What may fail comes first.
void
nixlAgentData::commitLocked(const LoadPlan &plan, Sections loaded) {
    const auto peer = plan.known ? plan.known : std::make_shared<Peer>(plan.metadata->agent);
    auto connected = peer->connections.copy();
    for (const auto &[backend, info, peer_info] : plan.connections) connected[backend->type] = *info;
    auto connections = std::make_shared<const Connections>(std::move(connected));
    auto sections = std::make_shared<const Sections>(std::move(loaded));
    auto known = peers.copy();
    known[peer->name] = peer;
    auto map = std::make_shared<const PeerMap>(std::move(known));

    if (plan.metadata->trailer) peer->incarnation = plan.metadata->trailer->incarnation;
    const auto held = plan.held();
    peers_bytes += held.bytes - peer->held.bytes;
    peer->held = held;
    peer->connections.set(std::move(connections));
    peer->sections.set(std::move(sections));
    peers.set(std::move(map));
}

// Requests in flight keep their memory until they end; everything new is refused from here on.
void
nixlAgentData::forgetPeerLocked(const std::shared_ptr<Peer> &peer) const {
    peer->alive.store(false, std::memory_order_release);
    peers_bytes -= std::exchange(peer->held, {}).bytes;
    {
        const auto sections = peer->sections.get();
        const auto removed = std::make_shared<const nx::memory::RemovedWindows>(nx::agent::windowsOf(*sections));
        peer->sections.set(Sections());
        (void)leaveToUsers(removed, peer.get());
    }
    const auto connections = peer->connections.get();
    const auto local = local_state.get();
    for (const auto &backend : local->backends) {
        if (connections->contains(backend->type)) disconnect(*backend, peer->name);
    }
    PeerMap map = peers.copy();
    const auto it = map.find(peer->name);
    if (it != map.end() && it->second == peer) {
        map.erase(it);
        peers.set(std::move(map));
    }
}

Status
nixlAgentData::invalidateRemote(const std::string &agent) {
    if (agent == name) return {NIXL_ERR_INVALID_PARAM, "an agent cannot invalidate itself"};
    const nx::MutexLock lock(peers_mutex);
    const auto peer = findPeer(agent);
    if (!peer) return {NIXL_ERR_NOT_FOUND, "no metadata of agent " + nx::quoted(agent) + " is loaded"};
    forgetPeerLocked(peer);
    return {};
}

void
nixlAgentData::invalidateStart(const std::string &agent, const nx::wire::Incarnation &start) {
    const nx::MutexLock lock(peers_mutex);
    const auto peer = findPeer(agent);
    if (peer && peer->incarnation == start) forgetPeerLocked(peer);
}

void
nixlAgentData::peerLost(const std::shared_ptr<Peer> &peer) const {
    if (!peer || !peer->alive.load()) return;
    const nx::MutexLock lock(peers_mutex);
    if (!peer->alive.load()) return;
    peer->lost.store(true);
    forgetPeerLocked(peer);
    NIXL_INFO << "agent " << nx::quoted(name) << ": lost agent " << nx::quoted(peer->name)
              << "; its metadata was dropped and can be loaded again";
}

Status
nixlAgentData::makeConnection(const std::string &agent, const nixl_opt_args_t *args) {
    auto usable = candidates(args);
    if (!usable.ok()) return std::move(usable).status();
    const auto peer = findPeer(agent);
    const auto connections = peer ? peer->connections.get() : Snapshot<Connections>().get();
    if (connections->empty()) {
        return {NIXL_ERR_NOT_FOUND, "no metadata of agent " + nx::quoted(agent) + " is loaded"};
    }
    bool any = false;
    for (const auto &[type, info] : *connections) {
        for (const auto &backend : *usable) {
            if (backend->type != type) continue;
            any = true;
            const auto status =
                backend->call<nixlx::RemotePeers>("connect", [&](auto &peers) { return peers.connect(agent); });
            if (status < 0) {
                return {status, "backend " + type + ": " + failure("connect", status)};
            }
        }
    }
    if (!any) return {NIXL_ERR_BACKEND, "no backend in common with agent " + nx::quoted(agent)};
    return {};
}
