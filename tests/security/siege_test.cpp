// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: who has no key, or another one, learns nothing from a listener with a key and changes nothing there (P14).
// Method: agents without and with other keys; every recorded attack on NIXL 1.4's listener (W1, W2, W5-W11, W15), and
// 200 generated ones, replays of genuine conversations among them. After each, a genuine peer is served and what was
// known is known.
#include <arpa/inet.h>
#include <cstring>
#include <dirent.h>
#include <fstream>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <random>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

#include "security/keyed.h"

namespace nx::test {
namespace {

using ::testing::HasSubstr;

PairOptions
listening() {
    PairOptions options;
    options.listen = true;
    return options;
}

/// A TCP connection that says what it likes.
class Wire {
public:
    explicit Wire(int port) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.sin_port = htons(static_cast<uint16_t>(port));
        EXPECT_EQ(::connect(socket_, reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
    }
    explicit Wire(std::nullptr_t, int socket) : socket_(socket) {}
    ~Wire() {
        ::close(socket_);
    }
    Wire(const Wire &) = delete;
    Wire &
    operator=(const Wire &) = delete;

    void
    say(std::string_view bytes) const {
        while (!bytes.empty()) {
            const auto put = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (put <= 0) return; // it has closed, which is its right
            bytes.remove_prefix(static_cast<size_t>(put));
        }
    }

    void
    finish() const {
        ::shutdown(socket_, SHUT_WR);
    }

    /// All until the other side closes.
    std::string
    hear() const {
        std::string all;
        char some[4096];
        for (ssize_t got; (got = ::recv(socket_, some, sizeof some, 0)) > 0;)
            all.append(some, static_cast<size_t>(got));
        return all;
    }

    int
    socket() const {
        return socket_;
    }

private:
    const int socket_;
};

/// Takes one connection, passes it on to a port, and keeps what the connecting side says.
class Eavesdropper {
public:
    explicit Eavesdropper(int target) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        EXPECT_EQ(::bind(socket_, reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
        EXPECT_EQ(::listen(socket_, 1), 0);
        socklen_t size = sizeof address;
        EXPECT_EQ(::getsockname(socket_, reinterpret_cast<sockaddr *>(&address), &size), 0);
        port = ntohs(address.sin_port);
        thread_ = std::thread([this, target] { pass(target); });
    }

    /// Waits until both have closed.
    std::vector<std::string>
    said() {
        thread_.join();
        ::close(socket_);
        return said_;
    }

    int port = 0;

private:
    void
    pass(int target) {
        const Wire from(nullptr, ::accept4(socket_, nullptr, nullptr, SOCK_CLOEXEC)), to(target);
        pollfd both[] = {{from.socket(), POLLIN, 0}, {to.socket(), POLLIN, 0}};
        char bytes[65536];
        while (::poll(both, 2, -1) > 0) {
            for (const auto &[here, there] : {std::pair{&from, &to}, std::pair{&to, &from}}) {
                if (!(both[here == &to].revents & (POLLIN | POLLHUP))) continue;
                const auto got = ::recv(here->socket(), bytes, sizeof bytes, 0);
                if (got <= 0) return;
                if (here == &from) said_.emplace_back(bytes, static_cast<size_t>(got));
                there->say({bytes, static_cast<size_t>(got)});
            }
        }
    }

    const int socket_;
    std::vector<std::string> said_;
    std::thread thread_;
};

std::string
frame(const std::string &verb, const std::string &payload) {
    const std::string body = "NIXLCOMM:" + verb + payload;
    const uint64_t length = body.size();
    return std::string(reinterpret_cast<const char *>(&length), sizeof length) + body;
}

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

class KeyedSiege : public ::testing::Test {
protected:
    KeyedSiege() {
        require(a->registerMem(registrationOf({x.desc()})), "register");
        require(load(b, a.metadata()), "load");
        before_ = b.metadata();
    }

    /// What was known is known, nothing came to it, and a genuine peer is served.
    void
    expectUnmoved(const std::string &attack) {
        EXPECT_TRUE(knows(b, "A", listOf({x.desc()}))) << attack;
        EXPECT_FALSE(knows(b, "stranger")) << attack;
        EXPECT_EQ(b.metadata(), before_) << attack;
        const auto to_b = b.address();
        ASSERT_EQ(a->fetchRemoteMD("B", &to_b), NIXL_SUCCESS);
        ASSERT_EQ(a->waitMetadata(kPatience, &to_b), NIXL_SUCCESS) << attack << ": " << nixlx::lastError();
    }

