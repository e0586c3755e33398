// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Prepared lists and requests. Both ways to make a request go through the same steps: the lists are resolved for each
// candidate backend, one is chosen, the plan is made, the backend prepares.
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
using nx::memory::Side;

namespace {

using SharedSide = std::shared_ptr<const Side>;

// Where the windows of one side are looked up.
struct Place {
    Held<Sections> sections;
    const char *whose;
    bool to_self = false;            ///< the own agent as remote side
    std::shared_ptr<Peer> peer = {}; ///< another agent as remote side

    const nx::memory::RangeIndex *
    find(nixl_mem_t memory, const Backend &backend) const {
        if ((to_self && !backend.to_self) || (peer && !backend.remote)) return nullptr;
        const auto it = sections->find({memory, backend.order});
        return it == sections->end() ? nullptr : &it->second;
    }

    /// Without the ranges that are not registered with the backend: NOT_FOUND.
    template<class Desc>
    Result<SharedSide>
    resolve(const Backend &backend, nixl_mem_t memory, std::span<const Desc> elements) const {
        const auto *index = find(memory, backend);
        if (!index) {
            return {NIXL_ERR_NOT_FOUND,
                    std::string(whose) + " has no " + nixlEnumStrings::memTypeStr(memory) + " registered with it"};
        }
        auto side = Side::resolve(*index, elements, to_self ? Side::Face::kToSelf : Side::Face::kMetadata);
        if (!side.ok()) return std::move(side).status();
        return std::make_shared<const Side>(*std::move(side));
    }
};

Place
localPlace(const nixlAgentData &data) {
    return {data.registrations.sections(), "this agent"};
}

Result<Place>
remotePlace(const nixlAgentData &data, const std::string &agent) {
    if (agent == data.name) return Place{data.registrations.sections(), "the remote agent", true};
    auto peer = data.peers.find(agent);
    if (!peer) {
        return {NIXL_ERR_NOT_FOUND,
                "no metadata of remote agent " + nx::quoted(agent) +
                    " is loaded; load it (loadRemoteMD) and try again"};
    }
    auto sections = peer->sections.get();
    return Place{std::move(sections), "the remote agent", false, std::move(peer)};
}

// A way to serve a request: over one backend, between two sides that it knows.
struct Leg {
    std::shared_ptr<Backend> backend;
    SharedSide local;
    SharedSide remote;
};

// A request in the making.
struct Draft {
    nx::memory::PlanRequest move;
    std::span<const int> local_indices, remote_indices; ///< of the sides' elements; empty: all
    std::shared_ptr<Peer> peer;
    uint64_t resolved_at = 0;
    uint64_t descriptor_count = 0; ///< for telemetry; 0: the plan's blocks
    uint64_t total_bytes = 0;      ///< of all elements
    std::optional<std::string> notification = {};
    std::string custom_param = {};
    bool hinted = false;
    nixl_status_t unserved = NIXL_ERR_NOT_FOUND; ///< the status if no backend can, and the sentence
    const char *unserved_sentence = "";
    bool staged = false; ///< the last leg is two, through host memory

    // One for each candidate backend:
    std::vector<nx::route::Option> options = {};
    std::vector<Leg> legs = {};
    size_t usable = 0;

