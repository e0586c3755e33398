// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/local_metadata.h"

#include <algorithm>
#include <iterator>

#include "agent/peer.h"
#include "wire/limits.h"

namespace nx::agent {

using memory::RangeIndex;
using metadata::Blob;

namespace {

Status
addConnection(const Backend &backend, wire::Metadata &metadata) {
    std::string info;
    auto status = backend.call<nixlx::RemotePeers>("getConnInfo", [&](auto &peers) { return peers.getConnInfo(info); });
    if (status < 0) return {status, "backend " + backend.type + ": " + backendFailure("getConnInfo", status)};
    metadata.connections.push_back({backend.type, std::move(info)});
    std::string peer_info;
    status = backend.call<nixlx::RemotePeers>("getPeerInfo", [&](auto &peers) { return peers.getPeerInfo(peer_info); });
    if (status < 0) return {status, "backend " + backend.type + ": " + backendFailure("getPeerInfo", status)};
    if (!peer_info.empty()) metadata.trailer->peer_info.push_back({backend.type, std::move(peer_info)});
    return {};
}

} // namespace

// What no peer would take is refused here, where something can be done about it.
Result<std::string>
LocalMetadata::forPeers(const wire::Metadata &metadata) const {
    if (auto status = wire::checkLimits(metadata); !status.ok()) return status;
    auto blob = credentials_.sign(wire::encodeMetadata(metadata));
    if (blob.ok() && blob->size() > wire::kBlobBytesMax) {
        return {NIXL_ERR_NOT_SUPPORTED,
                "the metadata has " + std::to_string(blob->size()) + " bytes, and peers take at most " +
                    std::to_string(wire::kBlobBytesMax) +
                    "; publish it in parts (getLocalPartialMD) or register fewer, larger ranges"};
    }
    return blob;
}

// Under the mutex, so that of two states the later one has the higher epoch.
LocalMetadata::State
LocalMetadata::state() {
    const MutexLock lock(mutex_);
    auto sections = registrations_.sections(); // first: their backends are among those that come after
    auto backends = backends_.all();
    if (last_.epoch == 0 || !sections.is(last_.sections) || !backends.is(last_.backends)) {
        last_ = {sections.identity(), backends.identity(), last_.epoch + 1};
    }
    return {std::move(sections), std::move(backends), last_.epoch};
}

wire::Metadata
LocalMetadata::empty(uint64_t epoch, bool whole) const {
    wire::Metadata metadata;
    metadata.agent = agent_;
    metadata.trailer.emplace();
    metadata.trailer->incarnation = incarnation_;
    metadata.trailer->features = wire::kFeatureAnswers;
    if (!credentials_.required()) return metadata;
    const auto since_1970 = std::chrono::floor<std::chrono::milliseconds>(started_.time_since_epoch());
    metadata.trailer->edition = {epoch, static_cast<uint64_t>(since_1970.count()), whole};
    return metadata;
}

Result<std::string>
LocalMetadata::whole() {
    return wholeOf(state());
}

Result<std::string>
LocalMetadata::wholeOf(const State &state) const {
    auto metadata = empty(state.epoch, true);
    const auto &[sections, backends, epoch] = state;
    for (const bool companions : {false, true}) { // behind the others: readers of NIXL 1.4 go by the first
        for (const auto &backend : *backends) {
            if (!backend->remote || backend->isCompanion() != companions) continue;
            if (auto status = addConnection(*backend, metadata); !status.ok()) return status;
        }
    }
    if (metadata.connections.empty()) {
        return {NIXL_ERR_INVALID_PARAM, "no backend of this agent reaches other agents; there is nothing to publish"};
    }
    std::vector<wire::Section> of_companions;
    for (const auto &[key, index] : *sections) {
        const auto &backend = (*backends)[key.second];
        if (!backend->remote) continue;
        wire::Section section{backend->type, key.first, {}};
        section.descs.reserve(index.size());
        index.forEach([&](const RangeIndex::Entry &entry) {
            section.descs.emplace_back(entry.range, entry.window->mapping->public_data);
        });
        (backend->isCompanion() ? of_companions : metadata.sections).push_back(std::move(section));
    }
    const auto of_others = static_cast<std::ptrdiff_t>(metadata.sections.size());
    std::move(of_companions.begin(), of_companions.end(), std::back_inserter(metadata.sections));
    auto blob = forPeers(metadata);
    if (blob.ok() || of_companions.empty()) return blob;
    // What companions add must not be what makes it too large: their leaders serve without.
    metadata.sections.erase(metadata.sections.begin() + of_others, metadata.sections.end());
    return forPeers(metadata);
}

Result<Blob>
LocalMetadata::shared() {
    // Before it is made: what changes meanwhile makes the next one.
    const auto now = state();
    {
        const MutexLock lock(mutex_);
        if (shared_.blob && shared_.epoch == now.epoch) return shared_.blob;
    }
    auto made = wholeOf(now);
    if (!made.ok()) return std::move(made).status();
    auto blob = std::make_shared<const std::string>(*std::move(made));
    const MutexLock lock(mutex_);
    if (now.epoch > shared_.epoch) shared_ = {blob, now.epoch};
    return blob;
}

Result<std::string>
LocalMetadata::part(const nixl_reg_dlist_t &descs, const nixl_opt_args_t *args) {
    auto candidates = backends_.candidates(args);
    if (!candidates.ok()) return std::move(candidates).status();
    const auto kind = descs.getType();
    const std::string prefix = "serialization failed: ";
    BackendList usable;
    bool taken = descs.isEmpty() || isHinted(args);
    for (const auto &backend : **candidates) {
        if (!descs.isEmpty() && !isHinted(args) && !backend->supports(kind)) continue;
        taken = true;
        if (backend->remote) usable.push_back(backend);
    }
    std::stable_partition(usable.begin(), usable.end(), [](const auto &backend) { return !backend->isCompanion(); });
    if (!taken) {
        return {NIXL_ERR_NOT_FOUND, prefix + "no backend of this agent takes " + nixlEnumStrings::memTypeStr(kind)};
    }
    if (usable.empty() && !descs.isEmpty()) {
        return {NIXL_ERR_BACKEND, prefix + "none of the candidate backends reaches other agents"};
    }

    const auto now = state();
    auto metadata = empty(now.epoch, false);
    if (descs.isEmpty() || (args && args->includeConnInfo)) {
        for (const auto &backend : usable) {
            if (auto status = addConnection(*backend, metadata); !status.ok()) return status;
        }
    }
    bool found_section = descs.isEmpty();
    for (const auto &backend : usable) {
        if (descs.isEmpty()) break;
        const auto it = now.sections->find({kind, backend->order});
        if (it == now.sections->end()) continue;
        found_section |= !backend->isCompanion();
        wire::Section section{backend->type, kind, {}};
        for (int i = 0; i < descs.descCount(); ++i) {
            const nixlBasicDesc &range = descs[i];
            std::vector<std::shared_ptr<memory::Window>> same;
            it->second.equal(range, same);
            if (same.empty() && backend->isCompanion()) continue; // it did not take this range
            if (same.empty()) {
                return {NIXL_ERR_NOT_FOUND,
                        prefix + "range " + std::to_string(i) + " (address " + std::to_string(range.addr) +
                            ", length " + std::to_string(range.len) + ", device " + std::to_string(range.devId) +
                            ") is not registered exactly so with backend " + backend->type};
            }
            section.descs.emplace_back(range, same.back()->mapping->public_data);
        }
        if (!section.descs.empty() || !backend->isCompanion()) metadata.sections.push_back(std::move(section));
    }
    if (!found_section) {
        return {NIXL_ERR_NOT_FOUND, prefix + "no " + nixlEnumStrings::memTypeStr(kind) + " is registered"};
    }
    return forPeers(metadata);
}

} // namespace nx::agent
