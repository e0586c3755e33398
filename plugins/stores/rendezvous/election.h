// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Who hosts, decided by each agent for itself from what those whom it has asked said. Pure functions.
//
// An agent that finds no host becomes one if it listens, is where others look for a host (at an address that all are
// given, or on the list that the last host sent), and of those there it has the lowest name. While one of them still
// has a host, nobody becomes one: that host is asked. Of two hosts that learn of each other the one with the lower name
// stays.
#pragma once

#include <string>
#include <vector>

#include "rendezvous/messages.h"

namespace nx::rendezvous {

struct Self {
    std::string name;
    Start start{};
    bool listens = false;
};

/// `listed`: it is on the last host's list. `greetings`: of all who answered, itself perhaps among them.
bool
becomesHost(const Self &self, bool listed, const std::vector<Message> &greetings);

/// A host, when another one has sent its greeting.
bool
yieldsTo(const Self &self, const Message &greeting);

} // namespace nx::rendezvous
