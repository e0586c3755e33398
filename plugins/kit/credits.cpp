// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/credits.h"

#include <algorithm>
#include <utility>

namespace nx::kit {

namespace {

// Empty shares that are kept for their senders' next messages.
constexpr size_t kIdleSharesMax = 1024;

} // namespace

// ---- CreditSender --------------------------------------------------------------------------------------------------

bool
CreditSender::take(size_t channel, uint64_t cost) {
    if (!reserve(cost)) return false;
    sent(channel, cost);
    return true;
}

bool
CreditSender::reserve(uint64_t cost) {
    if (!hasPlace(taken_, cost)) {
        refused_ = std::max(refused_, cost);
        return false;
    }
    refused_ = 0;
    taken_ += cost;
    return true;
}

void
CreditSender::sent(size_t channel, uint64_t cost) noexcept {
    channels_[channel].sent += cost;
}

void
CreditSender::release(uint64_t cost) noexcept {
    taken_ -= cost;
}

void
CreditSender::completed(size_t channel, uint64_t cost) noexcept {
    channels_[channel].acknowledged += cost;
    taken_ -= cost;
}

bool
CreditSender::shouldAsk(size_t channel) const noexcept {
    const Channel &over = channels_[channel];
    return wantsAnswer() && !over.asked_at && over.sent > over.acknowledged;
}

void
CreditSender::asked(size_t channel) noexcept {
    channels_[channel].asked_at = channels_[channel].sent;
}

void
CreditSender::answered(size_t channel) noexcept {
    Channel &to = channels_[channel];
    if (!to.asked_at) return;
    const uint64_t position = *std::exchange(to.asked_at, std::nullopt);
    if (position <= to.acknowledged) return;
    taken_ -= position - to.acknowledged;
    to.acknowledged = position;
}

void
CreditSender::unanswered(size_t channel) noexcept {
    channels_[channel].asked_at.reset();
}

// ---- CreditReceiver ------------------------------------------------------------------------------------------------

CreditReceiver::Share *
CreditReceiver::find(std::string_view sender) {
    if (last_ && last_->first == sender) return &last_->second;
    const auto found = shares_.find(sender);
    if (found == shares_.end()) return nullptr;
    last_ = &*found;
    return &found->second;
}

void
CreditReceiver::setKnown(std::string_view sender, bool known) {
    Share *share = find(sender);
    if (!share) {
        if (known) shares_.emplace(sender, Share{0, 0, round_, true});
        return;
    }
    if (share->known == known) return;
    share->known = known;
    if (share->round != round_) return;
    if (known) {
        strangers_taken_ -= share->taken + share->oversized;
    } else {
        strangers_taken_ += share->taken + share->oversized;
    }
}

bool
CreditReceiver::admit(std::string_view sender, uint64_t cost) {
    Share *found = find(sender);
    Share share = found ? *found : Share();
    if (share.round != round_) share = {0, 0, round_, share.known};
    if (cost > kShareBytes) {
        if (share.oversized || share.taken > kShareBytes / 2) return false;
        share.oversized = cost;
    } else {
        if (cost > kShareBytes - share.taken) return false;
        share.taken += cost;
    }
    if (!share.known) {
        if (strangers_taken_ > kStrangersBytes || cost > kStrangersBytes - strangers_taken_) return false;
        strangers_taken_ += cost;
    }
    if (found) {
        *found = share;
    } else {
        shares_.emplace(sender, share);
    }
    return true;
}

bool
CreditReceiver::ask(std::string_view sender, Question question) {
    const Share *share = find(sender);
    const bool waits = share && share->round == round_ && share->taken + share->oversized > 0;
    if (!waits || questions_.size() >= kQuestionsMax) return true;
    questions_.push_back(question);
    return false;
}

std::vector<CreditReceiver::Question>
CreditReceiver::fetchAll() {
    ++round_;
    strangers_taken_ = 0;
    if (shares_.size() > kIdleSharesMax) {
        std::erase_if(shares_, [](const auto &entry) { return !entry.second.known; });
        last_ = nullptr;
    }
    return std::exchange(questions_, {});
}

} // namespace nx::kit
