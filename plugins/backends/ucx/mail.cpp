// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/mail.h"

#include "wire/limits.h"
#include "wire/notification.h"

namespace nx::ucx {

Mail::Mail(const std::string &agent, kit::Bell &bell) : bell_(bell), inbox_("backend UCX of agent " + quoted(agent)) {
    inbox_.setKnown(agent, true);
}

bool
Mail::takeAll(notif_list_t &out) {
    const auto questions = inbox_.takeAll(out);
    if (questions.empty()) return false;
    const MutexLock lock(mutex_);
    for (const auto question : questions) {
        const auto held = held_.extract(question);
        if (held) held.mapped().worker->answer(held.mapped().question); // else its worker has ended
    }
    return true;
}

void
Mail::arrived(std::string_view bytes) {
    auto decoded = wire::decodeNotification(bytes);
    if (!decoded.ok()) return inbox_.dropMalformed("it is malformed");
    if (inbox_.put(decoded->sender, std::move(decoded->message))) return bell_.ring();
    inbox_.drop(decoded->sender);
}

void
Mail::refused(const char *why) {
    inbox_.dropMalformed(why);
}

bool
Mail::asked(Worker &worker, std::string_view sender, void *question) {
    if (sender.empty() || sender.size() > wire::kNameBytesMax) return false;
    const MutexLock lock(mutex_);
    if (inbox_.ask(sender, ++last_)) return false;
    held_.emplace(last_, Held{&worker, question}); // who gets the number back waits for the lock
    return true;
}

void
Mail::giveBack(Worker &worker) noexcept {
    const MutexLock lock(mutex_);
    std::erase_if(held_, [&](const auto &entry) {
        if (entry.second.worker != &worker) return false;
        worker.answer(entry.second.question);
        return true;
    });
}

} // namespace nx::ucx
