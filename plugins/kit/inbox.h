// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Notifications that arrived and were not fetched yet, each sender with its own share (credits.h). Self-synchronised.
#pragma once

#include <atomic>
#include <string>
#include <unordered_set>

#include "backend/backend_aux.h"
#include "base/mutex.h"
#include "kit/credits.h"

namespace nx::kit {

class Inbox {
public:
    /// `owner` is named in the log: "backend UCX of agent 'x'".
    explicit Inbox(std::string owner) : owner_(std::move(owner)) {}

    /// Metadata of the agent is loaded, or not any more: what strangers send takes nothing from it.
    void
    setKnown(const std::string &sender, bool known);

    /// False: its sender's share is full, it is longer than a notification may be, or it is one of too many of
    /// strangers; nothing changed. Throws std::bad_alloc, and nothing changed either.
    bool
    put(std::string sender, std::string message);

    /// A message that has arrived and cannot be kept: it is counted, and logged once for its sender until the next
    /// takeAll().
    void
    drop(const std::string &sender);

    /// A message that nobody can make sense of: counted, the first one logged.
    void
    dropMalformed(const char *why);

    /// Whether all messages of a sender are fetched. False: `question` comes back from the takeAll() that fetches them.
    bool
    ask(std::string_view sender, CreditReceiver::Question question);

    /// Moves everything to the end of `out`. The questions that can be answered now. One atomic load when there is
    /// nothing.
    std::vector<CreditReceiver::Question>
    takeAll(notif_list_t &out);

    bool
    empty() const noexcept {
        return count() == 0;
    }

    size_t
    count() const noexcept {
        return count_.load(std::memory_order_acquire);
    }

    uint64_t
    droppedCount() const noexcept {
        return dropped_.load(std::memory_order_relaxed);
    }

private:
    const std::string owner_;
    std::atomic<size_t> count_{0};
    std::atomic<uint64_t> dropped_{0};
    std::atomic<bool> malformed_logged_{false};
    Mutex mutex_;
    CreditReceiver credits_ NX_GUARDED_BY(mutex_);
    notif_list_t messages_ NX_GUARDED_BY(mutex_);
    std::unordered_set<std::string> complained_of_ NX_GUARDED_BY(mutex_); ///< senders, since the last takeAll
};

} // namespace nx::kit
