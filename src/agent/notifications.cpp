// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Messages between agents.
#include <algorithm>
#include <iterator>

#include "agent/agent_state.h"
#include "wire/notification.h"

using nx::Status;
using nx::agent::Backend;

const nixl_blob_t *
nx::agent::requestedNotification(const nixl_opt_args_t *args) noexcept {
    if (!args) return nullptr;
    if (args->notif) return &*args->notif;
    return args->hasNotif ? &args->notifMsg : nullptr;
}

Status
nx::agent::checkNotification(const nixl_blob_t *notification) {
    return notification ? nx::wire::checkNotification(*notification) : Status();
}

Status
nixlAgentData::getNotifs(nixl_notifs_t &notifs, const nixl_opt_args_t *args) {
    requests.reap();
    auto candidates = backends.candidates(args);
    if (!candidates.ok()) return std::move(candidates).status();
    Status result;
    bool asked = false;
    for (const auto &backend : **candidates) {
        if (!backend->notif) continue;
        asked = true;
        notif_list_t arrived;
        const auto status = backend->call<nixlx::Notifications>(
            "getNotifs", [&](auto &messages) { return messages.getNotifs(arrived); });
        for (auto &[agent, message] : arrived) notifs[agent].push_back(std::move(message));
        if (status < 0 && result.ok()) {
            result = {status, "backend " + backend->type + ": " + nx::agent::backendFailure("getNotifs", status)};
        }
    }
    if (!asked) {
        return {NIXL_ERR_BACKEND,
                nx::agent::isHinted(args) ? "none of the hinted backends can notify"
                                          : "this agent has no backend that can notify"};
    }
    return result;
}

Status
nixlAgentData::waitForNotifs(nixl_notifs_t &notifs,
                             std::optional<std::chrono::microseconds> timeout,
                             const nixl_opt_args_t *args) {
    return waiting.wait(timeout, [&](nx::agent::Waiting::Again &again) -> std::optional<Status> {
        nixl_notifs_t arrived;
        auto status = getNotifs(arrived, args);
        peers.forgetLost(); // a wait may be long
        for (auto &[agent, messages] : arrived) {
            auto &known = notifs[agent];
            known.insert(known.end(), std::make_move_iterator(messages.begin()),
                         std::make_move_iterator(messages.end()));
        }
        if (!status.ok() || !arrived.empty()) return status;
        const auto candidates = backends.candidates(args);
        again.polled = std::any_of((*candidates)->begin(), (*candidates)->end(),
                                   [](const auto &backend) { return backend->notif && !backend->waiting(); });
        return {};
    });
}

Status
nixlAgentData::genNotif(const std::string &agent, const std::string &message, const nixl_opt_args_t *args) const {
    if (auto status = nx::wire::checkNotification(message); !status.ok()) return status;
    const bool to_self = agent == name;
    const auto peer = to_self ? nullptr : peers.find(agent);
    const auto connections = peer ? peer->connections.get() : nx::Snapshot<nx::agent::Connections>().get();
    auto candidates = backends.candidates(args);
    if (!candidates.ok()) return std::move(candidates).status();
    const Backend *chosen = nullptr;
    bool some_notify = false;
    for (const auto &backend : **candidates) {
        some_notify |= backend->notif;
        const bool reaches = to_self ? backend->to_self : connections->contains(backend->type);
        if (!chosen && backend->notif && reaches) chosen = backend.get();
    }
    if (!some_notify) return {NIXL_ERR_BACKEND, "this agent has no backend that can notify"};
    if (!to_self && !peer) return {NIXL_ERR_NOT_FOUND, "no metadata of agent " + nx::quoted(agent) + " is loaded"};
    if (!chosen) return {NIXL_ERR_NOT_FOUND, "no backend that can notify reaches agent " + nx::quoted(agent)};
    const auto status = nx::agent::callFor<nixlx::Notifications>(
        peer.get(), *chosen, "genNotif", [&](auto &messages) { return messages.genNotif(agent, message); });
    if (status >= 0) return {};
    return {status, "backend " + chosen->type + ": " + nx::agent::backendFailure("genNotif", status)};
}
