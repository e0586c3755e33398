// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: agents that were given one address find each other, whoever hosts, and whatever happens to who does. Method:
// agents of this process on ports of 127.0.0.1, and others that are stopped and killed; what all stores have in common
// is in tests/directories.
#include "rendezvous/directory.h"

#include <arpa/inet.h>
#include <csignal>
#include <cstdlib>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/last_error.h"
#include "support/eventually.h"

namespace nx::rendezvous {
namespace {

using namespace std::chrono_literals;
using test::eventually;
using test::kPatience;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr auto kLease = 2000ms;

/// Of 127.0.0.1, free a moment ago.
std::string
freeAddress() {
    return placeFor("127.0.0.1:0")->address;
}

Directory::Deadline
soon() {
    return std::chrono::steady_clock::now() + kPatience;
}

class Agent {
public:
    /// `listen`: where; empty: nowhere.
    Agent(const std::string &name, const std::string &given, const std::string &listen = "") : name_(name) {
        nixlx::DirectoryParams params;
        params.agent = name;
        static uint8_t starts = 0;
        params.incarnation = {static_cast<uint8_t>(::getpid()), static_cast<uint8_t>(::getpid() >> 8), ++starts};
        params.address = given;
        params.lease = kLease;
        ::setenv("NIXL_RENDEZVOUS_LISTEN", listen.c_str(), 1);
        auto directory = Directory::open(params);
        ::unsetenv("NIXL_RENDEZVOUS_LISTEN");
        if (!directory.ok()) throw std::runtime_error(directory.message());
        directory_ = *std::move(directory);
    }

    /// Publishes its name, until it succeeds.
    bool
    publish() {
        return eventually([&] { return directory_->publish("metadata", name_, soon()) == NIXL_SUCCESS; });
    }

    bool
    finds(const Agent &other) {
        return eventually([&] { return fetch(other.name_) == other.name_; });
    }

    /// The sentence if it fails.
    std::string
    fetch(const std::string &agent) {
        std::string blob;
        clearBackendSentence();
        status = directory_->fetch(agent, "metadata", blob, soon());
        return status == NIXL_SUCCESS ? blob : takeBackendSentence("");
    }

    std::vector<std::string>
    ended() {
        std::vector<nixlx::DirectoryEnd> ends;
        EXPECT_EQ(directory_->takeEnded(ends), NIXL_SUCCESS);
        std::vector<std::string> names;
        for (const auto &end : ends) names.push_back(end.agent);
        return names;
    }

    void
    end() {
        directory_.reset();
    }

    nixl_status_t status = NIXL_SUCCESS;

private:
    std::string name_;
    std::unique_ptr<Directory> directory_;
};

/// An agent in a process of its own that has published, to be stopped and killed. Made before this process has threads.
class AgentProcess {
public:
    AgentProcess(const std::string &name, const std::string &given, const std::string &listen = "") {
        int ready[2];
        if (::pipe(ready) != 0) throw std::runtime_error("pipe");
        pid_ = ::fork();
        if (pid_ == 0) {
            ::close(ready[0]);
            Agent agent(name, given, listen);
            if (!agent.publish() || ::write(ready[1], "y", 1) != 1) ::_exit(1);
            for (;;) ::pause();
        }
        ::close(ready[1]);
        ready_ = Fd(ready[0]);
    }

    ~AgentProcess() {
        kill();
    }

    bool
    isReady() {
        char byte = 0;
        return ::read(ready_.get(), &byte, 1) == 1;
    }

    void
    signal(int number) const {
        ::kill(pid_, number);
    }

