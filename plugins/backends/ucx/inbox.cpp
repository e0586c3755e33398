// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/inbox.h"

#include <iterator>

#include "utils/common/nixl_log.h"
#include "wire/notification.h"

namespace nx::ucx {

void
Inbox::arrived(std::string_view bytes) {
    auto decoded = wire::decodeNotification(bytes);
    if (!decoded.ok()) return drop("it is malformed");
    {
        std::lock_guard lock(mutex_);
        if (messages_.size() < kMessagesMax && bytes_ + bytes.size() <= kBytesMax) {
            messages_.emplace_back(std::move(decoded->sender), std::move(decoded->message));
            bytes_ += bytes.size();
            count_.store(messages_.size(), std::memory_order_release);
            return;
        }
    }
    drop("65,536 messages or 64 MiB wait to be fetched; call getNotifs more often");
}

void
Inbox::refused() {
    drop("it came by rendezvous");
}

void
Inbox::takeAll(notif_list_t &out) {
    if (empty()) return;
    std::lock_guard lock(mutex_);
    if (out.empty()) {
        out.swap(messages_);
    } else {
        out.insert(out.end(), std::make_move_iterator(messages_.begin()), std::make_move_iterator(messages_.end()));
        messages_.clear();
    }
    bytes_ = 0;
    count_.store(0, std::memory_order_release);
}

void
Inbox::drop(const char *why) {
    if (dropped_.fetch_add(1, std::memory_order_relaxed) == 0) {
        NIXL_WARN << "ucx: a notification was dropped: " << why << " (further ones are only counted)";
    }
}

} // namespace nx::ucx
