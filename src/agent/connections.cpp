// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Peers: loading what they published, connecting, forgetting them.
#include <algorithm>

#include "agent/agent_state.h"
#include "base/last_error.h"
#include "utils/common/nixl_log.h"

using nx::Snapshot;
using nx::Status;
using nx::agent::Backend;
using nx::agent::Connections;
using nx::agent::Peer;
using nx::agent::PeerMap;
using nx::agent::Sections;
using nx::memory::Mapping;
using nx::memory::MappingOwner;
using nx::memory::Window;

namespace {

std::string
failure(const std::string &what, nixl_status_t status) {
    return nx::takeBackendSentence(what + " failed with " + nixlEnumStrings::statusStr(status));
}

std::shared_ptr<Backend>
remoteBackend(const nx::agent::Backends &backends, const std::string &type) {
    for (const auto &backend : backends) {
        if (backend->type == type && backend->remote) return backend;
    }
    return nullptr;
}

const std::string *
peerInfoFor(const nx::wire::Metadata &metadata, const std::string &backend) {
    if (!metadata.trailer) return nullptr;
    for (const auto &entry : metadata.trailer->peer_info) {
        if (entry.backend == backend) return &entry.info;
    }
    return nullptr;
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
        auto owner = std::make_shared<MappingOwner>(std::make_shared<Mapping>(
            metadata, nullptr, whole.metaInfo, [backend](nixlBackendMD *loaded, nixlBackendMD *) {
                (void)backend->call("unloadMD", [&](auto &engine) { return engine.unloadMD(loaded); });
            }));
        for (; first < last; ++first) windows.push_back(std::make_shared<Window>(*ranges[first], owner));
    }
    return {};
}

void
disconnect(const Backend &backend, const std::string &agent) {
    (void)backend.call<nixlx::RemotePeers>("disconnect", [&](auto &peers) { return peers.disconnect(agent); });
}

// The connections that one load has made. Unless it is kept, all are taken back, whatever ended the load.
class NewConnections {
public:
    explicit NewConnections(const std::string &agent) : agent_(agent) {}
    ~NewConnections() {
        for (const auto &backend : backends_) disconnect(*backend, agent_);
    }

    NewConnections(const NewConnections &) = delete;
    NewConnections &
    operator=(const NewConnections &) = delete;

    nixl_status_t
    make(const std::shared_ptr<Backend> &backend, const std::string &info, const std::string *peer_info) {
        backends_.push_back(backend);
        const auto status = backend->call<nixlx::RemotePeers>(
            "loadPeer", [&](auto &peers) { return peers.loadPeer(agent_, info, peer_info); });
        if (status < 0) backends_.pop_back();
        return status;
    }

    bool
    empty() const noexcept {
        return backends_.empty();
    }

    void
    keep() noexcept {
        backends_.clear();
    }

private:
    const std::string &agent_;
    nx::agent::Backends backends_;
};

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

bool
nixlAgentData::sharesBackend(const nx::wire::Metadata &metadata) const {
    const auto all = local_state.get().part(&nx::agent::Local::backends);
    return metadata.connections.empty() ||
        std::any_of(metadata.connections.begin(), metadata.connections.end(),
                    [&](const auto &connection) { return remoteBackend(*all, connection.backend) != nullptr; });
}

