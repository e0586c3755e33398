// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Notifications that arrived and were not fetched yet. Self-synchronised. The sender cannot be slowed down (its message
// is already here), so what exceeds the limits is dropped, counted and logged once.
#pragma once

#include <atomic>
#include <mutex>

#include "backend/backend_aux.h"
#include "ucx/driver.h"

namespace nx::ucx {

class Inbox final : public MessageSink {
public:
    static constexpr size_t kMessagesMax = 65536;
    static constexpr size_t kBytesMax = size_t{64} << 20;

    void
    arrived(std::string_view bytes) override;

    void
    refused() override;

    /// Moves everything to the end of `out`. One atomic load when there is nothing.
    void
    takeAll(notif_list_t &out);

    bool
    empty() const noexcept {
        return count_.load(std::memory_order_acquire) == 0;
    }

    /// Messages that were malformed or one too many.
    uint64_t
    droppedCount() const noexcept {
        return dropped_.load(std::memory_order_relaxed);
    }

private:
    void
    drop(const char *why);

    std::atomic<size_t> count_{0};
    std::atomic<uint64_t> dropped_{0};
    std::mutex mutex_;
    // Guarded by mutex_:
    notif_list_t messages_;
    size_t bytes_ = 0;
};

} // namespace nx::ucx
