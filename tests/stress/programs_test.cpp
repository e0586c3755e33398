// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: whatever a program does with two agents, right or wrong, every call gives the status it should, the bytes are
// right in the end and every message arrives. Method: random programs beside a model of what the API promises. A
// failing one is printed, with its seed. NIXL_TEST_PROGRAMS says how many run, NIXL_TEST_SEED where they begin: a
// program depends on its seed alone (over UCX also on what its transfers answer).
#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <sstream>
#include <thread>

#include <gtest/gtest.h>

#include "nixlx/engine.h"
#include "support/agent_pair.h"
#include "support/gated_backend.h"

namespace nx::test {
namespace {

constexpr size_t kBlock = 64, kBlocks = 16, kBytes = kBlock * kBlocks;
constexpr size_t kPiece = 16;  ///< the length of most elements of prepared lists
constexpr size_t kCalls = 120; ///< of a program

/// Messages by receiver and sender. Self-synchronised.
class Mail {
public:
    using Messages = std::map<std::pair<std::string, std::string>, std::multiset<std::string>>;

    void
    add(const std::string &receiver, const std::string &sender, const std::string &message) {
        std::lock_guard lock(mutex_);
        messages_[{receiver, sender}].insert(message);
    }

    void
    addAll(const std::string &receiver, const nixl_notifs_t &arrived) {
        for (const auto &[sender, messages] : arrived) {
            for (const nixl_blob_t &message : messages) add(receiver, sender, message);
        }
    }

    void
    add(const Mail &other) {
        const Messages theirs = other.all();
        std::lock_guard lock(mutex_);
        for (const auto &[way, messages] : theirs) messages_[way].insert(messages.begin(), messages.end());
    }

    /// Every message of the other, at least as often.
    bool
    holds(const Mail &other) const {
        const Messages mine = all();
        for (const auto &[way, messages] : other.all()) {
            const auto found = mine.find(way);
            if (found == mine.end()) {
                if (!messages.empty()) return false;
            } else if (!std::includes(found->second.begin(), found->second.end(), messages.begin(), messages.end())) {
                return false;
            }
        }
        return true;
    }

    Messages
    all() const {
        std::lock_guard lock(mutex_);
        return messages_;
    }

private:
    mutable std::mutex mutex_;
    Messages messages_;
};

struct Range {
    size_t offset = 0, length = 0;

    auto
    operator<=>(const Range &) const = default;

    size_t
    end() const {
        return offset + length;
    }

    bool
    overlaps(const Range &other) const {
        return offset < other.end() && other.offset < end();
    }

    bool
    covers(const Range &other) const {
        return offset <= other.offset && other.end() <= end();
    }
};

using Ranges = std::vector<Range>;

std::ostream &
operator<<(std::ostream &out, const Ranges &ranges) {
    for (const Range &range : ranges) out << ' ' << range.offset << '+' << range.length;
    return out;
}

/// A range that is registered, or that the peer has published. It has one id, never used again; where one of several
/// equal ranges was deregistered nobody knows which, and those that are left have the ids of all.
struct Registration {
    Range range;
    std::set<uint64_t> ids;
};
using Registrations = std::vector<Registration>;

/// How sure something is. What a call needs may be there, or not, or as the implementation likes.
enum class Known { kNo, kPerhaps, kYes };

Known
yes(bool good) {
    return good ? Known::kYes : Known::kNo;
}

Known
both(Known a, Known b) {
    return std::min(a, b);
}

/// An element of a list, with the registrations that may be behind it.
struct Element {
    Range range;
    Registrations used;
};
using Elements = std::vector<Element>;

/// Whether registrations cover it: one, or several that touch. What is at the ends of ranges, and empty, may be either.
Known
resolve(const Registrations &registrations, const Range &range, Registrations &used) {
    Known known = Known::kNo;
    for (const Registration &each : registrations) {
        if (!each.range.covers(range)) continue;
        used.push_back(each);
        const bool inside = each.range.offset < range.offset && range.offset < each.range.end();
        known = std::max(known, range.length || inside ? Known::kYes : Known::kPerhaps);
    }
    if (known != Known::kNo || range.length == 0) return known;
    size_t reached = range.offset;
    for (bool further = true; further && reached < range.end();) {
        further = false;
        for (const Registration &each : registrations) {
            if (each.range.offset > reached || each.range.end() <= reached) continue;
            reached = each.range.end();
            further = true;
        }
    }
    if (reached < range.end()) return Known::kNo;
    for (const Registration &each : registrations) {
        if (each.range.overlaps(range)) used.push_back(each);
    }
    return Known::kPerhaps;
}

Elements
resolve(const Registrations &registrations, const Ranges &ranges, Known &known) {
    Elements elements;
    known = Known::kYes;
    for (const Range &range : ranges) {
        Element &element = elements.emplace_back(Element{range, {}});
        known = both(known, resolve(registrations, range, element.used));
    }
    return elements;
}

/// Whether a registration is among these still, or with `by_range` one like it.
Known
still(const Registrations &registrations, const Registration &used, bool by_range) {
    Known known = Known::kNo;
    for (const Registration &each : registrations) {
        if (each.range != used.range) continue;
        const bool same = by_range || (each.ids == used.ids && used.ids.size() == 1);
        const bool maybe =
            std::any_of(used.ids.begin(), used.ids.end(), [&](uint64_t id) { return each.ids.contains(id); });
        known = std::max(known, same ? Known::kYes : maybe ? Known::kPerhaps : Known::kNo);
    }
    return known;
}

/// Whether what the elements use is there still.
Known
still(const Registrations &registrations, const Elements &elements, bool by_range = false) {
    Known all = Known::kYes;
    for (const Element &element : elements) {
        Known least = Known::kYes, most = Known::kNo;
        for (const Registration &used : element.used) {
            const Known known = still(registrations, used, by_range);
            least = std::min(least, known);
            most = std::max(most, known);
        }
        all = both(all, least == most ? least : Known::kPerhaps);
    }
    return all;
}

struct Options {
    bool held = false;         ///< the backend is GATED, and a transfer runs until the program ends it
    bool asynchronous = false; ///< transfers and messages take their time, and ranges must be there when they are used
    bool alone = true;         ///< no other program uses the agents; otherwise they know each other and never forget
};

class Program {
public:
    /// Notes which messages it has sent, and received (those of all programs).
    Program(AgentPair &pair, const Options &options, uint64_t seed, std::string name, Mail &sent, Mail &received)
        : options_(options),
          name_(std::move(name)),
          random_(seed),
          sent_(sent),
          received_(received) {
        parties_[0].agent = &pair.a;
        parties_[1].agent = &pair.b;
        for (Party &party : parties_) {
            for (size_t i = 0; i < kBytes; ++i) {
                party.bytes[i] = party.memory.data()[i] = static_cast<unsigned char>(random_());
            }
            if (!options.alone) party.generation = ++generations_;
        }
    }

