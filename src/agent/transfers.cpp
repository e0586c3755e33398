// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Prepared lists and requests.
#include <algorithm>

#include "agent/agent_state.h"
#include "base/last_error.h"
#include "route/choice.h"
#include "utils/common/nixl_log.h"

using nx::Held;
using nx::Result;
using nx::Status;
using nx::agent::Backend;
using nx::agent::Peer;
using nx::agent::PreparedList;
using nx::agent::Sections;
using nx::agent::TransferRequest;
using nx::memory::PlanRequest;
using nx::memory::Side;

namespace {

// Of a list that was prepared before.
constexpr const char *kPrepareAgain =
    " (if the peer may have registered since, fetch its metadata again and prepare the list again)";

std::string
noSection(const std::string &whose, nixl_mem_t memory) {
    return whose + " has no " + nixlEnumStrings::memTypeStr(memory) + " registered with it";
}

std::string
doesNotMove(nixl_mem_t own, nixl_mem_t other) {
    return "moves no data between " + nixlEnumStrings::memTypeStr(own) + " and " + nixlEnumStrings::memTypeStr(other);
}

Status
unknownAgent(const std::string &agent) {
    return {NIXL_ERR_NOT_FOUND,
            "no metadata of remote agent " + nx::quoted(agent) + " is loaded; load it (loadRemoteMD) and try again"};
}

// Where the windows of one side are looked up.
struct Place {
    Held<Sections> sections;
    bool to_self = false;            ///< the own agent as remote side
    std::shared_ptr<Peer> peer = {}; ///< another agent as remote side

    const nx::memory::RangeIndex *
    find(nixl_mem_t memory, const Backend &backend) const {
        if ((to_self && !backend.local) || (peer && !backend.remote)) return nullptr;
        const auto it = sections->find({memory, backend.order});
        return it == sections->end() ? nullptr : &it->second;
    }

    Side::Face
    face() const noexcept {
        return to_self ? Side::Face::kToSelf : Side::Face::kMetadata;
    }
};

Place
localPlace(const nixlAgentData &data) {
    return {data.local_state.get().part(&nx::agent::Local::sections)};
}

Result<Place>
remotePlace(const nixlAgentData &data, const std::string &agent) {
    if (agent == data.name) {
        auto place = localPlace(data);
        place.to_self = true;
        return place;
    }
    auto peer = data.findPeer(agent);
    if (!peer) return unknownAgent(agent);
    auto sections = peer->sections.get();
    return Place{std::move(sections), false, std::move(peer)};
}

Status
noBackend(const std::vector<nixlx::Candidate> &candidates, nixl_status_t code, const std::string &what) {
    std::string sentence = what;
    for (const auto &candidate : candidates) sentence += "; " + candidate.backend + ": " + candidate.reason;
    if (candidates.empty()) sentence += "; this agent has no backend";
    return {code, std::move(sentence)};
}

} // namespace

template<class Desc>
Status
nixlAgentData::prepare(bool is_local,
                       const std::string &agent,
                       nixl_mem_t memory,
                       std::span<const Desc> elements,
                       nixlDlistH *&handle,
                       const nixl_opt_args_t *args) {
    return withFreshMetadata([&](std::shared_ptr<Peer> &lacking) {
        return prepareOnce(is_local, agent, memory, elements, handle, args, lacking);
    });
}

