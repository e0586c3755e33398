// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What the workers of an engine are told: notifications, and questions of senders how far they were fetched
// (kit/credits.h). Self-synchronised.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "base/mutex.h"
#include "kit/bell.h"
#include "kit/inbox.h"
#include "ucx/driver.h"

namespace nx::ucx {

class Mail final : public MessageSink {
public:
    /// `bell` rings when a notification is there; it outlives the mail.
    Mail(const std::string &agent, kit::Bell &bell);

    kit::Inbox &
    inbox() noexcept {
        return inbox_;
    }

    /// Moves everything to the end of `out`. True: workers have questions to answer; nudge their threads.
    bool
    takeAll(notif_list_t &out);

    void
    arrived(std::string_view bytes) override;
    void
    refused(const char *why) override;
    bool
    asked(Worker &worker, std::string_view sender, void *question) override;
    void
    giveBack(Worker &worker) noexcept override;

private:
    struct Held {
        Worker *worker;
        void *question;
    };

    kit::Bell &bell_;
    kit::Inbox inbox_;
    Mutex mutex_;
    std::unordered_map<kit::CreditReceiver::Question, Held>
        held_ NX_GUARDED_BY(mutex_); ///< what the inbox will give back
    kit::CreditReceiver::Question last_ NX_GUARDED_BY(mutex_) = 0;
};

} // namespace nx::ucx