    /// Up to the first call that goes wrong. Empty, or what was wrong.
    std::string
    run() {
        for (Party &party : parties_) {
            registerSome(party);
            publish(party);
        }
        for (Party &party : parties_) load(party);
        for (size_t i = 0; i < kCalls && wrong_.empty(); ++i) step();
        for (Party &party : parties_) {
            while (wrong_.empty() && !party.requests.empty()) release(party);
            while (wrong_.empty() && !party.lists.empty()) releaseList(party);
        }
        for (Party &party : parties_) {
            if (wrong_.empty()) forget(party);
        }
        for (Party &party : parties_) compare(party);
        for (Party &party : parties_) {
            Ranges all;
            for (const Registration &each : party.registrations) all.push_back(each.range);
            if (wrong_.empty()) {
                note(party, "deregister all", (*party.agent)->deregisterMem(registrationAt(party, all)),
                     {NIXL_SUCCESS});
            }
        }
        return wrong_;
    }

    /// The calls so far, one a line.
    std::string
    text() const {
        return text_.str();
    }

    /// Messages of transfers that were cancelled.
    const Mail &
    perhapsSent() const {
        return perhaps_sent_;
    }

private:
    /// The remote side of a list or request: the own agent, or the peer as it was loaded then.
    struct Target {
        bool self = false;
        uint64_t generation = 0;
    };
    struct List {
        nixlDlistH *handle;
        bool local;
        Target target;
        Elements elements;
    };
    struct Request {
        nixlXferReqH *handle = nullptr;
        nixl_xfer_op_t operation = NIXL_WRITE;
        Target target;
        Elements local, remote;
        std::optional<nixl_blob_t> message;
        nixl_status_t status = NIXL_ERR_NOT_POSTED;
        bool settling = false; ///< cancelled while it ran
        bool doubtful = false; ///< perhaps cancelled
        uint64_t attempts = 0;
        uint64_t number = 0; ///< of the held transfer
    };
    struct Blob {
        nixl_blob_t bytes;
        Registrations ranges;
        bool connects;
    };
    struct Party {
        PairedAgent *agent = nullptr;
        Buffer memory{kBytes};
        std::vector<unsigned char> bytes = std::vector<unsigned char>(kBytes); ///< expected
        std::vector<bool> defined = std::vector<bool>(kBytes, true);           ///< which of them are known
        Registrations registrations;
        uint64_t generation = 0; ///< of the peer here; 0: it is not known
        Registrations view;      ///< the peer's
        std::vector<Blob> blobs; ///< its own
        std::vector<List> lists;
        std::vector<Request> requests;
        std::vector<nixlDlistH *> old_lists;
        std::vector<nixlXferReqH *> old_requests;
        nixl_notifs_t inbox; ///< expected
    };
    using Allowed = std::set<nixl_status_t>;

    // ---- Choices ---------------------------------------------------------------------------------------------------

    size_t
    below(size_t bound) {
        return random_() % bound;
    }

    bool
    chance(size_t one_in) {
        return below(one_in) == 0;
    }

    template<class T>
    T &
    oneOf(std::vector<T> &all) {
        return all[below(all.size())];
    }

    Range
    anyRange() {
        if (chance(12)) return {below(kBytes + 1), 0};
        const size_t first = below(kBlocks), count = 1 + below(std::min<size_t>(4, kBlocks - first));
        if (!chance(4)) return {first * kBlock, count * kBlock};
        const size_t offset = first * kBlock + below(kBlock);
        return {offset, 1 + below(std::min(count * kBlock, kBytes - offset))};
    }

    Ranges
    anyRanges() {
        Ranges ranges;
        for (size_t i = 1 + below(3); i; --i) ranges.push_back(anyRange());
        return ranges;
    }

    /// Mostly inside what is registered.
    Range
    rangeIn(Registrations &registrations) {
        if (registrations.empty() || chance(10)) return anyRange();
        const Range whole = oneOf(registrations).range;
        if (whole.length == 0 || chance(3)) return whole;
        const size_t offset = below(whole.length);
        return {whole.offset + offset, 1 + below(whole.length - offset)};
    }

    Ranges
    rangesIn(Registrations &registrations) {
        Ranges ranges;
        for (size_t i = 1 + below(3); i; --i) ranges.push_back(rangeIn(registrations));
        return ranges;
    }

    Target
    anyTarget(const Party &at) {
        return {chance(6), at.generation};
    }

    nixl_xfer_op_t
    anyOperation() {
        return chance(2) ? NIXL_READ : NIXL_WRITE;
    }

    nixl_blob_t
    newMessage() {
        return name_ + std::to_string(++messages_) + std::string(below(40), '.');
    }

    // ---- What is said and judged -----------------------------------------------------------------------------------

    Party &
    partyOf(Party &at, const Target &target) {
        return target.self ? at : parties_[&at == &parties_[0]];
    }

    const std::string &
    nameOf(Party &at, const Target &target) {
        return partyOf(at, target).agent->name;
    }

    Registrations &
    remoteOf(Party &at, const Target &target) {
        return target.self ? at.registrations : at.view;
    }