template<class Desc>
Status
nixlAgentData::prepareOnce(bool is_local,
                           const std::string &agent,
                           nixl_mem_t memory,
                           std::span<const Desc> elements,
                           nixlDlistH *&handle,
                           const nixl_opt_args_t *args,
                           std::shared_ptr<Peer> &lacking) {
    if (dropped_count.load(std::memory_order_relaxed)) reapDropped();
    auto usable = candidates(args);
    if (!usable.ok()) return std::move(usable).status();
    if (elements.empty()) return {NIXL_ERR_INVALID_PARAM, "the list is empty"};

    auto list = std::make_unique<PreparedList>();
    list->is_local = is_local;
    list->agent = is_local ? name : agent;
    list->memory = memory;
    list->epoch = epoch.load(); // before the snapshot: a removal in between is noticed later
    auto place = is_local ? Result<Place>(localPlace(*this)) : remotePlace(*this, agent);
    if (!place.ok()) return std::move(place).status();
    list->peer = place->peer;

    Status invalid;
    for (const auto &backend : *usable) {
        const auto *index = place->find(memory, *backend);
        if (!index) {
            list->refused.emplace_back(backend->type, noSection(is_local ? "this agent" : "the remote agent", memory));
            continue;
        }
        auto side = Side::resolve(*index, elements, place->face());
        if (side.ok()) {
            list->faces.push_back({backend, std::make_shared<const Side>(*std::move(side))});
        } else {
            list->refused.emplace_back(backend->type, side.message());
            if (side.code() == NIXL_ERR_INVALID_PARAM) invalid = std::move(side).status();
        }
    }
    if (list->faces.empty()) {
        if (!invalid.ok()) return invalid;
        lacking = place->peer;
        std::vector<nixlx::Candidate> reasons;
        for (const auto &[backend, why] : list->refused) reasons.push_back({backend, false, -1, why});
        return noBackend(reasons, NIXL_ERR_NOT_FOUND, "no backend covers the whole list");
    }
    const uint64_t token = lists.insert(std::move(list));
    if (!token) return {NIXL_ERR_NO_MEMORY, "this process has no handle left for a prepared list"};
    handle = reinterpret_cast<nixlDlistH *>(token);
    return {};
}

template Status
nixlAgentData::prepare<nixlBasicDesc>(bool,
                                      const std::string &,
                                      nixl_mem_t,
                                      std::span<const nixlBasicDesc>,
                                      nixlDlistH *&,
                                      const nixl_opt_args_t *);
template Status
nixlAgentData::prepare<nixlStrideDesc>(bool,
                                       const std::string &,
                                       nixl_mem_t,
                                       std::span<const nixlStrideDesc>,
                                       nixlDlistH *&,
                                       const nixl_opt_args_t *);

