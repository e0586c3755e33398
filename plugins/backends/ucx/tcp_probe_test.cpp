// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: a listener counts as ended only if it must have. Method: sockets on the loopback device that listen, listen no
// more, or are silent because their queue is full.
#include "ucx/tcp_probe.h"

#include <chrono>
#include <cstring>
#include <netinet/in.h>
#include <poll.h>

#include <gtest/gtest.h>

#include "base/fd.h"
#include "support/eventually.h"

namespace nx::ucx {
namespace {

struct Listener {
    explicit Listener(int backlog) : socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in ip{};
        ip.sin_family = AF_INET;
        ip.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        EXPECT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr *>(&ip), sizeof ip), 0);
        EXPECT_EQ(::listen(socket.get(), backlog), 0);
        socklen_t size = sizeof address.at;
        EXPECT_EQ(::getsockname(socket.get(), reinterpret_cast<sockaddr *>(&address.at), &size), 0);
    }

    Fd socket;
    TcpListener address;
};

/// Its queue is full: the kernel answers nobody.
struct SilentListener : Listener {
    SilentListener() : Listener(0) {
        EXPECT_TRUE(nx::test::eventually([&] {
            Fd next(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
            ::connect(next.get(), reinterpret_cast<sockaddr *>(&address.at), sizeof address.at);
            clients.push_back(std::move(next));
            pollfd connected{clients.back().get(), POLLOUT, 0};
            return ::poll(&connected, 1, 20) == 0;
        }));
    }

    std::vector<Fd> clients;
};

struct EndedListener : Listener {
    EndedListener() : Listener(1) {
        socket.reset();
    }
};

TEST(ProbeListeners, TakesThoseThatRefuseForEnded) {
    const EndedListener one, other;
    const auto status = probeListeners({one.address, other.address});
    EXPECT_EQ(status.code(), NIXL_ERR_BACKEND);
    EXPECT_EQ(status.message(),
              "its process has ended: nothing listens at " + textOf({one.address, other.address}) + " any more");
}

TEST(ProbeListeners, TakesNobodyForEndedOfWhomOneAnswers) {
    const EndedListener ended;
    const Listener alive(8);
    EXPECT_TRUE(probeListeners({alive.address}).ok());
    EXPECT_TRUE(probeListeners({ended.address, alive.address}).ok());
    EXPECT_TRUE(probeListeners({alive.address, ended.address}).ok());
}

TEST(ProbeListeners, WaitsForTheSilentNotLongAndDoesNotTakeThemForEnded) {
    const EndedListener ended;
    const SilentListener silent;
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_TRUE(probeListeners({ended.address, silent.address}).ok());
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2));
}

TEST(ProbeListeners, KnowsNothingFromARefusalThatMayBeSomebodyElses) {
    EndedListener same_elsewhere;
    same_elsewhere.address.ambiguous = true;
    const EndedListener ended;
    EXPECT_TRUE(probeListeners({same_elsewhere.address}).ok());
    EXPECT_EQ(probeListeners({same_elsewhere.address, ended.address}).code(), NIXL_ERR_BACKEND);
}

TEST(ProbeListeners, KnowsNothingWithoutAListener) {
    EXPECT_TRUE(probeListeners({}).ok());
    sockaddr_in nowhere{};
    nowhere.sin_family = AF_INET;
    nowhere.sin_addr.s_addr = htonl(INADDR_BROADCAST);
    TcpListener address;
    std::memcpy(&address.at, &nowhere, sizeof nowhere);
    EXPECT_TRUE(probeListeners({address}).ok());
}

TEST(TryPaths, UnusableAreThoseThatDoNotAnswerWhileAnotherDoes) {
    const EndedListener ended;
    const SilentListener silent;
    const Listener alive(8), other(8);
    const auto begin = std::chrono::steady_clock::now();
    const auto [unusable, sources] = tryPaths({ended.address, alive.address, silent.address, other.address});
    EXPECT_EQ(textOf(unusable), textOf({ended.address, silent.address}));
    ASSERT_EQ(sources.size(), 2u);
    for (const sockaddr_storage &source : sources) EXPECT_TRUE(textOf({{source}}).starts_with("127.0.0.1:"));
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2));
}

TEST(TryPaths, UnusableAreNoneWhereNobodyAnswers) {
    const EndedListener ended;
    const SilentListener silent;
    EXPECT_TRUE(tryPaths({}).unusable.empty());
    EXPECT_TRUE(tryPaths({ended.address}).unusable.empty());
    EXPECT_TRUE(tryPaths({ended.address, silent.address}).unusable.empty());
}

TEST(TryPaths, UnusableAreThoseThatSomebodyElseMayAnswerUnlessNothingElseDoes) {
    const Listener alive(8);
    Listener same_elsewhere(8);
    same_elsewhere.address.ambiguous = true;
    const EndedListener ended;
    EXPECT_EQ(textOf(tryPaths({same_elsewhere.address, alive.address}).unusable), textOf({same_elsewhere.address}));
    EXPECT_TRUE(tryPaths({same_elsewhere.address, ended.address}).unusable.empty());
}

} // namespace
} // namespace nx::ucx
