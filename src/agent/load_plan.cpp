// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/load_plan.h"

#include <algorithm>

namespace nx::agent {

namespace {

std::shared_ptr<Backend>
remoteBackend(const BackendList &backends, const std::string &type) {
    for (const auto &backend : backends) {
        if (backend->type == type && backend->remote) return backend;
    }
    return nullptr;
}

const std::string *
peerInfoFor(const wire::Metadata &metadata, const std::string &backend) {
    if (!metadata.trailer) return nullptr;
    for (const auto &entry : metadata.trailer->peer_info) {
        if (entry.backend == backend) return &entry.info;
    }
    return nullptr;
}

std::vector<LoadPlan::Connection>
commonConnections(const wire::Metadata &metadata, const BackendList &backends) {
    std::vector<LoadPlan::Connection> common;
    for (const auto &[type, info] : metadata.connections) {
        if (auto backend = remoteBackend(backends, type)) {
            common.push_back({std::move(backend), &info, peerInfoFor(metadata, type)});
        }
    }
    return common;
}

Status
nothingInCommon(const wire::Metadata &metadata) {
    std::string theirs;
    for (const auto &connection : metadata.connections) {
        theirs += (theirs.empty() ? "" : ", ") + quoted(connection.backend);
    }
    return {NIXL_ERR_BACKEND,
            "no common backend found: agent " + quoted(metadata.agent) + " offers " + theirs +
                "; create one of them here"};
}

bool
isOtherStart(const std::shared_ptr<Peer> &known, const wire::Metadata &metadata) {
    return known && metadata.trailer && known->incarnation != wire::Incarnation{} &&
        known->incarnation != metadata.trailer->incarnation;
}

// Whether the peer is new, grows or is replaced.
Status
judgeStart(LoadPlan &plan, std::shared_ptr<Peer> before) {
    const std::string shown = "'" + plan.metadata->agent + "'";
    const bool other_start = isOtherStart(before, *plan.metadata);
    if (other_start && plan.common == 0) {
        return {NIXL_ERR_NOT_ALLOWED,
                "the metadata is of another start of agent " + shown + "; load its connection info first"};
    }
    (other_start ? plan.replaced : plan.known) = std::move(before);
    if (plan.known || plan.common > 0) return {};
    return {NIXL_ERR_NOT_FOUND,
            "error loading remote metadata for agent " + shown +
                " with status NIXL_ERR_NOT_FOUND: how to connect to it is not known yet; load "
                "a blob with connection info first"};
}

Status
judgeConnections(LoadPlan &plan, std::vector<LoadPlan::Connection> offered, const Connections &before) {
    for (auto &connection : offered) {
        const auto &type = connection.backend->type;
        const auto known = before.find(type);
        if (known == before.end()) {
            plan.connections.push_back(std::move(connection));
        } else if (known->second != *connection.info) {
            return {NIXL_ERR_NOT_ALLOWED,
                    "error loading connection info for backend '" + type +
                        "' with status NIXL_ERR_NOT_ALLOWED: agent '" + plan.metadata->agent +
                        "' is loaded with other connection info; invalidate it first"};
        }
    }
    return {};
}

// A range that is loaded already is not loaded again, and must have a key that it has.
Status
judgeRanges(LoadPlan &plan, const BackendList &backends, const Connections &connections, const Sections &before) {
    for (const auto &section : plan.metadata->sections) {
        const auto backend = remoteBackend(backends, section.backend);
        const auto is_new = [&](const auto &connection) { return connection.backend == backend; };
        if (!backend ||
            (!connections.contains(backend->type) &&
             std::none_of(plan.connections.begin(), plan.connections.end(), is_new))) {
            continue;
        }
        const SectionKey key{section.memory, backend->order};
        const auto loaded = before.find(key);
        for (const auto &range : section.descs) {
            std::vector<std::shared_ptr<memory::Window>> same;
            if (loaded != before.end()) loaded->second.equal(range, same);
            const auto has_its_key = [&](const auto &w) { return w->mapping->public_data == range.metaInfo; };
            if (same.empty()) {
                plan.ranges[key].push_back(&range);
            } else if (std::none_of(same.begin(), same.end(), has_its_key)) {
                return {NIXL_ERR_NOT_ALLOWED,
                        "error loading remote metadata for agent '" + plan.metadata->agent +
                            "' with status NIXL_ERR_NOT_ALLOWED: a range that is loaded already comes with another "
                            "key; invalidate the agent first"};
            }
        }
    }
    return {};
}

} // namespace

Status
admit(const PeerLimits &limits, const Holding &held, size_t peer_count, size_t others_bytes) {
    const auto refused = [](const std::string &what) -> Status {
        return {NIXL_ERR_NO_MEMORY, what + "; nothing was changed; invalidate peers that are not needed any more"};
    };
    if (peer_count >= limits.peers) return refused("this agent knows " + std::to_string(peer_count) + " peers already");
    if (held.windows > limits.windows) {
        return refused("the peer would have " + std::to_string(held.windows) + " ranges, and at most " +
                       std::to_string(limits.windows) + " are kept of one peer");
    }
    if (held.bytes > limits.bytes) {
        return refused("the peer's metadata would hold " + std::to_string(held.bytes) + " bytes, and at most " +
                       std::to_string(limits.bytes) + " are kept of one peer");
    }
    if (others_bytes + held.bytes > limits.total_bytes) {
        return refused("the metadata of all peers would hold " + std::to_string(others_bytes + held.bytes) +
                       " bytes, and at most " + std::to_string(limits.total_bytes) + " are kept");
    }
    return {};
}

Holding
LoadPlan::held() const {
    auto held = known ? known->held : Holding{};
    for (const auto &connection : connections) {
        held.bytes += connection.info->size() + (connection.peer_info ? connection.peer_info->size() : 0);
    }
    for (const auto &[key, section] : ranges) {
        held.windows += section.size();
        for (const auto *range : section) held.bytes += sizeof(nixlBasicDesc) + range->metaInfo.size();
    }
    return held;
}

void
LoadPlan::leaveOut(const Backend &backend) {
    std::erase_if(ranges, [&](const auto &entry) { return entry.first.second == backend.order; });
    std::erase_if(connections, [&](const auto &connection) { return connection.backend.get() == &backend; });
}

bool
sharesBackend(const wire::Metadata &metadata, const BackendList &backends) {
    return metadata.connections.empty() || !commonConnections(metadata, backends).empty();
}

Result<LoadPlan>
judgeLoad(const wire::Metadata &metadata, const BackendList &backends, Known known, const PeerLimits &limits) {
    LoadPlan plan;
    plan.metadata = &metadata;
    auto offered = commonConnections(metadata, backends);
    plan.common = offered.size();
    if (offered.empty() && !metadata.connections.empty()) return nothingInCommon(metadata);
    const size_t others = known.peer_count - (known.peer ? 1 : 0);
    const size_t others_bytes = known.bytes - (known.peer ? known.peer->held.bytes : 0);
    if (auto status = judgeStart(plan, std::move(known.peer)); !status.ok()) return status;
    const auto connections = plan.known ? plan.known->connections.get() : Snapshot<Connections>().get();
    const auto sections = plan.known ? plan.known->sections.get() : Snapshot<Sections>().get();
    if (auto status = judgeConnections(plan, std::move(offered), *connections); !status.ok()) return status;
    if (auto status = judgeRanges(plan, backends, *connections, *sections); !status.ok()) return status;
    if (auto status = admit(limits, plan.held(), others, others_bytes); !status.ok()) {
        return std::move(status).withContext("the metadata of agent " + quoted(metadata.agent) + " is refused");
    }
    return plan;
}

} // namespace nx::agent
