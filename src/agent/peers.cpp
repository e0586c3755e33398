// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/peers.h"

#include <algorithm>

#include "agent/undo_list.h"
#include "utils/common/nixl_log.h"

namespace nx::agent {

using memory::Window;

namespace {

// Loads the ranges of one section that are new; equal keys of touching ranges share one load.
Result<std::vector<std::shared_ptr<Window>>>
loadRanges(const LoadPlan &plan,
           const std::shared_ptr<Backend> &backend,
           nixl_mem_t kind,
           std::vector<const nixlBlobDesc *> ranges) {
    std::vector<std::shared_ptr<Window>> windows;
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
        const auto status = callFor<nixlx::RemotePeers>(plan.known.get(), *backend, "loadRemoteMD", [&](auto &peers) {
            return peers.loadRemoteMD(whole, kind, plan.metadata->agent, metadata);
        });
        if (status < 0) return {status, backendFailure("loadRemoteMD", status)};
        auto owner =
            memory::ownMapping(metadata, nullptr, whole.metaInfo, [backend](nixlBackendMD *loaded, nixlBackendMD *) {
                (void)backend->call("unloadMD", [&](auto &engine) { return engine.unloadMD(loaded); });
            });
        for (; first < last; ++first) windows.push_back(std::make_shared<Window>(*ranges[first], owner));
    }
    return windows;
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
                        "' is not loaded, the one that is known stays: backend " + backend->type + ": " +
                        backendFailure("validatePeer", status)};
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
        const auto status = callFor<nixlx::RemotePeers>(plan.known.get(), *backend, "loadPeer", [&](auto &peers) {
            return peers.loadPeer(agent, *info, peer_info);
        });
        if (status >= 0) {
            undo.push([backend = backend.get(), &agent] { disconnect(*backend, agent); });
        } else if (status == NIXL_ERR_NOT_SUPPORTED && plan.common > 1) {
            NIXL_INFO << "loadRemoteMD: agent " << quoted(name) << ": backend " << backend->type
                      << " does not reach agent '" << agent << "': " << backendFailure("loadPeer", status);
            plan.leaveOut(*backend);
        } else {
            return {status,
                    "error loading connection info for backend '" + backend->type + "' with status " +
                        nixlEnumStrings::statusStr(status) + ": " + backendFailure("loadPeer", status)};
        }
    }
    if (!undo.empty() || plan.known) return {};
    return {NIXL_ERR_BACKEND, "no common backend found: none of those in common reaches agent '" + agent + "'"};
}

// The peer's sections with the new ranges, which the backends unload when the last window of them goes.
Result<Sections>
loadAll(const LoadPlan &plan, const BackendList &backends) {
    auto sections = plan.known ? plan.known->sections.copy() : Sections();
    for (const auto &[key, ranges] : plan.ranges) {
        const auto &backend = backends[key.second];
        auto windows = loadRanges(plan, backend, key.first, ranges);
        if (!windows.ok()) {
            return {windows.code(),
                    "error loading remote metadata for agent '" + plan.metadata->agent + "' with status " +
                        nixlEnumStrings::statusStr(windows.code()) + ": backend " + backend->type + ": " +
                        windows.message()};
        }
        auto &index = sections[key];
        index = index.with(*std::move(windows));
    }
    return sections;
}

} // namespace

std::shared_ptr<Peer>
Peers::find(const std::string &agent) const {
    const auto known = map_.get();
    const auto it = known->find(agent);
    return it == known->end() || !it->second->alive() ? nullptr : it->second;
}

Result<wire::Metadata>
Peers::decode(std::string_view blob) const {
    if (auto status = credentials_.check(blob); !status.ok()) return status;
    auto metadata = wire::decodeMetadata(blob);
    if (metadata.ok()) return metadata;
    return std::move(metadata).status().withContext("failed to deserialize remote metadata");
}

Status
Peers::load(const wire::Metadata &metadata) {
    if (metadata.agent == agent_) {
        const bool own = metadata.trailer && metadata.trailer->incarnation == incarnation_;
        return {NIXL_ERR_INVALID_PARAM,
                own ? "the metadata is this agent's own"
                    : "the metadata was published by another agent that has this agent's name, " + quoted(agent_) +
                        "; give every agent a name of its own"};
    }
    const MutexLock lock(mutex_);
    sweepLocked(); // a lost start of the peer is no earlier one
    auto status = loadLocked(metadata);
    sweepLocked();
    return status;
}

Status
Peers::loadLocked(const wire::Metadata &metadata) {
    if (credentials_.required()) {
        if (auto status = editions_.judge(metadata); !status.ok()) return status;
    }
    const auto backends = backends_.all();
    const auto map = map_.get();
    const auto known = map->find(metadata.agent);
    auto plan =
        judgeLoad(metadata, *backends, {known == map->end() ? nullptr : known->second, map->size(), bytes_}, limits_);
    if (!plan.ok()) return std::move(plan).status();
    if (plan->replaced) {
        if (auto status = validateStart(*plan); !status.ok()) return status;
        // A backend knows one start of a name at a time. That this one has ended cannot be undone.
        plan->replaced->lose();
        forgetLocked(plan->replaced);
    }
    UndoList undo; // goes after what is loaded through its connections
    if (auto status = connectAll(*plan, agent_, undo); !status.ok()) return status;
    auto sections = loadAll(*plan, *backends);
    if (!sections.ok()) return std::move(sections).status();
    commitLocked(*plan, *std::move(sections));
    undo.keep();
    return {};
}

