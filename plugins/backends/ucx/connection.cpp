// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/connection.h"

#include <chrono>

#include "ucx/runtime.h"
#include "ucx/tcp_probe.h"
#include "utils/common/nixl_log.h"

namespace nx::ucx {

namespace {

// A process that is not stopped answers within milliseconds; one that starts on a busy machine gets some more.
constexpr auto kAnswerLimit = std::chrono::seconds(3);
constexpr unsigned kMinorThatCopies = 20; // between processes, large blocks

} // namespace

Connection::Connection(Runtime &runtime, std::string name, std::string address)
    : runtime_(runtime),
      name_(std::move(name)),
      address_(std::move(address)),
      usable_address_(address_),
      workers_(&runtime.pool().workers()),
      outbox_(std::make_shared<Outbox>(runtime, *this)) {
    for (auto &slots : endpoints_) slots.resize(runtime_.pool().workerCount());
    for (auto &marks : marks_) marks = std::vector<Mark>(runtime_.pool().workerCount());
    refused_domains_[static_cast<size_t>(Fabric::kPlain)] = segmentDomains(address_);
}

Connection::~Connection() {
    if (link_) runtime_.links().unwatch(link_);
    outbox_->end();
    for (auto &slots : endpoints_) slots.clear();
    if (local_workers_) {
        runtime_.links().part(std::move(link_), std::move(local_workers_));
    } else if (link_) {
        kit::endSocket(link_);
    }
}

Status
Connection::setPeerInfo(const PeerInfo &info, bool same_host) {
    if (info.features & PeerInfo::kKeepsCredits) outbox_->setAsking();
    const bool own = name_ == runtime_.agent();
    if (!same_host || (info.link.empty() && !own)) return {};
    link_name_ = info.link;
    // Where links serve VRAM only they are made when it is first moved. The own agent does not end, and few move
    // anything within themselves.
    if (runtime_.options().links_serve_dram && !own) {
        if (!runtime_.hasLocalFabric()) return {};
        auto status = connect(info.link);
        if (status.code() == NIXL_ERR_REMOTE_DISCONNECT) {
            return {NIXL_ERR_BACKEND, "peer " + quoted(name_) + ": " + status.message()};
        }
        if (!status.ok()) {
            usesNetwork(status.message());
            return {};
        }
    }
    may_be_local_ = true;
    return {};
}

Status
Connection::connect(const std::string &link_name) {
    auto link = kit::connectLocal(kLinks, link_name);
    if (!link.ok()) return std::move(link).status();
    link_ = *std::move(link);
    linked_.store(true, std::memory_order_release);
    runtime_.links().watch(link_, [this] { abandon("it has ended"); });
    return {};
}

void
Connection::usesNetwork(const std::string &why) const {
    NIXL_INFO << "ucx: peer " << quoted(name_) << " is on this host and is reached over the network: " << why;
}

Fabric
Connection::fabric(bool vram) {
    return (vram || runtime_.options().links_serve_dram) && isLocal() ? Fabric::kLocal : network();
}

bool
Connection::isLocal() {
    if (is_local_.load(std::memory_order_acquire) == Local::kUndecided) {
        const MutexLock lock(fabric_mutex_);
        if (is_local_ == Local::kUndecided) {
            is_local_ = may_be_local_ && !gone() && makeLocal() ? Local::kYes : Local::kNo;
        }
    }
    return is_local_ == Local::kYes;
}

Fabric
Connection::network() {
    if (!has_paths_.load(std::memory_order_acquire)) {
        const MutexLock lock(fabric_mutex_);
        if (!has_paths_) {
            if (!gone()) choosePaths();
            has_paths_ = true;
        }
    }
    return Fabric::kPlain;
}

bool
Connection::makeLocal() {
    if (!runtime_.makeLocalFabric()) return false;
    const auto refused = [&](const std::string &why) {
        usesNetwork(why);
        return false;
    };
    if (!linked_) {
        const bool own = name_ == runtime_.agent();
        if (auto status = connect(own ? runtime_.links().name() : link_name_); !status.ok()) {
            return refused(status.message());
        }
    }
    auto offer = receiveOffer(link_, kAnswerLimit);
    if (!offer.ok()) return refused(offer.message());
    if (offer->empty()) return refused("it has no shared memory to offer");
    auto workers = LocalWorkers::create(runtime_, LocalWorkers::Side::kInitiator, runtime_.pool().workerCount());
    if (!workers.ok()) return refused(workers.message());
    local_workers_ = *std::move(workers);
    local_addresses_ = *std::move(offer);
    refused_domains_[static_cast<size_t>(Fabric::kLocal)] = segmentDomains(local_addresses_.front());
    local_ = local_workers_.get();
    const MutexLock lock(worker(Fabric::kLocal, 0).mutex());
    auto first = endpoint(Fabric::kLocal, 0);
    return first.ok() || refused(first.message());
}

/// UCX believes each address of a peer and gives the peer up where one leads nowhere.
void
Connection::choosePaths() {
    const std::string &own = runtime_.pool().address();
    auto [unusable, sources] = tryPaths(tcpListeners(address_, own));
    if (!unusable.empty()) {
        left_out_ = std::move(unusable);
        usable_address_ = withoutListeners(address_, own, left_out_);
        NIXL_INFO << "ucx: peer " << quoted(name_) << " does not answer at " << textOf(left_out_) << "; reached at "
                  << textOf(tcpListeners(usable_address_, own));
    }
    if (!sources.empty()) workers_ = &runtime_.pool().workersAt(sources);
}

/// Over the network.
std::string
Connection::withPlaces(std::string reason) const {
    const auto places = tcpListeners(usable_address_, runtime_.pool().address());
    if (!places.empty()) reason += " (at " + textOf(places) + ")";
    if (!left_out_.empty()) reason += "; left out, since it did not answer there: " + textOf(left_out_);
    return reason;
}

Worker &
Connection::worker(Fabric fabric, size_t index) noexcept {
    return fabric == Fabric::kLocal ? (*local_workers_)[index] : *(*workers_.load())[index];
}

Result<Endpoint *>
Connection::endpoint(Fabric fabric, size_t worker) {
    if (gone()) return {NIXL_ERR_REMOTE_DISCONNECT, sentence()};
    auto &slots = endpoints_[static_cast<size_t>(fabric)];
    if (Endpoint *known = slots[worker].get()) {
        if (known->failure() == kDone) return known;
        setGone(known->failure());
        return {NIXL_ERR_REMOTE_DISCONNECT, sentence()};
    }
    const std::string &address =
        fabric == Fabric::kLocal ? local_addresses_[worker % local_addresses_.size()] : usable_address_;
    auto created = Endpoint::create(this->worker(fabric, worker), address, runtime_.options().detect_death);
    if (created.code() == NIXL_ERR_REMOTE_DISCONNECT && fabric == Fabric::kPlain) { // it was tried at once
        setGone(withPlaces(created.message()));
        return {NIXL_ERR_REMOTE_DISCONNECT, sentence()};
    }
    if (!created.ok()) return std::move(created).status().withContext("peer " + quoted(name_));
    slots[worker] = *std::move(created);
    return slots[worker].get();
}

template<class Visit>
void
Connection::forEachEndpoint(Visit visit) {
    for (size_t fabric = 0; fabric < kFabricCount; ++fabric) {
        auto &slots = endpoints_[fabric];
        if (static_cast<Fabric>(fabric) == Fabric::kLocal && !local_) continue;
        if (static_cast<Fabric>(fabric) == Fabric::kPlain && !has_paths_) continue; // none yet
        for (size_t i = 0; i < slots.size(); ++i) {
            const MutexLock lock(worker(static_cast<Fabric>(fabric), i).mutex());
            if (slots[i]) visit(*slots[i]);
        }
    }
}

std::string
Connection::sentence() const {
    const MutexLock lock(mutex_);
    const std::string peer = "peer " + quoted(name_);
    if (copies_refused_) {
        return peer + " has lost its connection: the system refuses to copy between its process and this one " +
            "(process_vm_readv), as UCX does with large blocks; allow it or set UCX_TLS=^cma, then load the peer's " +
            "metadata again";
    }
    return peer + " is gone" + (reason_.empty() ? "" : ": " + reason_);
}

void
Connection::setGone(std::string_view reason) noexcept {
    {
        const MutexLock lock(mutex_);
        try {
            if (reason_.empty()) reason_ = reason;
        }
        catch (const std::bad_alloc &) {
            // It is gone all the same.
        }
        gone_ = true;
    }
    outbox_->peerGone();
    runtime_.bell().ring();
}

void
Connection::setGone(Code code) noexcept {
    if (linked_ && !gone_ && runtime_.library().minorVersion() >= kMinorThatCopies && kit::refusesCopies(link_)) {
        const MutexLock lock(mutex_);
        copies_refused_ = true;
    }
    std::string reason;
    try {
        reason = runtime_.library().text(code);
        if (has_paths_ && !local_) reason = withPlaces(std::move(reason));
    }
    catch (const std::bad_alloc &) {
        // It is gone all the same.
    }
    setGone(reason);
}

void
Connection::close(bool orderly) {
    if (linked_ && kit::hasEnded(link_)) return abandon("it has ended"); // nothing can be waited for
    setGone("this agent has disconnected it; load its metadata again");
    forEachEndpoint([&](Endpoint &endpoint) { endpoint.close(orderly); });
}

bool
Connection::closed() {
    bool all = true;
    forEachEndpoint([&](Endpoint &endpoint) { all = all && endpoint.closed(); });
    return all;
}

void
Connection::abandon(std::string_view reason) {
    setGone(reason);
    forEachEndpoint([](Endpoint &endpoint) { endpoint.abandon(kNotConnected); });
    if (LocalWorkers *local = local_) local->retire();
    for (size_t i = 0; i < runtime_.pool().workerCount(); ++i) runtime_.pool().nudge(i); // for what is to be settled
}

void
Connection::sever(std::string_view reason) {
    setGone(reason);
    forEachEndpoint([](Endpoint &endpoint) { endpoint.close(false); });
}

} // namespace nx::ucx
