// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Takes in those who connect and serves them: loads what they send, answers with the own metadata, forgets whom they
// name. Strangers among them cost what metadata/limits.h allows. Confined to its loop.
#pragma once

#include <list>
#include <memory>
#include <optional>

#include "metadata/channel.h"
#include "metadata/service.h"

namespace nx::metadata {

class Listener final : Channel::Owner {
public:
    /// Listens on the numeric address `host`, without one on all of the host, IPv6 and IPv4; port 0: the system chooses
    /// one. INVALID_PARAM: it is no address. BACKEND: it cannot, with the reason.
    static Result<std::unique_ptr<Listener>>
    create(Loop &loop,
           const std::string &host,
           uint16_t port,
           const Limits &limits,
           Budget &budget,
           const Service &service);
    ~Listener();

    uint16_t
    port() const noexcept {
        return port_;
    }

    /// Serves what waits for a backend: there is one more now.
    void
    retry();

    /// Makes room in the budget: closes the guest that costs most. False if none costs anything.
    bool
    dropCostliest();

private:
    struct Guest {
        std::shared_ptr<Channel> channel;
        std::string network;                 ///< SocketAddress::network()
        std::optional<wire::Message> held{}; ///< its payload is the channel's
        std::weak_ptr<const std::string> answer{};
    };
    using Guests = std::list<Guest>;

    Listener(Loop &loop, Fd socket, uint16_t port, const Limits &limits, Budget &budget, const Service &service);

    void
    onMessage(Channel &channel, const wire::Message &message) override;
    void
    onEnd(Channel &channel, const Status &why) override;
    void
    onWritten(Channel &) override {}

    void
    accept();
    template<class Cost>
    Guests::iterator
    costliest(Cost cost);
    size_t
    memoryOf(const Guest &guest) const;
    size_t
    count(bool proven) const;
    bool
    dropUnproven();
    bool
    dropProven();
    void
    drop(Guests::iterator guest, const std::string &why);
    Blob
    counted(Blob blob);
    Guests::iterator
    find(const Channel &channel);
    bool
    serve(Guest &guest, const wire::Message &message, bool may_wait);
    bool
    load(Channel &channel, std::string_view blob, bool may_wait);
    bool
    publish(Guest &guest, bool may_wait);
    bool
    mayWait(size_t bytes) const;
    void
    complain(const std::string &sentence);

    Loop &loop_;
    const Fd socket_;
    const uint16_t port_;
    const Limits &limits_;
    Budget &budget_;
    const Service &service_;
    Guests guests_;                              ///< the one that was quiet for longest first
    std::weak_ptr<const std::string> published_; ///< the version that was sent last, counted in the budget
    Loop::Timer pause_ = 0;
    const Loop::Clock::time_point settled_; ///< from then on nothing is held
    Loop::Timer settle_ = 0;
    // Lines in the log, so that strangers cannot fill it:
    Loop::Clock::time_point log_period_{};
    unsigned log_lines_ = 0;
};

} // namespace nx::metadata
