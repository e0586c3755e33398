// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Every public call of an agent, as one table, and the world they act on: two agents that know each other, with memory,
// prepared lists and a request that all threads share, so that calls meet objects that others replace under them.
#pragma once

#include <array>
#include <atomic>
#include <set>
#include <string>
#include <vector>

#include "support/agent_pair.h"

namespace nx::test {

constexpr size_t kHands = 2; ///< threads that act at once

/// One thread's part.
struct Hand {
    size_t number;
    uint64_t round = 0;
};

/// Made, checked and destroyed by one thread; the rest by any, with a Hand of its own.
class World {
public:
    explicit World(const std::string &backend);

    /// What every pair of calls must leave behind: agents that can still be introduced to each other and move bytes
    /// both ways, and, with `messages_arrive`, every accepted message at B, once.
    void
    check(bool messages_arrive);

    /// What is registered is what was at the start, each range once. Nothing can be moved any more then.
    void
    checkRegistrations();

    /// What registerMem took. A backend that came in between knows nothing of it, and that is an error.
    nixl_status_t
    deregister(const nixl_reg_dlist_t &ranges);

    nixl_blob_t
    newMessage(Hand &hand) const {
        return pair_ + std::to_string(hand.number) + "/" + std::to_string(hand.round);
    }

    /// Takes the pair's messages out of what arrived at B.
    void
    keepMessages(nixl_notifs_t &arrived, std::multiset<nixl_blob_t> &messages) const;

    nixl_xfer_dlist_t
    sharedAtA() const {
        return listOf({at_a.desc(kHands * kSlice, kShared)});
    }

    nixl_xfer_dlist_t
    sharedAtB() const {
        return listOf({at_b.desc(kHands * kSlice, kShared)});
    }

    /// Puts a new list or request where the hands find it and releases the one that was there; null ones are no news.
    void
    replace(std::atomic<nixlDlistH *> &place, nixlDlistH *list);
    void
    replace(nixlXferReqH *new_request);

    /// A writes the hand's slice to B and compares it there.
    nixl_status_t
    transfer(const Hand &hand);

    static constexpr size_t kSlice = 4096, kShared = 256 << 10, kParts = 16;

    const std::string backend;
    // Memory, which outlives the agents: a slice for each hand, then the shared one.
    Buffer at_a, at_b;
    std::array<Buffer, kHands> spare{Buffer(kSlice), Buffer(kSlice)}; ///< at A, registered by one call only
    Buffer parts;                                                     ///< at B, each slice registered for itself
    PairedAgent a, b;
    nixl_blob_t blob_of_b;
    std::vector<nixl_blob_t> part_blobs; ///< of `parts`, with and without how to connect

    std::atomic<nixlDlistH *> local_list{nullptr}, remote_list{nullptr};
    std::atomic<nixlXferReqH *> request{nullptr};                  ///< of A, to write the shared memory
    std::array<std::multiset<nixl_blob_t>, kHands> sent, received; ///< by genNotif to B
    std::atomic<bool> grows{false};                                ///< A gets more backends

private:
    uint64_t checks_ = 0;
    std::string pair_; ///< begins the messages of this pair of calls
};

struct Call {
    const char *method; ///< of nixlAgent; its own name stands for its making and its end
    const char *variant;
    std::vector<nixl_status_t> may_give;
    nixl_status_t (*run)(World &, Hand &);
    bool parts = false;     ///< an agent forgets another, with what is under way
    bool needs_new = false; ///< does its work only a few times in a world

    std::string
    name() const {
        return *variant ? std::string(method) + "_" + variant : method;
    }
};

const std::vector<Call> &
allCalls();

} // namespace nx::test
