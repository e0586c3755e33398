// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: the relay does what it is told and nothing else. Method: a client and a target, both sockets of this test.
#include "support/relay.h"

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <utility>

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "support/eventually.h"

namespace nx::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using Way = Relay::Way;

constexpr size_t kPart = 64 << 10;

class Socket {
public:
    explicit Socket(int fd) : fd(fd) {}
    Socket(Socket &&other) noexcept : fd(std::exchange(other.fd, -1)) {}
    ~Socket() {
        ::close(fd);
    }

    /// Sends without waiting until `most` bytes are gone or no more fit; how many.
    size_t
    push(size_t most) const {
        static const char bytes[kPart] = {};
        size_t sent = 0;
        while (sent < most) {
            const ssize_t count = send(fd, bytes, std::min(most - sent, kPart), MSG_DONTWAIT | MSG_NOSIGNAL);
            if (count < 0) break;
            sent += static_cast<size_t>(count);
        }
        return sent;
    }

    /// Receives until `size` bytes are there, the end or an error; how many.
    size_t
    pull(size_t size) const {
        char bytes[kPart];
        size_t got = 0;
        while (got < size) {
            pollfd readable{fd, POLLIN, 0};
            if (::poll(&readable, 1, static_cast<int>(milliseconds(kPatience).count())) <= 0) break;
            const ssize_t count = recv(fd, bytes, std::min(size - got, kPart), 0);
            if (count <= 0) break;
            got += static_cast<size_t>(count);
        }
        return got;
    }

    /// What the next receive says: 0 for the end of the stream, or minus its errno.
    int
    next() const {
        pollfd readable{fd, POLLIN, 0};
        if (::poll(&readable, 1, static_cast<int>(milliseconds(kPatience).count())) <= 0) return -ETIMEDOUT;
        char byte;
        const ssize_t count = recv(fd, &byte, 1, 0);
        return count < 0 ? -errno : static_cast<int>(count);
    }

    int fd;
};

sockaddr_in
loopback(uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

class RelayTest : public testing::Test {
protected:
    RelayTest() : listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), relay(listen()) {}

    uint16_t
    listen() const {
        sockaddr_in address = loopback(0);
        socklen_t size = sizeof address;
        auto *const generic = reinterpret_cast<sockaddr *>(&address);
        if (bind(listener.fd, generic, size) != 0 || ::listen(listener.fd, 8) != 0 ||
            getsockname(listener.fd, generic, &size) != 0) {
            throw std::runtime_error("cannot listen");
        }
        return ntohs(address.sin_port);
    }

    Socket
    dial() const {
        Socket made(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        const sockaddr_in address = loopback(relay.port());
        EXPECT_EQ(connect(made.fd, reinterpret_cast<const sockaddr *>(&address), sizeof address), 0);
        return made;
    }

    Socket
    answer() const {
        return Socket(accept4(listener.fd, nullptr, nullptr, SOCK_CLOEXEC));
    }

    Socket listener;
    Relay relay;
};

TEST_F(RelayTest, PassesBytesAndTheirEndBothWays) {
    const Socket client = dial(), target = answer();
    ASSERT_EQ(client.push(1000), 1000u);
    ASSERT_EQ(target.pull(1000), 1000u);
    ASSERT_EQ(target.push(70), 70u);
    shutdown(client.fd, SHUT_WR);
    EXPECT_EQ(target.next(), 0);
    EXPECT_EQ(client.pull(70), 70u);
    shutdown(target.fd, SHUT_WR);
    EXPECT_EQ(client.next(), 0);
    EXPECT_EQ(relay.passed(Way::kForward), 1000u);
    EXPECT_EQ(relay.passed(Way::kBack), 70u);
    EXPECT_EQ(relay.connections(), 1u);
}

TEST_F(RelayTest, KeepsTheRateOfAllConnectionsTogether) {
    constexpr size_t kEach = 50'000;
    relay.setRate(Way::kForward, 400'000);
    const Socket one = dial();
    const Socket at_one = answer();
    const Socket two = dial();
    const Socket at_two = answer();
    const auto start = steady_clock::now();
    ASSERT_EQ(one.push(kEach), kEach);
    ASSERT_EQ(two.push(kEach), kEach);
    EXPECT_EQ(at_one.pull(kEach), kEach);
    EXPECT_EQ(at_two.pull(kEach), kEach);
    EXPECT_GE(steady_clock::now() - start, milliseconds(140)) << "60,000 of them at 400,000 a second";
}

TEST_F(RelayTest, DelaysOneWay) {
    relay.setDelay(Way::kBack, milliseconds(60));
    const Socket client = dial(), target = answer();
    const auto start = steady_clock::now();
    ASSERT_EQ(target.push(10), 10u);
    EXPECT_EQ(client.pull(10), 10u);
    EXPECT_GE(steady_clock::now() - start, milliseconds(60));
}

TEST_F(RelayTest, StopsAndGoesOnWithoutLosingAnything) {
    const Socket client = dial(), target = answer();
    ASSERT_EQ(client.push(1), 1u);
    ASSERT_EQ(target.pull(1), 1u);
    relay.stop();
    constexpr size_t kMuch = 64 << 20;
    size_t sent = 0, since = 0;
    eventually([&] { // until it does not take any more for a while
        const size_t now = client.push(kMuch - sent);
        sent += now;
        since = now ? 0 : since + 1;
        return since > 100;
    });
    EXPECT_LT(sent, size_t{16} << 20) << "a sender feels that it stands still";
    EXPECT_EQ(relay.passed(Way::kForward), 1u);
    relay.goOn();
    EXPECT_EQ(target.pull(sent), sent);
}

TEST_F(RelayTest, EndsOneWayAndKeepsTheOther) {
    const Socket client = dial(), target = answer();
    ASSERT_EQ(client.push(1), 1u);
    ASSERT_EQ(target.pull(1), 1u);
    relay.halfClose(Way::kForward);
    EXPECT_EQ(target.next(), 0);
    ASSERT_EQ(target.push(5), 5u);
    EXPECT_EQ(client.pull(5), 5u);
}

TEST_F(RelayTest, ResetsAtTheByteItWasTold) {
    relay.resetAt(Way::kForward, 12'345);
    const Socket client = dial(), target = answer();
    ASSERT_EQ(client.push(20'000), 20'000u);
    EXPECT_EQ(target.pull(20'000), 12'345u);
    EXPECT_EQ(client.next(), -ECONNRESET);
}

TEST_F(RelayTest, ResetsWhoeverComesWhenNobodyListensBehindIt) {
    ::close(std::exchange(listener.fd, -1));
    const Socket client = dial();
    EXPECT_EQ(client.next(), -ECONNRESET);
}

} // namespace
} // namespace nx::test
