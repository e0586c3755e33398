// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Memory views for device kernels. A view stays the engine's own pointer, because kernels dereference it; the agent
// checks it by look-up.
#include "agent/agent_state.h"
#include "base/last_error.h"
#include "utils/common/nixl_log.h"

using nx::Status;
using nx::agent::Backend;

namespace {

Status
refused(const std::string &reasons) {
    return {NIXL_ERR_NOT_FOUND, "no backend covers the whole list" + reasons};
}

std::string
reason(const Backend &backend, const std::string &why) {
    return "; " + backend.type + ": " + why;
}

Status
viewFailed(const Backend &backend, nixl_status_t status) {
    return {
        status,
        "backend " + backend.type + ": " +
            nx::takeBackendSentence("it has no memory views for devices (" + nixlEnumStrings::statusStr(status) + ")")};
}

} // namespace

Status
nixlAgentData::prepRemoteView(const nixl_remote_dlist_t &descs, nixlMemViewH &view, const nixl_opt_args_t *args) {
    return withFreshMetadata(
        [&](std::shared_ptr<nx::agent::Peer> &lacking) { return prepRemoteViewOnce(descs, view, args, lacking); });
}

Status
nixlAgentData::prepRemoteViewOnce(const nixl_remote_dlist_t &descs,
                                  nixlMemViewH &view,
                                  const nixl_opt_args_t *args,
                                  std::shared_ptr<nx::agent::Peer> &lacking) {
    auto usable = candidates(args);
    if (!usable.ok()) return std::move(usable).status();
    std::string reasons;
    bool any_real = false;
    std::shared_ptr<nx::agent::Peer> without;
    for (const auto &backend : *usable) {
        nixl_remote_meta_dlist_t list(descs.getType());
        std::string why;
        for (int i = 0; i < descs.descCount() && why.empty(); ++i) {
            const auto &desc = descs[i];
            nixlRemoteMetaDesc element;
            static_cast<nixlBasicDesc &>(element) = desc;
            if (desc.remoteAgent == nixl_null_agent) {
                element.remoteAgent = nixl_null_agent; // a hole
                list.addDesc(element);
                continue;
            }
            any_real = true;
            const auto peer = findPeer(desc.remoteAgent);
            if (!peer) {
                return {NIXL_ERR_NOT_FOUND, "no metadata of agent " + nx::quoted(desc.remoteAgent) + " is loaded"};
            }
            const auto sections_now = peer->sections.get();
            const auto it = sections_now->find({descs.getType(), backend->order});
            const auto *entry = it == sections_now->end() ? nullptr : it->second.covering(desc);
            if (!entry) {
                without = peer;
                why = "element " + std::to_string(i) + " is not inside memory registered with it";
                break;
            }
            element.metadataP = entry->window->mapping->metadata;
            list.addDesc(element);
        }
        if (!any_real) return refused("; the list has no element of a real agent");
        if (!why.empty()) {
            reasons += reason(*backend, why);
            continue;
        }
        nixlMemViewH made = nullptr;
        const auto status = backend->call<nixlx::MemoryViews>(
            "prepMemView", [&](auto &views_of) { return views_of.prepMemView(list, made, nullptr); });
        if (status < 0) return viewFailed(*backend, status);
        const nx::MutexLock lock(views_mutex);
        views[made] = backend;
        view = made;
        return {};
    }
    lacking = std::move(without);
    return refused(reasons);
}

Status
nixlAgentData::prepLocalView(const nixl_local_dlist_t &descs, nixlMemViewH &view, const nixl_opt_args_t *args) {
    auto usable = candidates(args);
    if (!usable.ok()) return std::move(usable).status();
    const auto sections = local_state.get().part(&nx::agent::Local::sections);
    std::string reasons;
    for (const auto &backend : *usable) {
        nixl_meta_dlist_t list(descs.getType());
        const auto it = sections->find({descs.getType(), backend->order});
        for (int i = 0; it != sections->end() && i < descs.descCount(); ++i) {
            const auto *entry = it->second.covering(descs[i]);
            if (!entry) break;
            list.emplace(descs[i].addr, descs[i].len, descs[i].devId, entry->window->mapping->metadata);
        }
        if (descs.isEmpty() || list.descCount() != descs.descCount()) {
            reasons += reason(*backend, "the list is not inside memory registered with it");
            continue;
        }
        nixlMemViewH made = nullptr;
        const auto status = backend->call<nixlx::MemoryViews>(
            "prepMemView", [&](auto &views_of) { return views_of.prepMemView(list, made, nullptr); });
        if (status < 0) return viewFailed(*backend, status);
        const nx::MutexLock lock(views_mutex);
        views[made] = backend;
        view = made;
        return {};
    }
    return refused(reasons);
}

void
nixlAgentData::releaseView(nixlMemViewH view) {
    std::shared_ptr<Backend> backend;
    {
        const nx::MutexLock lock(views_mutex);
        const auto it = views.find(view);
        if (it == views.end()) {
            NIXL_WARN << "releaseMemView: agent " << nx::quoted(name) << ": the handle is no memory view of this agent";
            return;
        }
        backend = it->second;
        views.erase(it);
    }
    (void)backend->call<nixlx::MemoryViews>("releaseMemView", [&](auto &views_of) { views_of.releaseMemView(view); });
}