    static nixl_xfer_dlist_t
    listAt(const Party &at, const Ranges &ranges) {
        nixl_xfer_dlist_t list(DRAM_SEG);
        for (const Range &range : ranges) list.addDesc(at.memory.desc(range.offset, range.length));
        return list;
    }

    static nixl_reg_dlist_t
    registrationAt(const Party &at, const Ranges &ranges) {
        nixl_reg_dlist_t list(DRAM_SEG);
        for (const Range &range : ranges) list.addDesc(nixlBlobDesc(at.memory.desc(range.offset, range.length), ""));
        return list;
    }

    template<class... Words>
    static std::string
    say(const Words &...words) {
        std::ostringstream text;
        (text << ... << words);
        return text.str();
    }

    nixl_status_t
    note(const Party &at, const std::string &call, nixl_status_t status, const Allowed &allowed) {
        text_ << at.agent->name << ": " << call << " -> " << nixlEnumStrings::statusStr(status) << '\n';
        if (allowed.contains(status)) return status;
        std::string wanted;
        for (nixl_status_t each : allowed) wanted += (wanted.empty() ? "" : " or ") + nixlEnumStrings::statusStr(each);
        wrong("the last call should have given " + wanted + (status < 0 ? "; it said: " + nixlx::lastError() : ""));
        return status;
    }

    void
    wrong(const std::string &what) {
        if (wrong_.empty()) wrong_ = what;
    }

    /// The error of what is missing, success if nothing is, and either where it is not sure.
    static Allowed
    unless(std::initializer_list<std::pair<Known, nixl_status_t>> needs) {
        Allowed allowed;
        bool fails = false;
        for (const auto &[known, status] : needs) {
            if (known != Known::kYes) allowed.insert(status);
            fails = fails || known == Known::kNo;
        }
        if (!fails) allowed.insert(NIXL_SUCCESS);
        return allowed;
    }

    // ---- The model of transfers ------------------------------------------------------------------------------------

    static Known
    isLoaded(const Party &at, const Target &target) {
        return yes(target.self || (target.generation && target.generation == at.generation));
    }

    /// What the request was made of is registered at this agent.
    static Known
    isValid(const Party &at, const Request &request) {
        const Known local = still(at.registrations, request.local);
        return request.target.self ? both(local, still(at.registrations, request.remote)) : local;
    }

    static bool
    isRunning(const Request &request) {
        return request.status == NIXL_IN_PROG;
    }

    /// Where its bytes go: whose memory, and which.
    std::pair<Party *, const Elements *>
    sinkOf(Party &at, const Request &request) {
        if (request.operation == NIXL_READ) return {&at, &request.local};
        return {&partyOf(at, request.target), &request.remote};
    }

    std::pair<Party *, const Elements *>
    sourceOf(Party &at, const Request &request) {
        if (request.operation == NIXL_WRITE) return {&at, &request.local};
        return {&partyOf(at, request.target), &request.remote};
    }

    void
    moved(Party &at, const Request &request) {
        const auto [sink, to] = sinkOf(at, request);
        const auto [source, from] = sourceOf(at, request);
        const std::vector<unsigned char> bytes = source->bytes;
        const std::vector<bool> defined = source->defined;
        std::vector<int> writers(kBytes);
        for (size_t i = 0; i < to->size(); ++i) {
            for (size_t j = 0; j < (*to)[i].range.length; ++j) {
                const size_t target = (*to)[i].range.offset + j, origin = (*from)[i].range.offset + j;
                sink->bytes[target] = bytes[origin];
                // In which order a request moves its bytes is not said.
                sink->defined[target] = ++writers[target] == 1 && defined[origin];
            }
        }
        if (sink != source) return;
        for (size_t i = 0; i < kBytes; ++i) {
            const auto reads = [i](const Element &each) { return each.range.offset <= i && i < each.range.end(); };
            if (writers[i] && std::any_of(from->begin(), from->end(), reads)) return lost(at, request);
        }
    }

    /// Nobody knows what it has left behind.
    void
    lost(Party &at, const Request &request) {
        const auto [sink, to] = sinkOf(at, request);
        for (const Element &element : *to) {
            for (size_t i = element.range.offset; i < element.range.end(); ++i) sink->defined[i] = false;
        }
    }

    void
    sent(Party &at, const Target &target, const nixl_blob_t &message) {
        sent_.add(nameOf(at, target), at.agent->name, message);
        partyOf(at, target).inbox[at.agent->name].push_back(message);
    }

    void
    ended(Party &at, Request &request, nixl_status_t status) {
        request.status = status;
        request.settling = request.doubtful = false;
        if (status == NIXL_SUCCESS) {
            moved(at, request);
            if (request.message) sent(at, request.target, *request.message);
        } else if (options_.asynchronous) {
            lost(at, request);
            if (request.message) perhaps_sent_.add(nameOf(at, request.target), at.agent->name, *request.message);
        }
    }

    Allowed
    statusesOf(const Request &request) {
        if (!isRunning(request)) return {request.status};
        if (options_.asynchronous) {
            Allowed allowed = {NIXL_IN_PROG, NIXL_SUCCESS};
            if (request.settling) allowed.insert(NIXL_ERR_CANCELED);
            return allowed;
        }
        if (request.settling) return {NIXL_ERR_CANCELED};
        if (request.doubtful) return {NIXL_IN_PROG, NIXL_ERR_CANCELED};
        return {NIXL_IN_PROG};
    }

    void
    saw(Party &at, Request &request, nixl_status_t status) {
        if (!isRunning(request)) return;
        request.doubtful = false;
        if (status != NIXL_IN_PROG) ended(at, request, status);
    }

    nixl_status_t
    ask(Party &at, Request &request) {
        const nixl_status_t status = note(at, say("status of ", request.handle),
                                          (*at.agent)->getXferStatus(request.handle), statusesOf(request));
        saw(at, request, status);
        return status;
    }