Status
nixlAgentData::loadLocked(const nx::wire::Metadata &metadata) {
    const auto all = local_state.get().part(&nx::agent::Local::backends);
    const std::string shown = "'" + metadata.agent + "'";

    // What the blob brings that this agent can use.
    std::vector<std::pair<std::shared_ptr<Backend>, const nx::wire::Connection *>> connections;
    for (const auto &connection : metadata.connections) {
        if (auto backend = remoteBackend(*all, connection.backend)) connections.emplace_back(backend, &connection);
    }
    if (connections.empty() && !metadata.connections.empty()) {
        std::string theirs;
        for (const auto &connection : metadata.connections) {
            theirs += (theirs.empty() ? "" : ", ") + nx::quoted(connection.backend);
        }
        return {NIXL_ERR_BACKEND,
                "no common backend found: agent " + nx::quoted(metadata.agent) + " offers " + theirs +
                    "; create one of them here"};
    }

    auto known = findPeer(metadata.agent);
    const bool other_start = known && metadata.trailer && known->incarnation != nx::wire::Incarnation{} &&
        known->incarnation != metadata.trailer->incarnation;
    if (other_start && connections.empty()) {
        return {NIXL_ERR_NOT_ALLOWED,
                "the metadata is of another start of agent " + shown + "; load its connection info first"};
    }
    auto replaced = other_start ? std::exchange(known, nullptr) : nullptr;
    if (!known && connections.empty()) {
        return {NIXL_ERR_NOT_FOUND,
                "error loading remote metadata for agent " + shown +
                    " with status NIXL_ERR_NOT_FOUND: how to connect to it is not known yet; load "
                    "a blob with connection info first"};
    }
    std::vector<std::pair<std::shared_ptr<Backend>, const nx::wire::Connection *>> new_connections;
    const auto connections_before = known ? known->connections.get() : Snapshot<Connections>().get();
    for (const auto &entry : connections) {
        const auto before = connections_before->find(entry.first->type);
        if (before == connections_before->end()) {
            new_connections.push_back(entry);
        } else if (before->second != entry.second->info) {
            return {NIXL_ERR_NOT_ALLOWED,
                    "error loading connection info for backend '" + entry.first->type +
                        "' with status NIXL_ERR_NOT_ALLOWED: agent " + shown +
                        " is loaded with other connection info; invalidate it first"};
        }
    }
    const auto sections_before = known ? known->sections.get() : Snapshot<Sections>().get();
    std::map<std::pair<nixl_mem_t, size_t>, std::vector<const nixlBlobDesc *>> new_ranges;
    for (const auto &section : metadata.sections) {
        const auto backend = remoteBackend(*all, section.backend);
        if (!backend) continue;
        const bool connected = connections_before->contains(backend->type) ||
            std::any_of(connections.begin(), connections.end(), [&](const auto &c) { return c.first == backend; });
        if (!connected) continue;
        const std::pair key{section.memory, backend->order};
        const auto before = sections_before->find(key);
        for (const auto &range : section.descs) {
            std::vector<std::shared_ptr<Window>> same;
            if (before != sections_before->end()) before->second.equal(range, same);
            if (same.empty()) {
                new_ranges[key].push_back(&range);
            } else if (std::none_of(same.begin(), same.end(), [&](const auto &window) {
                           return window->mapping->public_data == range.metaInfo;
                       })) {
                return {NIXL_ERR_NOT_ALLOWED,
                        "error loading remote metadata for agent " + shown +
                            " with status NIXL_ERR_NOT_ALLOWED: a range that is loaded already comes with another key; "
                            "invalidate the agent first"};
            }
        }
    }

    const auto grown = [&] {
        auto held = known ? known->held : nx::agent::Holding{};
        for (const auto &[backend, connection] : new_connections) {
            const auto *info = peerInfoFor(metadata, backend->type);
            held.bytes += connection->info.size() + (info ? info->size() : 0);
        }
        for (const auto &[key, ranges] : new_ranges) {
            held.windows += ranges.size();
            for (const auto *range : ranges) held.bytes += sizeof(nixlBasicDesc) + range->metaInfo.size();
        }
        return held;
    };
    const auto &earlier = known ? known : replaced;
    const auto known_peers = peers.get();
    if (auto status = nx::agent::admit(peer_limits, grown(), known_peers->size() - (earlier ? 1 : 0),
                                       peers_bytes - (earlier ? earlier->held.bytes : 0));
        !status.ok()) {
        return std::move(status).withContext("the metadata of agent " + nx::quoted(metadata.agent) + " is refused");
    }

    // From here on backends change; what was done is undone on failure. A replaced start goes first, because a
    // backend knows one start of a name at a time: it cannot be undone, so the new one is judged before.
    if (replaced) {
        for (const auto &[backend, connection] : new_connections) {
            std::vector<std::string> public_data;
            for (const auto &[key, ranges] : new_ranges) {
                if (key.second != backend->order) continue;
                for (const auto *range : ranges) public_data.push_back(range->metaInfo);
            }
            const auto status = backend->call<nixlx::RemotePeers>("validatePeer", [&](auto &peers) {
                return peers.validatePeer(connection->info, peerInfoFor(metadata, backend->type), public_data);
            });
            if (status < 0 && (status != NIXL_ERR_NOT_SUPPORTED || new_connections.size() == 1)) {
                return {status,
                        "another start of agent " + shown + " is not loaded, the one that is known stays: backend " +
                            backend->type + ": " + failure("validatePeer", status)};
            }
        }
        replaced->lost.store(true); // a name has one start at a time: that one has ended
        forgetPeerLocked(replaced);
    }
    NewConnections connected(metadata.agent); // goes after what is loaded through it
    std::vector<const Backend *> unreachable;
    for (const auto &[backend, connection] : new_connections) {
        const auto status = connected.make(backend, connection->info, peerInfoFor(metadata, backend->type));
        if (status == NIXL_ERR_NOT_SUPPORTED && connections.size() > 1) {
            // For example a backend within a process, and a peer in another one: the others may reach it.
            NIXL_INFO << "loadRemoteMD: agent " << nx::quoted(name) << ": backend " << backend->type
                      << " does not reach agent " << shown << ": " << failure("loadPeer", status);
            std::erase_if(new_ranges, [&](const auto &entry) { return entry.first.second == backend->order; });
            unreachable.push_back(backend.get());
            continue;
        }
        if (status < 0) {
            return {status,
                    "error loading connection info for backend '" + backend->type + "' with status " +
                        nixlEnumStrings::statusStr(status) + ": " + failure("loadPeer", status)};
        }
    }
    std::erase_if(new_connections, [&](const auto &entry) {
        return std::find(unreachable.begin(), unreachable.end(), entry.first.get()) != unreachable.end();
    });
    if (connected.empty() && !known) {
        return {NIXL_ERR_BACKEND, "no common backend found: none of those in common reaches agent " + shown};
    }
    const auto held = grown();
    Sections next = *sections_before;
    for (auto &[key, ranges] : new_ranges) {
        std::vector<std::shared_ptr<Window>> windows;
        const auto &backend = (*all)[key.second];
        auto status = loadRanges(backend, metadata.agent, key.first, std::move(ranges), windows);
        if (!status.ok()) {
            return {status.code(),
                    "error loading remote metadata for agent " + shown + " with status " +
                        nixlEnumStrings::statusStr(status.code()) + ": backend " + backend->type + ": " +
                        status.message()};
        }
        auto &index = next[key];
        index = index.with(std::move(windows));
    }

    auto peer = known ? known : std::make_shared<Peer>(metadata.agent);
    if (metadata.trailer) peer->incarnation = metadata.trailer->incarnation;
    Connections connections_now = *connections_before;
    for (const auto &[backend, connection] : new_connections) connections_now[backend->type] = connection->info;
    peers_bytes += held.bytes - peer->held.bytes;
    peer->held = held;
    peer->connections.set(std::move(connections_now));
    peer->sections.set(std::move(next));
    if (!known) {
        PeerMap map = peers.copy();
        map[metadata.agent] = std::move(peer);
        peers.set(std::move(map));
    }
    connected.keep();
    return {};
}

// Requests in flight keep their memory until they end; everything new is refused from here on.
void
nixlAgentData::forgetPeerLocked(const std::shared_ptr<Peer> &peer) const {
    peer->alive.store(false, std::memory_order_release);
    peers_bytes -= std::exchange(peer->held, {}).bytes;
    {
        const auto sections = peer->sections.get();
        const auto removed = std::make_shared<const nx::memory::RemovedWindows>(nx::agent::windowsOf(*sections));
        peer->sections.set({});
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
