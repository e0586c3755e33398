// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "stress/calls.h"

#include <gtest/gtest.h>

namespace nx::test {

namespace {

constexpr uint64_t kSeedOfA = 1, kSeedOfB = 2;
constexpr std::chrono::seconds kLong{60};
constexpr std::chrono::microseconds kMoment{200};
constexpr const char *kWithData = "data"; ///< the message of transfers

#if defined(__SANITIZE_THREAD__)
extern "C" void
AnnotateBenignRaceSized(const char *file, int line, const volatile void *memory, size_t size, const char *why);
#endif

/// Several requests write it at once, as a program should not: with the same bytes.
void
allowRaces(const nixl_xfer_dlist_t &range) {
#if defined(__SANITIZE_THREAD__)
    AnnotateBenignRaceSized(__FILE__, __LINE__, reinterpret_cast<void *>(range[0].addr), range[0].len, "shared");
#else
    (void)range;
#endif
}

PairOptions
options(const std::string &backend) {
    return {.backend = backend, .params = {}, .progress_thread = true, .listen = true, .capture_telemetry = true};
}

/// A call that another one needs, before or after it. It has one good end.
void
must(nixl_status_t status, const char *what) {
    if (status != NIXL_SUCCESS) {
        ADD_FAILURE() << what << ": " << nixlEnumStrings::statusStr(status) << ": " << nixlx::lastError();
    }
}

/// Releases it, even while it settles.
void
release(nixlAgent &agent, nixlXferReqH *request) {
    nixl_status_t status = NIXL_ERR_REPOST_ACTIVE;
    eventually([&] { return (status = agent.releaseXferReq(request)) != NIXL_ERR_REPOST_ACTIVE; });
    must(status, "release a request");
}

nixl_status_t
finish(nixlAgent &agent, nixlXferReqH *request, nixl_status_t posted) {
    nixl_status_t status = posted;
    eventually([&] { return status != NIXL_IN_PROG || (status = agent.getXferStatus(request)) != NIXL_IN_PROG; });
    return status;
}

/// Of what the caller's metadata calls came to. Another hand's failure may be the first that nobody has asked for.
nixl_status_t
outcome(const PairedAgent &caller, nixl_status_t status) {
    return status == NIXL_SUCCESS ? caller->waitMetadata(kLong) : status;
}

} // namespace

World::World(const std::string &backend)
    : backend(backend),
      at_a(kHands * kSlice + kShared),
      at_b(kHands * kSlice + kShared),
      parts(kParts * kSlice),
      a("A", options(backend)),
      b("B", options(backend)) {
    at_a.fill(kSeedOfA);
    allowRaces(sharedAtB());
    require(a->registerMem(registrationOf({at_a.desc()})), "register at A");
    require(b->registerMem(registrationOf({at_b.desc()})), "register at B");
    blob_of_b = b.metadata();
    for (size_t i = 0; i < kParts; ++i) {
        const auto part = registrationOf({parts.desc(i * kSlice, kSlice)});
        require(b->registerMem(part), "register a part at B");
        nixl_opt_args_t args;
        args.includeConnInfo = i % 2;
        require(b->getLocalPartialMD(part, part_blobs.emplace_back(), &args), "partial metadata");
    }
    check(false);
}

void
World::check(bool messages_arrive) {
    // What is queued for the listeners is done, whatever came of it.
    for (const PairedAgent *agent : {&a, &b}) {
        EXPECT_TRUE(eventually([&] { return (*agent)->waitMetadata(kLong) == NIXL_SUCCESS; }));
    }
    if (messages_arrive) {
        std::multiset<nixl_blob_t> all_sent, all_received;
        for (size_t i = 0; i < kHands; ++i) {
            all_sent.merge(sent[i]);
            all_received.merge(received[i]);
        }
        const bool all = eventually([&] {
            EXPECT_EQ(b->getNotifs(b.inbox), NIXL_SUCCESS);
            keepMessages(b.inbox, all_received);
            return all_received.size() >= all_sent.size();
        });
        EXPECT_TRUE(all && all_received == all_sent)
            << all_sent.size() << " messages were sent, " << all_received.size() << " arrived";
    }
    for (size_t i = 0; i < kHands; ++i) {
        sent[i].clear();
        received[i].clear();
    }
    pair_ = std::to_string(++checks_) + ":";

    // Dropped requests have ended when their memory can be deregistered.
    const auto all_of_a = registrationOf({at_a.desc()});
    EXPECT_TRUE(eventually([&] {
        const nixl_status_t status = deregister(all_of_a);
        EXPECT_TRUE(status == NIXL_SUCCESS || status == NIXL_ERR_REPOST_ACTIVE) << nixlx::lastError();
        require(a->registerMem(all_of_a), "register at A");
        return status == NIXL_SUCCESS;
    }));

    // Introduced anew, so that one pair does not see what the one before has loaded.
    for (auto [agent, peer] : {std::pair{&a, "B"}, std::pair{&b, "A"}}) {
        const nixl_status_t status = (*agent)->invalidateRemoteMD(peer);
        EXPECT_TRUE(status == NIXL_SUCCESS || status == NIXL_ERR_NOT_FOUND) << nixlx::lastError();
    }
    a.load(blob_of_b);
    b.load(a.metadata());
    nixlDlistH *list = nullptr;
    require(a->prepXferDlist(sharedAtA(), list), "prepare the shared list of A");
    replace(local_list, list);
    list = nullptr;
    require(a->prepXferDlist("B", sharedAtB(), list), "prepare the shared list of B");
    replace(remote_list, list);
    nixlXferReqH *made = nullptr;
    require(a->createXferReq(NIXL_WRITE, sharedAtA(), sharedAtB(), "B", made), "make the shared request");
    replace(made);

    for (const auto operation : {NIXL_WRITE, NIXL_READ}) {
        at_a.fill(operation == NIXL_WRITE ? kSeedOfA : kSeedOfB);
        at_b.fill(operation == NIXL_WRITE ? kSeedOfB : kSeedOfA);
        nixlXferReqH *all = nullptr;
        require(a->createXferReq(operation, listOf({at_a.desc()}), listOf({at_b.desc()}), "B", all), "make a request");
        EXPECT_EQ(finish(*a.agent, all, a->postXferReq(all)), NIXL_SUCCESS) << nixlx::lastError();
        EXPECT_TRUE(at_a.holds(kSeedOfA));
        EXPECT_TRUE(at_b.holds(kSeedOfA));
        release(*a.agent, all);
    }
}

void
World::checkRegistrations() {
    if (grows) return; // what its backends have of each range depends on when they came
    const auto all_of_a = registrationOf({at_a.desc()}), all_of_b = registrationOf({at_b.desc()});
    EXPECT_EQ(a->deregisterMem(all_of_a), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(a->deregisterMem(all_of_a), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(b->deregisterMem(all_of_b), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(b->deregisterMem(all_of_b), NIXL_ERR_NOT_FOUND);
    for (const Buffer &buffer : spare) {
        EXPECT_EQ(a->deregisterMem(registrationOf({buffer.desc()})), NIXL_ERR_NOT_FOUND);
    }
}

nixl_status_t
World::deregister(const nixl_reg_dlist_t &ranges) {
    const nixl_status_t status = a->deregisterMem(ranges);
    return grows && status == NIXL_ERR_NOT_FOUND ? NIXL_SUCCESS : status;
}

void
World::keepMessages(nixl_notifs_t &arrived, std::multiset<nixl_blob_t> &messages) const {
    for (nixl_blob_t &message : arrived["A"]) {
        if (message.starts_with(pair_)) messages.insert(std::move(message));
    }
    arrived.clear();
}

void
World::replace(std::atomic<nixlDlistH *> &place, nixlDlistH *list) {
    if (!list) return;
    nixlDlistH *before = place.exchange(list);
    if (before) must(a->releasedDlistH(before), "release a list");
}

void
World::replace(nixlXferReqH *new_request) {
    if (!new_request) return;
    nixlXferReqH *before = request.exchange(new_request);
    if (before) release(*a.agent, before);
}

nixl_status_t
World::transfer(const Hand &hand) {
    const size_t offset = hand.number * kSlice;
    std::memset(at_b.data() + offset, 0, kSlice);
    nixlXferReqH *own = nullptr;
    nixl_status_t status = a->createXferReq(NIXL_WRITE, listOf({at_a.desc(offset, kSlice)}),
                                            listOf({at_b.desc(offset, kSlice)}), "B", own);
    if (status != NIXL_SUCCESS) return status;
    status = finish(*a.agent, own, a->postXferReq(own));
    if (status == NIXL_SUCCESS) {
        EXPECT_EQ(std::memcmp(at_a.data() + offset, at_b.data() + offset, kSlice), 0) << "after a transfer";
    }
    release(*a.agent, own);
    return status;
}

namespace {

constexpr auto kDone = NIXL_SUCCESS;
/// B is not loaded at A just now, or memory is registered and deregistered.
constexpr auto kUnknown = NIXL_ERR_NOT_FOUND;
/// The shared list or request was replaced after the thread had read its handle.
constexpr auto kReleased = NIXL_ERR_INVALID_PARAM;

/// What may become of a request while others post, cancel and release it and its peer comes and goes.
const std::vector<nixl_status_t> kOfShared = {
    NIXL_SUCCESS,      NIXL_IN_PROG,       NIXL_ERR_NOT_POSTED,       kReleased,
    NIXL_ERR_CANCELED, NIXL_ERR_NOT_FOUND, NIXL_ERR_REMOTE_DISCONNECT};

std::vector<nixl_status_t>
ofSharedOr(nixl_status_t status) {
    std::vector<nixl_status_t> all = kOfShared;
    all.push_back(status);
    return all;
}

nixl_status_t
post(World &w, Hand &hand) {
    nixl_opt_args_t args;
    if (hand.round % 3 == 1) args.notif = kWithData;
    return w.a->postXferReq(w.request, hand.round % 3 ? &args : nullptr);
}

/// A new request in the place of the shared one, made of the prepared lists.
template<class Make>
nixl_status_t
makeShared(World &w, Make make) {
    nixlXferReqH *made = nullptr;
    const nixl_status_t status = make(made);
    EXPECT_EQ(status == NIXL_SUCCESS, made != nullptr);
    w.replace(made);
    return status;
}

template<class Prepare>
nixl_status_t
prepareShared(World &w, std::atomic<nixlDlistH *> &place, Prepare prepare) {
    nixlDlistH *list = nullptr;
    const nixl_status_t status = prepare(list);
    EXPECT_EQ(status == NIXL_SUCCESS, list != nullptr);
    w.replace(place, list);
    return status;
}

nixlDescList<nixlStrideDesc>
strided(const nixl_xfer_dlist_t &range) {
    nixlDescList<nixlStrideDesc> list(DRAM_SEG);
    list.addDesc(nixlStrideDesc(range[0].addr, range[0].len, 0, range[0].len, 1));
    return list;
}

/// A request of the hand's own over the shared memory, posted; null if B is not known just now.
nixlXferReqH *
ownRequest(World &w) {
    nixlXferReqH *own = nullptr;
    if (w.a->createXferReq(NIXL_WRITE, w.sharedAtA(), w.sharedAtB(), "B", own) != NIXL_SUCCESS) return nullptr;
    w.a->postXferReq(own);
    return own;
}

/// Another agent that comes, moves something to A, and goes while A writes to it.
nixl_status_t
guest(World &w, Hand &hand) {
    const std::string name = "C" + std::to_string(hand.number);
    const Buffer memory(World::kShared), pattern(World::kSlice);
    allowRaces(listOf({memory.desc()}));
    pattern.fill(hand.round);
    auto c = std::make_unique<PairedAgent>(name, options(w.backend));
    require((*c)->registerMem(registrationOf({memory.desc(), pattern.desc()})), "register at C");
    w.a.load(c->metadata());
    nixlXferReqH *request = nullptr;
    nixl_status_t status = w.a->createXferReq(NIXL_WRITE, w.sharedAtA(), listOf({memory.desc()}), name, request);
    if (request) status = w.a->postXferReq(request);
    c.reset();
    if (request) {
        if (status == NIXL_IN_PROG) status = finish(*w.a.agent, request, status);
        release(*w.a.agent, request);
    }
    const nixl_status_t forgotten = w.a->invalidateRemoteMD(name);
    EXPECT_TRUE(forgotten == NIXL_SUCCESS || forgotten == NIXL_ERR_NOT_FOUND) << nixlx::lastError();
    return status;
}

/// The first of these that A does not have yet is created, and memory registered with it.
nixl_status_t
createBackend(World &w, Hand &hand) {
    static const char *const kOthers[] = {"GATED", "LEGACY", "VINTAGE", "LOOPBACK"};
    w.grows = true;
    nixlBackendH *backend = nullptr;
    const nixl_status_t status = w.a->createBackend(kOthers[hand.round % 4], {}, backend);
    EXPECT_EQ(status == NIXL_SUCCESS, backend != nullptr);
    const auto range = registrationOf({w.spare[hand.number].desc()});
    must(w.a->registerMem(range), "register");
    must(w.deregister(range), "deregister");
    return status;
}

std::vector<Call>
makeCalls() {
    return {
        {"nixlAgent", "", {kDone, kUnknown, NIXL_ERR_REMOTE_DISCONNECT, NIXL_ERR_CANCELED}, guest},
        {"getAvailPlugins",
         "",
         {kDone},
         [](World &w, Hand &) {
             std::vector<nixl_backend_t> plugins;
             return w.a->getAvailPlugins(plugins);
         }},
        {"getPluginParams",
         "",
         {kDone},
         [](World &w, Hand &hand) {
             nixl_mem_list_t mems;
             nixl_b_params_t params;
             return w.a->getPluginParams(hand.round % 2 ? "LEGACY" : w.backend, mems, params);
         }},
        {"getBackendParams",
         "",
         {kDone},
         [](World &w, Hand &) {
             nixl_mem_list_t mems;
             nixl_b_params_t params;
             return w.a->getBackendParams(w.a.backend, mems, params);
         }},
        {"createBackend", "", {kDone, NIXL_ERR_INVALID_PARAM}, createBackend, false, true},
        {"registerMem",
         "",
         {kDone},
         [](World &w, Hand &hand) {
             const auto range = registrationOf({w.spare[hand.number].desc()});
             const nixl_status_t status = w.a->registerMem(range);
             must(w.deregister(range), "deregister");
             return status;
         }},
        // Of a range that stays registered once more: requests that use this registration end.
        {"deregisterMem",
         "",
         {kDone, NIXL_ERR_REPOST_ACTIVE},
         [](World &w, Hand &) {
             const auto range = registrationOf({w.at_a.desc()});
             must(w.a->registerMem(range), "register");
             return w.deregister(range);
         }},
        {"queryMem",
         "",
         {kDone, NIXL_ERR_NOT_SUPPORTED},
         [](World &w, Hand &) {
             std::vector<nixl_query_resp_t> answers;
             return w.a->queryMem(registrationOf({{0, 0, 1}}, FILE_SEG), answers, &w.a.with_backend);
         }},
        {"makeConnection",
         "",
         {kDone, kUnknown, NIXL_ERR_REMOTE_DISCONNECT},
         [](World &w, Hand &) { return w.a->makeConnection("B"); }},
        {"prepXferDlist",
         "local",
         {kDone},
         [](World &w, Hand &) {
             return prepareShared(w, w.local_list,
                                  [&](nixlDlistH *&list) { return w.a->prepXferDlist(w.sharedAtA(), list); });
         }},
        {"prepXferDlist",
         "remote",
         {kDone, kUnknown},
         [](World &w, Hand &) {
             return prepareShared(w, w.remote_list,
                                  [&](nixlDlistH *&list) { return w.a->prepXferDlist("B", w.sharedAtB(), list); });
         }},
        {"prepXferDlist",
         "local_strided",
         {kDone},
         [](World &w, Hand &) {
             return prepareShared(w, w.local_list,
                                  [&](nixlDlistH *&list) { return w.a->prepXferDlist(strided(w.sharedAtA()), list); });
         }},
        {"prepXferDlist",
         "remote_strided",
         {kDone, kUnknown},
         [](World &w, Hand &) {
             return prepareShared(w, w.remote_list, [&](nixlDlistH *&list) {
                 return w.a->prepXferDlist("B", strided(w.sharedAtB()), list);
             });
         }},
        {"makeXferReq",
         "pointers",
         {kDone, kUnknown, kReleased},
         [](World &w, Hand &) {
             return makeShared(w, [&](nixlXferReqH *&made) {
                 return w.a->makeXferReq(NIXL_WRITE, w.local_list, {0}, w.remote_list, {0}, made);
             });
         }},
        {"makeXferReq",
         "references",
         {kDone, kUnknown, kReleased},
         [](World &w, Hand &) {
             static const std::array<int, 1> kFirst = {0};
             return makeShared(w, [&](nixlXferReqH *&made) {
                 return w.a->makeXferReq(NIXL_WRITE, *w.local_list.load(), std::span(kFirst), *w.remote_list.load(),
                                         std::span(kFirst), made);
             });
         }},
        {"createXferReq",
         "",
         {kDone, kUnknown, NIXL_ERR_REMOTE_DISCONNECT, NIXL_ERR_CANCELED},
         [](World &w, Hand &hand) { return w.transfer(hand); }},
        {"estimateXferCost",
         "",
         {kDone, kUnknown, kReleased, NIXL_ERR_NOT_SUPPORTED},
         [](World &w, Hand &) {
             std::chrono::microseconds duration, margin;
             nixl_cost_t method;
             return w.a->estimateXferCost(w.request, duration, margin, method);
         }},
        {"postXferReq", "", ofSharedOr(NIXL_ERR_REPOST_ACTIVE), post},
        {"getXferStatus", "", kOfShared,
         [](World &w, Hand &hand) {
             if (hand.round % 8 == 0) post(w, hand);
             return w.a->getXferStatus(w.request);
         }},
        {"getXferTelemetry", "", kOfShared,
         [](World &w, Hand &hand) {
             if (hand.round % 8 == 0) post(w, hand);
             nixl_xfer_telem_t telemetry;
             return w.a->getXferTelemetry(w.request, telemetry);
         }},
        {"queryXferBackend",
         "",
         {kDone, kReleased},
         [](World &w, Hand &) {
             nixlBackendH *backend = nullptr;
             return w.a->queryXferBackend(w.request, backend);
         }},
        {"releaseXferReq",
         "",
         {kDone, kUnknown, NIXL_ERR_REPOST_ACTIVE},
         [](World &w, Hand &) {
             nixlXferReqH *own = ownRequest(w);
             if (!own) return kUnknown;
             const nixl_status_t status = w.a->releaseXferReq(own);
             if (status == NIXL_ERR_REPOST_ACTIVE) release(*w.a.agent, own);
             return status;
         }},
        {"prepMemView",
         "remote",
         {kDone, kUnknown, NIXL_ERR_NOT_SUPPORTED, NIXL_ERR_BACKEND},
         [](World &w, Hand &) {
             nixl_remote_dlist_t list(DRAM_SEG);
             list.addDesc(nixlRemoteDesc(w.sharedAtB()[0], "B"));
             nixlMemViewH view = nullptr;
             const nixl_status_t status = w.a->prepMemView(list, view);
             if (status == NIXL_SUCCESS) w.a->releaseMemView(view);
             return status;
         }},
        {"prepMemView",
         "local",
         {kDone, NIXL_ERR_NOT_SUPPORTED, NIXL_ERR_BACKEND},
         [](World &w, Hand &) {
             nixlMemViewH view = nullptr;
             const nixl_status_t status = w.a->prepMemView(w.sharedAtA(), view);
             if (status == NIXL_SUCCESS) w.a->releaseMemView(view);
             return status;
         }},
        {"releaseMemView",
         "",
         {kDone},
         [](World &w, Hand &) {
             w.a->releaseMemView(&w);
             return kDone;
         }},
        {"releasedDlistH",
         "",
         {kDone},
         [](World &w, Hand &) {
             nixlDlistH *own = nullptr;
             must(w.a->prepXferDlist(w.sharedAtA(), own), "prepare");
             return w.a->releasedDlistH(own);
         }},
        {"getNotifs",
         "",
         {kDone},
         [](World &w, Hand &hand) {
             nixl_notifs_t arrived;
             const nixl_status_t status = w.a->getNotifs(arrived);
             must(w.b->getNotifs(arrived), "notifications of B");
             w.keepMessages(arrived, w.received[hand.number]);
             return status;
         }},
        {"genNotif",
         "",
         {kDone, kUnknown, NIXL_ERR_REMOTE_DISCONNECT},
         [](World &w, Hand &hand) {
             const nixl_blob_t message = w.newMessage(hand);
             const nixl_status_t status = w.a->genNotif("B", message);
             if (status == NIXL_SUCCESS) w.sent[hand.number].insert(message);
             return status;
         }},
        {"getLocalMD",
         "",
         {kDone},
         [](World &w, Hand &) {
             nixl_blob_t blob;
             return w.a->getLocalMD(blob);
         }},
        {"getLocalPartialMD",
         "",
         {kDone},
         [](World &w, Hand &hand) {
             nixl_opt_args_t args;
             args.includeConnInfo = hand.round % 2;
             nixl_blob_t blob;
             const nixl_status_t status = w.a->getLocalPartialMD(registrationOf({w.at_a.desc()}), blob, &args);
             // A backend that came later knows nothing of the range, once it has any.
             return w.grows && status == kUnknown ? kDone : status;
         }},
        {"loadRemoteMD",
         "",
         {kDone},
         [](World &w, Hand &) {
             std::string name;
             return w.a->loadRemoteMD(w.blob_of_b, name);
         }},
        {"loadRemoteMD",
         "partial",
         {kDone, kUnknown},
         [](World &w, Hand &hand) {
             std::string name;
             return w.a->loadRemoteMD(w.part_blobs[hand.round % World::kParts], name);
         }},
        {"invalidateRemoteMD",
         "",
         {kDone, kUnknown},
         [](World &w, Hand &) {
             const nixl_status_t status = w.a->invalidateRemoteMD("B");
             std::string name;
             must(w.a->loadRemoteMD(w.blob_of_b, name), "load B again");
             return status;
         },
         true},
        {"sendLocalMD",
         "",
         {kDone, kUnknown},
         [](World &w, Hand &) {
             const nixl_opt_args_t to_b = w.b.address();
             return outcome(w.a, w.a->sendLocalMD(&to_b));
         }},
        {"sendLocalPartialMD",
         "",
         {kDone, kUnknown},
         [](World &w, Hand &hand) {
             nixl_opt_args_t to_b = w.b.address();
             to_b.includeConnInfo = hand.round % 2;
             return outcome(w.a, w.a->sendLocalPartialMD(registrationOf({w.at_a.desc()}), &to_b));
         }},
        {"fetchRemoteMD",
         "",
         {kDone, kUnknown},
         [](World &w, Hand &) {
             const nixl_opt_args_t to_b = w.b.address();
             return outcome(w.a, w.a->fetchRemoteMD("B", &to_b));
         }},
        {"fetchRemoteMD",
         "of_the_peer",
         {kDone, kUnknown},
         [](World &w, Hand &) {
             const nixl_opt_args_t to_a = w.a.address();
             return outcome(w.b, w.b->fetchRemoteMD("A", &to_a));
         }},
        {"invalidateLocalMD",
         "",
         {kDone, kUnknown},
         [](World &w, Hand &) {
             const nixl_opt_args_t to_b = w.b.address();
             return outcome(w.a, w.a->invalidateLocalMD(&to_b));
         },
         true},
        {"checkRemoteMD",
         "",
         {kDone, kUnknown},
         [](World &w, Hand &hand) {
             const size_t offset = hand.round % World::kParts * World::kSlice;
             return w.a->checkRemoteMD("B", listOf({w.parts.desc(offset, World::kSlice)}));
         }},
        {"getPluginOption",
         "",
         {kDone},
         [](World &w, Hand &hand) {
             std::string option;
             return w.a->getPluginOption(hand.round % 2 ? "LEGACY" : w.backend, "threads", option);
         }},
        {"getXferReport",
         "",
         {kDone, kReleased},
         [](World &w, Hand &) {
             nixlx::Report report;
             return w.a->getXferReport(w.request, report);
         }},
        {"setXferLimits",
         "",
         {kDone, kReleased, NIXL_ERR_REPOST_ACTIVE},
         [](World &w, Hand &) { return w.a->setXferLimits(w.request, {.deadline = kLong, .stall = kLong}); }},
        {"cancelXferReq",
         "",
         {kDone, kReleased},
         [](World &w, Hand &hand) {
             if (hand.round % 2) post(w, hand);
             return w.a->cancelXferReq(w.request);
         }},
        {"dropXferReq",
         "",
         {kDone, kUnknown},
         [](World &w, Hand &) {
             nixlXferReqH *own = ownRequest(w);
             return own ? w.a->dropXferReq(own) : kUnknown;
         }},
        {"waitMetadata",
         "",
         {kDone, kUnknown, NIXL_IN_PROG},
         [](World &w, Hand &) { return w.a->waitMetadata(std::chrono::milliseconds(0)); }},
        {"waitXfer", "", kOfShared,
         [](World &w, Hand &hand) {
             if (hand.round % 8 == 0) post(w, hand);
             return w.a->waitXfer(w.request, kMoment);
         }},
        {"waitAny",
         "",
         {kDone, NIXL_IN_PROG, kReleased},
         [](World &w, Hand &hand) {
             if (hand.round % 8 == 0) post(w, hand);
             nixlXferReqH *const shared = w.request;
             std::vector<size_t> which;
             return w.a->waitAny({&shared, 1}, kMoment, which);
         }},
        {"waitNotifs",
         "",
         {kDone, NIXL_IN_PROG},
         [](World &w, Hand &hand) {
             nixl_notifs_t arrived;
             const nixl_status_t status = w.b->waitNotifs(arrived, kMoment);
             w.keepMessages(arrived, w.received[hand.number]);
             return status;
         }},
        {"eventFd",
         "",
         {kDone},
         [](World &w, Hand &) {
             int fd = -1;
             return w.a->eventFd(fd);
         }},
        {"getListenPort",
         "",
         {kDone},
         [](World &w, Hand &) {
             uint16_t port = 0;
             return w.a->getListenPort(port);
         }},
        {"getBackendType",
         "",
         {kDone},
         [](World &w, Hand &) {
             nixl_backend_t type;
             return w.a->getBackendType(w.a.backend, type);
         }},
    };
}

} // namespace

const std::vector<Call> &
allCalls() {
    static const std::vector<Call> calls = makeCalls();
    return calls;
}

} // namespace nx::test
