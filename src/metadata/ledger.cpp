// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "metadata/ledger.h"

#include <algorithm>

#include "utils/common/nixl_log.h"

namespace nx::metadata {

namespace {

// Addresses whose failure nobody asks for: the oldest failure is forgotten.
constexpr size_t kEntriesMax = 4096;

} // namespace

bool
Ledger::open(const std::string &address, size_t open_max) {
    const MutexLock lock(mutex_);
    auto &entry = entries_[address];
    if (entry.open >= open_max) return false;
    ++entry.open;
    ++open_;
    return true;
}

void
Ledger::close(const std::string &address, const Status &outcome) {
    const MutexLock lock(mutex_);
    auto &entry = entries_.at(address);
    --entry.open;
    --open_;
    if (!outcome.ok() && entry.failed_at == 0) {
        entry.failed_at = ++failures_;
        entry.failure = {outcome.code(), outcome.message()};
    }
    if (entry.open == 0 && entry.failed_at == 0) entries_.erase(address);
    if (entries_.size() > kEntriesMax) {
        const auto age = [](const auto &e) { return e.second.open ? UINT64_MAX : e.second.failed_at; };
        const auto oldest = std::min_element(entries_.begin(), entries_.end(),
                                             [&](const auto &a, const auto &b) { return age(a) < age(b); });
        if (oldest->second.open == 0) entries_.erase(oldest);
    }
    changed_.notifyAll();
}

size_t
Ledger::openLocked(const std::optional<std::string> &address) const {
    if (!address) return open_;
    const auto it = entries_.find(*address);
    return it == entries_.end() ? 0 : it->second.open;
}

void
Ledger::conclude(const std::string &address, const std::string &name, const std::string &agent, const Status &outcome) {
    if (outcome.ok()) return close(address, {});
    // Nobody failed who has not begun before the agent ended.
    if (outcome.code() != NIXL_ERR_CANCELED) {
        NIXL_ERROR << name << ": " << outcome.message() << " (" << nixlEnumStrings::statusStr(outcome.code())
                   << ", agent " << quoted(agent) << ")";
    }
    close(address, {outcome.code(), name + ": " + outcome.message()});
}

Status
Ledger::wait(const std::optional<std::string> &address, std::chrono::steady_clock::time_point deadline) {
    const MutexLock lock(mutex_);
    while (openLocked(address) > 0 && changed_.waitUntil(mutex_, deadline)) {}
    if (const size_t open = openLocked(address); open > 0) {
        return {NIXL_IN_PROG, std::to_string(open) + " calls are still open"};
    }
    auto first = entries_.end();
    for (auto it = entries_.begin(); it != entries_.end(); ++it) {
        if ((address && it->first != *address) || it->second.failed_at == 0) continue;
        if (first == entries_.end() || it->second.failed_at < first->second.failed_at) first = it;
    }
    if (first == entries_.end()) return {};
    Status failure = std::move(first->second.failure);
    first->second.failed_at = 0;
    if (first->second.open == 0) entries_.erase(first);
    return failure;
}

} // namespace nx::metadata
