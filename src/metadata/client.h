// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Calls to other agents' listeners. The calls to one address go over one connection, in their order; it is made for the
// first, kept for later ones and made again when it was lost. Every call gets exactly one outcome. Confined to its
// loop, except the ledger.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <random>

#include "metadata/channel.h"
#include "loop/endpoint.h"
#include "metadata/ledger.h"
#include "metadata/service.h"

namespace nx::metadata {

struct Call {
    enum class Kind { kLoad, kFetch, kInvalidate };

    Kind kind;
    std::string name;  ///< of the API's call, for the log
    std::string frame; ///< what is sent, but for the blob behind it
    Blob blob;         ///< kLoad
    std::string agent; ///< kFetch: whose metadata is wanted; empty: whoever answers
    /// Takes the outcome instead of the ledger and the log. Nobody waits for such a call's peer to start: it was there
    /// before.
    std::function<void(const Status &)> done{};
};

class Client {
public:
    Client(Loop &loop, const Limits &limits, Budget &budget, const Service &service, Ledger &ledger);
    ~Client();
    Client(const Client &) = delete;
    Client &
    operator=(const Client &) = delete;

    /// The ledger has it open already, unless the call takes its outcome itself.
    void
    start(const Endpoint &endpoint, Call call);

    /// From now on no call is tried again, and answers are not waited for.
    void
    hurry();

    /// All calls have been handed over or have failed.
    bool
    handedOver() const;

    /// Closes the connection with the most memory in unfinished frames. False if there is none.
    bool
    dropLargest();

private:
    class Route;

    Loop &loop_;
    const Limits &limits_;
    Budget &budget_;
    const Service &service_;
    Ledger &ledger_;
    bool hurried_ = false;
    std::minstd_rand random_{std::random_device()()};
    std::map<Endpoint, std::unique_ptr<Route>> routes_;
};

} // namespace nx::metadata
