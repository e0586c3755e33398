// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/inbox.h"

#include <iterator>

#include "base/error.h"
#include "utils/common/nixl_log.h"
#include "wire/limits.h"

namespace nx::kit {

namespace {

// Senders with a line of their own between two calls of takeAll; a stranger could go on inventing names.
constexpr size_t kComplaintsMax = 16;

} // namespace

void
Inbox::setKnown(const std::string &sender, bool known) {
    const MutexLock lock(mutex_);
    credits_.setKnown(sender, known);
}

bool
Inbox::put(std::string sender, std::string message) {
    if (message.size() > wire::kNotificationBytesMax) return false;
    const MutexLock lock(mutex_);
    if (messages_.size() == messages_.capacity()) messages_.reserve(2 * messages_.size() + 1);
    if (!credits_.admit(sender, messageCost(sender, message))) return false;
    messages_.emplace_back(std::move(sender), std::move(message));
    count_.store(messages_.size(), std::memory_order_release);
    return true;
}

void
Inbox::drop(const std::string &sender) {
    dropped_.fetch_add(1, std::memory_order_relaxed);
    {
        const MutexLock lock(mutex_);
        if (complained_of_.size() == kComplaintsMax || !complained_of_.insert(sender).second) return;
    }
    NIXL_ERROR << owner_ << ": notifications of agent " << quoted(sender) << " are lost: " << (kShareBytes >> 20)
               << " MiB of them wait to be fetched (or " << (kStrangersBytes >> 20)
               << " MiB of agents whose metadata is not loaded, or one is longer than "
               << (wire::kNotificationBytesMax >> 20)
               << " MiB), and their sender does not wait for a place; call getNotifs more often";
}

void
Inbox::dropMalformed(const char *why) {
    dropped_.fetch_add(1, std::memory_order_relaxed);
    if (malformed_logged_.exchange(true)) return;
    NIXL_WARN << owner_ << ": a notification was dropped: " << why << " (further ones are only counted)";
}

bool
Inbox::ask(std::string_view sender, CreditReceiver::Question question) {
    const MutexLock lock(mutex_);
    return credits_.ask(sender, question);
}

std::vector<CreditReceiver::Question>
Inbox::takeAll(notif_list_t &out) {
    if (empty()) return {};
    const MutexLock lock(mutex_);
    if (out.empty()) {
        out.swap(messages_);
    } else {
        out.insert(out.end(), std::make_move_iterator(messages_.begin()), std::make_move_iterator(messages_.end()));
        messages_.clear();
    }
    count_.store(0, std::memory_order_release);
    if (!complained_of_.empty()) complained_of_.clear();
    return credits_.fetchAll();
}

} // namespace nx::kit
