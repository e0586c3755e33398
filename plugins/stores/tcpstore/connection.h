// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// PyTorch's TCPStore over its own protocol, of torch 2.2 and newer: a byte that says what, then lengths and bytes in
// the order of this machine; answers come in the order of the questions. A connection on which something was late,
// short or wrong is closed, since nobody knows what comes next on it. Owned.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/fd.h"

namespace nx::tcpstore {

/// "host:port", the host an address or a name, with or without brackets.
struct Endpoint {
    std::string host;
    std::string port;

    /// INVALID_PARAM: it is none.
    static Result<Endpoint>
    parse(const std::string &text);
};

inline constexpr size_t kKeyBytesMax = 8192;               // more closes the connection
inline constexpr size_t kValueBytesSure = size_t{8} << 20; // more does, too, unless the store is the older one

class Connection {
public:
    using Clock = std::chrono::steady_clock;
    using Time = Clock::time_point;

    /// `end`: no call takes longer than until then; whoever makes it earlier wakes `wake`.
    Connection(const Endpoint &endpoint, const std::atomic<Time> &end, const WakeFd &wake)
        : endpoint_(endpoint),
          end_(end),
          wake_(wake) {}

    /// For tests: over a connection that is there.
    void
    use(Fd socket) {
        socket_ = std::move(socket);
    }

    bool
    isOpen() const noexcept {
        return static_cast<bool>(socket_);
    }

    /// Connects and sees that a store answers.
    Status
    open(Time deadline);

    /// The rest requires an open connection, which is closed by a failure. The store has it when this returns.
    Status
    set(const std::string &key, std::string_view value, Time deadline);
    Result<bool>
    has(const std::string &key, Time deadline);
    /// Of a key that is there; empty: it has just gone. MISMATCH: more than `bytes_max`.
    Result<std::string>
    get(const std::string &key, size_t bytes_max, Time deadline);
    Status
    remove(const std::string &key, Time deadline);

private:
    struct LookUp;

    Status
    find(std::unique_ptr<LookUp> &look_up, Time deadline);
    Status
    connect(Time deadline);
    Status
    send(std::string_view head, std::string_view body, Time deadline);
    Status
    receive(void *bytes, size_t count, Time deadline);
    /// Waits for poll's `events` on the socket.
    Status
    await(int socket, short events, Time deadline);
    Status
    broken(Status status);

    const Endpoint &endpoint_;
    const std::atomic<Time> &end_;
    const WakeFd &wake_;
    Fd socket_;
};

} // namespace nx::tcpstore
