// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Where a peer listens: numeric IPv4 or IPv6 (with or without brackets, with a zone), or a host name.
#pragma once

#include <functional>
#include <memory>
#include <netdb.h>
#include <string>
#include <sys/socket.h>
#include <vector>

#include "base/error.h"
#include "loop/loop.h"

namespace nx {

struct Endpoint {
    std::string host;
    uint16_t port = 0;

    auto
    operator<=>(const Endpoint &) const = default;

    /// "10.0.0.1:8888", "[::1]:8888", "node7:8888"; what is not printable is escaped.
    std::string
    text() const;

    /// INVALID_PARAM: the port is none, or the host cannot be one.
    static Result<Endpoint>
    make(const std::string &host, int port);
};

struct SocketAddress {
    sockaddr_storage storage{};
    socklen_t size = 0;

    const sockaddr *
    get() const noexcept {
        return reinterpret_cast<const sockaddr *>(&storage);
    }

    /// The numeric host without port; IPv4 that came by an IPv6 socket as IPv4.
    std::string
    host() const;
    uint16_t
    port() const noexcept;
    /// host and port as in Endpoint::text().
    std::string
    text() const;
    /// INVALID_PARAM: the host is no numeric address.
    static Result<SocketAddress>
    numeric(const std::string &host, uint16_t port);
    /// Bytes that are equal for addresses that one owner may have: of IPv4 the address, of IPv6 the first half of it.
    std::string
    network() const;
};

/// One look-up of a host. Numeric hosts are answered at once, names by the C library's own threads while the loop goes
/// on. Confined to the loop. Dropping it gives the look-up up without waiting for it.
class Lookup {
public:
    using Done = std::function<void(Result<std::vector<SocketAddress>>)>;

    /// Calls `done` on the loop, later, exactly once unless dropped before. NOT_FOUND: there is no such host.
    Lookup(Loop &loop, const Endpoint &endpoint, Done done);
    ~Lookup();
    Lookup(const Lookup &) = delete;
    Lookup &
    operator=(const Lookup &) = delete;

private:
    struct Request;

    void
    poll();

    Loop &loop_;
    const Endpoint endpoint_;
    const Done done_;
    Loop::Timer timer_ = 0;
    std::unique_ptr<Request> request_; ///< of a name
};

} // namespace nx