    /// What takes its time has ended before anything else touches what it uses.
    void
    quiet() {
        if (!options_.asynchronous) return;
        for (Party &party : parties_) {
            for (Request &request : party.requests) {
                eventually([&] {
                    if (!isRunning(request) || !wrong_.empty()) return true;
                    const std::streampos before = text_.tellp();
                    const bool done = ask(party, request) != NIXL_IN_PROG;
                    if (!done) text_.seekp(before);
                    for (const Party &each : parties_) receive(each);
                    return done;
                });
            }
        }
    }

    void
    receive(const Party &at) {
        nixl_notifs_t arrived;
        if ((*at.agent)->getNotifs(arrived) != NIXL_SUCCESS) wrong("getNotifs failed: " + nixlx::lastError());
        received_.addAll(at.agent->name, arrived);
    }

    void
    compare(const Party &party) {
        for (size_t i = 0; i < kBytes && wrong_.empty(); ++i) {
            if (!party.defined[i] || party.memory.data()[i] == party.bytes[i]) continue;
            wrong(say("byte ", i, " of ", party.agent->name, " is ", int(party.memory.data()[i]), " instead of ",
                      int(party.bytes[i])));
        }
    }

    // ---- Calls -----------------------------------------------------------------------------------------------------

    void
    step() {
        using Call = void (Program::*)(Party &);
        static constexpr std::pair<Call, size_t> kWeights[] = {
            {&Program::registerSome, 6}, {&Program::deregisterSome, 3}, {&Program::publish, 4},
            {&Program::publishPart, 2},  {&Program::load, 6},           {&Program::loadWrong, 1},
            {&Program::forget, 1},       {&Program::checkKnown, 2},     {&Program::prepare, 6},
            {&Program::releaseList, 1},  {&Program::make, 8},           {&Program::create, 6},
            {&Program::post, 12},        {&Program::poll, 5},           {&Program::finish, 6},
            {&Program::cancel, 2},       {&Program::release, 2},        {&Program::drop, 1},
            {&Program::report, 2},       {&Program::limit, 1},          {&Program::useOld, 2},
            {&Program::nonsense, 1},     {&Program::notify, 2},         {&Program::fetch, 2}};
        size_t total = 0;
        for (const auto &[call, weight] : kWeights) total += weight;
        size_t left = below(total);
        Party &at = parties_[below(2)];
        for (const auto &[call, weight] : kWeights) {
            if (left < weight) return (this->*call)(at);
            left -= weight;
        }
    }

    void
    registerSome(Party &at) {
        Ranges ranges = chance(20) ? Ranges() : anyRanges();
        if (chance(6) && !at.registrations.empty()) ranges.push_back(oneOf(at.registrations).range);
        note(at, say("register", ranges), (*at.agent)->registerMem(registrationAt(at, ranges)), {NIXL_SUCCESS});
        for (const Range &range : ranges) at.registrations.push_back({range, {++ids_}});
    }

    void
    deregisterSome(Party &at) {
        quiet();
        Ranges ranges;
        for (size_t i = 1 + below(2); i; --i) {
            ranges.push_back(at.registrations.empty() || chance(8) ? anyRange() : oneOf(at.registrations).range);
        }
        // Each element takes one registration of its range.
        Registrations left = at.registrations;
        bool found = true;
        for (const Range &range : ranges) {
            std::set<uint64_t> ids;
            for (const Registration &each : left) {
                if (each.range == range) ids.insert(each.ids.begin(), each.ids.end());
            }
            const auto it = std::find_if(left.begin(), left.end(), [&](auto &each) { return each.range == range; });
            if (it == left.end()) {
                found = false;
                break;
            }
            left.erase(it);
            for (Registration &each : left) {
                if (each.range == range) each.ids = ids;
            }
        }
        const nixl_status_t status =
            note(at, say("deregister", ranges), (*at.agent)->deregisterMem(registrationAt(at, ranges)),
                 unless({{yes(found), NIXL_ERR_NOT_FOUND}}));
        if (status != NIXL_SUCCESS) return;
        at.registrations = std::move(left);
        for (Request &request : at.requests) {
            if (!isRunning(request)) continue;
            const Known valid = isValid(at, request);
            if (valid == Known::kNo) request.settling = true;
            if (valid == Known::kPerhaps) request.doubtful = true;
        }
    }

    void
    publish(Party &at) {
        Blob blob{{}, at.registrations, true};
        note(at, say("publish ", at.blobs.size()), (*at.agent)->getLocalMD(blob.bytes), {NIXL_SUCCESS});
        // It brings what other programs have registered, too, and where it is loaded theirs bring this one's.
        if (options_.alone) at.blobs.push_back(std::move(blob));
    }

    void
    publishPart(Party &at) {
        Ranges ranges;
        for (size_t i = below(3); i; --i) {
            ranges.push_back(at.registrations.empty() || chance(8) ? anyRange() : oneOf(at.registrations).range);
        }
        nixl_opt_args_t args;
        args.includeConnInfo = chance(2);
        Blob blob{{}, {}, args.includeConnInfo || ranges.empty()};
        bool found = true;
        for (const Range &range : ranges) {
            Registration same{range, {}};
            for (const Registration &each : at.registrations) {
                if (each.range == range) same.ids.insert(each.ids.begin(), each.ids.end());
            }
            found = found && !same.ids.empty();
            blob.ranges.push_back(std::move(same));
        }
        const nixl_status_t status = note(
            at, say("publish ", at.blobs.size(), blob.connects ? " with connection" : " without connection", ranges),
            (*at.agent)->getLocalPartialMD(registrationAt(at, ranges), blob.bytes, &args),
            unless({{yes(found), NIXL_ERR_NOT_FOUND}}));
        if (status == NIXL_SUCCESS) at.blobs.push_back(std::move(blob));
    }

