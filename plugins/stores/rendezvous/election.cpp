// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "rendezvous/election.h"

#include <algorithm>
#include <tuple>

namespace nx::rendezvous {

namespace {

bool
isLower(const Message &greeting, const Self &self) {
    return std::tie(greeting.name, greeting.start) < std::tie(self.name, self.start);
}

} // namespace

bool
becomesHost(const Self &self, bool listed, const std::vector<Message> &greetings) {
    const auto is_self = [&](const Message &greeting) { return greeting.start == self.start; };
    const bool known = listed || std::any_of(greetings.begin(), greetings.end(), is_self);
    const bool yields = std::any_of(greetings.begin(), greetings.end(), [&](const Message &greeting) {
        if (is_self(greeting) || greeting.role == Role::kGuest) return false;
        return greeting.role == Role::kHost || !greeting.host.empty() || isLower(greeting, self);
    });
    return self.listens && known && !yields;
}

bool
yieldsTo(const Self &self, const Message &greeting) {
    return greeting.role == Role::kHost && greeting.start != self.start && isLower(greeting, self);
}

} // namespace nx::rendezvous
