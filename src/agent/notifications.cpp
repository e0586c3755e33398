// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Messages between agents.
#include "agent/agent_state.h"
#include "base/last_error.h"

using nx::Status;

std::optional<std::string>
nx::agent::requestedNotification(const nixl_opt_args_t *args) {
    if (!args) return {};
    if (args->notif) return *args->notif;
    if (args->hasNotif) return args->notifMsg;
    return {};
}

Status
nixlAgentData::getNotifs(nixl_notifs_t &notifs, const nixl_opt_args_t *args) {
    if (dropped_count.load(std::memory_order_relaxed)) reapDropped();
    const bool hinted = args && !args->backends.empty();
    Status result;
    bool asked = false;
    const auto ask = [&](nx::agent::Backend &backend) {
        if (!backend.notif) return;
        asked = true;
        notif_list_t arrived;
        nx::clearBackendSentence();
        const auto status = backend.engine->getNotifs(arrived);
        for (auto &[agent, message] : arrived) notifs[agent].push_back(std::move(message));
        if (status < 0 && result.ok()) {
            result = {status,
                      "backend " + backend.type + ": " +
                          nx::takeBackendSentence("getNotifs failed with " + nixlEnumStrings::statusStr(status))};
        }
    };
    if (hinted) {
        auto usable = candidates(args);
        if (!usable.ok()) return std::move(usable).status();
        for (const auto &backend : *usable) ask(*backend);
    } else {
        const auto all = backends.get();
        for (const auto &backend : *all) ask(*backend);
    }
    if (!asked) {
        return {NIXL_ERR_BACKEND,
                hinted ? "none of the hinted backends can notify" : "this agent has no backend that can notify"};
    }
    return result;
}

Status
nixlAgentData::genNotif(const std::string &agent, const std::string &message, const nixl_opt_args_t *args) {
    auto usable = candidates(args);
    if (!usable.ok()) return std::move(usable).status();
    std::erase_if(*usable, [](const auto &backend) { return !backend->notif; });
    if (usable->empty()) return {NIXL_ERR_BACKEND, "this agent has no backend that can notify"};

    std::shared_ptr<nx::agent::Peer> peer;
    if (agent == name) {
        std::erase_if(*usable, [](const auto &backend) { return !backend->local; });
    } else {
        std::lock_guard lock(peers_mutex);
        peer = findPeer(agent);
        if (!peer) return {NIXL_ERR_NOT_FOUND, "no metadata of agent " + nx::quoted(agent) + " is loaded"};
        std::erase_if(*usable, [&](const auto &backend) { return !peer->connections.contains(backend->type); });
    }
    if (usable->empty()) {
        return {NIXL_ERR_NOT_FOUND, "no backend that can notify reaches agent " + nx::quoted(agent)};
    }
    auto &backend = *usable->front();
    nx::clearBackendSentence();
    const auto status = backend.engine->genNotif(agent, message);
    if (status < 0) {
        Status why(status,
                   "backend " + backend.type + ": " +
                       nx::takeBackendSentence("genNotif failed with " + nixlEnumStrings::statusStr(status)));
        if (status == NIXL_ERR_REMOTE_DISCONNECT) peerLost(peer);
        return why;
    }
    return {};
}