    void
    load(Party &at) {
        Party &peer = partyOf(at, {});
        if (peer.blobs.empty()) return options_.alone ? publish(peer) : publishPart(peer);
        const size_t number = chance(2) ? peer.blobs.size() - 1 : below(peer.blobs.size());
        const Blob &blob = peer.blobs[number];
        bool changed = false; // a range that is known here has another key there now
        for (const Registration &each : blob.ranges) {
            if (options_.asynchronous && still(peer.registrations, each, false) != Known::kYes) return;
            for (const Registration &known : at.view)
                changed = changed || (known.range == each.range && known.ids != each.ids);
        }
        Allowed allowed = unless({{yes(blob.connects || at.generation), NIXL_ERR_NOT_FOUND}});
        if (changed && options_.asynchronous) allowed.insert(NIXL_ERR_NOT_ALLOWED);
        std::string name;
        const nixl_status_t status =
            note(at, say("load ", number), (*at.agent)->loadRemoteMD(blob.bytes, name), allowed);
        if (status != NIXL_SUCCESS) return;
        if (name != peer.agent->name) wrong("the name of the loaded agent is " + name);
        if (!at.generation) at.generation = ++generations_;
        Registrations fresh;
        for (const Registration &each : blob.ranges) {
            const auto like = [&](const Registration &known) { return known.range == each.range; };
            if (std::none_of(at.view.begin(), at.view.end(), like)) fresh.push_back(each);
        }
        at.view.insert(at.view.end(), fresh.begin(), fresh.end());
    }

    void
    loadWrong(Party &at) {
        std::string name = "unchanged";
        if (chance(3) && !at.blobs.empty()) {
            note(at, "load its own", (*at.agent)->loadRemoteMD(oneOf(at.blobs).bytes, name), {NIXL_ERR_INVALID_PARAM});
        } else {
            Party &peer = partyOf(at, {});
            nixl_blob_t blob = peer.blobs.empty() ? nixl_blob_t(below(50), 'x') : oneOf(peer.blobs).bytes;
            blob.resize(std::min<size_t>(blob.size(), below(40))); // the part that every blob begins with
            note(at, say("load ", blob.size(), " bytes"), (*at.agent)->loadRemoteMD(blob, name), {NIXL_ERR_MISMATCH});
        }
        if (name != "unchanged") wrong("a failed load wrote the name");
    }

    void
    forget(Party &at) {
        if (!options_.alone) return;
        quiet();
        awaitMail();
        note(at, "forget", (*at.agent)->invalidateRemoteMD(partyOf(at, {}).agent->name),
             unless({{yes(at.generation), NIXL_ERR_NOT_FOUND}}));
        at.generation = 0;
        at.view.clear();
    }

    void
    checkKnown(Party &at) {
        const Ranges ranges = chance(4) ? Ranges() : rangesIn(at.view);
        Known found;
        (void)resolve(at.view, ranges, found);
        Party &peer = partyOf(at, {});
        note(at, say("check", ranges), (*at.agent)->checkRemoteMD(peer.agent->name, listAt(peer, ranges)),
             unless({{both(yes(at.generation), found), NIXL_ERR_NOT_FOUND}}));
    }

    void
    prepare(Party &at) {
        const bool local = chance(2);
        const Target target = anyTarget(at);
        Registrations &among = local ? at.registrations : remoteOf(at, target);
        Ranges ranges = chance(20) ? Ranges() : rangesIn(among);
        for (Range &range : ranges) {
            if (!chance(4)) range.length = std::min(range.length, kPiece); // of one length, so that they fit
        }
        Known found;
        List list{nullptr, local, target, resolve(among, ranges, found)};
        if (!local) found = both(found, isLoaded(at, target));
        nixl_status_t status;
        if (local) {
            status = (*at.agent)->prepXferDlist(listAt(at, ranges), list.handle);
        } else {
            status = (*at.agent)->prepXferDlist(nameOf(at, target), listAt(partyOf(at, target), ranges), list.handle);
        }
        note(at,
             say("prepare ", list.handle,
                 local             ? " local"
                     : target.self ? " self"
                                   : " remote",
                 ranges),
             status, unless({{found, NIXL_ERR_NOT_FOUND}, {yes(!ranges.empty()), NIXL_ERR_INVALID_PARAM}}));
        if (status == NIXL_SUCCESS) at.lists.push_back(std::move(list));
    }

    void
    releaseList(Party &at) {
        if (at.lists.empty()) return;
        const size_t number = below(at.lists.size());
        nixlDlistH *handle = at.lists[number].handle;
        note(at, say("release list ", handle), (*at.agent)->releasedDlistH(handle), {NIXL_SUCCESS});
        at.old_lists.push_back(handle);
        at.lists.erase(at.lists.begin() + static_cast<ptrdiff_t>(number));
    }

    /// Mostly of the right side.
    const List &
    anyList(Party &at, bool local) {
        const List *list = &oneOf(at.lists);
        for (int i = 0; i < 5 && list->local != local; ++i) list = &oneOf(at.lists);
        return *list;
    }

    /// Indices into a list, now and then one outside.
    std::vector<int>
    anyIndices(const List &list, size_t count) {
        std::vector<int> indices;
        for (size_t i = 0; i < count; ++i) indices.push_back(static_cast<int>(below(list.elements.size())));
        if (count && chance(20)) indices[0] = chance(2) ? -1 : static_cast<int>(list.elements.size());
        return indices;
    }

    void
    make(Party &at) {
        if (at.lists.empty()) return prepare(at);
        const List &local = anyList(at, true), &remote = anyList(at, false);
        const size_t count = chance(20) ? 0 : 1 + below(3);
        std::vector<int> local_indices = anyIndices(local, count);
        std::vector<int> remote_indices = anyIndices(remote, chance(20) ? count + 1 : count);
        Request request;
        request.operation = anyOperation();
        request.target = remote.target;
        bool sensible = local.local && !remote.local && count && local_indices.size() == remote_indices.size();
        for (size_t i = 0; sensible && i < count; ++i) {
            const auto l = static_cast<size_t>(local_indices[i]), r = static_cast<size_t>(remote_indices[i]);
            sensible = l < local.elements.size() && r < remote.elements.size();
            if (!sensible) break;
            request.local.push_back(local.elements[l]);
            request.remote.push_back(remote.elements[r]);
            // Where nothing is at hand of the right length, what is there is tried.
            sensible = request.local[i].range.length == request.remote[i].range.length;
        }
        Known valid = both(isLoaded(at, remote.target), isValid(at, request));
        // An element that the request does not use may count as well.
        Known lists = both(still(at.registrations, local.local ? local.elements : Elements()),
                           still(at.registrations, remote.target.self && !remote.local ? remote.elements : Elements()));
        if (valid == Known::kYes && lists != Known::kYes) valid = Known::kPerhaps;
        if (chance(4)) request.message = newMessage();
        nixl_opt_args_t args;
        args.notif = request.message;
        args.skipDescMerge = chance(3);
        const nixl_status_t status = (*at.agent)->makeXferReq(request.operation, local.handle, local_indices,
                                                              remote.handle, remote_indices, request.handle, &args);
        note(at,
             say("make ", request.handle, ' ', nixlEnumStrings::xferOpStr(request.operation), " of ", local.handle,
                 " and ", remote.handle, ", ", count, " elements"),
             status, unless({{valid, NIXL_ERR_NOT_FOUND}, {yes(sensible), NIXL_ERR_INVALID_PARAM}}));
        if (status == NIXL_SUCCESS) at.requests.push_back(std::move(request));
    }