Status
nixlAgentData::makeRequest(nixl_xfer_op_t operation,
                           const nixlDlistH *local,
                           std::span<const int> local_indices,
                           const nixlDlistH *remote,
                           std::span<const int> remote_indices,
                           nixlXferReqH *&handle,
                           const nixl_opt_args_t *args) {
    if (operation != NIXL_READ && operation != NIXL_WRITE) {
        return {NIXL_ERR_INVALID_PARAM, "operation " + std::to_string(operation) + " is neither READ nor WRITE"};
    }
    const auto local_list = lists.find(reinterpret_cast<uint64_t>(local));
    const auto remote_list = lists.find(reinterpret_cast<uint64_t>(remote));
    if (!local_list || !remote_list) {
        return {NIXL_ERR_INVALID_PARAM,
                std::string("the ") + (local_list ? "remote" : "local") + " handle is no prepared list of this agent"};
    }
    if (!local_list->is_local || remote_list->is_local) {
        return {NIXL_ERR_INVALID_PARAM,
                !local_list->is_local
                    ? "the list given for the local side was prepared for a remote agent"
                    : "the list given for the remote side was prepared for local memory; name an agent in "
                      "prepXferDlist"};
    }
    if (local_indices.empty() || local_indices.size() != remote_indices.size()) {
        return {NIXL_ERR_INVALID_PARAM,
                std::to_string(local_indices.size()) + " local and " + std::to_string(remote_indices.size()) +
                    " remote indices: the counts must be equal and not zero"};
    }
    auto usable = candidates(args);
    if (!usable.ok()) return std::move(usable).status();
    const auto notification = nx::agent::requestedNotification(args);

    const auto faceOf = [](const PreparedList &list, const Backend &backend) -> const PreparedList::Face * {
        for (const auto &face : list.faces) {
            if (face.backend.get() == &backend) return &face;
        }
        return nullptr;
    };
    const bool hinted = args && !args->backends.empty();
    std::vector<nx::route::Option> options;
    std::vector<std::pair<const PreparedList::Face *, const PreparedList::Face *>> faces;
    size_t common = 0;
    for (const auto &backend : *usable) {
        const auto *l = faceOf(*local_list, *backend);
        const auto *r = faceOf(*remote_list, *backend);
        nx::route::Option option{backend->type, false, "", {}};
        if (!l) option.obstacle = "does not cover the local list";
        else if (!r)
            option.obstacle = "does not cover the remote list" + std::string(remote_list->peer ? kPrepareAgain : "");
        else if (!backend->moves(local_list->memory, remote_list->memory))
            option.obstacle = doesNotMove(local_list->memory, remote_list->memory);
        else option.usable = ++common;
        options.push_back(std::move(option));
        faces.emplace_back(l, r);
    }

    PlanRequest plan_request;
    plan_request.operation = operation;
    plan_request.local_memory = local_list->memory;
    plan_request.remote_memory = remote_list->memory;
    plan_request.remote_agent = remote_list->agent;
    plan_request.merge = !(args && args->skipDescMerge);

    if (remote_list->peer && !remote_list->peer->alive.load()) {
        return {NIXL_ERR_NOT_FOUND,
                "remote agent " + nx::quoted(remote_list->agent) +
                    " was disconnected after the list was prepared; prepare it again"};
    }
    // A face of a deregistered range is refused, never dereferenced.
    const uint64_t now = epoch.load();
    for (const auto *list : {&*local_list, &*remote_list}) {
        if (list->epoch.load(std::memory_order_acquire) == now) continue;
        for (const auto &face : list->faces) {
            if (face.side->stale()) {
                return {NIXL_ERR_NOT_FOUND,
                        std::string("memory of the ") + (list->is_local ? "local" : "remote") +
                            " list was deregistered after the list was prepared; prepare it again"};
            }
        }
        list->epoch.store(now, std::memory_order_release); // not to be looked at again by each of its requests
    }

    // One plan per usable backend only where their predictions decide.
    std::vector<std::unique_ptr<nx::memory::OwnedPlan>> plans(options.size());
    const auto plan = [&](size_t i) -> Status {
        if (plans[i]) return {};
        const auto &[l, r] = faces[i];
        auto made = nx::memory::planIndexed(plan_request, l->side, local_indices, r->side, remote_indices);
        if (!made.ok()) return std::move(made).status();
        plans[i] = *std::move(made);
        return {};
    };
    if (common > 1 && !hinted) {
        for (size_t i = 0; i < options.size(); ++i) {
            if (!options[i].usable) continue;
            if (auto status = plan(i); !status.ok()) return status;
            options[i].predicted_us = (*usable)[i]->predict(plans[i]->plan);
        }
    }
    auto choice = nx::route::choose(options, hinted);
    if (!choice.chosen) {
        return noBackend(choice.candidates, NIXL_ERR_INVALID_PARAM, "no backend serves both prepared lists");
    }
    const auto &backend = (*usable)[*choice.chosen];
    if (notification && !backend->notif) {
        return {NIXL_ERR_BACKEND, "a notification was asked for, and backend " + backend->type + " cannot send one"};
    }
    if (auto status = plan(*choice.chosen); !status.ok()) return status;

    TransferRequest::Parts parts;
    parts.backend = backend;
    parts.peer = remote_list->peer;
    parts.plan = std::move(plans[*choice.chosen]);
    parts.candidates = std::move(choice.candidates);
    parts.notification = notification;
    parts.resolved_at = now; // nothing of the lists was deregistered until then
    return finishRequest(std::move(parts), handle, nullptr);
}

Status
nixlAgentData::createRequest(nixl_xfer_op_t operation,
                             const nixl_xfer_dlist_t &local,
                             const nixl_xfer_dlist_t &remote,
                             const std::string &agent,
                             nixlXferReqH *&handle,
                             const nixl_opt_args_t *args) {
    if (operation != NIXL_READ && operation != NIXL_WRITE) {
        return {NIXL_ERR_INVALID_PARAM, "operation " + std::to_string(operation) + " is neither READ nor WRITE"};
    }
    if (dropped_count.load(std::memory_order_relaxed)) reapDropped();
    return withFreshMetadata([&](std::shared_ptr<Peer> &lacking) {
        return createOnce(operation, local, remote, agent, handle, args, lacking);
    });
}

