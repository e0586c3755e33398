// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "base/snapshot.h"

#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/handle_table.h"

namespace nx {
namespace {

template<class Owner>
concept Dereferenced = requires(Owner owner) { *std::forward<Owner>(owner); };
template<class Owner>
concept Entered = requires(Owner owner) { std::forward<Owner>(owner).operator->(); };

// A loop over the dereferenced temporary would outlive it: it must not compile.
using Words = std::vector<std::string>;
static_assert(Dereferenced<Held<Words> &> && Entered<Held<Words> &>);
static_assert(Dereferenced<const Held<Words> &> && Entered<const Held<Words> &>);
static_assert(!Dereferenced<Held<Words>> && !Entered<Held<Words>>);
static_assert(!Dereferenced<const Held<Words>> && !Entered<const Held<Words>>);

using Pin = HandleTable<Words>::Pin;
static_assert(Dereferenced<Pin &> && Entered<Pin &>);
static_assert(!Dereferenced<Pin> && !Entered<Pin>);

// Where the owner may give its value away, the loop keeps it.
static_assert(std::is_same_v<decltype(*std::declval<Result<Words>>()), Words>);

TEST(Snapshot, WhatWasAskedForStaysAsItWas) {
    Snapshot<Words> words;
    words.set({"one"});
    const auto before = words.get();
    auto more = words.copy();
    more.push_back("two");
    words.set(std::move(more));
    EXPECT_EQ(*before, Words{"one"});
    const auto after = words.get();
    EXPECT_EQ(*after, (Words{"one", "two"}));
}

TEST(Snapshot, APartKeepsTheWhole) {
    struct Both {
        Words words{"one"};
        int number = 7;
    };
    Snapshot<Both> both;
    const auto words = both.get().part(&Both::words);
    both.set({{"two"}, 8});
    EXPECT_EQ(*words, Words{"one"});
}

} // namespace
} // namespace nx