    void
    create(Party &at) {
        Request request;
        request.operation = anyOperation();
        request.target = anyTarget(at);
        Ranges local = chance(20) ? Ranges() : rangesIn(at.registrations), remote;
        for (Range &range : local) {
            Range &other = remote.emplace_back(rangeIn(remoteOf(at, request.target)));
            range.length = other.length = std::min(range.length, other.length);
        }
        bool sensible = true;
        if (!local.empty() && chance(20)) {
            sensible = false;
            if (chance(2)) local.pop_back();
            else if (local[0].length) --local[0].length;
            else sensible = true;
        }
        Known local_found, remote_found;
        request.local = resolve(at.registrations, local, local_found);
        request.remote = resolve(remoteOf(at, request.target), remote, remote_found);
        const Known found =
            both(both(local_found, remote_found), both(isLoaded(at, request.target), yes(!local.empty())));
        if (chance(4)) request.message = newMessage();
        nixl_opt_args_t args;
        args.notif = request.message;
        const nixl_status_t status = (*at.agent)->createXferReq(request.operation, listAt(at, local),
                                                                listAt(partyOf(at, request.target), remote),
                                                                nameOf(at, request.target), request.handle, &args);
        note(at,
             say("create ", request.handle, ' ', nixlEnumStrings::xferOpStr(request.operation), local, " with ",
                 nameOf(at, request.target), remote, request.message ? " and message" : ""),
             status, unless({{found, NIXL_ERR_NOT_FOUND}, {yes(sensible), NIXL_ERR_INVALID_PARAM}}));
        if (status == NIXL_SUCCESS) at.requests.push_back(std::move(request));
    }

    void
    post(Party &at) {
        if (at.requests.empty()) return create(at);
        Request &request = oneOf(at.requests);
        const Registrations &owner = partyOf(at, request.target).registrations;
        if (options_.asynchronous) {
            if (!isRunning(request) || request.settling) quiet();
            // UCX does not promise what becomes of a transfer to memory that is not registered any more.
            if (still(owner, request.remote) != Known::kYes) return;
        }
        nixl_opt_args_t args;
        const bool keep = chance(2);
        if (!keep && chance(2)) args.notif = newMessage();

        const bool was_running = isRunning(request);
        const Known ready = both(isLoaded(at, request.target), isValid(at, request));
        // A held transfer looks at the peer's memory when it ends.
        const Known there = options_.held ? Known::kYes : still(owner, request.remote, !request.target.self);
        Allowed allowed = unless({{both(ready, there), NIXL_ERR_NOT_FOUND}});
        if (options_.held || options_.asynchronous) {
            if (allowed.contains(NIXL_SUCCESS)) allowed.insert(NIXL_IN_PROG);
            if (options_.held) allowed.erase(NIXL_SUCCESS);
        }
        if (was_running) {
            const Allowed now = statusesOf(request);
            if (now == Allowed{NIXL_IN_PROG}) allowed = {NIXL_ERR_REPOST_ACTIVE};
            else if (now.contains(NIXL_IN_PROG)) allowed.insert(NIXL_ERR_REPOST_ACTIVE);
        }
        const nixl_status_t status = note(at,
                                          say("post ", request.handle,
                                              keep             ? ""
                                                  : args.notif ? " with message"
                                                               : " without message"),
                                          (*at.agent)->postXferReq(request.handle, keep ? nullptr : &args), allowed);
        if (status == NIXL_ERR_REPOST_ACTIVE) return;
        // Then it had ended before.
        if (was_running) ended(at, request, options_.asynchronous ? NIXL_SUCCESS : NIXL_ERR_CANCELED);
        if (status == NIXL_ERR_NOT_FOUND && ready != Known::kYes && !hasBegun(at, request)) return;
        if (!keep) request.message = args.notif;
        ++request.attempts;
        request.status = NIXL_IN_PROG;
        if (options_.held) request.number = held_++;
        saw(at, request, status);
    }

    /// Whether a post that was refused had begun: that does not show in its status.
    bool
    hasBegun(Party &at, Request &request) {
        nixlx::Report report;
        note(at, "report", (*at.agent)->getXferReport(request.handle, report), {NIXL_SUCCESS});
        return report.attempts != request.attempts;
    }

    void
    poll(Party &at) {
        if (!at.requests.empty()) ask(at, oneOf(at.requests));
    }

    /// Lets a transfer end, well or badly.
    void
    finish(Party &at) {
        quiet();
        if (!options_.held || at.requests.empty()) return;
        Request &request = oneOf(at.requests);
        if (!isRunning(request)) return;
        const bool fails = chance(6);
        Allowed allowed;
        if (fails) {
            gated().abort(request.number, NIXL_ERR_BACKEND);
            allowed = {isLoaded(at, request.target) == Known::kYes ? NIXL_ERR_BACKEND : NIXL_ERR_NOT_FOUND};
            if (request.settling || request.doubtful) allowed.insert(NIXL_ERR_CANCELED); // when it was deregistered
        } else {
            gated().finish(request.number);
            // GATED takes touching ranges as one, also where they came one by one: then its peer does not find them.
            const Known there = request.target.self ? Known::kYes : Known::kPerhaps;
            allowed = unless({{there, NIXL_ERR_NOT_FOUND}});
            if (request.settling) allowed = {NIXL_ERR_CANCELED};
            if (request.doubtful) allowed.insert(NIXL_ERR_CANCELED);
        }
        saw(at, request,
            note(at, say(fails ? "fail " : "finish ", request.handle), (*at.agent)->getXferStatus(request.handle),
                 allowed));
    }