Status
nixlAgentData::createOnce(nixl_xfer_op_t operation,
                          const nixl_xfer_dlist_t &local,
                          const nixl_xfer_dlist_t &remote,
                          const std::string &agent,
                          nixlXferReqH *&handle,
                          const nixl_opt_args_t *args,
                          std::shared_ptr<Peer> &lacking) {
    auto usable = candidates(args);
    if (!usable.ok()) return std::move(usable).status();
    if (local.descCount() != remote.descCount()) {
        return {NIXL_ERR_INVALID_PARAM,
                "the local list has " + std::to_string(local.descCount()) + " elements, the remote list " +
                    std::to_string(remote.descCount())};
    }
    for (int i = 0; i < local.descCount(); ++i) {
        if (local[i].len == remote[i].len) continue;
        return {NIXL_ERR_INVALID_PARAM,
                "pair " + std::to_string(i) + ": the local element has " + std::to_string(local[i].len) +
                    " bytes, the remote one " + std::to_string(remote[i].len)};
    }
    const uint64_t resolved_at = epoch.load(); // before the snapshots: a removal in between is noticed later
    auto place = remotePlace(*this, agent);
    if (!place.ok()) return std::move(place).status();
    if (local.isEmpty()) return {NIXL_ERR_NOT_FOUND, "the lists are empty"};

    PlanRequest plan_request;
    plan_request.operation = operation;
    plan_request.local_memory = local.getType();
    plan_request.remote_memory = remote.getType();
    plan_request.remote_agent = agent;

    const bool hinted = args && !args->backends.empty();
    const auto own = localPlace(*this);
    const std::span<const nixlBasicDesc> local_elements(local.begin(), local.end());
    const std::span<const nixlBasicDesc> remote_elements(remote.begin(), remote.end());
    std::vector<nx::route::Option> options;
    std::vector<std::unique_ptr<nx::memory::OwnedPlan>> plans;
    bool remote_lacks = false;
    for (const auto &backend : *usable) {
        nx::route::Option option{backend->type, false, "", {}};
        auto &made = plans.emplace_back();
        const auto *local_index = own.find(local.getType(), *backend);
        const auto *remote_index = place->find(remote.getType(), *backend);
        if (!local_index || !remote_index) {
            remote_lacks |= local_index != nullptr;
            option.obstacle = noSection(local_index ? "the remote agent" : "this agent",
                                        local_index ? remote.getType() : local.getType());
        } else if (!backend->moves(local.getType(), remote.getType())) {
            option.obstacle = doesNotMove(local.getType(), remote.getType());
        } else {
            auto l = Side::resolve(*local_index, local_elements);
            auto r = l.ok() ? Side::resolve(*remote_index, remote_elements, place->face()) : Result<Side>(Status());
            if (!l.ok()) {
                option.obstacle = "local list: " + l.message();
            } else if (!r.ok()) {
                option.obstacle = "remote list: " + r.message();
                remote_lacks |= r.code() == NIXL_ERR_NOT_FOUND;
            } else {
                auto plan = nx::memory::planAll(plan_request, std::make_shared<const Side>(*std::move(l)),
                                                std::make_shared<const Side>(*std::move(r)));
                if (!plan.ok()) return std::move(plan).status();
                made = *std::move(plan);
                option.usable = true;
            }
        }
        options.push_back(std::move(option));
    }
    const auto usable_count = std::count_if(options.begin(), options.end(), [](const auto &o) { return o.usable; });
    for (size_t i = 0; i < options.size() && usable_count > 1; ++i) {
        if (options[i].usable) options[i].predicted_us = (*usable)[i]->predict(plans[i]->plan);
    }
    auto choice = nx::route::choose(options, hinted);
    if (!choice.chosen) {
        if (remote_lacks) lacking = place->peer;
        return noBackend(choice.candidates, NIXL_ERR_NOT_FOUND, "no backend reaches both sides");
    }
    const auto &backend = (*usable)[*choice.chosen];
    const auto notification = nx::agent::requestedNotification(args);
    if (notification && !backend->notif) {
        return {NIXL_ERR_BACKEND, "a notification was asked for, and backend " + backend->type + " cannot send one"};
    }
    NIXL_INFO << "createXferReq: Selected backend " << backend->type << " for " << nixlEnumStrings::xferOpStr(operation)
              << " with agent " << nx::quoted(agent);

    TransferRequest::Parts parts;
    parts.backend = backend;
    parts.peer = place->peer;
    parts.plan = std::move(plans[*choice.chosen]);
    parts.candidates = std::move(choice.candidates);
    parts.notification = notification;
    parts.resolved_at = resolved_at;
    parts.descriptor_count = static_cast<uint64_t>(local.descCount());
    return finishRequest(std::move(parts), handle, args);
}

