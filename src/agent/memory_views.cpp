// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/memory_views.h"

#include "utils/common/nixl_log.h"

namespace nx::agent {

namespace {

Status
refused(const std::string &reasons) {
    return {NIXL_ERR_NOT_FOUND, "no backend covers the whole list" + reasons};
}

std::string
reason(const Backend &backend, const std::string &why) {
    return "; " + backend.type + ": " + why;
}

void
giveBack(const Backend &backend, nixlMemViewH view) {
    (void)backend.call<nixlx::MemoryViews>("releaseMemView", [&](auto &views) { views.releaseMemView(view); });
}

} // namespace

template<class List>
Status
MemoryViews::prepareWith(const std::shared_ptr<Backend> &backend, Peer *peer, const List &list, nixlMemViewH &view) {
    nixlMemViewH made = nullptr;
    const auto status = callFor<nixlx::MemoryViews>(
        peer, *backend, "prepMemView", [&](auto &views) { return views.prepMemView(list, made, nullptr); });
    if (status < 0) {
        return {
            status,
            "backend " + backend->type + ": " +
                takeBackendSentence("it has no memory views for devices (" + nixlEnumStrings::statusStr(status) + ")")};
    }
    const MutexLock lock(mutex_);
    views_[made] = backend;
    view = made;
    return {};
}

Status
MemoryViews::prepare(const nixl_remote_dlist_t &descs, nixlMemViewH &view, const nixl_opt_args_t *args) {
    return withFreshMetadata([&](std::shared_ptr<Peer> &lacking) { return prepareOnce(descs, view, args, lacking); });
}

Status
MemoryViews::prepareOnce(const nixl_remote_dlist_t &descs,
                         nixlMemViewH &view,
                         const nixl_opt_args_t *args,
                         std::shared_ptr<Peer> &lacking) {
    auto candidates = backends_.candidates(args);
    if (!candidates.ok()) return std::move(candidates).status();
    std::string reasons;
    std::shared_ptr<Peer> without;
    for (const auto &backend : **candidates) {
        nixl_remote_meta_dlist_t list(descs.getType());
        std::string why;
        std::shared_ptr<Peer> peer; ///< of the last element that has one
        bool one_peer = true;
        for (int i = 0; i < descs.descCount(); ++i) {
            const auto &desc = descs[i];
            nixlRemoteMetaDesc element;
            static_cast<nixlBasicDesc &>(element) = desc;
            if (desc.remoteAgent == nixl_null_agent) {
                element.remoteAgent = nixl_null_agent; // a hole
                list.addDesc(element);
                continue;
            }
            const auto before = std::exchange(peer, peers_.find(desc.remoteAgent));
            if (!peer) {
                return {NIXL_ERR_NOT_FOUND, "no metadata of agent " + quoted(desc.remoteAgent) + " is loaded"};
            }
            one_peer = one_peer && (!before || before == peer);
            const auto sections = peer->sections.get();
            const auto it = sections->find({descs.getType(), backend->order});
            const auto *entry = it == sections->end() ? nullptr : it->second.covering(desc);
            if (!entry) {
                without = peer;
                why = "element " + std::to_string(i) + " is not inside memory registered with it";
                break;
            }
            element.metadataP = entry->window->mapping->metadata;
            list.addDesc(element);
        }
        if (!peer) return refused("; the list has no element of a real agent");
        if (why.empty()) return prepareWith(backend, one_peer ? peer.get() : nullptr, list, view);
        reasons += reason(*backend, why);
    }
    lacking = std::move(without);
    return refused(reasons);
}

Status
MemoryViews::prepare(const nixl_local_dlist_t &descs, nixlMemViewH &view, const nixl_opt_args_t *args) {
    auto candidates = backends_.candidates(args);
    if (!candidates.ok()) return std::move(candidates).status();
    const auto sections = registrations_.sections();
    std::string reasons;
    for (const auto &backend : **candidates) {
        nixl_meta_dlist_t list(descs.getType());
        const auto it = sections->find({descs.getType(), backend->order});
        for (int i = 0; it != sections->end() && i < descs.descCount(); ++i) {
            const auto *entry = it->second.covering(descs[i]);
            if (!entry) break;
            list.emplace(descs[i].addr, descs[i].len, descs[i].devId, entry->window->mapping->metadata);
        }
        if (!descs.isEmpty() && list.descCount() == descs.descCount()) {
            return prepareWith(backend, nullptr, list, view);
        }
        reasons += reason(*backend, "the list is not inside memory registered with it");
    }
    return refused(reasons);
}

void
MemoryViews::release(nixlMemViewH view) {
    std::shared_ptr<Backend> backend;
    {
        const MutexLock lock(mutex_);
        const auto it = views_.find(view);
        if (it != views_.end()) backend = std::move(views_.extract(it).mapped());
    }
    if (backend) return giveBack(*backend, view);
    NIXL_WARN << "releaseMemView: agent " << quoted(agent_) << ": the handle is no memory view of this agent";
}

void
MemoryViews::clear() {
    std::unordered_map<nixlMemViewH, std::shared_ptr<Backend>> views;
    {
        const MutexLock lock(mutex_);
        views.swap(views_);
    }
    for (const auto &[view, backend] : views) giveBack(*backend, view);
}

} // namespace nx::agent