    /// `obstacle`: why the backend cannot serve; empty: it can.
    void
    add(const std::shared_ptr<Backend> &backend, std::string obstacle, SharedSide local, SharedSide remote) {
        // Memory that both reach is the companion's, which stands before its leader.
        for (size_t i = 0; i < legs.size() && obstacle.empty(); ++i) {
            if (options[i].usable && legs[i].backend->leader == backend.get()) {
                obstacle = "its companion " + legs[i].backend->type + " serves peers of this host";
            }
        }
        const bool can = obstacle.empty();
        usable += can;
        options.push_back({backend->type, can, std::move(obstacle), {}});
        legs.push_back({backend, std::move(local), std::move(remote)});
    }
};

Status
checkOperation(nixl_xfer_op_t operation) {
    if (operation == NIXL_READ || operation == NIXL_WRITE) return {};
    return {NIXL_ERR_INVALID_PARAM, "operation " + std::to_string(operation) + " is neither READ nor WRITE"};
}

std::string
doesNotMove(nixl_mem_t own, nixl_mem_t other) {
    return "moves no data between " + nixlEnumStrings::memTypeStr(own) + " and " + nixlEnumStrings::memTypeStr(other);
}

Status
noBackend(nixl_status_t code, std::string sentence, const std::vector<nixlx::Candidate> &candidates) {
    for (const auto &candidate : candidates) sentence += "; " + candidate.backend + ": " + candidate.reason;
    if (candidates.empty()) sentence += "; this agent has no backend";
    return {code, std::move(sentence)};
}

// Costs are asked for and compared where they decide. Elements that merge into one block count one by one.
void
predict(Draft &draft) {
    nixlx::Plan outline{};
    outline.block_count = draft.descriptor_count;
    outline.total_bytes = draft.total_bytes;
    for (size_t i = 0; i < draft.legs.size(); ++i) {
        const auto &leg = draft.legs[i];
        if (!draft.options[i].usable) continue;
        if (!draft.local_indices.empty()) {
            outline.block_count = draft.local_indices.size();
            outline.total_bytes = leg.local->bytesOf(draft.local_indices);
        }
        const auto &move = draft.move;
        const auto cost = leg.backend->cost(move.local_memory, move.remote_memory, move.remote_agent);
        if (cost) draft.options[i].predicted_us = nixlx::predict(*cost, outline);
    }
}

Result<std::unique_ptr<nx::memory::OwnedPlan>>
planOf(const Draft &draft, const Leg &leg) {
    auto plan = draft.local_indices.empty()
        ? nx::memory::planAll(draft.move, leg.local, leg.remote)
        : nx::memory::planIndexed(draft.move, leg.local, draft.local_indices, leg.remote, draft.remote_indices);
    if (plan.ok() && draft.staged) (*plan)->plan.local_segments = leg.local->segmentsToSelf();
    return plan;
}

// A way over two backends, for memories that none joins: the first one reaches this agent's, the second one the other.
// `sideAt(backend, is_local)` is null where the backend has not all of it. Between two memories of the host a backend
// that joins them is missing, and to say so is better than to copy twice.
template<class SideAt>
void
addStaged(nixlAgentData &data, Draft &draft, const nx::agent::BackendList &candidates, SideAt sideAt) {
    const auto [own, other] = std::pair(draft.move.local_memory, draft.move.remote_memory);
    if (draft.usable > 0 || (own == DRAM_SEG && other == DRAM_SEG)) return;
    const auto find = [&](bool is_local) -> std::pair<std::shared_ptr<Backend>, SharedSide> {
        for (const auto &backend : candidates) {
            const bool reaches = is_local || !draft.peer ? backend->to_self : backend->remote;
            if (!reaches || !backend->moves(DRAM_SEG, is_local ? own : other)) continue;
            if (auto side = sideAt(backend, is_local)) return {backend, std::move(side)};
        }
        return {};
    };
    auto [near, local] = find(true);
    if (!near) return;
    auto [far, remote] = find(false);
    if (!far) return;
    auto joined = data.staging.backendFor(near, far);
    if (!joined.ok()) {
        draft.options.push_back({near->type + "+" + far->type, false, joined.message(), {}, true});
        draft.legs.push_back({});
        return;
    }
    draft.staged = true;
    draft.add(*joined, {}, std::move(local), std::move(remote));
    draft.options.back().staged = true;
}

// Chooses, plans, prepares.
Status
serve(nixlAgentData &data, Draft draft, nixlXferReqH *&handle) {
    if (draft.usable > 1 && !draft.hinted) predict(draft);
    auto choice = nx::route::choose(draft.options, draft.hinted);
    if (!choice.chosen) return noBackend(draft.unserved, draft.unserved_sentence, choice.candidates);
    const auto &leg = draft.legs[*choice.chosen];
    if (draft.notification && !leg.backend->notif) {
        return {NIXL_ERR_BACKEND,
                "a notification was asked for, and backend " + leg.backend->type + " cannot send one"};
    }
    if (auto status = nx::agent::checkNotification(draft.notification ? &*draft.notification : nullptr); !status.ok())
        return status;
    if (draft.local_indices.empty()) {
        NIXL_INFO << "createXferReq: Selected backend " << leg.backend->type << " for "
                  << nixlEnumStrings::xferOpStr(draft.move.operation) << " with agent "
                  << nx::quoted(draft.move.remote_agent);
    }
    auto plan = planOf(draft, leg);
    if (!plan.ok()) return std::move(plan).status();

    nixl_opt_b_args_t args;
    args.customParam = std::move(draft.custom_param);
    args.hasNotif = draft.notification.has_value();
    if (leg.backend->legacy()) args.notifMsg = draft.notification.value_or(""); // ours do not look at it
    TransferRequest::Parts parts;
    parts.backend = leg.backend;
    parts.peer = std::move(draft.peer);
    parts.plan = *std::move(plan);
    parts.candidates = std::move(choice.candidates);
    parts.notification = std::move(draft.notification);
    parts.epoch = &data.registrations.epoch();
    parts.resolved_at = draft.resolved_at;
    parts.descriptor_count = draft.descriptor_count;
    parts.measure = data.measures;
    parts.recorder = data.recorder.get();
    parts.stall_limit = data.stall_limit;
    return data.requests.add(std::move(parts), args, handle);
}

Status
checkLists(const PreparedList *local, const PreparedList *remote) {
    if (!local || !remote) {
        return {NIXL_ERR_INVALID_PARAM,
                std::string("the ") + (local ? "remote" : "local") + " handle is no prepared list of this agent"};
    }
    if (!local->is_local || remote->is_local) {
        return {NIXL_ERR_INVALID_PARAM,
                !local->is_local ? "the list given for the local side was prepared for a remote agent"
                                 : "the list given for the remote side was prepared for local memory; name an agent in "
                                   "prepXferDlist"};
    }
    if (remote->peer && !remote->peer->alive()) {
        return {NIXL_ERR_NOT_FOUND,
                "remote agent " + nx::quoted(remote->agent) +
                    " was disconnected after the list was prepared; prepare it again"};
    }
    return {};
}

// A side of a deregistered range is refused, never dereferenced. `now`: the epoch.
Status
checkWhole(const PreparedList &list, uint64_t now) {
    if (list.epoch.load(std::memory_order_acquire) == now) return {};
    if (std::any_of(list.resolved.begin(), list.resolved.end(), [](const auto &r) { return r.side->stale(); })) {
        return {NIXL_ERR_NOT_FOUND,
                std::string("memory of the ") + (list.is_local ? "local" : "remote") +
                    " list was deregistered after the list was prepared; prepare it again"};
    }
    list.epoch.store(now, std::memory_order_release); // not to be looked at again by each of its requests
    return {};
}

SharedSide
sideOf(const PreparedList &list, const Backend &backend) {
    for (const auto &resolved : list.resolved) {
        if (resolved.backend.get() == &backend) return resolved.side;
    }
    return nullptr;
}

// What is wrong with the lists themselves, which is said before whatever else is wrong.
Status
checkPairs(const nixl_xfer_dlist_t &local, const nixl_xfer_dlist_t &remote) {
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
    return {};
}

// ---- Waiting ----

const std::string kReleased = "the request was released while it was waited for";

/// Of one that runs.
void
lookAgain(const TransferRequest &request, nx::agent::Waiting::Again &again) {
    again.every = std::min(again.every, request.lookEvery());
    again.polled = again.polled || request.backend()->polled;
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
    return nx::agent::withFreshMetadata([&](std::shared_ptr<Peer> &lacking) {
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
    requests.reap();
    auto candidates = backends.candidates(args);
    if (!candidates.ok()) return std::move(candidates).status();
    if (elements.empty()) return {NIXL_ERR_INVALID_PARAM, "the list is empty"};

    auto list = std::make_unique<PreparedList>();
    list->is_local = is_local;
    list->agent = is_local ? name : agent;
    list->memory = memory;
    list->epoch = registrations.epoch().load(); // before the sections: a removal in between is noticed later
    auto place = is_local ? Result<Place>(localPlace(*this)) : remotePlace(*this, agent);
    if (!place.ok()) return std::move(place).status();
    list->peer = place->peer;

    Status invalid;
    std::vector<nixlx::Candidate> refused;
    for (const auto &backend : **candidates) {
        auto side = place->resolve(*backend, memory, elements);
        if (side.ok()) {
            list->resolved.push_back({backend, *std::move(side)});
        } else {
            refused.push_back({backend->type, false, -1, side.message()});
            if (side.code() == NIXL_ERR_INVALID_PARAM) invalid = std::move(side).status();
        }
    }
    if (list->resolved.empty()) {
        if (!invalid.ok()) return invalid;
        lacking = place->peer;
        return noBackend(NIXL_ERR_NOT_FOUND, "no backend covers the whole list", refused);
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
    if (auto status = checkOperation(operation); !status.ok()) return status;
    const auto local_list = lists.find(reinterpret_cast<uint64_t>(local));
    const auto remote_list = lists.find(reinterpret_cast<uint64_t>(remote));
    if (auto status = checkLists(local_list.get(), remote_list.get()); !status.ok()) return status;
    if (local_indices.empty() || local_indices.size() != remote_indices.size()) {
        return {NIXL_ERR_INVALID_PARAM,
                std::to_string(local_indices.size()) + " local and " + std::to_string(remote_indices.size()) +
                    " remote indices: the counts must be equal and not zero"};
    }
    auto candidates = backends.candidates(args);
    if (!candidates.ok()) return std::move(candidates).status();
    const uint64_t now = registrations.epoch().load();
    for (const auto *list : {local_list.get(), remote_list.get()}) {
        if (auto status = checkWhole(*list, now); !status.ok()) return status;
    }

    Draft draft{
        {operation, local_list->memory, remote_list->memory, remote_list->agent, !(args && args->skipDescMerge)},
        local_indices,
        remote_indices,
        remote_list->peer,
        now}; // nothing of the lists was deregistered until then
    if (const auto *asked = nx::agent::requestedNotification(args)) draft.notification = *asked;
    draft.hinted = nx::agent::isHinted(args);
    draft.unserved = NIXL_ERR_INVALID_PARAM;
    draft.unserved_sentence = "no backend serves both prepared lists";
    for (const auto &backend : **candidates) {
        auto l = sideOf(*local_list, *backend);
        auto r = sideOf(*remote_list, *backend);
        std::string obstacle;
        if (!l) {
            obstacle = "does not cover the local list";
        } else if (!r) {
            obstacle = "does not cover the remote list";
            if (remote_list->peer) {
                obstacle += " (if the peer may have registered since, fetch its metadata again and prepare the list "
                            "again)";
            }
        } else if (!backend->moves(local_list->memory, remote_list->memory)) {
            obstacle = doesNotMove(local_list->memory, remote_list->memory);
        }
        draft.add(backend, std::move(obstacle), std::move(l), std::move(r));
    }
    addStaged(*this, draft, **candidates, [&](const auto &backend, bool is_local) {
        return sideOf(is_local ? *local_list : *remote_list, *backend);
    });
    return serve(*this, std::move(draft), handle);
}

Status
nixlAgentData::createRequest(nixl_xfer_op_t operation,
                             const nixl_xfer_dlist_t &local,
                             const nixl_xfer_dlist_t &remote,
                             const std::string &agent,
                             nixlXferReqH *&handle,
                             const nixl_opt_args_t *args) {
    if (auto status = checkOperation(operation); !status.ok()) return status;
    requests.reap();
    const std::string &far = agent.empty() ? name : agent;
    return nx::agent::withFreshMetadata([&](std::shared_ptr<Peer> &lacking) -> Status {
        auto candidates = backends.candidates(args);
        if (!candidates.ok()) return std::move(candidates).status();
        auto created = createOnce(operation, local, remote, far, handle, args, **candidates, lacking);
        if (created.ok()) return created; // the plan has compared the pairs
        auto pairs = checkPairs(local, remote);
        if (pairs.ok()) return created;
        lacking.reset(); // nobody's metadata would help
        return pairs;
    });
}

Status
nixlAgentData::createOnce(nixl_xfer_op_t operation,
                          const nixl_xfer_dlist_t &local,
                          const nixl_xfer_dlist_t &remote,
                          const std::string &agent,
                          nixlXferReqH *&handle,
                          const nixl_opt_args_t *args,
                          const nx::agent::BackendList &candidates,
                          std::shared_ptr<Peer> &lacking) {
    Draft draft{{operation, local.getType(), remote.getType(), agent},
                {},
                {},
                nullptr,
                registrations.epoch().load()}; // before the sections: a removal in between is noticed later
    auto there = remotePlace(*this, agent);
    if (!there.ok()) return std::move(there).status();
    if (local.isEmpty()) return {NIXL_ERR_NOT_FOUND, "the lists are empty"};
    draft.peer = there->peer;
    draft.descriptor_count = static_cast<uint64_t>(local.descCount());
    for (const auto &element : local) draft.total_bytes += element.len;
    if (const auto *asked = nx::agent::requestedNotification(args)) draft.notification = *asked;
    if (args) draft.custom_param = args->customParam;
    draft.hinted = nx::agent::isHinted(args);
    draft.unserved_sentence = "no backend reaches both sides";

    const auto here = localPlace(*this);
    bool remote_lacks = false;
    for (const auto &backend : candidates) {
        auto l = here.resolve<nixlBasicDesc>(*backend, local.getType(), {local.begin(), local.end()});
        if (!l.ok()) {
            draft.add(backend, "local list: " + l.message(), {}, {});
        } else if (!backend->moves(local.getType(), remote.getType())) {
            draft.add(backend, doesNotMove(local.getType(), remote.getType()), {}, {});
        } else if (auto r = there->resolve<nixlBasicDesc>(*backend, remote.getType(), {remote.begin(), remote.end()});
                   !r.ok()) {
            remote_lacks |= r.code() == NIXL_ERR_NOT_FOUND;
            draft.add(backend, "remote list: " + r.message(), {}, {});
        } else {
            draft.add(backend, {}, *std::move(l), *std::move(r));
        }
    }
    addStaged(*this, draft, candidates, [&](const auto &backend, bool is_local) -> SharedSide {
        const auto &list = is_local ? local : remote;
        auto side = (is_local ? here : *there)
                        .template resolve<nixlBasicDesc>(*backend, list.getType(), {list.begin(), list.end()});
        remote_lacks |= !is_local && side.code() == NIXL_ERR_NOT_FOUND;
        return side.ok() ? *std::move(side) : nullptr;
    });
    if (draft.usable == 0 && remote_lacks) lacking = there->peer;
    return serve(*this, std::move(draft), handle);
}

nixl_status_t
nixlAgentData::post(nixlXferReqH *handle, const nixl_opt_args_t *args) {
    const auto request = requests.find(handle);
    if (!request) return finish("postXferReq", NIXL_ERR_INVALID_PARAM, nx::agent::noRequest().message());
    std::string sentence;
    nixl_status_t status;
    if (args) {
        const nixl_blob_t *const notification = nx::agent::requestedNotification(args);
        const auto allowed = nx::agent::checkNotification(notification);
        if (!allowed.ok()) return finish("postXferReq", allowed.code(), allowed.message());
        status = request->post(notification, sentence);
    } else {
        status = request->post({}, sentence);
    }
    if (status >= 0) [[likely]] {
        if (status == NIXL_IN_PROG) requests.watch(*request);
        return status;
    }
    return finish("postXferReq", status, sentence);
}

nixl_status_t
nixlAgentData::status(nixlXferReqH *handle) {
    const auto request = requests.find(handle);
    if (!request) return finish("getXferStatus", NIXL_ERR_INVALID_PARAM, nx::agent::noRequest().message());
    std::string sentence;
    const auto status = request->status(sentence);
    return report("getXferStatus", *request, status, sentence);
}

nixl_status_t
nixlAgentData::report(const char *call,
                      const TransferRequest &request,
                      nixl_status_t status,
                      const std::string &sentence) const {
    if (status >= 0) [[likely]]
        return status;
    return sentence.empty() ? repeatFailure(call, request, status) : finish(call, status, sentence);
}

nixl_status_t
nixlAgentData::waitFor(nixlXferReqH *handle, std::optional<std::chrono::microseconds> timeout) {
    bool looked = false;
    nixl_status_t reported = NIXL_IN_PROG;
    const auto outcome = waiting.wait(timeout, [&](nx::agent::Waiting::Again &again) -> std::optional<Status> {
        const auto request = requests.find(handle);
        if (!request) return Status(NIXL_ERR_INVALID_PARAM, looked ? kReleased : nx::agent::noRequest().message());
        looked = true;
        std::string sentence;
        const auto status = request->status(sentence);
        if (status == NIXL_IN_PROG) {
            lookAgain(*request, again);
            return {};
        }
        reported = report("waitXfer", *request, status, sentence);
        return Status();
    });
    return outcome.ok() ? reported : finish("waitXfer", outcome.code(), outcome.message());
}

Status
nixlAgentData::waitForAny(std::span<nixlXferReqH *const> handles,
                          std::optional<std::chrono::microseconds> timeout,
                          std::vector<size_t> &which) {
    if (handles.empty()) return {NIXL_ERR_INVALID_PARAM, "there is no request to wait for"};
    bool looked = false;
    std::vector<size_t> ended;
    auto outcome = waiting.wait(timeout, [&](nx::agent::Waiting::Again &again) -> std::optional<Status> {
        for (size_t i = 0; i < handles.size(); ++i) {
            const auto request = requests.find(handles[i]);
            if (!request) {
                return Status(NIXL_ERR_INVALID_PARAM,
                              "request " + std::to_string(i) + " of " + std::to_string(handles.size()) + ": " +
                                  (looked ? kReleased : nx::agent::noRequest().message()));
            }
            std::string sentence;
            const auto status = request->status(sentence);
            if (status == NIXL_IN_PROG) {
                lookAgain(*request, again);
            } else {
                (void)report("waitAny", *request, status, sentence); // told to whoever asks for its status
                ended.push_back(i);
            }
        }
        looked = true;
        return ended.empty() ? std::optional<Status>() : Status();
    });
    if (outcome.code() == NIXL_SUCCESS) which = std::move(ended);
    return outcome;
}

nixl_status_t
nixlAgentData::telemetry(const nixlXferReqH *handle, nixl_xfer_telem_t &out) {
    const auto request = requests.find(handle);
    if (!request) return finish("getXferTelemetry", NIXL_ERR_INVALID_PARAM, nx::agent::noRequest().message());
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

bool
nixlAgentData::remoteResolves(const std::string &agent, const nixl_xfer_dlist_t &descs) const {
    const auto place = remotePlace(*this, agent);
    if (!place.ok()) return false;
    const auto &sections = place->sections;
    if (place->to_self) {
        const auto all = backends.all();
        return descs.isEmpty() && std::any_of(sections->begin(), sections->end(), [&](const auto &section) {
                   return (*all)[section.first.second]->to_self;
               });
    }
    if (descs.isEmpty()) return true;
    const std::span<const nixlBasicDesc> elements(descs.begin(), descs.end());
    for (const auto &[key, index] : *sections) {
        if (key.first == descs.getType() && Side::resolve(index, elements).ok()) return true;
    }
    nx::agent::beginRefetch(place->peer); // programs ask until it has come
    return false;
}
