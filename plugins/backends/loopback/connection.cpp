// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "loopback/connection.h"

#include <charconv>
#include <random>
#include <unistd.h>

#include "wire/notification.h"

namespace nx::loopback {

namespace {
const std::string kAddressTag = "loopback:";

std::string
processPrefix() {
    std::random_device random; // so that a process that got the number of a dead one is not taken for it
    const uint64_t number = uint64_t{random()} << 32 | random();
    return kAddressTag + std::to_string(getpid()) + ":" + std::to_string(number) + ":";
}

std::string
storeName(const WindowKey &key) {
    return key.name.empty() ? "device " + std::to_string(key.device_id) : "name " + key.name;
}
} // namespace

std::shared_ptr<Window>
Endpoint::open(WindowKey key, std::shared_ptr<Store> store) {
    const MutexLock lock(mutex_);
    Entry &entry = windows_[key];
    if (!entry.window) entry.window = std::make_shared<Window>(std::move(key), std::move(store));
    ++entry.registrations;
    return entry.window;
}

void
Endpoint::close(const std::shared_ptr<Window> &window) {
    {
        const MutexLock lock(mutex_);
        const auto found = windows_.find(window->key());
        if (found == windows_.end() || found->second.window != window) return;
        if (--found->second.registrations) return;
        windows_.erase(found);
    }
    window->close();
}

std::shared_ptr<Window>
Endpoint::find(const WindowKey &key) const {
    const MutexLock lock(mutex_);
    const auto found = windows_.find(key);
    return found == windows_.end() ? nullptr : found->second.window;
}

nixl_status_t
Endpoint::deliver(const std::string &sender, const std::string &message) {
    if (!wire::checkNotification(message).ok()) return NIXL_ERR_INVALID_PARAM;
    if (!alive()) return NIXL_ERR_REMOTE_DISCONNECT;
    if (!inbox_.put(sender, message)) return NIXL_IN_PROG;
    bell_.ring();
    return NIXL_SUCCESS;
}

nixl_status_t
Endpoint::deliverOrTell(const std::shared_ptr<Endpoint> &sender, const std::string &message) {
    const nixl_status_t delivered = deliver(sender->agent(), message);
    if (delivered != NIXL_IN_PROG) return delivered;
    {
        const MutexLock lock(mutex_);
        senders_.insert(sender);
    }
    return deliver(sender->agent(), message); // whoever has made room before that has told nobody
}

void
Endpoint::takeNotifications(notif_list_t &notifications) {
    const size_t before = notifications.size();
    inbox_.takeAll(notifications);
    if (notifications.size() == before) return;
    std::set<std::weak_ptr<Endpoint>, std::owner_less<>> senders;
    {
        const MutexLock lock(mutex_);
        senders.swap(senders_);
    }
    for (const auto &each : senders) {
        if (const auto sender = each.lock()) sender->hasRoom();
    }
}

void
Endpoint::tellOfRoom(std::function<void()> look) {
    const MutexLock lock(mutex_);
    look_ = std::move(look);
}

/// With a peer that had none.
void
Endpoint::hasRoom() {
    bell_.ring();
    const MutexLock lock(mutex_); // held while it looks: it is there until shutDown()
    if (look_) look_();
}

void
Endpoint::shutDown() {
    std::map<WindowKey, Entry> windows;
    {
        const MutexLock lock(mutex_);
        alive_.store(false, std::memory_order_release);
        windows.swap(windows_);
        look_ = nullptr;
    }
    notif_list_t dropped;
    takeNotifications(dropped);
    for (auto &[key, entry] : windows) entry.window->close();
}

std::shared_ptr<Process>
Process::instance() {
    static Mutex mutex;
    static std::weak_ptr<Process> existing NX_GUARDED_BY(mutex);
    const MutexLock lock(mutex);
    std::shared_ptr<Process> process = existing.lock();
    if (!process) existing = process = std::make_shared<Process>();
    return process;
}

Process::Process() : prefix_(processPrefix()) {}

std::shared_ptr<Endpoint>
Process::createEndpoint(const std::string &agent) {
    const MutexLock lock(mutex_);
    auto endpoint = std::make_shared<Endpoint>(++last_id_, agent);
    endpoints_[endpoint->id()] = endpoint;
    return endpoint;
}

void
Process::removeEndpoint(const Endpoint &endpoint) {
    const MutexLock lock(mutex_);
    endpoints_.erase(endpoint.id());
}

std::string
Process::address(const Endpoint &endpoint) const {
    return prefix_ + std::to_string(endpoint.id());
}

Result<std::shared_ptr<Endpoint>>
Process::find(const std::string &address) const {
    if (!address.starts_with(kAddressTag)) {
        return {NIXL_ERR_MISMATCH, quoted(address) + " is not an address of a loopback engine"};
    }
    if (!address.starts_with(prefix_)) {
        return {NIXL_ERR_NOT_SUPPORTED,
                quoted(address) + " belongs to another process; the loopback engine reaches only agents of its own"};
    }
    uint64_t id = 0;
    const char *first = address.data() + prefix_.size(), *last = address.data() + address.size();
    if (const auto parsed = std::from_chars(first, last, id); parsed.ec != std::errc() || parsed.ptr != last) {
        return {NIXL_ERR_MISMATCH, quoted(address) + " is not an address of a loopback engine"};
    }
    const MutexLock lock(mutex_);
    const auto found = endpoints_.find(id);
    if (found == endpoints_.end()) return {NIXL_ERR_NOT_FOUND, "the engine of " + quoted(address) + " is gone"};
    return found->second;
}

std::shared_ptr<Store>
Process::openStore(const WindowKey &key) {
    if (!isStorage(key.memory)) return nullptr;
    const MutexLock lock(mutex_);
    auto &store = stores_[{key.memory, storeName(key)}];
    if (!store) store = std::make_shared<Store>(key.memory, storeName(key));
    return store;
}

std::shared_ptr<Store>
Process::findStore(const WindowKey &key) const {
    const MutexLock lock(mutex_);
    const auto found = stores_.find({key.memory, storeName(key)});
    return found == stores_.end() ? nullptr : found->second;
}

} // namespace nx::loopback
