// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A bad network on loopback: takes TCP connections, makes one to a target for each, and passes bytes both ways as
// slowly, late or brokenly as it is told. Needs no privileges. Self-synchronised: it works on a thread of its own, and
// everything can be changed at any time.
//
// Each way is a link: its rate is that of all connections together, as on a wire. The relay holds little, so that a
// sender soon feels a slow link: 64 KiB per connection and way (more with a delay) and small buffers in the sockets.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace nx::test {

class Relay {
public:
    enum class Way {
        kForward, ///< from those who connect to the target
        kBack     ///< from the target to them
    };

    /// Listens on a port of 127.0.0.1 that the system chooses. Connections to it go on to `target_port` there, and are
    /// reset if nobody listens. Throws std::runtime_error.
    explicit Relay(uint16_t target_port);
    /// Resets what is connected.
    ~Relay();
    Relay(const Relay &) = delete;
    Relay &
    operator=(const Relay &) = delete;

    uint16_t
    port() const noexcept {
        return port_;
    }

    uint16_t
    targetPort() const noexcept {
        return target_port_;
    }

    /// Bytes per second; 0: no limit.
    void
    setRate(Way way, uint64_t bytes_per_second);

    /// For each byte that comes from now on.
    void
    setDelay(Way way, std::chrono::milliseconds delay);

    /// Nothing passes: a peer, or a network, that has gone silent.
    void
    stop(Way way);
    void
    goOn(Way way);
    void
    stop();
    void
    goOn();

    /// Ends this way of the connections there are, behind what is held; the other way goes on.
    void
    halfClose(Way way);

    /// Resets each connection, now or later, once so many of its bytes have passed this way.
    void
    resetAt(Way way, uint64_t bytes);

    /// Bytes of all connections that have passed.
    uint64_t
    passed(Way way) const;

    /// Taken so far.
    uint64_t
    connections() const;

private:
    using Clock = std::chrono::steady_clock;

    struct Link {
        uint64_t rate = 0;
        std::chrono::milliseconds delay{0};
        bool stopped = false;
        uint64_t reset_at = UINT64_MAX;
        uint64_t passed = 0;
        Clock::time_point next; ///< when the rate allows the next bytes
    };

    struct Line; ///< a connection and the one made for it

    template<class Change>
    void
    change(Change change);
    void
    run();
    void
    accept();
    bool
    serve(Line &line);
    bool
    pass(Line &line, size_t way);
    bool
    hasRoom(const Line &line, size_t way) const;
    bool
    take(Line &line, size_t way) const;
    bool
    give(Line &line, size_t way);

    int listener_ = -1, wake_ = -1;
    const uint16_t target_port_;
    uint16_t port_ = 0;

    mutable std::mutex mutex_;
    // Guarded by mutex_:
    bool ending_ = false;
    std::array<Link, 2> links_;
    std::vector<std::unique_ptr<Line>> lines_;
    uint64_t connections_ = 0;

    std::thread thread_; ///< last: it uses the others
};

} // namespace nx::test
