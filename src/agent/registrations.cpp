// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/registrations.h"

#include <algorithm>
#include <optional>

#include "utils/common/nixl_log.h"

namespace nx::agent {

using memory::MappingOwner;
using memory::RangeIndex;
using memory::RemovedWindows;
using memory::Window;

namespace {

bool
isStorage(nixl_mem_t memory) {
    return memory == BLK_SEG || memory == OBJ_SEG || memory == FILE_SEG;
}

// Length zero means "all of it" for storage.
nixlBasicDesc
normalised(const nixlBasicDesc &range, nixl_mem_t memory) {
    return {range.addr, isStorage(memory) && range.len == 0 ? SIZE_MAX : range.len, range.devId};
}

Status
checkRanges(const nixl_reg_dlist_t &descs) {
    const auto memory = descs.getType();
    if (memory < DRAM_SEG || memory > FILE_SEG) {
        return {NIXL_ERR_INVALID_PARAM, "memory type " + std::to_string(memory) + " does not exist"};
    }
    if (isStorage(memory)) return {};
    for (int i = 0; i < descs.descCount(); ++i) {
        const auto &range = descs[i];
        if (range.addr + range.len < range.addr) {
            return {NIXL_ERR_INVALID_PARAM,
                    "range " + std::to_string(i) + " passes the end of the address space (address " +
                        std::to_string(range.addr) + ", length " + std::to_string(range.len) + ")"};
        }
    }
    return {};
}

// Ranges of the list that are registered as one: their indices, and what they cover together.
struct Group {
    nixlBlobDesc whole;
    std::vector<int> members;
};

std::vector<Group>
singles(const nixl_reg_dlist_t &descs) {
    std::vector<Group> groups;
    for (int i = 0; i < descs.descCount(); ++i) groups.push_back({descs[i], {i}});
    return groups;
}

// Touching and overlapping ranges of a device go together: thousands of views of one buffer cost one registration.
std::vector<Group>
unions(const nixl_reg_dlist_t &descs) {
    std::vector<int> order(descs.descCount());
    for (int i = 0; i < descs.descCount(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](int a, int b) {
        return static_cast<const nixlBasicDesc &>(descs[a]) < static_cast<const nixlBasicDesc &>(descs[b]);
    });
    std::vector<Group> groups;
    for (int i : order) {
        const auto &range = descs[i];
        if (!groups.empty()) {
            auto &whole = groups.back().whole;
            const bool touches = range.devId == whole.devId && range.addr <= whole.addr + whole.len;
            // An empty range registers nothing by itself; it may ride along.
            if (touches && whole.len > 0) {
                whole.len = std::max(whole.addr + whole.len, range.addr + range.len) - whole.addr;
                groups.back().members.push_back(i);
                continue;
            }
        }
        groups.push_back({range, {i}});
    }
    return groups;
}

// The registrations that a list names: each element takes one of its range, a repeated element another one.
struct Named {
    std::vector<std::shared_ptr<Window>> windows;
    std::optional<int> missing; ///< the first element without one
};

Named
findNamed(const RangeIndex &index, const nixl_reg_dlist_t &descs) {
    std::vector<std::pair<nixlBasicDesc, int>> ranges;
    ranges.reserve(descs.descCount());
    for (int i = 0; i < descs.descCount(); ++i) ranges.emplace_back(normalised(descs[i], descs.getType()), i);
    std::sort(ranges.begin(), ranges.end(), [](const auto &a, const auto &b) {
        return a.first < b.first || (a.first == b.first && a.second < b.second);
    });
    Named named;
    named.windows.reserve(ranges.size());
    std::vector<std::shared_ptr<Window>> same; // those of the range, the newest last
    for (size_t i = 0; i < ranges.size(); ++i) {
        const auto &[range, number] = ranges[i];
        if (i == 0 || range != ranges[i - 1].first) {
            same.clear();
            index.equal(range, same);
        }
        if (same.empty()) {
            named.missing = std::min(named.missing.value_or(number), number);
            continue;
        }
        named.windows.push_back(std::move(same.back()));
        same.pop_back();
    }
    return named;
}

// What one call takes away from one backend.
struct Ended {
    std::shared_ptr<Backend> backend;
    std::vector<std::shared_ptr<Window>> windows;
};

// Takes the registrations that the list names out of `sections`, of all candidates or of none.
Status
takeOut(const nixl_reg_dlist_t &descs,
        const BackendList &candidates,
        bool hinted,
        Sections &sections,
        std::vector<Ended> &ended) {
    const auto memory = descs.getType();
    Status refusal;
    bool all_of_it = descs.isEmpty();
    for (const auto &backend : candidates) {
        const auto section = sections.find({memory, backend->order});
        if (section == sections.end()) {
            if (!hinted || backend->isCompanion()) continue;
            return {NIXL_ERR_NOT_FOUND,
                    "backend " + backend->type + " has no " + nixlEnumStrings::memTypeStr(memory) +
                        " registered; nothing was deregistered"};
        }
        auto named = findNamed(section->second, descs);
        if (named.missing) {
            const auto range = normalised(descs[*named.missing], memory);
            Status missing(NIXL_ERR_NOT_FOUND,
                           "backend " + backend->type + ": range " + std::to_string(*named.missing) + " (address " +
                               std::to_string(range.addr) + ", length " + std::to_string(range.len) + ", device " +
                               std::to_string(range.devId) +
                               ") is not registered exactly so; nothing was deregistered");
            if ((hinted && !backend->isCompanion()) || !named.windows.empty()) return missing;
            // It never took this memory. That is no failure if another backend has all of it.
            refusal = std::move(missing);
            continue;
        }
        all_of_it |= !backend->isCompanion();
        section->second = section->second.without(named.windows);
        if (section->second.empty()) sections.erase(section);
        if (!named.windows.empty()) ended.push_back({backend, std::move(named.windows)});
    }
    if (!all_of_it) {
        if (!refusal.ok()) return refusal;
        return {NIXL_ERR_NOT_FOUND, "no " + nixlEnumStrings::memTypeStr(memory) + " is registered"};
    }
    return {};
}

// Waits until no peer uses what is taken away, whose backends' peers do so by themselves. A failure changes nothing.
Status
shutOut(const std::vector<Ended> &ended) {
    std::vector<std::pair<nixlx::Barrier *, std::vector<nixlBackendMD *>>> shut;
    shut.reserve(ended.size());
    for (const auto &[backend, windows] : ended) {
        nixlx::Barrier *const barrier = backend->barrier();
        if (!barrier) continue;
        auto registrations = memory::lastRegistrations(windows);
        if (registrations.empty()) continue;
        const auto status =
            backend->call<nixlx::Barrier>("shutOut", [&](auto &engine) { return engine.shutOut(registrations); });
        if (status < 0) {
            for (const auto &[before, those] : shut) before->letIn(those);
            return {status, "backend " + backend->shown().type + ": " + backendFailure("shutOut", status)};
        }
        shut.emplace_back(barrier, std::move(registrations));
    }
    return {};
}

// What one registration has with a backend, given back in the order that undoes it.
void
giveBack(const Backend &backend, nixlBackendMD *metadata, nixlBackendMD *remote_face) {
    if (remote_face && remote_face != metadata) {
        (void)backend.call("unloadMD", [&](auto &engine) { return engine.unloadMD(remote_face); });
    }
    (void)backend.call("deregisterMem", [&](auto &engine) { return engine.deregisterMem(metadata); });
}

// One registration with one backend, complete or not at all.
Result<std::shared_ptr<MappingOwner>>
registerRange(const std::shared_ptr<Backend> &backend, const nixlBlobDesc &range, nixl_mem_t memory) {
    nixlBackendMD *metadata = nullptr;
    nixlBackendMD *remote_face = nullptr;
    const auto registered =
        backend->call("registerMem", [&](auto &engine) { return engine.registerMem(range, memory, metadata); });
    if (registered < 0) return {registered, backendFailure("registerMem", registered)};

    const auto refused = [&](const char *method, nixl_status_t status) -> Status {
        Status why(status, backendFailure(method, status));
        giveBack(*backend, metadata, remote_face);
        return why;
    };
    if (backend->to_self) {
        const auto status =
            backend->call("loadLocalMD", [&](auto &engine) { return engine.loadLocalMD(metadata, remote_face); });
        if (status < 0) {
            remote_face = nullptr;
            return refused("loadLocalMD", status);
        }
    }
    std::string key;
    if (backend->remote) {
        const auto status = backend->call<nixlx::RemotePeers>(
            "getPublicData", [&](auto &peers) { return peers.getPublicData(metadata, key); });
        if (status < 0) return refused("getPublicData", status);
    }
    return memory::ownMapping(metadata, remote_face, key, [backend](nixlBackendMD *local, nixlBackendMD *remote) {
        giveBack(*backend, local, remote);
    });
}

// All of the list with one backend, or nothing.
Result<std::vector<std::shared_ptr<Window>>>
registerWith(const std::shared_ptr<Backend> &backend, const nixl_reg_dlist_t &descs) {
    const auto memory = descs.getType();
    const bool plain = std::all_of(descs.begin(), descs.end(), [](const auto &d) { return d.metaInfo.empty(); });
    const bool merge = backend->merges_ranges && plain && !isStorage(memory) && descs.descCount() > 1;
    std::vector<std::shared_ptr<Window>> windows(descs.descCount());
    for (const auto &group : merge ? unions(descs) : singles(descs)) {
        auto owner = registerRange(backend, group.whole, memory);
        if (owner.ok()) {
            for (int i : group.members) {
                windows[i] = std::make_shared<Window>(normalised(descs[i], memory), *owner);
            }
            continue;
        }
        if (group.members.size() == 1) {
            return std::move(owner).status().withContext("range " + std::to_string(group.members[0]));
        }
        // Neighbours in the address space may be strangers underneath (two device allocations): one by one then.
        for (int i : group.members) {
            auto single = registerRange(backend, descs[i], memory);
            if (!single.ok()) return std::move(single).status().withContext("range " + std::to_string(i));
            windows[i] = std::make_shared<Window>(normalised(descs[i], memory), *single);
        }
    }
    return windows;
}

} // namespace

void
Registrations::commit(SectionKey key, std::vector<std::shared_ptr<Window>> windows) {
    const MutexLock lock(mutex_);
    auto next = sections_.copy();
    auto &index = next[key];
    index = index.with(std::move(windows));
    sections_.set(std::move(next));
}

Status
Registrations::add(const nixl_reg_dlist_t &descs, const nixl_opt_args_t *args) {
    auto candidates = backends_.candidates(args);
    if (!candidates.ok()) return std::move(candidates).status();
    if (auto valid = checkRanges(descs); !valid.ok()) return valid;
    const auto memory = descs.getType();
    bool any = false;
    std::vector<std::pair<SectionKey, std::vector<std::shared_ptr<Window>>>> registered;
    std::string refusals;
    const auto refused = [&](const Backend &backend, const std::string &why) {
        refusals += (refusals.empty() ? "" : "; ") + backend.type + ": " + why;
    };
    for (const auto &backend : **candidates) {
        if (!backend->supports(memory)) {
            if (isHinted(args) && !backend->isCompanion())
                refused(*backend, "it does not take " + nixlEnumStrings::memTypeStr(memory));
            continue;
        }
        auto windows = registerWith(backend, descs);
        if (!windows.ok()) {
            refused(*backend, windows.message());
            continue;
        }
        any |= !backend->isCompanion(); // what only a companion took nobody else would reach
        // An empty list registers nothing: an empty section would break peers of NIXL 1.4.
        if (!windows->empty()) registered.emplace_back(SectionKey{memory, backend->order}, *std::move(windows));
    }
    if (!any && refusals.empty()) {
        return {NIXL_ERR_NOT_FOUND,
                "no backend of this agent takes " + nixlEnumStrings::memTypeStr(memory) + "; create one that does"};
    }
    if (!any) return {NIXL_ERR_BACKEND, "registration failed with every candidate: " + refusals};
    for (auto &[key, windows] : registered) commit(key, std::move(windows));
    if (!refusals.empty()) {
        NIXL_INFO << "registerMem: agent " << quoted(agent_) << ": registered without " << refusals;
    }
    return {};
}

Status
Registrations::remove(const nixl_reg_dlist_t &descs, const nixl_opt_args_t *args, bool &removed) {
    removed = false;
    auto candidates = backends_.candidates(args);
    if (!candidates.ok()) return std::move(candidates).status();
    std::vector<Ended> ended;
    {
        const MutexLock lock(mutex_);
        auto next = sections_.copy();
        if (auto status = takeOut(descs, **candidates, isHinted(args), next, ended); !status.ok()) return status;
        sections_.set(std::move(next));
    }
    removed = true;
    if (ended.empty()) return {};
    std::vector<std::shared_ptr<Window>> windows;
    for (const auto &each : ended) windows.insert(windows.end(), each.windows.begin(), each.windows.end());
    const auto revoked = std::make_shared<RemovedWindows>(std::move(windows)); // the backends let go at its end
    epoch_.fetch_add(1); // lists and requests of before look again before they are used
    // Deregistering is a barrier: who frees the memory afterwards must not find a transfer still writing into it.
    const auto in_flight = requests_.leaveTo(revoked, nullptr);
    for (const auto &request : in_flight) request->cancel();
    const auto deadline = std::chrono::steady_clock::now() + kSettleGuard;
    bool quiet = true;
    for (const auto &request : in_flight) quiet = request->settle(deadline) && quiet;
    if (Status status = shutOut(ended); !status.ok()) {
        revoked->takeBack();
        removed = false;
        for (auto &[backend, again] : ended) commit({descs.getType(), backend->order}, std::move(again));
        return status;
    }
    if (quiet) return {};
    return {
        NIXL_ERR_REPOST_ACTIVE,
        "the memory is deregistered for new requests, but a transfer in flight that was cancelled still uses it; do "
        "not free it before that request's status is final"};
}

void
Registrations::clear() {
    const auto ended = sections_.get();
    (void)requests_.leaveTo(std::make_shared<const RemovedWindows>(windowsOf(*ended)), nullptr);
    const MutexLock lock(mutex_);
    sections_.set(Sections());
}

Status
Registrations::query(const nixl_reg_dlist_t &descs,
                     std::vector<nixl_query_resp_t> &resp,
                     const nixl_opt_args_t *args) const {
    if (!args || args->backends.size() != 1) {
        return {NIXL_ERR_INVALID_PARAM, "exactly one backend must be given"};
    }
    const auto backend = backends_.find(args->backends[0]);
    if (!backend) return {NIXL_ERR_INVALID_PARAM, "the backend hint is no backend of this agent"};
    std::vector<nixl_query_resp_t> answers;
    const auto status =
        backend->call<nixlx::Queries>("queryMem", [&](auto &queries) { return queries.queryMem(descs, answers); });
    if (status < 0) return {status, "backend " + backend->type + ": " + backendFailure("queryMem", status)};
    resp = std::move(answers);
    return {};
}

} // namespace nx::agent