    /// An agent that B must not talk to: all that it tries fails, with the sentence.
    void
    expectShutOut(PairedAgent &stranger, const std::string &why) {
        const auto to_b = b.address();
        for (const auto &attempt : {std::function([&] { return stranger->fetchRemoteMD("B", &to_b); }),
                                    std::function([&] { return stranger->sendLocalMD(&to_b); })}) {
            ASSERT_EQ(attempt(), NIXL_SUCCESS);
            EXPECT_LT(stranger->waitMetadata(kPatience, &to_b), 0);
            EXPECT_THAT(nixlx::lastError(), HasSubstr(why));
        }
        ASSERT_EQ(stranger->invalidateLocalMD(&to_b), NIXL_SUCCESS);
        (void)stranger->waitMetadata(kPatience, &to_b);
        EXPECT_FALSE(knows(stranger, "B"));
        expectUnmoved(why);
    }

    /// The attacks that were recorded on NIXL 1.4, from the frames' first byte on.
    std::vector<std::pair<std::string, std::string>>
    recordedAttacks() {
        auto plain = keys.agent("stranger", "");
        const auto blob = plain.metadata();
        const auto edited = [&](const std::string &text, const std::string &what, uint64_t value, size_t bytes) {
            std::string changed = text;
            std::memcpy(changed.data() + changed.find(what) + what.size(), &value, bytes);
            return changed;
        };
        const std::string with_range = [&] {
            Buffer memory(64);
            require(plain->registerMem(registrationOf({memory.desc()})), "register");
            const auto made = plain.metadata();
            require(plain->deregisterMem(registrationOf({memory.desc()})), "deregister");
            return made;
        }();
        const std::string kind = std::string("nixlSDList|t\4\0\0\0\0\0\0\0", 20);
        const uint64_t huge = 1 << 30;
        return {
            {"W1: a memory type beyond all", frame("LOAD", edited(with_range, kind, 0x41414141, 4))},
            {"W2: a length that wraps", frame("LOAD", edited(blob, "Conns", UINT64_MAX - 7, 8))},
            {"W5: fetch all", frame("SEND", "")},
            {"W5: drop a peer", frame("INVL", "A")},
            {"W5: load a stranger", frame("LOAD", blob)},
            {"W6: a bad blob that names a live peer", frame("LOAD", "nixlSerDes|Agent\1\0\0\0\0\0\0\0A|Conns")},
            {"W7: commands inside a payload", frame("LOAD", "xNIXLCOMM:INVLA")},
            {"W8: a byte, and nothing more", "\x0d"},
            {"W9: questions whose answers nobody takes",
             [] {
                 std::string many;
                 for (int i = 0; i < 1000; ++i) many += frame("SEND", "");
                 return many;
             }()},
            {"W10: nothing at all", ""},
            {"W11: a large length", std::string(reinterpret_cast<const char *>(&huge), sizeof huge)},
            {"W15: an address of one byte", frame("LOAD", edited(blob, "Conns", 8, 8) + "c\1\0\0\0\0\0\0\0x|")},
        };
    }

    /// What a genuine agent says on a connection on which it takes back its metadata.
    std::vector<std::string>
    genuineConversation(PairedAgent &member) {
        Eavesdropper between(b.address().port);
        nixl_opt_args_t to_b;
        to_b.ipAddr = "127.0.0.1";
        to_b.port = between.port;
        require(member->sendLocalMD(&to_b), "send");
        require(member->waitMetadata(kPatience), "wait");
        EXPECT_TRUE(knows(b, member.name));
        require(member->invalidateLocalMD(&to_b), "invalidate");
        require(member->waitMetadata(kPatience), "wait");
        EXPECT_TRUE(eventually([&] { return !knows(b, member.name); }));
        member.agent.reset();
        return between.said();
    }

