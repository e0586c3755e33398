// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The suite that every store must pass, through the interface of nixlx/directory.h only. A store joins with one
// StoreUnderTest in stores.cpp. What it cannot do is a deviation: a sentence, shown when its tests are skipped.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <ostream>
#include <string>

#include <gtest/gtest.h>

#include "nixlx/directory.h"

namespace nx::test {

/// Where agents meet, with nothing in it: a folder, a server. Goes at the end of the test.
class Place {
public:
    virtual ~Place() = default;

    virtual std::string
    address() const = 0;
    /// It cannot be reached any more, until restore().
    virtual void
    lose() = 0;
    virtual void
    restore() = 0;
};

/// What the store has said of its last failure since this was asked last; empty: nothing.
std::string
takeSentence();

struct StoreUnderTest {
    std::string name; ///< of the plugin
    std::function<std::unique_ptr<Place>()> place;
    std::chrono::milliseconds lease = nixlx::DirectoryParams().lease;
    int kills = 20; ///< of processes, one after the other; each costs a lease where the store is not told of ends
    /// Why the claim does not hold for this store; empty if it does.
    std::function<std::string(const std::string &claim)> deviation = [](const std::string &) { return ""; };
};

inline void
PrintTo(const StoreUnderTest &store, std::ostream *out) {
    *out << store.name;
}

/// An empty place, and starts of agents there.
class DirectoryContract : public testing::TestWithParam<StoreUnderTest> {
protected:
    using Deadline = nixlx::Directory::Deadline;

    void
    SetUp() override;

    /// A new start of the agent. Null: refused, with a sentence.
    std::unique_ptr<nixlx::Directory>
    start(const std::string &agent);

    static Deadline
    soon();
    /// By which what a process has published must be gone, with the time that machines with other work need.
    std::chrono::milliseconds
    leaseAndMore() const;

    static nixl_status_t
    publish(nixlx::Directory &directory, const std::string &label, std::string_view blob);
    /// The blob; or the status's name.
    static std::string
    found(nixlx::Directory &reader, const std::string &agent, const std::string &label);
    /// What ends the watch has told since; waits for the first, at most `patience`.
    static std::vector<std::string>
    ended(nixlx::Directory &reader, std::chrono::milliseconds patience);

    std::unique_ptr<Place> place_;

private:
    const nixlx_store_t *store_ = nullptr;
    uint8_t starts_ = 0;
};

} // namespace nx::test