    void
    kill() {
        if (pid_ <= 0) return;
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
        pid_ = -1;
    }

private:
    pid_t pid_;
    Fd ready_;
};

Fd
connectTo(const std::string &address) {
    const auto endpoint = endpointIn(address);
    Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(endpoint->port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(socket.get(), reinterpret_cast<sockaddr *>(&to), sizeof to) != 0) socket.reset();
    return socket;
}

/// Who is at the address, as strangers may ask; nothing if nobody answers.
std::optional<Message>
whoIs(const std::string &address) {
    const auto socket = connectTo(address);
    if (!socket) return {};
    Message hello;
    hello.type = Type::kHello;
    hello.name = "stranger";
    const auto bytes = encode(hello).head;
    if (::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0) return {};
    Reader reader;
    for (char part[1024];;) {
        pollfd readable{socket.get(), POLLIN, 0};
        if (::poll(&readable, 1, 1000) != 1) return {};
        const auto got = ::recv(socket.get(), part, sizeof part, 0);
        if (got <= 0) return {};
        reader.add({part, static_cast<size_t>(got)});
        const auto message = reader.next();
        if (!message.ok()) return {};
        if (*message) return **message;
    }
}

bool
becomes(const std::string &address, Role role) {
    return eventually([&] {
        const auto who = whoIs(address);
        return who && who->role == role;
    });
}

TEST(Rendezvous, TheLowestNameTakesOverFromAHostThatEnds) {
    const auto at = freeAddress(), at_b = freeAddress(), at_c = freeAddress();
    Agent host("h", at, at), c("c", at, at_c), b("b", at, at_b), guest("a guest", at);
    for (auto *agent : {&host, &c, &b, &guest}) ASSERT_TRUE(agent->publish());
    EXPECT_TRUE(becomes(at, Role::kHost));
    ASSERT_TRUE(guest.finds(b) && guest.finds(c) && b.finds(c) && c.finds(host));
    host.end();
    EXPECT_TRUE(becomes(at_b, Role::kHost));
    EXPECT_TRUE(eventually([&] {
        const auto ended = c.ended();
        return ended == std::vector<std::string>{"h"};
    }));
    EXPECT_TRUE(guest.finds(b) && guest.finds(c) && b.finds(guest));
    EXPECT_TRUE(becomes(at_c, Role::kDeputy));
    EXPECT_THAT(guest.ended(), IsEmpty()) << "they live";
    Agent later("later", at_b);
    ASSERT_TRUE(later.publish());
    EXPECT_TRUE(guest.finds(later)) << "who is given another address meets the same";
    b.end();
    EXPECT_TRUE(becomes(at_c, Role::kHost)) << "and so on";
    EXPECT_TRUE(later.finds(guest));
}

TEST(Rendezvous, AHostThatComesBackIsOneWithTheOther) {
    const auto at = freeAddress(), at_b = freeAddress();
    Agent b("b", at, at_b), guest("guest", at);
    {
        Agent host("h", at, at);
        for (auto *agent : {&host, &b, &guest}) ASSERT_TRUE(agent->publish());
    }
    ASSERT_TRUE(becomes(at_b, Role::kHost));
    Agent back("h", at, at);
    ASSERT_TRUE(back.publish());
    EXPECT_TRUE(back.finds(guest) && guest.finds(back)) << "though it knew nobody";
    EXPECT_TRUE(becomes(at, Role::kDeputy) && becomes(at_b, Role::kHost)) << "the lower name stays";
    Agent later("later", at);
    ASSERT_TRUE(later.publish());
    EXPECT_TRUE(guest.finds(later)) << "the address that all were given is good again";
}

/// Names: whether the one that stood still is lower than the one that took over, or not.
class StandsStill : public testing::TestWithParam<const char *> {};

TEST_P(StandsStill, AHostIsReplacedAndTakenBack) {
    const auto at = freeAddress(), at_b = freeAddress();
    AgentProcess host(GetParam(), at, at);
    ASSERT_TRUE(host.isReady());
    Agent b("b", at, at_b), guest("guest", at);
    ASSERT_TRUE(b.publish() && guest.publish());
    ASSERT_TRUE(guest.finds(b));
    host.signal(SIGSTOP);
    EXPECT_TRUE(becomes(at_b, Role::kHost));
    EXPECT_TRUE(guest.finds(b) && b.finds(guest));
    host.signal(SIGCONT);
    const bool lower = std::string(GetParam()) < "b";
    EXPECT_TRUE(becomes(lower ? at_b : at, Role::kDeputy));
    EXPECT_TRUE(becomes(lower ? at : at_b, Role::kHost));
    EXPECT_TRUE(eventually([&] { return guest.fetch(GetParam()) == GetParam(); })) << "it has published again";
    EXPECT_TRUE(guest.finds(b) && b.finds(guest));
    EXPECT_THAT(guest.ended(), IsEmpty()) << "b was there all the time";
}

INSTANTIATE_TEST_SUITE_P(Rendezvous, StandsStill, testing::Values("a", "c"), [](const auto &info) {
    return std::string(info.param) == "a" ? "Lower" : "Higher";
});

TEST(Rendezvous, AMemberThatStandsStillIsGoneAfterItsLeaseAndComesBack) {
    const auto at = freeAddress();
    AgentProcess process("p", at);
    Agent host("h", at, at);
    ASSERT_TRUE(host.publish());
    ASSERT_TRUE(process.isReady());
    ASSERT_EQ(host.fetch("p"), "p");
    process.signal(SIGSTOP);
    EXPECT_TRUE(eventually([&] { return host.ended() == std::vector<std::string>{"p"}; }));
    EXPECT_THAT(host.fetch("p"), HasSubstr("agent 'p' has published nothing"));
    process.signal(SIGCONT);
    EXPECT_TRUE(eventually([&] { return host.fetch("p") == "p"; }));
    process.kill();
    EXPECT_TRUE(eventually([&] { return host.ended() == std::vector<std::string>{"p"}; }));
}

/// Only "y" knows of "x".
TEST(Rendezvous, TwoHostsThatLearnOfEachOtherBecomeOne) {
    for (const char *knowing : {"y", "a"}) {
        const auto at_x = freeAddress(), at_y = freeAddress();
        Agent y(knowing, at_y + "," + at_x, at_y), guest_y("guest of y", at_y);
        ASSERT_TRUE(y.publish() && guest_y.publish());
        ASSERT_TRUE(becomes(at_y, Role::kHost));
        Agent x("x", at_x, at_x), guest_x("guest of x", at_x);
        ASSERT_TRUE(x.publish() && guest_x.publish());
        const bool x_stays = std::string("x") < knowing;
        EXPECT_TRUE(becomes(x_stays ? at_y : at_x, Role::kDeputy)) << knowing;
        EXPECT_TRUE(becomes(x_stays ? at_x : at_y, Role::kHost)) << knowing;
        EXPECT_TRUE(guest_x.finds(guest_y) && guest_y.finds(guest_x) && x.finds(y) && y.finds(x)) << knowing;
    }
}

TEST(Rendezvous, WhereNobodyIsTheSentenceSaysSo) {
    const auto at = freeAddress();
    Agent agent("a", at);
    EXPECT_THAT(agent.fetch("b"), HasSubstr("no rendezvous was found (" + at + ": connect: Connection refused"));
    EXPECT_EQ(agent.status, NIXL_ERR_BACKEND);
    Agent host("h", at, at);
    ASSERT_TRUE(host.publish());
    EXPECT_TRUE(agent.finds(host)) << "it came later";
}

TEST(Rendezvous, WhereADeputyIsTheSentenceSaysSo) {
    const auto at = freeAddress(), elsewhere = freeAddress();
    Agent deputy("d", elsewhere, at), agent("a", at);
    EXPECT_THAT(deputy.fetch("b"), HasSubstr("Connection refused"));
    EXPECT_THAT(agent.fetch("b"), HasSubstr(at + ": agent 'd' is there, and hosts none"));
}

TEST(Rendezvous, WhereSomethingElseIsTheSentenceSaysSo) {
    const auto place = placeFor("127.0.0.1:0");
    Agent agent("a", place->address);
    EXPECT_THAT(agent.fetch("b"), HasSubstr(place->address + ": it does not answer"));
    EXPECT_EQ(agent.status, NIXL_ERR_TIMEOUT);
    std::atomic<bool> stop = false;
    std::thread server([&] {
        while (!stop) {
            pollfd readable{place->socket.get(), POLLIN, 0};
            if (::poll(&readable, 1, 10) != 1) continue;
            const Fd guest(::accept4(place->socket.get(), nullptr, nullptr, SOCK_CLOEXEC));
            (void)!::send(guest.get(), "SSH-2.0-server\r\n", 16, MSG_NOSIGNAL);
            char byte;
            (void)!::recv(guest.get(), &byte, 1, 0);
        }
    });
    EXPECT_TRUE(
        eventually([&] { return agent.fetch("b").find("what it says is not a rendezvous's") != std::string::npos; }));
    EXPECT_EQ(agent.status, NIXL_ERR_MISMATCH);
    stop = true;
    server.join();
}

TEST(Rendezvous, StrangersCostAHostLittle) {
    const auto at = freeAddress();
    Agent host("h", at, at), guest("guest", at);
    ASSERT_TRUE(host.publish() && guest.publish());
    std::vector<Fd> silent;
    for (int i = 0; i < 400; ++i) silent.push_back(connectTo(at));
    EXPECT_TRUE(eventually([&] { // the oldest ones went
        char byte;
        return ::recv(silent.front().get(), &byte, 1, MSG_DONTWAIT) == 0;
    }));
    EXPECT_TRUE(host.finds(guest));
    EXPECT_TRUE(becomes(at, Role::kHost)) << "there is room for more";
    const auto loud = connectTo(at);
    const std::string garbage(1000, 'x');
    EXPECT_GT(::send(loud.get(), garbage.data(), garbage.size(), MSG_NOSIGNAL), 0);
    char byte;
    EXPECT_LE(::recv(loud.get(), &byte, 1, 0), 0) << "it was hung up on";
    Agent later("later", at);
    EXPECT_TRUE(later.publish() && host.finds(later));
}

} // namespace
} // namespace nx::rendezvous