Status
nixlAgentData::finishRequest(TransferRequest::Parts parts, nixlXferReqH *&handle, const nixl_opt_args_t *args) {
    if (auto status = nx::agent::checkNotification(parts.notification); !status.ok()) return status;
    parts.epoch = &epoch;
    parts.requests = &requests;
    parts.measure = measures;
    parts.recorder = recorder.get();
    parts.stall_limit = stall_limit;
    parts.peer_lost = [this](const std::shared_ptr<Peer> &peer) { peerLost(peer); };
    nixl_opt_b_args_t backend_args;
    if (args) backend_args.customParam = args->customParam;
    backend_args.hasNotif = parts.notification.has_value();
    backend_args.notifMsg = parts.notification.value_or("");
    const auto peer = parts.peer;
    // In the table before the backend sees its memory: whoever removes memory looks there for who uses it.
    struct Entry {
        ~Entry() {
            if (token) table.remove(token);
        }
        nx::HandleTable<TransferRequest> &table;
        uint64_t token;
    } entry{requests, requests.insert(std::make_unique<TransferRequest>(std::move(parts)))};
    if (!entry.token) return {NIXL_ERR_NO_MEMORY, "this process has no handle left for a request"};
    const auto request = requests.find(entry.token);
    auto status = request->prepare(&backend_args);
    // Of a peer that was removed or replaced meanwhile, the backend may have joined the old ranges with the new
    // connection.
    if (peer && !peer->alive.load() && (status.ok() || !peer->lost.load())) {
        return {NIXL_ERR_NOT_FOUND,
                "remote agent " + nx::quoted(peer->name) + " was removed while the request was being made"};
    }
    if (!status.ok()) {
        if (status.code() == NIXL_ERR_REMOTE_DISCONNECT) peerLost(peer);
        return status;
    }
    handle = reinterpret_cast<nixlXferReqH *>(std::exchange(entry.token, 0));
    return {};
}

nx::HandleTable<TransferRequest>::Pin
nixlAgentData::findRequest(const nixlXferReqH *handle) {
    auto request = requests.find(reinterpret_cast<uint64_t>(handle));
    if (request && request->dropped.load(std::memory_order_relaxed)) return {};
    return request;
}

nixl_status_t
nixlAgentData::post(nixlXferReqH *handle, const nixl_opt_args_t *args) {
    auto request = findRequest(handle);
    if (!request) return finish("postXferReq", NIXL_ERR_INVALID_PARAM, "the handle is no request of this agent");
    std::string sentence;
    nixl_status_t status;
    if (args) {
        const auto notification = nx::agent::requestedNotification(args);
        const auto allowed = nx::agent::checkNotification(notification);
        if (!allowed.ok()) return finish("postXferReq", allowed.code(), allowed.message());
        status = request->post(notification, sentence);
    } else {
        status = request->post({}, sentence);
    }
    if (status >= 0) [[likely]] {
        if (status == NIXL_IN_PROG) watcher.expect(request->lookEvery());
        return status;
    }
    return finish("postXferReq", status, sentence);
}

nixl_status_t
nixlAgentData::status(nixlXferReqH *handle) {
    auto request = findRequest(handle);
    if (!request) return finish("getXferStatus", NIXL_ERR_INVALID_PARAM, "the handle is no request of this agent");
    std::string sentence;
    const auto status = request->status(sentence);
    if (status >= 0) [[likely]]
        return status;
    if (sentence.empty()) return repeatFailure("getXferStatus", *request, status);
    return finish("getXferStatus", status, sentence);
}

nixl_status_t
nixlAgentData::telemetry(const nixlXferReqH *handle, nixl_xfer_telem_t &out) {
    auto request = findRequest(handle);
    if (!request) return finish("getXferTelemetry", NIXL_ERR_INVALID_PARAM, "the handle is no request of this agent");
    const auto status = request->telemetry(out);
    return status >= 0 ? status : repeatFailure("getXferTelemetry", *request, status);
}

