// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The exchange over real sockets of the loopback interface: what becomes of calls, and what strangers can do. The
// agents behind it are doubles. Limits of time are made short where a test waits for one, and never otherwise.
#include "metadata/exchange.h"

#include <arpa/inet.h>
#include <cstring>
#include <dirent.h>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

#include "support/eventually.h"

namespace nx::metadata {
namespace {

using namespace std::chrono_literals;
using test::eventually;
using ::testing::HasSubstr;
using wire::encodeFrame;
using wire::Verb;

constexpr auto kLong = std::chrono::milliseconds(60'000);

#ifdef __SANITIZE_THREAD__
constexpr bool kCanLookUp = false; ///< it ends the process in a thread of the C library that it did not see begin
#else
constexpr bool kCanLookUp = true;
#endif
constexpr const char *kNoLookUp = "the thread sanitizer cannot watch the C library's look-ups of names";

Blob
shared(std::string bytes) {
    return std::make_shared<const std::string>(std::move(bytes));
}

/// An agent as the exchange sees it.
class Double {
public:
    explicit Double(std::string name,
                    const Limits &limits = {},
                    std::function<Result<Session>(bool accepts)> secure = {})
        : name(name),
          blob("metadata of " + name) {
        Service service;
        service.agent = name;
        service.incarnation = {7};
        service.secure = std::move(secure);
        service.load = [this](std::string_view bytes) {
            std::lock_guard lock(mutex);
            Loaded loaded;
            loaded.wants_answer = answers;
            loaded.status = refusal.empty() ? Status() : Status(NIXL_ERR_NOT_ALLOWED, refusal);
            loaded.too_early = too_early;
            if (too_early) {
                ++early_loads;
                loaded.status = Status(NIXL_ERR_BACKEND, "no common backend");
            } else if (refusal.empty()) {
                loads.emplace_back(bytes);
                const std::string prefix = "metadata of ";
                if (bytes.starts_with(prefix)) loaded.agent = bytes.substr(prefix.size());
            }
            return loaded;
        };
        service.publish = [this]() -> Result<Blob> {
            std::lock_guard lock(mutex);
            if (blob.empty()) return {NIXL_ERR_INVALID_PARAM, "there is nothing to publish"};
            if (!published || *published != blob) published = shared(blob);
            return published;
        };
        service.invalidate = [this](const std::string &agent, const auto &start) -> Status {
            std::lock_guard lock(mutex);
            invalidated.push_back(agent);
            last_start = start;
            return {};
        };
        auto made = Exchange::create(std::move(service), limits);
        EXPECT_TRUE(made.ok()) << made.message();
        exchange = *std::move(made);
    }

    uint16_t
    listen(uint16_t wanted = 0) {
        const auto bound = exchange->listen("", wanted);
        EXPECT_TRUE(bound.ok()) << bound.message();
        return port = bound.ok() ? *bound : 0;
    }

    std::vector<std::string>
    loaded() {
        std::lock_guard lock(mutex);
        return loads;
    }

    std::vector<std::string>
    forgotten() {
        std::lock_guard lock(mutex);
        return invalidated;
    }

    void
    publish(std::string bytes) {
        std::lock_guard lock(mutex);
        blob = std::move(bytes);
    }

    void
    refuse(std::string why) {
        std::lock_guard lock(mutex);
        refusal = std::move(why);
    }

    /// From now on there is a backend for what is sent here, or there is none.
    void
    haveBackend(bool there) {
        {
            std::lock_guard lock(mutex);
            too_early = !there;
        }
        if (there) exchange->retry();
    }

    size_t
    early() {
        std::lock_guard lock(mutex);
        return early_loads;
    }

    Status
    send(const Double &to, const std::string &host = "127.0.0.1") {
        return exchange->load("sendLocalMD", host, to.port, shared(blob));
    }

    Status
    fetch(const Double &from, const std::string &host = "127.0.0.1") {
        return exchange->fetch("fetchRemoteMD", host, from.port, from.name);
    }

    Status
    wait() {
        return exchange->wait("", 0, kLong);
    }

    const std::string name;
    std::mutex mutex;
    std::string blob, refusal;
    Blob published;
    bool answers = true, too_early = false;
    size_t early_loads = 0;
    std::vector<std::string> loads, invalidated;
    std::optional<wire::Incarnation> last_start; ///< that was invalidated
    uint16_t port = 0;
    std::unique_ptr<Exchange> exchange;
};

/// Somebody with a socket of his own.
class Stranger {
public:
    /// `host`: the last byte of his own address, 127.0.0.x.
    explicit Stranger(uint16_t port, uint32_t host = 1) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + host);
        EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.sin_port = htons(port);
        connected = ::connect(socket_.get(), reinterpret_cast<sockaddr *>(&address), sizeof address) == 0;
    }

    explicit Stranger(Fd socket) : socket_(std::move(socket)) {}

    /// False if the other side has closed.
    bool
    say(std::string_view bytes) {
        while (!bytes.empty()) {
            const auto put = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (put <= 0) return false;
            bytes.remove_prefix(static_cast<size_t>(put));
        }
        return true;
    }

    /// Reads until the other side closes or `bytes` have come.
    std::string
    hear(size_t bytes = SIZE_MAX) {
        std::string all;
        char some[4096];
        while (all.size() < bytes) {
            const auto got = ::recv(socket_.get(), some, std::min(sizeof some, bytes - all.size()), 0);
            if (got <= 0) break;
            all.append(some, static_cast<size_t>(got));
        }
        return all;
    }

    bool
    closedByOther() {
        pollfd fd{socket_.get(), POLLIN, 0};
        if (::poll(&fd, 1, 0) <= 0) return false;
        char byte;
        return ::recv(socket_.get(), &byte, 1, MSG_PEEK) <= 0;
    }

    /// Breaks the connection, as the end of a process with unread data does.
    void
    reset() {
        const linger at_once{1, 0};
        ::setsockopt(socket_.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
        socket_.reset();
    }

    bool connected = true;

private:
    Fd socket_;
};

/// A listening socket that does nothing by itself: an agent that hangs, or one of NIXL 1.4.
class Port {
public:
    explicit Port(int backlog = 16) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
        socklen_t size = sizeof address;
        EXPECT_EQ(::getsockname(socket_.get(), reinterpret_cast<sockaddr *>(&address), &size), 0);
        number = ntohs(address.sin_port);
        if (backlog > 0) {
            EXPECT_EQ(::listen(socket_.get(), backlog), 0);
        }
    }

    Stranger
    accept() {
        return Stranger(Fd(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC)));
    }

    void
    close() {
        socket_.reset();
    }

    uint16_t number = 0;

private:
    Fd socket_;
};