    void
    cancel(Party &at) {
        if (at.requests.empty()) return;
        Request &request = oneOf(at.requests);
        note(at, say("cancel ", request.handle), (*at.agent)->cancelXferReq(request.handle), {NIXL_SUCCESS});
        if (isRunning(request)) request.settling = true;
    }

    void
    release(Party &at) {
        if (at.requests.empty()) return;
        const size_t number = below(at.requests.size());
        Request &request = at.requests[number];
        Allowed allowed = {NIXL_SUCCESS};
        if (options_.asynchronous && isRunning(request)) allowed.insert(NIXL_ERR_REPOST_ACTIVE);
        const nixl_status_t status =
            note(at, say("release ", request.handle), (*at.agent)->releaseXferReq(request.handle), allowed);
        if (isRunning(request)) {
            request.settling = true;
            if (status == NIXL_ERR_REPOST_ACTIVE) return quiet(); // the peer has to do its part
            ended(at, request, NIXL_ERR_CANCELED);
        }
        at.old_requests.push_back(request.handle);
        at.requests.erase(at.requests.begin() + static_cast<ptrdiff_t>(number));
    }

    void
    drop(Party &at) {
        quiet(); // nobody tells when it has ended
        if (at.requests.empty()) return;
        const size_t number = below(at.requests.size());
        nixlXferReqH *handle = at.requests[number].handle;
        note(at, say("drop ", handle), (*at.agent)->dropXferReq(handle), {NIXL_SUCCESS});
        at.old_requests.push_back(handle);
        at.requests.erase(at.requests.begin() + static_cast<ptrdiff_t>(number));
    }

    void
    report(Party &at) {
        if (at.requests.empty()) return;
        Request &request = oneOf(at.requests);
        nixlx::Report report;
        note(at, say("report of ", request.handle), (*at.agent)->getXferReport(request.handle, report), {NIXL_SUCCESS});
        Allowed allowed = statusesOf(request);
        if (isRunning(request)) allowed.insert(NIXL_IN_PROG); // a report does not look after the transfer
        if (!allowed.contains(report.status)) wrong("the report says " + nixlEnumStrings::statusStr(report.status));
        if (report.attempts != request.attempts) wrong(say("the report says ", report.attempts, " attempts"));
        if (report.status != NIXL_IN_PROG) saw(at, request, report.status);
    }

    void
    limit(Party &at) {
        if (at.requests.empty()) return;
        Request &request = oneOf(at.requests);
        const bool sensible = !chance(3);
        Allowed allowed = unless({{yes(!isRunning(request)), NIXL_ERR_REPOST_ACTIVE}});
        if (request.settling || request.doubtful) allowed.insert(NIXL_SUCCESS);
        if (!sensible) allowed = {NIXL_ERR_INVALID_PARAM};
        const nixlx::Limits limits{.deadline = std::chrono::hours(sensible ? 1 : 25), .stall = {}};
        note(at, say("limit ", request.handle), (*at.agent)->setXferLimits(request.handle, limits), allowed);
    }

    void
    useOld(Party &at) {
        nixlXferReqH *request = at.old_requests.empty() || chance(10) ? nullptr : oneOf(at.old_requests);
        nixlDlistH *list = at.old_lists.empty() || chance(10) ? nullptr : oneOf(at.old_lists);
        nixlXferReqH *made = nullptr;
        nixlx::Report report;
        nixl_status_t status = NIXL_SUCCESS;
        const size_t which = below(8);
        switch (which) {
        case 0: status = (*at.agent)->postXferReq(request); break;
        case 1: status = (*at.agent)->getXferStatus(request); break;
        case 2: status = (*at.agent)->releaseXferReq(request); break;
        case 3: status = (*at.agent)->cancelXferReq(request); break;
        case 4: status = (*at.agent)->dropXferReq(request); break;
        case 5: status = (*at.agent)->getXferReport(request, report); break;
        case 6: status = (*at.agent)->releasedDlistH(list); break;
        default: status = (*at.agent)->makeXferReq(NIXL_READ, list, {0}, list, {0}, made); break;
        }
        note(at, say("old handles ", request, " and ", list, ", call ", which), status, {NIXL_ERR_INVALID_PARAM});
    }

    void
    nonsense(Party &at) {
        const nixl_xfer_dlist_t list = listAt(at, {{0, kBlock}});
        nixlDlistH *prepared = nullptr;
        nixlXferReqH *request = nullptr;
        nixlBackendH *backend = nullptr;
        nixl_status_t status = NIXL_SUCCESS, wanted = NIXL_ERR_NOT_FOUND;
        const size_t which = below(8);
        switch (which) {
        case 0: status = (*at.agent)->genNotif("nobody", "x"); break;
        case 1: status = (*at.agent)->prepXferDlist("nobody", list, prepared); break;
        case 2: status = (*at.agent)->createXferReq(NIXL_READ, list, list, "nobody", request); break;
        case 3: status = (*at.agent)->invalidateRemoteMD("nobody"); break;
        case 4: status = (*at.agent)->createBackend("NO_SUCH", {}, backend); break;
        case 5: status = (*at.agent)->checkRemoteMD("nobody", list); break;
        case 6:
            status = (*at.agent)->invalidateRemoteMD(at.agent->name);
            wanted = NIXL_ERR_INVALID_PARAM;
            break;
        default:
            nixl_reg_dlist_t past_the_end = registrationAt(at, {{0, kBlock}});
            past_the_end.addDesc(nixlBlobDesc(UINTPTR_MAX - 1, 4, 0, ""));
            status = (*at.agent)->registerMem(past_the_end);
            wanted = NIXL_ERR_INVALID_PARAM;
        }
        note(at, say("nonsense ", which), status, {wanted});
    }

