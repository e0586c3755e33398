// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "rendezvous/election.h"

#include <gtest/gtest.h>

namespace nx::rendezvous {
namespace {

Message
greetingOf(const std::string &name, uint8_t start, Role role, const std::string &host = "") {
    Message greeting;
    greeting.type = Type::kHello;
    greeting.name = name;
    greeting.start = {start};
    greeting.role = role;
    greeting.host = host;
    return greeting;
}

const Self kB{"b", {2}, true};
const Message kOwn = greetingOf("b", 2, Role::kDeputy);

TEST(Election, WhoMeetsNobodyButItselfHosts) {
    EXPECT_TRUE(becomesHost(kB, false, {kOwn}));
    EXPECT_TRUE(becomesHost(kB, true, {})) << "the last host's list says so";
    EXPECT_FALSE(becomesHost(kB, false, {})) << "nobody would look for it there";
    EXPECT_FALSE(becomesHost({"b", {2}, false}, true, {kOwn})) << "it does not listen";
}

TEST(Election, TheLowestNameHosts) {
    EXPECT_FALSE(becomesHost(kB, true, {greetingOf("a", 1, Role::kDeputy), kOwn}));
    EXPECT_TRUE(becomesHost(kB, true, {greetingOf("c", 1, Role::kDeputy), kOwn}));
    EXPECT_TRUE(becomesHost(kB, true, {greetingOf("a", 1, Role::kGuest)})) << "guests cannot";
    EXPECT_FALSE(becomesHost(kB, true, {greetingOf("b", 1, Role::kDeputy)})) << "of two with one name one does";
    EXPECT_TRUE(becomesHost(kB, true, {greetingOf("b", 3, Role::kDeputy)}));
}

TEST(Election, NobodyHostsWhileAnotherHasAHost) {
    EXPECT_FALSE(becomesHost(kB, true, {greetingOf("c", 3, Role::kHost)}));
    EXPECT_FALSE(becomesHost(kB, true, {greetingOf("c", 3, Role::kDeputy, "10.0.0.1:7000")}));
}

TEST(Election, OfTwoHostsTheLowerNameStays) {
    EXPECT_TRUE(yieldsTo(kB, greetingOf("a", 9, Role::kHost)));
    EXPECT_FALSE(yieldsTo(kB, greetingOf("c", 1, Role::kHost)));
    EXPECT_FALSE(yieldsTo(kB, greetingOf("a", 9, Role::kDeputy)));
    EXPECT_FALSE(yieldsTo(kB, greetingOf("b", 2, Role::kHost))) << "itself";
    EXPECT_NE(yieldsTo(kB, greetingOf("b", 1, Role::kHost)),
              yieldsTo({"b", {1}, true}, greetingOf("b", 2, Role::kHost)))
        << "one of them, and not both";
}

} // namespace
} // namespace nx::rendezvous
