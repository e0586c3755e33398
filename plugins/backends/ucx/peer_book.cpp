// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/peer_book.h"

#include <iterator>

#include "ucx/runtime.h"
#include "ucx/tcp_probe.h"

namespace nx::ucx {

Status
PeerBook::add(const std::string &name, const std::string &address) {
    if (auto status = checkAddress(address); !status.ok()) return std::move(status).withContext("peer " + quoted(name));
    // One that is not taken for dead without such a look is connected when it is first used.
    const auto known = find(name);
    if ((!known || known->gone()) && runtime_.options().detect_death) {
        if (auto status = probeListeners(tcpListeners(address, runtime_.pool().address())); !status.ok()) {
            return std::move(status).withContext("peer " + quoted(name));
        }
    }
    auto added = std::make_shared<Connection>(runtime_, name, address);
    {
        const MutexLock lock(mutex_);
        auto &slot = peers_[name];
        if (slot && !slot->gone()) {
            if (slot->address() == address) return {};
            return {NIXL_ERR_NOT_ALLOWED,
                    "peer " + quoted(name) + " is connected under another address; disconnect it first"};
        }
        added.swap(slot);
        runtime_.inbox().setKnown(name, true);
    }
    if (added) close(std::move(added)); // the one that is replaced
    return {};
}

std::shared_ptr<Connection>
PeerBook::find(const std::string &name) {
    {
        const MutexLock lock(mutex_);
        if (const auto it = peers_.find(name); it != peers_.end()) return it->second;
    }
    if (name != runtime_.agent()) return nullptr;
    auto self = std::make_shared<Connection>(runtime_, name, runtime_.pool().address());
    static_cast<void>(self->setPeerInfo(runtime_.ownInfo(), true));
    const MutexLock lock(mutex_);
    return peers_.try_emplace(name, std::move(self)).first->second;
}

bool
PeerBook::remove(const std::string &name) {
    std::shared_ptr<Connection> connection;
    {
        const MutexLock lock(mutex_);
        const auto it = peers_.find(name);
        if (it == peers_.end()) return false;
        connection = std::move(it->second);
        peers_.erase(it);
        runtime_.inbox().setKnown(name, false);
    }
    close(std::move(connection));
    return true;
}

/// Keeps a connection that is no longer in peers_ until it is closed.
void
PeerBook::close(std::shared_ptr<Connection> connection) {
    connection->close(!runtime_.options().close_by_force);
    runtime_.pool().nudge(0);
    std::vector<std::shared_ptr<Connection>> closing;
    {
        const MutexLock lock(mutex_);
        closing_.push_back(std::move(connection));
        closing.swap(closing_);
    }
    std::erase_if(closing, [](const auto &candidate) { return candidate->closed(); }); // and destroyed: no lock is held
    const MutexLock lock(mutex_);
    std::move(closing.begin(), closing.end(), std::back_inserter(closing_));
}

std::vector<std::shared_ptr<Connection>>
PeerBook::closeAll() {
    std::unordered_map<std::string, std::shared_ptr<Connection>> peers;
    std::vector<std::shared_ptr<Connection>> closing;
    {
        const MutexLock lock(mutex_);
        peers.swap(peers_);
        closing.swap(closing_);
    }
    for (auto &[name, connection] : peers) {
        connection->close(!runtime_.options().close_by_force);
        closing.push_back(std::move(connection));
    }
    return closing;
}

} // namespace nx::ucx