// What may fail comes first.
void
Peers::commitLocked(const LoadPlan &plan, Sections loaded) {
    const auto peer = plan.known ? plan.known : std::make_shared<Peer>(plan.metadata->agent, some_lost_);
    auto connected = peer->connections.copy();
    for (const auto &[backend, info, peer_info] : plan.connections) connected[backend->type] = *info;
    auto connections = std::make_shared<const Connections>(std::move(connected));
    auto sections = std::make_shared<const Sections>(std::move(loaded));
    auto known = map_.copy();
    known[peer->name] = peer;
    auto map = std::make_shared<const Map>(std::move(known));
    if (credentials_.required()) editions_.note(*plan.metadata);

    if (plan.metadata->trailer) peer->incarnation = plan.metadata->trailer->incarnation;
    const auto held = plan.held();
    bytes_ += held.bytes - peer->held.bytes;
    peer->held = held;
    peer->connections.set(std::move(connections));
    peer->sections.set(std::move(sections));
    map_.set(std::move(map));
}

// Requests in flight keep their memory until they end; everything new is refused from here on.
void
Peers::forgetLocked(const std::shared_ptr<Peer> &peer) {
    peer->remove();
    bytes_ -= std::exchange(peer->held, {}).bytes;
    {
        const auto sections = peer->sections.get();
        const auto removed = std::make_shared<const memory::RemovedWindows>(windowsOf(*sections));
        peer->sections.set(Sections());
        (void)requests_.leaveTo(removed, peer.get());
    }
    const auto connections = peer->connections.get();
    const auto backends = backends_.all();
    for (const auto &backend : *backends) {
        if (connections->contains(backend->type)) disconnect(*backend, peer->name);
    }
    auto map = map_.copy();
    const auto it = map.find(peer->name);
    if (it != map.end() && it->second == peer) {
        map.erase(it);
        map_.set(std::move(map));
    }
}

Status
Peers::forget(const std::string &agent) {
    return forgetIf(agent, [](const Peer &) { return Status(); });
}

Status
Peers::withdraw(const std::string &agent, const std::optional<wire::Incarnation> &start) {
    return forgetIf(agent, [&](const Peer &peer) -> Status {
        if (peer.incarnation == wire::Incarnation{} || start == peer.incarnation) return {};
        return {NIXL_ERR_NOT_ALLOWED,
                "agent " + quoted(agent) +
                    " stays: whoever asks for it to be forgotten is not the start of it that is known"};
    });
}

template<class Judge>
Status
Peers::forgetIf(const std::string &agent, Judge judge) {
    if (agent == agent_) return {NIXL_ERR_INVALID_PARAM, "an agent cannot invalidate itself"};
    const MutexLock lock(mutex_);
    const auto peer = find(agent);
    if (!peer) return {NIXL_ERR_NOT_FOUND, "no metadata of agent " + quoted(agent) + " is loaded"};
    if (auto status = judge(*peer); !status.ok()) return status;
    forgetLocked(peer);
    return {};
}

void
Peers::forgetStart(const std::string &agent, const wire::Incarnation &start) {
    const MutexLock lock(mutex_);
    const auto peer = find(agent);
    if (peer && peer->incarnation == start) forgetLocked(peer);
}

void
Peers::forgetAll() {
    const MutexLock lock(mutex_);
    const auto known = map_.get();
    for (const auto &[name, peer] : *known) forgetLocked(peer);
}

void
Peers::sweep() {
    const MutexLock lock(mutex_);
    sweepLocked();
}

// Throws nothing: who comes next does what there was no memory for.
void
Peers::sweepLocked() {
    if (!some_lost_.exchange(false)) return;
    try {
        const auto known = map_.get();
        for (const auto &[name, peer] : *known) {
            if (!peer->lost()) continue;
            forgetLocked(peer);
            NIXL_INFO << "agent " << quoted(agent_) << ": lost agent " << quoted(name)
                      << "; its metadata was dropped and can be loaded again";
        }
    }
    catch (const std::bad_alloc &) {
        some_lost_.store(true);
    }
}

Status
Peers::connect(const std::string &agent, const nixl_opt_args_t *args) const {
    auto candidates = backends_.candidates(args);
    if (!candidates.ok()) return std::move(candidates).status();
    const auto peer = find(agent);
    const auto connections = peer ? peer->connections.get() : Snapshot<Connections>().get();
    if (connections->empty()) {
        return {NIXL_ERR_NOT_FOUND, "no metadata of agent " + quoted(agent) + " is loaded"};
    }
    const auto sections = peer->sections.get();
    const auto is_left_to = [&](const Backend &leader, const Backend &companion) { // all that the peer has to offer
        return companion.leader == &leader && connections->contains(companion.type) &&
            std::none_of(sections->begin(), sections->end(), [&](const auto &section) {
                   const auto &[memory, order] = section.first;
                   return order == leader.order && !companion.supports(memory);
               });
    };
    bool any = false;
    for (const auto &[type, info] : *connections) {
        for (const auto &backend : **candidates) {
            if (backend->type != type) continue;
            any = true;
            if (std::any_of((*candidates)->begin(), (*candidates)->end(),
                            [&](const auto &other) { return is_left_to(*backend, *other); })) {
                continue;
            }
            const auto status = callFor<nixlx::RemotePeers>(peer.get(), *backend, "connect",
                                                            [&](auto &peers) { return peers.connect(agent); });
            if (status < 0) return {status, "backend " + type + ": " + backendFailure("connect", status)};
        }
    }
    if (!any) return {NIXL_ERR_BACKEND, "no backend in common with agent " + quoted(agent)};
    return {};
}

} // namespace nx::agent
