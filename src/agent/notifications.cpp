// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Messages between agents.
#include "agent/agent_state.h"
#include "base/last_error.h"
#include "wire/notification.h"

using nx::Snapshot;
using nx::Status;
using nx::agent::Backend;

std::optional<std::string>
nx::agent::requestedNotification(const nixl_opt_args_t *args) {
    if (!args) return {};
    if (args->notif) return *args->notif;
    if (args->hasNotif) return args->notifMsg;
    return {};
}

Status
nx::agent::checkNotification(const std::optional<nixl_blob_t> &notification) {
    return notification ? nx::wire::checkNotification(*notification) : Status();
}

namespace {

// The candidates, without a copy of the list where there is no hint: these calls are made all the time.
template<class Visit>
Status
visitCandidates(const nixlAgentData &data, const nixl_opt_args_t *args, Visit visit) {
    if (!args || args->backends.empty()) {
        const auto local = data.local_state.get();
        for (const auto &backend : local->backends) visit(backend);
        return {};
    }
    auto hinted = data.candidates(args);
    if (!hinted.ok()) return std::move(hinted).status();
    for (const auto &backend : *hinted) visit(backend);
    return {};
}

} // namespace

Status
nixlAgentData::getNotifs(nixl_notifs_t &notifs, const nixl_opt_args_t *args) {
    if (dropped_count.load(std::memory_order_relaxed)) reapDropped();
    Status result;
    bool asked = false;
    auto visited = visitCandidates(*this, args, [&](const std::shared_ptr<Backend> &backend) {
        if (!backend->notif) return;
        asked = true;
        notif_list_t arrived;
        const auto status = backend->call<nixlx::Notifications>(
            "getNotifs", [&](auto &messages) { return messages.getNotifs(arrived); });
        for (auto &[agent, message] : arrived) notifs[agent].push_back(std::move(message));
        if (status < 0 && result.ok()) {
            result = {status,
                      "backend " + backend->type + ": " +
                          nx::takeBackendSentence("getNotifs failed with " + nixlEnumStrings::statusStr(status))};
        }
    });
    if (!visited.ok()) return visited;
    if (!asked) {
        const bool hinted = args && !args->backends.empty();
        return {NIXL_ERR_BACKEND,
                hinted ? "none of the hinted backends can notify" : "this agent has no backend that can notify"};
    }
    return result;
}

Status
nixlAgentData::genNotif(const std::string &agent, const std::string &message, const nixl_opt_args_t *args) {
    if (auto status = nx::wire::checkNotification(message); !status.ok()) return status;
    const bool to_self = agent == name;
    const auto peer = to_self ? nullptr : findPeer(agent);
    const auto connections = peer ? peer->connections.get() : Snapshot<nx::agent::Connections>().get();
    std::shared_ptr<Backend> chosen;
    bool some_notify = false;
    auto visited = visitCandidates(*this, args, [&](const std::shared_ptr<Backend> &backend) {
        if (!backend->notif) return;
        some_notify = true;
        if (chosen) return;
        if (to_self ? backend->local : connections->contains(backend->type)) chosen = backend;
    });
    if (!visited.ok()) return visited;
    if (!some_notify) return {NIXL_ERR_BACKEND, "this agent has no backend that can notify"};
    if (!to_self && !peer) return {NIXL_ERR_NOT_FOUND, "no metadata of agent " + nx::quoted(agent) + " is loaded"};
    if (!chosen) return {NIXL_ERR_NOT_FOUND, "no backend that can notify reaches agent " + nx::quoted(agent)};

    const auto status = chosen->call<nixlx::Notifications>(
        "genNotif", [&](auto &messages) { return messages.genNotif(agent, message); });
    if (status >= 0) return {};
    Status why(status,
               "backend " + chosen->type + ": " +
                   nx::takeBackendSentence("genNotif failed with " + nixlEnumStrings::statusStr(status)));
    if (status == NIXL_ERR_REMOTE_DISCONNECT) peerLost(peer);
    return why;
}
