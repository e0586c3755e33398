// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/connection.h"

#include <poll.h>

#include "ucx/address.h"
#include "ucx/beacon.h"
#include "ucx/runtime.h"

namespace nx::ucx {

namespace {

constexpr int kUndecided = -1;

} // namespace

Connection::Connection(Runtime &runtime, std::string name, std::string address)
    : runtime_(runtime),
      name_(std::move(name)),
      address_(std::move(address)),
      fabric_(static_cast<int>(Fabric::kPlain)) {
    for (auto &slots : endpoints_) slots.resize(runtime_.workerCount());
    refused_domains_.plain = segmentDomains(address_);
}

Connection::~Connection() {
    if (beacon_) runtime_.unwatch(beacon_.get());
}

void
Connection::setPeerInfo(const PeerInfo &info, bool same_host) {
    if (!same_host || info.local_addresses.empty()) return;
    // Over shared memory nothing else tells of the peer's end.
    auto beacon = watchBeacon(info.beacon);
    if (!beacon.ok()) return;
    beacon_ = *std::move(beacon);
    local_addresses_ = info.local_addresses;
    refused_domains_.local = segmentDomains(local_addresses_.front());
    fabric_ = kUndecided;
    runtime_.watch(*this);
}

Fabric
Connection::fabric() {
    if (const int known = fabric_.load(std::memory_order_acquire); known != kUndecided) {
        return static_cast<Fabric>(known);
    }
    Fabric chosen = Fabric::kPlain;
    if (runtime_.hasLocalFabric()) {
        std::lock_guard lock(runtime_.worker(Fabric::kLocal, 0).mutex());
        if (endpoint(Fabric::kLocal, 0).ok()) chosen = Fabric::kLocal;
    }
    int undecided = kUndecided;
    fabric_.compare_exchange_strong(undecided, static_cast<int>(chosen));
    return static_cast<Fabric>(fabric_.load());
}

Result<Endpoint *>
Connection::endpoint(Fabric fabric, size_t worker) {
    if (gone()) return {NIXL_ERR_REMOTE_DISCONNECT, sentence()};
    auto &slots = endpoints_[static_cast<size_t>(fabric)];
    if (Endpoint *known = slots[worker].get()) {
        if (known->failure() == kDone) return known;
        setGone(runtime_.library().text(known->failure()));
        return {NIXL_ERR_REMOTE_DISCONNECT, sentence()};
    }
    const std::string &address =
        fabric == Fabric::kLocal ? local_addresses_[worker % local_addresses_.size()] : address_;
    auto created = Endpoint::create(runtime_.worker(fabric, worker), address, runtime_.options().detect_death);
    if (!created.ok()) return std::move(created).status().withContext("peer " + quoted(name_));
    slots[worker] = *std::move(created);
    return slots[worker].get();
}

template<class Visit>
void
Connection::forEachEndpoint(Visit visit) {
    if (!runtime_.started()) return; // no workers, no endpoints
    for (size_t fabric = 0; fabric < kFabricCount; ++fabric) {
        auto &slots = endpoints_[fabric];
        if (static_cast<Fabric>(fabric) == Fabric::kLocal && !runtime_.hasLocalFabric()) continue;
        for (size_t i = 0; i < slots.size(); ++i) {
            std::lock_guard lock(runtime_.worker(static_cast<Fabric>(fabric), i).mutex());
            if (slots[i]) visit(*slots[i]);
        }
    }
}

void
Connection::lookForDeath() {
    if (!beacon_ || ended_.load(std::memory_order_relaxed)) return;
    pollfd fd{beacon_.get(), POLLIN, 0};
    if (::poll(&fd, 1, 0) > 0) abandon("it has ended");
}

std::string
Connection::sentence() const {
    std::lock_guard lock(mutex_);
    return "peer " + quoted(name_) + " is gone: " + reason_;
}

void
Connection::setGone(const std::string &reason) {
    std::lock_guard lock(mutex_);
    if (reason_.empty()) reason_ = reason;
    gone_.store(true, std::memory_order_release);
}

void
Connection::close(bool orderly) {
    lookForDeath(); // nothing can be waited for then
    setGone("this agent has disconnected it; load its metadata again");
    if (beacon_) runtime_.unwatch(beacon_.get());
    forEachEndpoint([&](Endpoint &endpoint) { endpoint.close(orderly); });
}

bool
Connection::closed() {
    bool all = true;
    forEachEndpoint([&](Endpoint &endpoint) { all = all && endpoint.closed(); });
    return all;
}

void
Connection::abandon(const std::string &reason) {
    setGone(reason);
    ended_.store(true, std::memory_order_relaxed);
    forEachEndpoint([](Endpoint &endpoint) { endpoint.abandon(kNotConnected); });
}

void
Connection::sever(const std::string &reason) {
    setGone(reason);
    forEachEndpoint([](Endpoint &endpoint) { endpoint.close(false); });
}

} // namespace nx::ucx