    Keys keys;
    Buffer x{4096};
    PairedAgent a = keys.agent("A", "ours", listening()), b = keys.agent("B", "ours", listening());

private:
    nixl_blob_t before_;
};

TEST_F(KeyedSiege, AgentsWithTheKeyFindEachOtherAndPart) {
    const auto to_b = b.address();
    ASSERT_EQ(a->fetchRemoteMD("B", &to_b), NIXL_SUCCESS);
    ASSERT_EQ(a->sendLocalMD(&to_b), NIXL_SUCCESS);
    ASSERT_EQ(a->waitMetadata(kPatience), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(knows(a, "B"));
    ASSERT_EQ(a->invalidateLocalMD(&to_b), NIXL_SUCCESS);
    EXPECT_TRUE(eventually([&] { return !knows(b, "A"); }));
}

TEST_F(KeyedSiege, AnAgentWithoutAKeyIsShutOut) {
    auto stranger = keys.agent("stranger", "");
    expectShutOut(stranger, "it closed the connection without a word; if it has a key");
}

TEST_F(KeyedSiege, AnAgentWithAnotherKeyIsShutOutAndToldWhy) {
    auto stranger = keys.agent("stranger", "theirs");
    expectShutOut(stranger, "it has another key");
}

TEST_F(KeyedSiege, NothingIsToldToAListenerWithoutTheKey) {
    for (const std::string key : {"", "theirs"}) {
        auto stranger = keys.agent("stranger", key, listening());
        const auto to_stranger = stranger.address();
        ASSERT_EQ(b->sendLocalMD(&to_stranger), NIXL_SUCCESS);
        EXPECT_LT(b->waitMetadata(kPatience), 0);
        EXPECT_FALSE(knows(stranger, "B"));
    }
}

TEST_F(KeyedSiege, WhatIsSaidCannotBeRead) {
    auto member = keys.agent("a-telling-name", "ours");
    std::string all;
    for (const auto &bytes : genuineConversation(member)) all += bytes;
    EXPECT_EQ(all.find("a-telling-name"), std::string::npos);
    EXPECT_EQ(all.find("NIXLCOMM"), std::string::npos);
    EXPECT_EQ(all.find("nixlSerDes"), std::string::npos);
}

TEST_F(KeyedSiege, EveryRecordedAttackIsRefused) {
    for (const auto &[name, bytes] : recordedAttacks()) {
        const Wire stranger(b.address().port);
        stranger.say(bytes);
        if (bytes.size() < 8) stranger.finish();
        EXPECT_EQ(stranger.hear(), "") << name << ": closed without a word";
        expectUnmoved(name);
    }
}

TEST_F(KeyedSiege, TwoHundredGeneratedAttacksAreRefused) {
    auto member = keys.agent("C", "ours");
    const auto conversation = genuineConversation(member);
    ASSERT_GE(conversation.size(), 2u);
    auto returned = keys.agent("C", "ours"); // the next start, which must not be forgotten for what the last one said
    require(load(b, returned.metadata()), "load");
    const auto recorded = recordedAttacks();
    std::mt19937 random(41);
    const auto noise = [&](size_t size) {
        std::string bytes(size, '\0');
        for (char &byte : bytes) byte = static_cast<char>(random());
        return bytes;
    };
    for (int round = 0; round < 200; ++round) {
        std::string bytes;
        switch (round % 5) {
        case 0: // a frame with anything in it
            bytes = frame(round % 2 ? "INVL" : "LOAD", noise(random() % 300));
            break;
        case 1: { // a record of TLS with anything in it
            const size_t size = random() % 600;
            bytes =
                std::string("\x16\x03\x01", 3) + static_cast<char>(size >> 8) + static_cast<char>(size) + noise(size);
            break;
        }
        case 2: // a genuine conversation with changes
            for (const auto &part : conversation) bytes += part;
            for (size_t i = 0; i < 1 + random() % 8; ++i)
                bytes[5 + random() % (bytes.size() - 5)] = static_cast<char>(random());
            break;
        case 3: // parts of one, in any order
            for (size_t i = 0; i < 1 + random() % 5; ++i) bytes += conversation[random() % conversation.size()];
            break;
        default: // one that goes on as an attack
            bytes = conversation.front() + recorded[random() % recorded.size()].second;
            break;
        }
        const Wire stranger(b.address().port);
        stranger.say(bytes);
        stranger.finish();
        const auto heard = stranger.hear();
        EXPECT_TRUE(heard.empty() || heard[0] == '\x16' || heard[0] == '\x15') << round << ": TLS, or nothing";
        EXPECT_EQ(heard.find("nixlSerDes"), std::string::npos) << round;
        EXPECT_TRUE(knows(b, "C")) << round;
    }
    expectUnmoved("generated attacks");
}

TEST_F(KeyedSiege, StrangersThatWaitCostLittleAndAreClosed) { // P14, P18
    expectUnmoved("warm");
    const auto descriptors = openDescriptors();
    const auto resident = residentBytes();
    std::vector<std::unique_ptr<Wire>> strangers;
    for (int i = 0; i < 300; ++i) {
        strangers.push_back(std::make_unique<Wire>(b.address().port));
        strangers.back()->say(std::string("\x16\x03\x01\x0f\xf0", 5) + std::string(4000, 'x')); // it is not whole
        if (i % 100 == 0) expectUnmoved("among strangers");
    }
    EXPECT_LT(residentBytes(), resident + (16 << 20));
    for (const auto &stranger : strangers) EXPECT_EQ(stranger->hear(), ""); // in the time that a proof may take
    strangers.clear();
    for (int i = 0; i < 500; ++i) Wire(b.address().port);
    expectUnmoved("after strangers");
    EXPECT_TRUE(eventually([&] { return openDescriptors() <= descriptors; }))
        << openDescriptors() << " against " << descriptors;
}

} // namespace
} // namespace nx::test
