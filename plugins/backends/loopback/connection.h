// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// How engines of one process find each other. Every engine has an Endpoint: its windows and its inbox, all that others
// can reach of it. The Process knows the endpoints by number and owns the stores; it exists as long as an engine does.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>

#include "backend/backend_aux.h"
#include "base/error.h"
#include "base/mutex.h"
#include "kit/bell.h"
#include "kit/inbox.h"
#include "loopback/memory.h"

namespace nx::loopback {

/// Guarded; kept by its engine and by every peer that loaded it.
class Endpoint {
public:
    Endpoint(uint64_t id, std::string agent)
        : id_(id),
          agent_(std::move(agent)),
          inbox_("backend LOOPBACK of agent " + quoted(agent_)) {}

    uint64_t
    id() const noexcept {
        return id_;
    }

    const std::string &
    agent() const noexcept {
        return agent_;
    }

    /// False once its engine is gone.
    bool
    alive() const noexcept {
        return alive_.load(std::memory_order_acquire);
    }

    /// One range registered several times is one window.
    std::shared_ptr<Window>
    open(WindowKey key, std::shared_ptr<Store> store);

    /// The last close of a window is a barrier: no access to it happens after the return.
    void
    close(const std::shared_ptr<Window> &window);

    /// Null if nothing of this key is registered.
    std::shared_ptr<Window>
    find(const WindowKey &key) const;

    /// IN_PROG: the inbox has no place for it now. INVALID_PARAM: too long. REMOTE_DISCONNECT: gone. Throws
    /// std::bad_alloc.
    nixl_status_t
    deliver(const std::string &sender, const std::string &message);

    /// As deliver(), but of IN_PROG the sender is told when there may be a place.
    nixl_status_t
    deliverOrTell(const std::shared_ptr<Endpoint> &sender, const std::string &message);

    void
    takeNotifications(notif_list_t &notifications);

    /// Who moves the engine's transfers while nobody asks for them: `look` is called when there may be a place for what
    /// one of them delivers, by the thread that made it, until shutDown().
    void
    tellOfRoom(std::function<void()> look);

    /// Rings when a notification arrives, when a transfer of the engine ends, and when there may be a place for what
    /// one of them delivers.
    kit::Bell &
    bell() noexcept {
        return bell_;
    }

    /// Its engine goes: closes every window and drops the inbox.
    void
    shutDown();

private:
    void
    hasRoom();

    struct Entry {
        std::shared_ptr<Window> window;
        size_t registrations = 0;
    };

    const uint64_t id_;
    const std::string agent_;
    std::atomic<bool> alive_{true};
    kit::Inbox inbox_;
    kit::Bell bell_;
    mutable Mutex mutex_;
    std::map<WindowKey, Entry> windows_ NX_GUARDED_BY(mutex_);
    std::function<void()> look_ NX_GUARDED_BY(mutex_);
    /// Whose transfers found no place in the inbox.
    std::set<std::weak_ptr<Endpoint>, std::owner_less<>> senders_ NX_GUARDED_BY(mutex_);
};

/// Guarded.
class Process {
public:
    /// The one that exists, else a new one.
    static std::shared_ptr<Process>
    instance();

    Process();

    std::shared_ptr<Endpoint>
    createEndpoint(const std::string &agent);

    void
    removeEndpoint(const Endpoint &endpoint);

    /// "loopback:<pid>:<random>:<id>": what getConnInfo publishes.
    std::string
    address(const Endpoint &endpoint) const;

    /// The endpoint of an address. MISMATCH: not an address; NOT_SUPPORTED: of another process; NOT_FOUND: gone.
    Result<std::shared_ptr<Endpoint>>
    find(const std::string &address) const;

    /// The store that a window lies in, made if there is none; null for a window of memory.
    std::shared_ptr<Store>
    openStore(const WindowKey &key);

    /// Null if there is none.
    std::shared_ptr<Store>
    findStore(const WindowKey &key) const;

private:
    const std::string prefix_;
    mutable Mutex mutex_;
    std::map<uint64_t, std::shared_ptr<Endpoint>> endpoints_ NX_GUARDED_BY(mutex_);
    std::map<std::tuple<nixl_mem_t, std::string>, std::shared_ptr<Store>> stores_ NX_GUARDED_BY(mutex_);
    uint64_t last_id_ NX_GUARDED_BY(mutex_) = 0;
};

} // namespace nx::loopback
