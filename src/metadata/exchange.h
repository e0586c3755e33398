// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The peer-to-peer exchange of metadata: an agent's listener, and its calls to the listeners of others, on one thread
// that sleeps while nothing happens. Self-synchronised.
#pragma once

#include <atomic>
#include <memory>

#include "base/thread.h"
#include "metadata/client.h"
#include "metadata/ledger.h"
#include "metadata/listener.h"

namespace nx::metadata {

class Exchange {
public:
    /// Starts the thread.
    static Result<std::unique_ptr<Exchange>>
    create(Service service, const Limits &limits = {});

    /// Hands over what is on its way, at most Limits::shutdown, and ends. Must not be called while the service needs
    /// what the caller holds.
    ~Exchange();
    Exchange(const Exchange &) = delete;
    Exchange &
    operator=(const Exchange &) = delete;

    /// Starts listening, at most once: on the numeric address `host`, without one on all. Returns the port.
    Result<uint16_t>
    listen(const std::string &host, uint16_t port);

    /// The agent has one more backend: what guests sent too early is served now. Any thread.
    void
    retry();

    /// The three calls return at once; `name` is the API's for it. INVALID_PARAM: the address. NO_MEMORY: too many
    /// calls to it are open.
    Status
    load(const std::string &name, const std::string &host, int port, Blob blob);
    Status
    fetch(const std::string &name, const std::string &host, int port, const std::string &agent);
    /// As fetch, for whoever waits for it himself: `done` gets the outcome on the exchange's thread, and neither the
    /// log nor wait() knows of it. Where nobody listens it fails at once.
    void
    refetch(const Endpoint &from, const std::string &agent, std::function<void(const Status &)> done);
    Status
    invalidate(const std::string &name, const std::string &host, int port);

    /// Waits for the outcome of all calls made before, with a host of those to it; see Ledger::wait.
    Status
    wait(const std::string &host, int port, std::chrono::milliseconds timeout);

private:
    Exchange(Service service, const Limits &limits, std::unique_ptr<Loop> loop);

    Status
    start(const std::string &host, int port, Call call);
    void
    drain();

    const Service service_;
    const Limits limits_;
    // Confined to the loop:
    Budget budget_;
    std::unique_ptr<Listener> listener_;
    std::unique_ptr<Client> client_;
    Loop::Clock::time_point end_{};
    // Self-synchronised:
    Ledger ledger_;
    std::unique_ptr<Loop> loop_;
    Thread thread_; ///< last: it uses the others
};

} // namespace nx::metadata