    void
    notify(Party &at) {
        const Target target = anyTarget(at);
        const nixl_blob_t message = newMessage();
        const nixl_status_t status =
            note(at, say("message to ", nameOf(at, target)), (*at.agent)->genNotif(nameOf(at, target), message),
                 unless({{isLoaded(at, target), NIXL_ERR_NOT_FOUND}}));
        if (status == NIXL_SUCCESS) sent(at, target, message);
    }

    void
    fetch(Party &at) {
        if (options_.asynchronous || !options_.alone) return receive(at);
        nixl_notifs_t arrived;
        note(at, "messages", (*at.agent)->getNotifs(arrived), {NIXL_SUCCESS});
        received_.addAll(at.agent->name, arrived);
        if (arrived != at.inbox) wrong("other messages arrived than were sent, or in another order");
        at.inbox.clear();
    }

    /// A peer that is forgotten loses what is under way.
    void
    awaitMail() {
        if (!options_.asynchronous) return;
        const auto arrived = [this] {
            for (const Party &party : parties_) receive(party);
            return !wrong_.empty() || received_.holds(sent_);
        };
        if (!eventually(arrived)) wrong("a message is missing");
    }

    const Options options_;
    const std::string name_;
    std::mt19937_64 random_;
    Mail &sent_, &received_;
    Mail perhaps_sent_;
    std::array<Party, 2> parties_;
    uint64_t ids_ = 0, generations_ = 0, messages_ = 0, held_ = 0;
    std::ostringstream text_;
    std::string wrong_;
};

uint64_t
numberFrom(const char *variable, uint64_t otherwise) {
    const auto given = nixlx::configValue(variable);
    return given ? std::stoull(*given) : otherwise;
}

struct Setting {
    std::string backend;
    bool progress_thread = false;
    Options program = {};
    size_t threads = 1;
    uint64_t part = 1; ///< so many times fewer programs
};

void
PrintTo(const Setting &setting, std::ostream *out) {
    *out << setting.backend << (setting.progress_thread ? ", progress thread" : "") << ", " << setting.threads
         << " threads";
}

class Programs : public testing::TestWithParam<Setting> {
protected:
    /// Empty, or what was wrong and all that led to it.
    static std::string
    runOne(AgentPair &pair, uint64_t seed) {
        const Setting &setting = GetParam();
        if (setting.program.held) {
            gated().reset();
            gated().holdTransfers();
        }
        if (!setting.program.alone) pair.exchange();
        Mail sent, received;
        std::vector<std::unique_ptr<Program>> programs;
        for (size_t i = 0; i < setting.threads; ++i) {
            programs.push_back(std::make_unique<Program>(pair, setting.program, seed + i * 0x9e3779b97f4a7c15u,
                                                         std::string(1, static_cast<char>('a' + i)), sent, received));
        }
        std::vector<std::string> wrong(setting.threads);
        std::vector<std::thread> others;
        for (size_t i = 1; i < setting.threads; ++i) {
            others.emplace_back([&, i] { wrong[i] = programs[i]->run(); });
        }
        wrong[0] = programs[0]->run();
        for (std::thread &other : others) other.join();
        for (size_t i = 0; i < setting.threads; ++i) {
            if (!wrong[i].empty()) return programs[i]->text() + wrong[i];
        }
        const bool arrived = eventually([&] {
            pair.progress();
            for (PairedAgent *agent : {&pair.a, &pair.b}) {
                received.addAll(agent->name, std::exchange(agent->inbox, {}));
            }
            return received.holds(sent);
        });
        for (const auto &program : programs) sent.add(program->perhapsSent());
        return arrived && sent.holds(received) ? ""
                                               : programs[0]->text() + "the messages that arrived are not those sent";
    }
};

TEST_P(Programs, DoWhatTheModelSays) {
    const uint64_t first = numberFrom("NIXL_TEST_SEED", std::random_device()());
    const uint64_t count = (numberFrom("NIXL_TEST_PROGRAMS", 1000) + GetParam().part - 1) / GetParam().part;
    std::cout << count << " programs from seed " << first << "\n";
    std::unique_ptr<AgentPair> pair;
    for (uint64_t seed = first; seed < first + count; ++seed) {
        // An engine of UCX costs as much as many programs: its agents go on, and forget each other.
        if (!pair || !GetParam().program.asynchronous) {
            pair.reset();
            pair = std::make_unique<AgentPair>(PairOptions{GetParam().backend, {}, GetParam().progress_thread});
        }
        const std::string wrong = runOne(*pair, seed);
        ASSERT_EQ(wrong, "") << "NIXL_TEST_SEED=" << seed << " NIXL_TEST_PROGRAMS=1 repeats it";
    }
}

INSTANTIATE_TEST_SUITE_P(Loopback, Programs, testing::Values(Setting{"LOOPBACK"}));
INSTANTIATE_TEST_SUITE_P(Legacy, Programs, testing::Values(Setting{"LEGACY"}));
INSTANTIATE_TEST_SUITE_P(Held, Programs, testing::Values(Setting{"GATED", false, {.held = true}}));
INSTANTIATE_TEST_SUITE_P(Threads, Programs, testing::Values(Setting{"LOOPBACK", false, {.alone = false}, 3, 4}));
INSTANTIATE_TEST_SUITE_P(Shm,
                         Programs,
                         testing::Values(Setting{"SHM", false, {.asynchronous = true}, 1, 4},
                                         Setting{"SHM", true, {.asynchronous = true}, 1, 4}));
INSTANTIATE_TEST_SUITE_P(Ucx,
                         Programs,
                         testing::Values(Setting{"UCX", false, {.asynchronous = true}, 1, 40},
                                         Setting{"UCX", true, {.asynchronous = true}, 1, 40}));

} // namespace
} // namespace nx::test
