// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: both kinds of TCPStore are understood, the keys are NIXL's, and a store that is slow, wrong or gone is a
// sentence in time. Method: our double of the store (tests/support), and sockets that say what the test wants. What
// holds for every store is in tests/directories.
#include "tcpstore/connection.h"

#include <cstdlib>
#include <future>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "base/last_error.h"
#include "support/eventually.h"
#include "support/relay.h"
#include "support/tcpstore_server.h"
#include "tcpstore/directory.h"

namespace nx::tcpstore {
namespace {

using namespace std::chrono_literals;
using test::kPatience;
using test::TcpStoreServer;
using testing::HasSubstr;

Connection::Time
soon() {
    return Connection::Clock::now() + kPatience;
}

std::unique_ptr<Directory>
start(const std::string &agent, const std::string &address) {
    nixlx::DirectoryParams params;
    params.agent = agent;
    params.address = address;
    auto directory = Directory::open(params);
    EXPECT_TRUE(directory.ok()) << directory.message();
    return *std::move(directory);
}

/// The status's sentence; empty: success.
template<class Call>
std::string
sentence(Call call) {
    clearBackendSentence();
    return call() == NIXL_SUCCESS ? "" : takeBackendSentence("no sentence");
}

TEST(TcpStoreEndpoint, IsHostAndPort) {
    const auto name = Endpoint::parse("head-0.cluster:29500"), six = Endpoint::parse("[fe80::1]:1");
    EXPECT_EQ(name->host + " " + name->port, "head-0.cluster 29500");
    EXPECT_EQ(six->host, "fe80::1");
    EXPECT_EQ(Endpoint::parse("::1:29500")->host, "::1") << "as in NIXL 1.4: the last colon";
    for (const char *bad : {"", "host", ":1", "host:", "host:0", "host:65536", "host:1x", "host:-1", "[]:1"}) {
        EXPECT_EQ(Endpoint::parse(bad).code(), NIXL_ERR_INVALID_PARAM) << bad;
    }
}

TEST(TcpStore, HasTheKeysOfNixl) {
    TcpStoreServer server;
    const auto a = start("A", server.endpoint());
    ASSERT_EQ(a->publish("metadata", "blob", soon()), NIXL_SUCCESS);
    server.stop();
    EXPECT_EQ(server.contents.at("/nixl/agents/metadata/A/NULL_AGENT"), "blob");
    server.contents["/nixl/agents/part/B/NULL_AGENT"] = "theirs";
    server.start();
    std::string blob;
    EXPECT_EQ(sentence([&] { return a->fetch("B", "part", blob, soon()); }), "");
    EXPECT_EQ(blob, "theirs");
}

TEST(TcpStore, TakesMoreThanTheStoreDoesForAnArgument) {
    const std::string large((size_t{8} << 20) + 1, 'x');
    TcpStoreServer server, older(TcpStoreServer::Kind::kOlder);
    const auto a = start("A", server.endpoint());
    ASSERT_EQ(a->publish("metadata", large.substr(1), soon()), NIXL_SUCCESS);
    EXPECT_THAT(sentence([&] { return a->publish("metadata", large, soon()); }), HasSubstr("it takes 8 MiB at most"));
    EXPECT_EQ(a->publish("metadata", "small", soon()), NIXL_SUCCESS) << "it goes on";
    EXPECT_EQ(start("A", older.endpoint())->publish("metadata", large, soon()), NIXL_SUCCESS);
}

TEST(TcpStore, IsWaitedForAtTheBeginning) {
    TcpStoreServer server;
    server.stop();
    const auto a = start("A", server.endpoint());
    std::string blob;
    clearBackendSentence();
    EXPECT_EQ(a->fetch("B", "metadata", blob, soon()), NIXL_ERR_NOT_FOUND) << "who waits for B waits for the store";
    EXPECT_THAT(takeBackendSentence(""), HasSubstr("the store is not there yet: TCPStore at 127.0.0.1:"));
    auto published = std::async(std::launch::async, [&] { return a->publish("metadata", "blob", soon()); });
    server.start();
    EXPECT_EQ(published.get(), NIXL_SUCCESS);
    server.stop();
    EXPECT_EQ(a->fetch("B", "metadata", blob, soon()), NIXL_ERR_BACKEND) << "later its absence is a failure";
    EXPECT_EQ(a->patience(), 30s);
}

TEST(TcpStore, ThatIsSilentEndsCallsInTime) {
    ::setenv("NIXL_TCPSTORE_OP_TIMEOUT_MS", "50", 1);
    TcpStoreServer server;
    test::Relay relay(server.port());
    const auto a = start("A", "127.0.0.1:" + std::to_string(relay.port()));
    ::unsetenv("NIXL_TCPSTORE_OP_TIMEOUT_MS");
    ASSERT_TRUE(test::eventually([&] { return a->publish("metadata", "1", soon()) == NIXL_SUCCESS; }));
    relay.stop();
    EXPECT_THAT(sentence([&] { return a->publish("metadata", "2", soon()); }), HasSubstr("it did not answer in time"));
    relay.goOn();
    EXPECT_TRUE(test::eventually([&] { return a->publish("metadata", "3", soon()) == NIXL_SUCCESS; }));
}

TEST(TcpStore, AnEndIsNoticedWhileACallWaits) {
    TcpStoreServer server;
    test::Relay relay(server.port());
    const auto a = start("A", "127.0.0.1:" + std::to_string(relay.port()));
    ASSERT_EQ(a->publish("metadata", "1", soon()), NIXL_SUCCESS);
    relay.stop();
    auto waiting = std::async(std::launch::async, [&] { return a->publish("metadata", "2", soon()); });
    a->endBy(Connection::Clock::now());
    EXPECT_EQ(waiting.get(), NIXL_ERR_TIMEOUT);
}

TEST(TcpStore, WhatIsNoneIsASentence) {
    const std::pair<std::string, std::string> answers[] = {
        {"", "it closed the connection"},
        {"\x02", "its answer is not a TCPStore's"},
        {std::string("\0\xff\xff\xff\xff\0\0\0\0", 9), "it has 4294967295 bytes there"},
        {std::string("\0\5\0\0\0\0\0\0\0abc", 12), "it closed the connection"}};
    const Endpoint endpoint{"double", "1"};
    const std::atomic<Connection::Time> end{Connection::Time::max()};
    const auto wake = *WakeFd::create();
    for (const auto &[bytes, why] : answers) {
        int ends[2];
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
        const Fd other(ends[1]);
        ASSERT_EQ(::send(other.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
        ::shutdown(other.get(), SHUT_WR);
        Connection connection(endpoint, end, wake);
        connection.use(Fd(ends[0]));
        const auto there = connection.has("k", soon());
        const auto value =
            there.ok() ? connection.get("k", 1 << 20, soon()) : Result<std::string>(there.code(), there.message());
        EXPECT_THAT(value.message(), HasSubstr("TCPStore at double:1: " + why));
        EXPECT_FALSE(connection.isOpen()) << why;
    }
}

} // namespace
} // namespace nx::tcpstore