nixl_status_t
nixlAgentData::repeatFailure(const char *call, const TransferRequest &request, nixl_status_t status) const {
    const bool not_posted = status == NIXL_ERR_NOT_POSTED;
    if (not_posted) recordError(status);
    nx::setLastError(std::string(call) + ": " + (not_posted ? "the request was not posted" : request.report().error));
    return status;
}

Status
nixlAgentData::release(nixlXferReqH *handle) {
    auto request = findRequest(handle);
    if (!request) return {NIXL_ERR_INVALID_PARAM, "the handle is no request of this agent (released already?)"};
    request->cancel();
    const bool quiet = request->settle(std::chrono::steady_clock::now() + nx::agent::kSettleGuard);
    if (!quiet) {
        return {NIXL_ERR_REPOST_ACTIVE,
                "the transfer was cancelled but backend " + request->backend()->type +
                    " still uses its buffers; the handle stays valid, release it again later"};
    }
    switch (request->retire()) {
    case NIXL_SUCCESS: break;
    case NIXL_ERR_REPOST_ACTIVE: return {NIXL_ERR_REPOST_ACTIVE, "another thread posted the request meanwhile"};
    default: return {NIXL_ERR_INVALID_PARAM, "another thread released the request meanwhile"};
    }
    requests.remove(reinterpret_cast<uint64_t>(handle));
    return {};
}

Status
nixlAgentData::drop(nixlXferReqH *handle) {
    auto request = findRequest(handle);
    if (!request || request->dropped.exchange(true)) {
        return {NIXL_ERR_INVALID_PARAM, "the handle is no request of this agent (released already?)"};
    }
    request->cancel();
    {
        const nx::MutexLock lock(dropped_mutex);
        dropped.push_back(reinterpret_cast<uint64_t>(handle));
        dropped_count.store(dropped.size());
    }
    reapDropped();
    return {};
}

Status
nixlAgentData::setLimits(const nixlXferReqH *handle, const nixlx::Limits &limits) {
    auto request = findRequest(handle);
    if (!request) return {NIXL_ERR_INVALID_PARAM, "the handle is no request of this agent"};
    for (const auto &[limit, what] : {std::pair(limits.deadline, "deadline"), std::pair(limits.stall, "stall limit")}) {
        if (!limit || *limit == nixlx::Limits::kNone) continue;
        if (*limit >= nx::agent::kLimitMin && *limit <= nx::agent::kLimitMax) continue;
        return {NIXL_ERR_INVALID_PARAM,
                std::string("a ") + what + " of " + std::to_string(limit->count()) +
                    " ms is neither from 1 ms to 24 h nor none; no limit was changed"};
    }
    if (request->setLimits(limits) == NIXL_SUCCESS) return {};
    return {NIXL_ERR_REPOST_ACTIVE, "the request is running; set its limits before it is posted again"};
}

void
nixlAgentData::reapDropped() {
    std::vector<uint64_t> tokens;
    {
        const nx::MutexLock lock(dropped_mutex);
        tokens.swap(dropped);
    }
    std::erase_if(tokens, [&](uint64_t token) {
        auto request = requests.find(token);
        if (!request) return true;
        std::string ignored;
        const auto status = request->status(ignored);
        if (status == NIXL_IN_PROG) return false;
        (void)request->retire();
        requests.remove(token);
        return true;
    });
    const nx::MutexLock lock(dropped_mutex);
    dropped.insert(dropped.end(), tokens.begin(), tokens.end());
    dropped_count.store(dropped.size());
}

std::optional<std::chrono::milliseconds>
nixlAgentData::lookAfterRequests() noexcept {
    std::optional<std::chrono::milliseconds> soonest;
    requests.forEach([&](uint64_t token) {
        const auto request = requests.find(token);
        if (!request || !request->inFlight()) return;
        try {
            std::string sentence;
            const auto status = request->tryStatus(sentence);
            if (status && *status < 0 && !request->dropped) (void)finish("getXferStatus", *status, sentence);
        }
        catch (const std::exception &) {
            // Out of memory for a sentence; whoever asks for the status gets what is there.
        }
        if (request->inFlight()) soonest = std::min(soonest.value_or(request->lookEvery()), request->lookEvery());
    });
    return soonest == nixlx::Limits::kNone ? std::nullopt : soonest;
}