size_t
openDescriptors() {
    size_t count = 0;
    DIR *folder = ::opendir("/proc/self/fd");
    while (::readdir(folder)) ++count;
    ::closedir(folder);
    return count;
}

size_t
residentBytes() {
    size_t total = 0, resident = 0;
    std::ifstream("/proc/self/statm") >> total >> resident;
    return resident * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

// ---- Calls and their outcomes --------------------------------------------------------------------------------------

TEST(Exchange, WhatIsSentIsLoadedThereAndTheSenderKnows) {
    Double a("a"), b("b");
    b.listen();
    ASSERT_TRUE(a.send(b).ok());
    EXPECT_TRUE(a.wait().ok());
    EXPECT_EQ(b.loaded(), std::vector{a.blob});
}

TEST(Exchange, WhatIsFetchedIsLoadedHereWithoutAListenerOfOnesOwn) {
    Double a("a"), b("b");
    b.listen();
    ASSERT_TRUE(a.fetch(b).ok());
    EXPECT_TRUE(a.wait().ok());
    EXPECT_EQ(a.loaded(), std::vector{b.blob});
}

TEST(Exchange, CallsToOneAddressKeepTheirOrder) {
    Double a("a"), b("b");
    b.listen();
    for (int i = 0; i < 200; ++i) {
        ASSERT_TRUE(a.exchange->load("send", "127.0.0.1", b.port, shared(std::to_string(i))).ok());
        if (i % 10 == 0) {
            ASSERT_TRUE(a.fetch(b).ok());
        }
    }
    ASSERT_TRUE(a.exchange->invalidate("invalidate", "127.0.0.1", b.port).ok());
    EXPECT_TRUE(a.wait().ok());
    ASSERT_TRUE(eventually([&] { return b.forgotten().size() == 1; }));
    const auto loads = b.loaded();
    ASSERT_EQ(loads.size(), 200u);
    for (int i = 0; i < 200; ++i) EXPECT_EQ(loads[i], std::to_string(i));
    EXPECT_EQ(b.forgotten(), std::vector<std::string>{"a"});
    EXPECT_EQ(a.loaded().size(), 20u);
}

TEST(Exchange, ARefusalReachesTheSenderWithItsReason) {
    Double a("a"), b("b");
    b.listen();
    b.refuse("it is loaded with other\x01 keys");
    ASSERT_TRUE(a.send(b).ok());
    const auto outcome = a.exchange->wait("127.0.0.1", b.port, kLong);
    EXPECT_EQ(outcome.code(), NIXL_ERR_NOT_ALLOWED);
    EXPECT_THAT(outcome.message(), HasSubstr("refused it: 'it is loaded with other\\x01 keys'"));
    EXPECT_TRUE(a.wait().ok()) << "a failure is told once";
}

TEST(Exchange, AnAgentThatDoesNotConfirmCountsAsDelivered) {
    Limits limits;
    limits.confirm = 20ms;
    Double a("a", limits);
    Port older;
    ASSERT_TRUE(a.exchange->load("sendLocalMD", "127.0.0.1", older.number, shared("blob")).ok());
    auto peer = older.accept();
    EXPECT_EQ(peer.hear(8 + 13 + 4), encodeFrame(Verb::kLoad, "blob"));
    EXPECT_TRUE(a.wait().ok());
}

TEST(Exchange, AnswersOnlyThoseWhoUnderstandThem) {
    Double b("b");
    b.answers = false;
    b.listen();
    Stranger older(b.port);
    ASSERT_TRUE(older.say(encodeFrame(Verb::kLoad, "blob") + encodeFrame(Verb::kSend, "")));
    const auto expected = encodeFrame(Verb::kLoad, b.blob);
    EXPECT_EQ(older.hear(expected.size()), expected) << "nothing stands before it";
}

TEST(Exchange, WhatComesBeforeTheBackendItNeedsWaitsAndKeepsItsOrder) {
    Double a("a"), b("b");
    b.haveBackend(false);
    b.listen();
    const auto begun = std::chrono::steady_clock::now();
    for (const auto *blob : {"first", "second", "third"}) {
        ASSERT_TRUE(a.exchange->load("send", "127.0.0.1", b.port, shared(blob)).ok());
    }
    ASSERT_TRUE(a.exchange->invalidate("invalidate", "127.0.0.1", b.port).ok());
    ASSERT_TRUE(a.exchange->load("send", "127.0.0.1", b.port, shared("fourth")).ok());
    ASSERT_TRUE(eventually([&] { return b.early() > 0; }));
    b.exchange->retry(); // a backend that is no help
    ASSERT_TRUE(eventually([&] { return b.early() == 2; })) << "only the first is tried";
    EXPECT_TRUE(b.forgotten().empty());
    // Whoever waits says so, and does not count as an agent of NIXL 1.4 that took it and will not answer.
    ASSERT_TRUE(eventually([&] { return std::chrono::steady_clock::now() > begun + Limits().confirm + 100ms; }));
    EXPECT_EQ(a.exchange->wait("127.0.0.1", b.port, 0ms).code(), NIXL_IN_PROG);
    b.haveBackend(true);
    const auto outcome = a.wait();
    EXPECT_TRUE(outcome.ok()) << outcome.message();
    EXPECT_EQ(b.loaded(), (std::vector<std::string>{"first", "second", "third", "fourth"}));
    EXPECT_EQ(b.forgotten(), std::vector<std::string>{"a"});
}

TEST(Exchange, WhatWaitsForABackendIsRefusedWhenTheAgentHasSettled) {
    Limits brief;
    brief.settle = 100ms;
    Double a("a"), b("b", brief);
    b.haveBackend(false);
    b.listen();
    ASSERT_TRUE(a.send(b).ok());
    auto outcome = a.wait();
    EXPECT_EQ(outcome.code(), NIXL_ERR_BACKEND);
    EXPECT_THAT(outcome.message(), HasSubstr("refused it: 'no common backend'"));
    // From then on at once.
    const auto before = b.early();
    ASSERT_TRUE(a.send(b).ok());
    EXPECT_EQ(a.wait().code(), NIXL_ERR_BACKEND);
    EXPECT_EQ(b.early(), before + 1);
}

TEST(Exchange, AnAgentThatPromisedAnAnswerAndGivesNoneIsAFailure) {
    Limits brief;
    brief.answer = 50ms;
    Double a("a", brief);
    Port hanging;
    ASSERT_TRUE(a.exchange->load("sendLocalMD", "127.0.0.1", hanging.number, shared("blob")).ok());
    auto peer = hanging.accept();
    ASSERT_TRUE(peer.say(encodeFrame(Verb::kAnswer, wire::encodeAnswer({NIXL_IN_PROG, "it waits"}))));
    const auto outcome = a.wait();
    EXPECT_EQ(outcome.code(), NIXL_ERR_TIMEOUT);
    EXPECT_THAT(outcome.message(), HasSubstr("did not answer within 50 ms"));
}

TEST(Exchange, AFetchWaitsForAnAgentThatHasNothingToPublishYet) {
    Double a("a"), b("b");
    b.listen();
    b.publish("");
    ASSERT_TRUE(a.fetch(b).ok());
    EXPECT_EQ(a.exchange->wait("", 0, 50ms).code(), NIXL_IN_PROG);
    b.publish("metadata of b");
    b.exchange->retry();
    EXPECT_TRUE(a.wait().ok());
    EXPECT_EQ(a.loaded(), std::vector<std::string>{"metadata of b"});
}

TEST(Exchange, AFetchAsksAgainWhereThereIsNothingToPublishYet) {
    Limits settled;
    settled.settle = 0ms;
    Double a("a"), b("b", settled);
    b.listen();
    b.publish("");
    ASSERT_TRUE(a.fetch(b).ok());
    EXPECT_EQ(a.exchange->wait("", 0, 50ms).code(), NIXL_IN_PROG);
    b.publish("metadata of b");
    EXPECT_TRUE(a.wait().ok());
    EXPECT_EQ(a.loaded(), std::vector<std::string>{"metadata of b"});
}

TEST(Exchange, AFetchFromAnAgentThatNeverPublishesFails) {
    Limits limits;
    limits.answer = 50ms;
    limits.settle = 0ms;
    Double a("a", limits), b("b", limits);
    b.listen();
    b.publish("");
    ASSERT_TRUE(a.fetch(b).ok());
    const auto outcome = a.wait();
    EXPECT_EQ(outcome.code(), NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(outcome.message(), HasSubstr("has nothing to publish"));
}

TEST(Exchange, AnotherAgentThanAskedForIsLoadedAndReported) {
    Double a("a"), b("b");
    b.listen();
    ASSERT_TRUE(a.exchange->fetch("fetchRemoteMD", "127.0.0.1", b.port, "c").ok());
    const auto outcome = a.wait();
    EXPECT_EQ(outcome.code(), NIXL_ERR_MISMATCH);
    EXPECT_THAT(outcome.message(), HasSubstr("is 'b', not 'c'"));
    EXPECT_EQ(a.loaded().size(), 1u);
}

TEST(Exchange, WhereNobodyListensTheCallFailsAndTheSentenceSaysSo) {
    Limits limits;
    limits.connect = 30ms;
    Double a("a", limits);
    Port nobody(0);
    ASSERT_TRUE(a.exchange->fetch("fetchRemoteMD", "127.0.0.1", nobody.number, "x").ok());
    const auto outcome = a.wait();
    EXPECT_EQ(outcome.code(), NIXL_ERR_NOT_FOUND);
    const auto port = std::to_string(nobody.number);
    EXPECT_THAT(outcome.message(), HasSubstr("P2P backend could not connect to IP 127.0.0.1 and port " + port));
    EXPECT_THAT(outcome.message(), HasSubstr("Connection refused"));
}

TEST(Exchange, AnAgentThatListensALittleLaterIsReached) {
    Double a("a"), b("b");
    uint16_t port;
    {
        Port reserved(0);
        port = reserved.number;
    }
    ASSERT_TRUE(a.exchange->load("sendLocalMD", "127.0.0.1", port, shared("early")).ok());
    EXPECT_EQ(a.exchange->wait("", 0, 30ms).code(), NIXL_IN_PROG);
    if (const auto bound = b.exchange->listen("", port); !bound.ok()) GTEST_SKIP() << bound.message();
    EXPECT_TRUE(a.wait().ok());
    EXPECT_EQ(b.loaded(), std::vector<std::string>{"early"});
}

TEST(Exchange, AnAgentThatHangsIsGivenUp) {
    Limits limits;
    limits.answer = 30ms;
    Double a("a", limits);
    Port hanging;
    ASSERT_TRUE(a.exchange->fetch("fetchRemoteMD", "127.0.0.1", hanging.number, "x").ok());
    const auto outcome = a.wait();
    EXPECT_EQ(outcome.code(), NIXL_ERR_TIMEOUT);
    EXPECT_THAT(outcome.message(), HasSubstr("did not answer within 30 ms"));
}

TEST(Exchange, ATargetThatTakesNothingIsGivenUp) {
    Limits limits;
    limits.write = 50ms;
    Double a("a", limits);
    Port deaf;
    ASSERT_TRUE(a.exchange->load("sendLocalMD", "127.0.0.1", deaf.number, shared(std::string(32 << 20, 'x'))).ok());
    EXPECT_EQ(a.wait().code(), NIXL_ERR_TIMEOUT);
}

TEST(Exchange, AnAgentThatTalksNonsenseIsGivenUp) {
    Double a("a");
    Port odd;
    ASSERT_TRUE(a.exchange->fetch("fetchRemoteMD", "127.0.0.1", odd.number, "x").ok());
    auto peer = odd.accept();
    ASSERT_TRUE(peer.say("HTTP/1.1 400 Bad Request\r\n\r\n"));
    const auto outcome = a.wait();
    EXPECT_EQ(outcome.code(), NIXL_ERR_MISMATCH);
    EXPECT_THAT(outcome.message(), HasSubstr("not a frame of NIXL"));
}

TEST(Exchange, HostNamesAndIpv6AreUnderstood) {
    if (!kCanLookUp) GTEST_SKIP() << kNoLookUp;
    Double a("a"), b("b");
    b.listen();
    ASSERT_TRUE(a.send(b, "localhost").ok());
    EXPECT_TRUE(a.wait().ok());
    EXPECT_EQ(b.loaded().size(), 1u);
    Fd probe(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in6 loopback{};
    loopback.sin6_family = AF_INET6;
    loopback.sin6_addr = in6addr_loopback;
    if (!probe || ::bind(probe.get(), reinterpret_cast<sockaddr *>(&loopback), sizeof loopback) != 0) {
        GTEST_SKIP() << "this machine has no IPv6";
    }
    for (const char *host : {"::1", "[::1]"}) {
        ASSERT_TRUE(a.send(b, host).ok());
        EXPECT_TRUE(a.wait().ok()) << host;
    }
    EXPECT_EQ(b.loaded().size(), 3u);
}

TEST(Exchange, AHostThatDoesNotExistIsNotFound) {
    if (!kCanLookUp) GTEST_SKIP() << kNoLookUp;
    Double a("a");
    ASSERT_TRUE(a.exchange->fetch("fetchRemoteMD", "no-such-host.invalid", 1, "x").ok());
    const auto outcome = a.wait();
    EXPECT_EQ(outcome.code(), NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(outcome.message(), HasSubstr("no-such-host.invalid"));
}

TEST(Exchange, AddressesThatCannotBeAreRefusedAtOnce) {
    Double a("a");
    for (const int port : {0, -1, 65536}) {
        EXPECT_EQ(a.exchange->fetch("f", "127.0.0.1", port, "").code(), NIXL_ERR_INVALID_PARAM) << port;
    }
    const std::vector<std::string> hosts = {"", " ", "a b", "[]", std::string("a\0b", 3), "-\n", std::string(300, 'a')};
    for (const auto &host : hosts)
        EXPECT_EQ(a.exchange->fetch("f", host, 1, "").code(), NIXL_ERR_INVALID_PARAM) << host;
    EXPECT_EQ(a.exchange->wait("a b", 1, 0ms).code(), NIXL_ERR_INVALID_PARAM);
    EXPECT_TRUE(a.wait().ok()) << "nothing was started";
}

TEST(Exchange, ARestartedAgentIsReachedOverANewConnection) {
    Double a("a");
    uint16_t port = 0;
    for (int start = 0; start < 5; ++start) {
        Double b("b");
        b.listen(port);
        if (port == 0) port = b.port;
        b.port = port;
        ASSERT_TRUE(a.send(b).ok());
        const auto outcome = a.wait();
        ASSERT_TRUE(outcome.ok()) << "start " << start << ": " << outcome.message();
        EXPECT_EQ(b.loaded().size(), 1u);
    }
}

TEST(Exchange, WhatIsOnItsWayIsHandedOverBeforeTheEnd) {
    Double b("b");
    b.listen();
    const std::string large(8 << 20, 'x');
    {
        Double a("a");
        ASSERT_TRUE(a.exchange->load("sendLocalMD", "127.0.0.1", b.port, shared(large)).ok());
        ASSERT_TRUE(a.exchange->invalidate("invalidateLocalMD", "127.0.0.1", b.port).ok());
    }
    EXPECT_TRUE(eventually([&] { return b.forgotten().size() == 1; }));
    ASSERT_EQ(b.loaded().size(), 1u);
    EXPECT_EQ(b.loaded()[0], large);
}

TEST(Exchange, EndsSoonWhoeverDoesNotAnswer) {
    Port deaf, nobody(0);
    const auto start = std::chrono::steady_clock::now();
    {
        Double a("a");
        ASSERT_TRUE(a.exchange->load("l", "127.0.0.1", deaf.number, shared(std::string(32 << 20, 'x'))).ok());
        ASSERT_TRUE(a.exchange->fetch("f", "127.0.0.1", deaf.number, "x").ok());
        ASSERT_TRUE(a.exchange->fetch("f", "127.0.0.1", nobody.number, "x").ok());
        if (kCanLookUp) {
            ASSERT_TRUE(a.exchange->fetch("f", "no-such-host.invalid", 1, "x").ok());
        }
    }
    EXPECT_LT(std::chrono::steady_clock::now() - start, 30s);
}

TEST(Exchange, TakesNoMoreCallsThanItsLimit) {
    Limits limits;
    limits.calls = 3;
    Double a("a", limits);
    Port hanging;
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(a.exchange->fetch("f", "127.0.0.1", hanging.number, "x").ok());
    const auto refused = a.exchange->fetch("f", "127.0.0.1", hanging.number, "x");
    EXPECT_EQ(refused.code(), NIXL_ERR_NO_MEMORY);
    EXPECT_THAT(refused.message(), HasSubstr("3 calls"));
}

TEST(Exchange, AUsedPortIsAnErrorThatNamesIt) {
    Double a("a"), b("b");
    a.listen();
    const auto bound = b.exchange->listen("", a.port);
    EXPECT_EQ(bound.code(), NIXL_ERR_BACKEND);
    EXPECT_THAT(bound.message(), HasSubstr(std::to_string(a.port)));
    EXPECT_THAT(bound.message(), HasSubstr("choose another port"));
}

TEST(Exchange, ManyThreadsMayCallAtOnce) {
    Double a("a"), b("b");
    a.listen();
    b.listen();
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t) {
        threads.emplace_back([&, t] {
            for (int i = 0; i < 50; ++i) {
                auto &from = t % 2 ? a : b;
                auto &to = t % 2 ? b : a;
                EXPECT_TRUE(from.send(to).ok());
                EXPECT_TRUE(from.fetch(to).ok());
                if (i % 10 == 0) {
                    EXPECT_TRUE(from.exchange->wait("127.0.0.1", to.port, kLong).ok());
                }
            }
        });
    }
    for (auto &thread : threads) thread.join();
    EXPECT_TRUE(a.wait().ok());
    EXPECT_TRUE(b.wait().ok());
    EXPECT_EQ(a.loaded().size(), 400u);
    EXPECT_EQ(b.loaded().size(), 400u);
}

TEST(SocketAddress, OneNetworkIsWhatOneOwnerMayHave) {
    const auto network = [](const char *text) {
        SocketAddress address;
        auto &v6 = reinterpret_cast<sockaddr_in6 &>(address.storage);
        auto &v4 = reinterpret_cast<sockaddr_in &>(address.storage);
        const bool is_v6 = ::inet_pton(AF_INET6, text, &v6.sin6_addr) == 1;
        EXPECT_TRUE(is_v6 || ::inet_pton(AF_INET, text, &v4.sin_addr) == 1) << text;
        address.storage.ss_family = is_v6 ? AF_INET6 : AF_INET;
        return address.network();
    };
    EXPECT_EQ(network("10.0.0.1"), network("::ffff:10.0.0.1"));
    EXPECT_NE(network("10.0.0.1"), network("10.0.0.2"));
    EXPECT_EQ(network("2001:db8:1:2::3"), network("2001:db8:1:2:ffff::4"));
    EXPECT_NE(network("2001:db8:1:2::3"), network("2001:db8:1:3::3"));
}

// ---- Strangers -----------------------------------------------------------------------------------------------------

/// The listener under siege, and a genuine agent that must be served meanwhile.
class Siege : public ::testing::Test {
protected:
    void
    listen(const Limits &limits = {}) {
        target = std::make_unique<Double>("target", limits);
        target->listen();
    }

    void
    expectService() {
        const auto before = genuine.loaded().size();
        ASSERT_TRUE(genuine.fetch(*target).ok());
        const auto outcome = genuine.wait();
        ASSERT_TRUE(outcome.ok()) << outcome.message();
        EXPECT_EQ(genuine.loaded().size(), before + 1);
    }

    std::unique_ptr<Double> target;
    Double genuine{"genuine"};
};

TEST_F(Siege, NonsenseClosesItsOwnConnectionOnly) {
    listen();
    const auto length = [](uint64_t n) { return std::string(reinterpret_cast<const char *>(&n), sizeof n); };
    const std::vector<std::string> attacks = {"GET / HTTP/1.1\r\n\r\n",
                                              std::string(4096, '\0'),
                                              std::string(4096, '\xff'),
                                              length(UINT64_MAX),
                                              length(5) + "NIXLC",
                                              length(13) + "NIXLCOMM:EVIL",
                                              length(13) + "NIXLCOMM:INVL",
                                              length(1 << 30) + "NIXLCOMM:LOAD",
                                              length(100'000) + "NIXLCOMM:INVL" + std::string(100'000 - 13, 'n')};
    for (const auto &attack : attacks) {
        Stranger stranger(target->port);
        stranger.say(attack);
        EXPECT_EQ(stranger.hear(), "") << "closed without a word";
        expectService();
    }
    EXPECT_TRUE(target->loaded().empty());
    EXPECT_TRUE(target->forgotten().empty());
}

TEST_F(Siege, AMarkInsideAPayloadIsNoCommand) { // W7
    listen();
    Stranger stranger(target->port);
    const std::string blob = "blobNIXLCOMM:INVLvictim";
    ASSERT_TRUE(stranger.say(encodeFrame(Verb::kLoad, blob) + encodeFrame(Verb::kInvalidate, "xNIXLCOMM:INVLvictim")));
    ASSERT_TRUE(eventually([&] { return target->forgotten().size() == 1; }));
    EXPECT_EQ(target->loaded(), std::vector{blob});
    EXPECT_EQ(target->forgotten(), std::vector<std::string>{"xNIXLCOMM:INVLvictim"});
}

TEST_F(Siege, SlowOnesDelayNobody) { // W8
    listen();
    std::vector<std::unique_ptr<Stranger>> slow;
    for (int i = 0; i < 100; ++i) {
        slow.push_back(std::make_unique<Stranger>(target->port));
        ASSERT_TRUE(slow.back()->say("\x0d"));
    }
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < 10; ++i) expectService();
    EXPECT_LT(std::chrono::steady_clock::now() - start, 4s) << "less than the time one of them has";
}

TEST_F(Siege, OneThatNeverReadsIsClosedAndDelaysNobody) { // W9
    Limits limits;
    limits.write = 100ms;
    listen(limits);
    target->publish("metadata of target" + std::string(16 << 20, 'x'));
    Stranger deaf(target->port);
    std::string questions;
    for (int i = 0; i < 1000; ++i) questions += encodeFrame(Verb::kSend, "");
    ASSERT_TRUE(deaf.say(questions));
    // What waits for it is one answer, not a thousand: 16 GiB would not fit.
    EXPECT_TRUE(eventually([&] { return !deaf.say("x"); })) << "closed in the end";
    target->publish("metadata of target");
    expectService();
}

TEST_F(Siege, AListenerEndsWhileOneNeverReads) { // W9
    listen();
    target->publish(std::string(16 << 20, 'x'));
    Stranger deaf(target->port);
    ASSERT_TRUE(deaf.say(encodeFrame(Verb::kSend, "")));
    deaf.hear(8);
    const auto start = std::chrono::steady_clock::now();
    target.reset();
    EXPECT_LT(std::chrono::steady_clock::now() - start, 30s);
}

TEST_F(Siege, ConnectAndCloseLeavesNothing) { // W10
    listen();
    expectService();
    const auto before = openDescriptors();
    for (int i = 0; i < 1000; ++i) Stranger stranger(target->port);
    expectService();
    EXPECT_TRUE(eventually([&] { return openDescriptors() <= before; })) << openDescriptors() << " against " << before;
}

TEST_F(Siege, ADeclaredLengthCostsNothing) { // W11
    listen();
    expectService();
    const auto before = residentBytes();
    const uint64_t declared = 13 + (64 << 20);
    std::vector<std::unique_ptr<Stranger>> strangers;
    for (int i = 0; i < 200; ++i) {
        strangers.push_back(std::make_unique<Stranger>(target->port));
        ASSERT_TRUE(strangers.back()->say({reinterpret_cast<const char *>(&declared), sizeof declared}));
        ASSERT_TRUE(strangers.back()->say("NIXLCOMM:LOADx"));
    }
    expectService();
    EXPECT_LT(residentBytes(), before + (64 << 20));
}

TEST_F(Siege, UnfinishedMessagesTogetherHoldNoMoreThanTheBudget) {
    Limits limits;
    limits.buffered_bytes = 8 << 20;
    listen(limits);
    const uint64_t declared = 13 + (32 << 20);
    std::vector<std::unique_ptr<Stranger>> strangers;
    std::vector<std::thread> talking;
    for (int i = 0; i < 8; ++i) {
        strangers.push_back(std::make_unique<Stranger>(target->port));
        talking.emplace_back([&, stranger = strangers.back().get()] {
            stranger->say({reinterpret_cast<const char *>(&declared), sizeof declared});
            stranger->say("NIXLCOMM:LOAD" + std::string(7 << 20, 'x'));
        });
    }
    for (auto &thread : talking) thread.join();
    EXPECT_TRUE(eventually([&] {
        return std::count_if(strangers.begin(), strangers.end(), [](auto &s) { return s->closedByOther(); }) >= 6;
    })) << "at most one of them fits";
    expectService();
}

TEST_F(Siege, TooManyConnectionsPushOutTheStrangersNotThePeers) {
    Limits limits;
    limits.unproven_guests = 16;
    limits.first = kLong;
    listen(limits);
    expectService(); // its connection stays
    std::vector<std::unique_ptr<Stranger>> strangers;
    for (int i = 0; i < 64; ++i) strangers.push_back(std::make_unique<Stranger>(target->port));
    EXPECT_TRUE(eventually([&] {
        return std::count_if(strangers.begin(), strangers.end(), [](auto &s) { return s->closedByOther(); }) >= 48;
    }));
    EXPECT_FALSE(strangers.back()->closedByOther()) << "the oldest go";
    const auto descriptors = openDescriptors();
    expectService();
    EXPECT_EQ(openDescriptors(), descriptors) << "over the connection it had";
}

TEST_F(Siege, ANewcomerIsServedWhileAllPlacesOfPeersAreTakenByQuietOnes) {
    listen();
    std::vector<std::unique_ptr<Stranger>> quiet;
    for (size_t i = 0; i < Limits().proven_guests; ++i) {
        quiet.push_back(std::make_unique<Stranger>(target->port));
        ASSERT_TRUE(quiet.back()->say(encodeFrame(Verb::kInvalidate, "x")));
    }
    ASSERT_TRUE(eventually([&] { return target->forgotten().size() == quiet.size(); }));
    Stranger newcomer(target->port), next(target->port);
    EXPECT_EQ(next.closedByOther(), false);
    ASSERT_TRUE(newcomer.say(encodeFrame(Verb::kSend, "")));
    const auto answer = encodeFrame(Verb::kLoad, target->blob);
    EXPECT_EQ(newcomer.hear(answer.size()), answer);
    EXPECT_TRUE(eventually([&] { return quiet[0]->closedByOther(); })) << "he takes the place of the quietest";
    EXPECT_FALSE(quiet[1]->closedByOther());
    ASSERT_TRUE(next.say(encodeFrame(Verb::kSend, "")));
    EXPECT_EQ(next.hear(answer.size()), answer);
    expectService();
}

TEST_F(Siege, AFloodPushesOutItsOwnNetworkOnly) {
    Limits limits;
    limits.unproven_guests = limits.proven_guests = 16;
    limits.first = kLong;
    listen(limits);
    Stranger peer(target->port, 2), newcomer(target->port, 3);
    ASSERT_TRUE(peer.say(encodeFrame(Verb::kInvalidate, "x")));
    std::vector<std::unique_ptr<Stranger>> flood;
    for (int i = 0; i < 64; ++i) {
        flood.push_back(std::make_unique<Stranger>(target->port));
        flood.push_back(std::make_unique<Stranger>(target->port));
        flood.back()->say(encodeFrame(Verb::kInvalidate, "y"));
    }
    EXPECT_TRUE(eventually([&] {
        return std::count_if(flood.begin(), flood.end(), [](auto &s) { return s->closedByOther(); }) >= 128 - 30;
    }));
    EXPECT_FALSE(peer.closedByOther());
    EXPECT_FALSE(newcomer.closedByOther());
    const auto answer = encodeFrame(Verb::kLoad, target->blob);
    for (auto *honest : {&peer, &newcomer}) {
        ASSERT_TRUE(honest->say(encodeFrame(Verb::kSend, "")));
        EXPECT_EQ(honest->hear(answer.size()), answer);
    }
}

TEST_F(Siege, WhoHasSpokenIsHeardBeforeAFloodPushesHimOut) {
    Limits limits;
    limits.unproven_guests = 64;
    listen(limits);
    Stranger first(target->port);
    std::unique_lock busy(target->mutex);
    ASSERT_TRUE(first.say(encodeFrame(Verb::kLoad, "blob"))); // the target is at it until the lock is free
    Stranger honest(target->port);
    ASSERT_TRUE(honest.say(encodeFrame(Verb::kSend, "")));
    std::vector<std::unique_ptr<Stranger>> flood;
    for (int i = 0; i < 300; ++i) flood.push_back(std::make_unique<Stranger>(target->port));
    busy.unlock();
    const auto answer = encodeFrame(Verb::kLoad, target->blob);
    EXPECT_EQ(honest.hear(answer.size()), answer);
}

TEST_F(Siege, AnAnswerIsOneHoweverManyTakeIt) {
    listen();
    target->publish("metadata of target" + std::string(16 << 20, 'x'));
    Stranger maker(target->port); // for him it is made
    ASSERT_TRUE(maker.say(encodeFrame(Verb::kSend, "")));
    EXPECT_EQ(maker.hear(8).size(), 8u);
    const auto before = residentBytes();
    std::vector<std::unique_ptr<Stranger>> strangers;
    for (int i = 0; i < 60; ++i) {
        strangers.push_back(std::make_unique<Stranger>(target->port));
        ASSERT_TRUE(strangers.back()->say(encodeFrame(Verb::kSend, "")));
        EXPECT_EQ(strangers.back()->hear(8).size(), 8u) << "it is being answered";
    }
    EXPECT_LT(residentBytes(), before + (64 << 20));
    for (auto &stranger : strangers) EXPECT_FALSE(stranger->closedByOther()) << "they cost nothing";
    EXPECT_EQ(strangers.back()->hear(13 + target->blob.size()).substr(13), target->blob);
}

TEST_F(Siege, OldVersionsOfTheMetadataHoldNoMoreThanTheBudget) {
    Limits limits;
    limits.buffered_bytes = 40 << 20; // two versions, and not three
    listen(limits);
    expectService();
    const auto version = [](int i) { return std::string(16 << 20, static_cast<char>('a' + i)); };
    const auto descriptors = openDescriptors();
    std::vector<std::unique_ptr<Stranger>> strangers;
    for (int i = 0; i < 8; ++i) {
        target->publish(version(i));
        strangers.push_back(std::make_unique<Stranger>(target->port));
        ASSERT_TRUE(strangers.back()->say(encodeFrame(Verb::kSend, "")));
        ASSERT_EQ(strangers.back()->hear(8).size(), 8u);
    }
    // Their own ends stay open. Not counted in bytes: the address sanitizer keeps what is freed.
    EXPECT_TRUE(eventually([&] { return openDescriptors() <= descriptors + strangers.size() + 2; }));
    EXPECT_EQ(strangers.back()->hear(13 + (16 << 20)).substr(13), version(7)) << "who takes what is current stays";
}

TEST_F(Siege, WhoSendsMuchIsPushedOutByNobodyWhoSendsMore) {
    Limits limits;
    limits.buffered_bytes = 16 << 20;
    limits.frame = kLong;
    listen(limits);
    const auto blob = std::string(4 << 20, 'x');
    const auto frame = encodeFrame(Verb::kLoad, blob);
    Stranger honest(target->port, 2);
    ASSERT_TRUE(honest.say(frame.substr(0, frame.size() - 1)));
    std::vector<std::unique_ptr<Stranger>> flood;
    for (int i = 0; i < 40; ++i) {
        flood.push_back(std::make_unique<Stranger>(target->port));
        flood.back()->say(frame.substr(0, 1 << 20));
    }
    EXPECT_TRUE(eventually(
        [&] { return std::count_if(flood.begin(), flood.end(), [](auto &s) { return s->closedByOther(); }) >= 20; }));
    ASSERT_TRUE(honest.say(frame.substr(frame.size() - 1)));
    EXPECT_TRUE(eventually([&] { return target->loaded() == std::vector{blob}; }));
}

TEST_F(Siege, WhatWaitsForABackendIsInTheBudget) {
    Limits limits;
    const auto frame = encodeFrame(Verb::kLoad, std::string(2 << 20, 'x'));
    limits.buffered_bytes = 2 * frame.size() - 1; // a buffer that grows takes less than that, and two take more
    limits.settle = kLong;
    listen(limits);
    target->answers = false;
    target->haveBackend(false);
    Stranger first(target->port), second(target->port);
    ASSERT_TRUE(first.say(frame));
    ASSERT_TRUE(eventually([&] { return target->early() == 1; }));
    EXPECT_FALSE(first.closedByOther());
    second.say(frame);
    EXPECT_TRUE(eventually([&] { return first.closedByOther() || second.closedByOther(); }));
    target->haveBackend(true);
    expectService();
}

TEST_F(Siege, OneThatSaysNothingAndOneThatStopsInTheMiddleAreClosed) {
    Limits limits;
    limits.first = limits.frame = 50ms;
    listen(limits);
    Stranger silent(target->port), stopped(target->port);
    ASSERT_TRUE(stopped.say(encodeFrame(Verb::kLoad, "blob").substr(0, 20)));
    EXPECT_EQ(silent.hear(), "");
    EXPECT_EQ(stopped.hear(), "");
    EXPECT_TRUE(target->loaded().empty());
    expectService();
}

TEST_F(Siege, APeerMayBeQuietForLong) {
    Limits limits;
    limits.first = limits.frame = 50ms;
    listen(limits);
    Stranger peer(target->port), silent(target->port);
    ASSERT_TRUE(peer.say(encodeFrame(Verb::kLoad, "one")));
    silent.hear(); // until its time is over, which is the peer's time twice
    Stranger(target->port).hear();
    ASSERT_TRUE(peer.say(encodeFrame(Verb::kLoad, "two")));
    EXPECT_TRUE(eventually([&] { return target->loaded().size() == 2; }));
}

TEST_F(Siege, WhatWaitsForABackendHoldsNoMoreThanItsLimitAndGoesWithItsSender) {
    Limits limits;
    limits.held_bytes = 1 << 20;
    limits.settle = kLong;
    listen(limits);
    target->answers = false;
    target->haveBackend(false);
    const auto blob = std::string(600 << 10, 'x');
    auto first = std::make_unique<Stranger>(target->port);
    Stranger second(target->port);
    ASSERT_TRUE(first->say(encodeFrame(Verb::kLoad, blob)));
    ASSERT_TRUE(eventually([&] { return target->early() == 1; }));
    const std::string answer = encodeFrame(Verb::kLoad, target->blob);
    ASSERT_TRUE(second.say(encodeFrame(Verb::kLoad, blob) + encodeFrame(Verb::kSend, "")));
    EXPECT_EQ(second.hear(answer.size()), answer) << "refused at once, and its connection goes on";
    expectService();
    first->reset();
    ASSERT_TRUE(second.say(encodeFrame(Verb::kSend, "")));
    EXPECT_EQ(second.hear(answer.size()), answer);
    target->haveBackend(true);
    expectService();
    EXPECT_TRUE(target->loaded().empty());
}

TEST_F(Siege, SurvivesRunningOutOfDescriptors) { // P30
    listen();
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
    std::vector<std::unique_ptr<Stranger>> strangers;
    for (int i = 0; i < 32; ++i) strangers.push_back(std::make_unique<Stranger>(target->port));
    expectService();         // all of them are taken in by now
    std::vector<Fd> waiting; // to connect with when there are no descriptors
    for (int i = 0; i < 4; ++i) waiting.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const Fd lowest_free(::dup(0));
    const rlimit full{static_cast<rlim_t>(lowest_free.get()), before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &full), 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(target->port);
    for (auto &socket : waiting) {
        EXPECT_EQ(::connect(socket.get(), reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
    }
    std::vector<Stranger> late;
    for (auto &socket : waiting) late.emplace_back(std::move(socket));
    const auto question = encodeFrame(Verb::kSend, ""), answer = encodeFrame(Verb::kLoad, target->blob);
    for (auto &stranger : late) {
        EXPECT_TRUE(stranger.say(question));
        EXPECT_EQ(stranger.hear(answer.size()), answer) << "an older stranger made room";
    }
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    expectService();
}

TEST_F(Siege, StrangersCannotFillTheLog) {
    listen();
    ::testing::internal::CaptureStderr();
    for (int i = 0; i < 300; ++i) {
        Stranger stranger(target->port);
        stranger.say("nonsense");
        stranger.hear();
    }
    const std::string log = ::testing::internal::GetCapturedStderr();
    const auto lines = std::count(log.begin(), log.end(), '\n');
    EXPECT_GT(lines, 0);
    EXPECT_LT(lines, 60);
    EXPECT_THAT(log, HasSubstr("MD listener: agent 'target': connection from 127.0.0.1:"));
}

TEST_F(Siege, ThousandsOfHostileConnectionsCostNoMemory) {
    listen();
    const auto attack = [&](int i) {
        Stranger stranger(target->port);
        std::string bytes = encodeFrame(Verb::kLoad, std::string(1000, 'x'));
        bytes.resize(static_cast<size_t>(i) % bytes.size());
        if (i % 3 == 0) bytes += "garbage";
        stranger.say(bytes);
    };
    for (int i = 0; i < 500; ++i) attack(i);
    expectService();
    const auto before = residentBytes();
    for (int i = 0; i < 3000; ++i) attack(i);
    expectService();
#ifndef __SANITIZE_ADDRESS__ // it keeps what is freed
    EXPECT_LT(residentBytes(), before + (16 << 20));
#else
    static_cast<void>(before);
#endif
}

// ---- Behind a proof ------------------------------------------------------------------------------------------------

constexpr char kKnock = 0x5a; ///< every byte is changed by it, so that none passes as it is

std::string
knocked(std::string_view bytes) {
    std::string changed(bytes);
    for (char &byte : changed) byte = static_cast<char>(byte ^ kKnock);
    return changed;
}

/// Who connects says a password, who accepts answers with it: the shape of a proof, without its worth.
class Knock final : public nixlx::SecureSession {
public:
    Knock(bool accepts, std::string password) : accepts_(accepts), password_(std::move(password)) {}

    nixl_status_t
    begin(std::string &out) override {
        if (!accepts_) out += password_;
        return NIXL_SUCCESS;
    }

    nixl_status_t
    receive(std::string_view bytes, std::string &plain, std::string &out) override {
        while (!proven_ && !bytes.empty()) {
            heard_ += bytes.front();
            bytes.remove_prefix(1);
            if (!password_.starts_with(heard_)) return nixlx::fail(NIXL_ERR_NOT_ALLOWED, "a wrong password");
            if (heard_ != password_) continue;
            proven_ = true;
            if (accepts_) out += password_;
        }
        plain += knocked(bytes);
        return NIXL_SUCCESS;
    }

    bool
    proven() const noexcept override {
        return proven_;
    }

    nixl_status_t
    send(std::string_view plain, std::string &out) override {
        out += knocked(plain);
        return NIXL_SUCCESS;
    }

private:
    const bool accepts_;
    const std::string password_;
    std::string heard_;
    bool proven_ = false;
};

std::function<Result<Session>(bool accepts)>
knocking(const std::string &password) {
    return [password](bool accepts) -> Result<Session> { return Session(std::make_unique<Knock>(accepts, password)); };
}

/// Calls both ways whose blobs are larger than what sockets hold.
void
expectLargeCalls(Double &a, Double &b) {
    b.listen();
    b.publish("metadata of b" + std::string(20 << 20, 'b'));
    a.publish("metadata of a" + std::string(20 << 20, 'a'));
    for (int i = 0; i < 3; ++i) {
        ASSERT_TRUE(a.send(b).ok());
        ASSERT_TRUE(a.exchange->fetch("fetchRemoteMD", "127.0.0.1", b.port, "").ok());
    }
    ASSERT_TRUE(a.exchange->invalidate("invalidateLocalMD", "127.0.0.1", b.port).ok());
    const auto outcome = a.wait();
    EXPECT_TRUE(outcome.ok()) << outcome.message();
    EXPECT_TRUE(b.loaded() == std::vector<std::string>(3, a.blob));
    EXPECT_TRUE(a.loaded() == std::vector<std::string>(3, b.blob));
    EXPECT_TRUE(eventually([&] { return b.forgotten() == std::vector<std::string>{"a"}; }));
    EXPECT_EQ(b.last_start, wire::Incarnation{7});
}

TEST(Exchange, WhatIsSentAndWhatIsFetchedDoNotWaitForEachOther) {
    Double a("a"), b("b");
    expectLargeCalls(a, b);
}

TEST(Proof, AgentsThatProveThemselvesDoAllThatOthersDo) {
    Double a("a", {}, knocking("open sesame")), b("b", {}, knocking("open sesame"));
    expectLargeCalls(a, b);
}

TEST(Proof, OneWayIsNotEnough) {
    Double a("a", {}, knocking("open sesame")), stranger("stranger", {}, knocking("barley")), plain("plain");
    a.listen();
    plain.listen();
    ASSERT_TRUE(stranger.fetch(a).ok());
    EXPECT_EQ(stranger.wait().code(), NIXL_ERR_REMOTE_DISCONNECT);
    ASSERT_TRUE(plain.send(a).ok());
    EXPECT_EQ(plain.wait().code(), NIXL_ERR_REMOTE_DISCONNECT);
    ASSERT_TRUE(a.send(plain).ok());
    const auto outcome = a.wait();
    EXPECT_EQ(outcome.code(), NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_THAT(outcome.message(), HasSubstr("before it had proven itself; give both agents the same key"));
    for (auto *agent : {&a, &stranger, &plain}) EXPECT_TRUE(agent->loaded().empty());
    EXPECT_TRUE(a.forgotten().empty());
}

TEST(Proof, NothingIsSaidToWhoHasNotProvenHimself) {
    Port port;
    Double a("a", {}, knocking("open sesame"));
    ASSERT_TRUE(a.exchange->load("sendLocalMD", "127.0.0.1", port.number, shared(a.blob)).ok());
    Stranger taker = port.accept();
    EXPECT_EQ(taker.hear(11), "open sesame");
    taker.say("open sesam");
    EXPECT_FALSE(taker.closedByOther());
    taker.say("i");
    EXPECT_EQ(taker.hear(), "") << "closed without a word";
    EXPECT_EQ(a.wait().code(), NIXL_ERR_NOT_ALLOWED);
}

TEST(Proof, HasATimeAndANumberOfBytesOnBothSides) {
    Limits limits;
    limits.prove = 100ms;
    limits.first = limits.frame = limits.answer = limits.confirm = 60s;
    Double a("a", limits, knocking(std::string(100'000, 's'))), b("b", limits, knocking("open sesame"));
    a.listen();
    b.listen();
    Stranger silent(b.port);
    EXPECT_EQ(silent.hear(), "");
    Stranger slow(b.port);
    slow.say("open sesam");
    EXPECT_EQ(slow.hear(), "");
    Stranger talkative(a.port);
    talkative.say(std::string(limits.unproven_bytes, 's'));
    EXPECT_EQ(talkative.hear(), "");
    Port port;
    ASSERT_TRUE(b.exchange->load("sendLocalMD", "127.0.0.1", port.number, shared(b.blob)).ok());
    const Stranger taker = port.accept();
    const auto outcome = b.wait();
    EXPECT_EQ(outcome.code(), NIXL_ERR_TIMEOUT);
    EXPECT_THAT(outcome.message(), HasSubstr("it did not prove itself within 100 ms"));
}

TEST(Proof, AFloodOfStrangersPushesOutStrangersOnly) {
    Limits limits;
    limits.unproven_guests = 8;
    limits.prove = 60s;
    Double a("a", limits, knocking("open sesame")), b("b", limits, knocking("open sesame"));
    a.listen();
    ASSERT_TRUE(b.send(a).ok());
    ASSERT_TRUE(b.wait().ok());
    std::vector<std::unique_ptr<Stranger>> flood;
    for (int i = 0; i < 100; ++i) {
        flood.push_back(std::make_unique<Stranger>(a.port));
        flood.back()->say("open");
    }
    EXPECT_TRUE(eventually([&] {
        return std::count_if(flood.begin(), flood.end(), [](const auto &one) { return one->closedByOther(); }) == 92;
    }));
    EXPECT_FALSE(flood.back()->closedByOther()) << "the oldest go";
    ASSERT_TRUE(b.send(a).ok());
    EXPECT_TRUE(b.wait().ok());
    Double c("c", limits, knocking("open sesame"));
    ASSERT_TRUE(c.send(a).ok());
    EXPECT_TRUE(c.wait().ok());
}

TEST(Proof, WithoutASessionThereIsNoConnection) {
    const auto none = [](bool) -> Result<Session> { return Status(NIXL_ERR_NO_MEMORY, "no memory for a session"); };
    Double a("a", {}, none), b("b");
    a.listen();
    b.listen();
    ASSERT_TRUE(a.send(b).ok());
    EXPECT_EQ(a.wait().code(), NIXL_ERR_NO_MEMORY);
    EXPECT_TRUE(b.loaded().empty());
    Stranger stranger(a.port);
    EXPECT_EQ(stranger.hear(), "");
}

TEST(Exchange, ListensOnTheAddressThatItIsTold) {
    Double a("a");
    const auto bound = a.exchange->listen("127.0.0.2", 0);
    ASSERT_TRUE(bound.ok()) << bound.message();
    Double b("b");
    ASSERT_TRUE(b.exchange->fetch("fetchRemoteMD", "127.0.0.2", *bound, "a").ok());
    EXPECT_TRUE(b.wait().ok());
    const Stranger elsewhere(*bound); // 127.0.0.1
    EXPECT_FALSE(elsewhere.connected);
    const auto wrong = Double("c").exchange->listen("somewhere", 0);
    EXPECT_EQ(wrong.code(), NIXL_ERR_INVALID_PARAM);
    EXPECT_THAT(wrong.message(), HasSubstr("'somewhere' is no numeric address"));
}

} // namespace
} // namespace nx::metadata
