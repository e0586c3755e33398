// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: many peers of one host, peers that stand still, and processes that mean harm cost an agent neither its
// descriptors nor its other peers. Method: peers in processes of their own, over SHM; descriptors and mappings of this
// process are counted.
#include "system/descriptors.h"
#include "system/survivor.h"

#include <array>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <gmock/gmock.h>

namespace nx::test {
namespace {

using std::chrono::steady_clock;
using ::testing::HasSubstr;

constexpr size_t kSize = size_t{64} << 10;
constexpr std::chrono::seconds kHang{20};

/// Memory that this process shares with peers.
size_t
sharedMappings() {
    size_t count = 0;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) count += line.find("nixl-shm") != std::string::npos;
    return count;
}

class Neighbours : public Survivor {
protected:
    /// Writes to the peer and lets it write back.
    void
    exchange(Met &peer, uint64_t seed) const {
        peer.local.fill(seed);
        ASSERT_EQ(run(NIXL_WRITE, peer), NIXL_SUCCESS) << peer.process.name << ": " << nixlx::lastError();
        ASSERT_EQ(peer.process.ask("holds " + std::to_string(seed)), "yes") << peer.process.name;
        peer.local.clear();
        peer.process.ask("post WRITE A " + std::to_string(peer.local.address()) + " " +
                         std::to_string(peer.local.size()));
        ASSERT_TRUE(eventually([&] { return peer.local.holds(seed); })) << peer.process.name;
    }

    /// Notifications of `sender` that have come so far.
    const std::vector<nixl_blob_t> &
    from(const std::string &sender) {
        require(a->getNotifs(a.inbox), "notifications");
        return a.inbox[sender];
    }

    /// More of them come.
    void
    expectToGoOn(const std::string &sender) {
        const size_t before = from(sender).size();
        EXPECT_TRUE(eventually([&] { return from(sender).size() > before + 10; })) << sender;
    }

    /// All that a storm has sent, each once, in order.
    void
    expectAll(const std::string &sender, uint64_t count) {
        EXPECT_TRUE(eventually([&] { return from(sender).size() >= count; })) << from(sender).size() << " of " << count;
        const auto &messages = from(sender);
        ASSERT_EQ(messages.size(), count);
        for (size_t i = 0; i < count; ++i) ASSERT_EQ(messages[i], std::to_string(i));
    }
};

INSTANTIATE_TEST_SUITE_P(Shm, Neighbours, testing::Values(Setup{Way::kLocal, true, "SHM"}), nameOf);

// ---- Many ----------------------------------------------------------------------------------------------------------

TEST_P(Neighbours, SeventyTwoWith1024DescriptorsLeaveMostToTheProgram) {
    constexpr size_t kPeers = 72;
    const DescriptorLimit limit(1024);
    const size_t before = openDescriptors();
    std::vector<Met *> peers;
    for (size_t i = 0; i < kPeers; ++i) peers.push_back(&start("peer-" + std::to_string(i), kSize, i));
    for (size_t i = 0; i < kPeers; ++i) exchange(*peers[i], 1000 + i);
    EXPECT_LE(openDescriptors(), before + kPeers * 3) << "two of the link, one of this test";
    std::vector<std::unique_ptr<std::ifstream>> files;
    for (size_t i = 0; i < 512; ++i) {
        files.push_back(std::make_unique<std::ifstream>("/dev/null"));
        ASSERT_TRUE(files.back()->is_open()) << "after " << i;
    }
}

TEST_P(Neighbours, FourHundredTakeTwoDescriptorsEachAndLeaveNothing) {
    constexpr size_t kProcesses = 4, kAgents = 100;
    constexpr size_t kSlice = kSize / 128;
    const DescriptorLimit limit(8192);
    Buffer &local = registered(kSize);
    const size_t descriptors = openDescriptors(), mappings = sharedMappings();
    {
        std::list<PeerProcess> processes;
        std::vector<std::string> names;
        for (size_t i = 0; i < kProcesses; ++i) {
            auto &process = processes.emplace_back("P" + std::to_string(i), options());
            const nixlBasicDesc there = process.offer(kSize, 0);
            local.fill(100 + i);
            for (size_t agent = 0; agent < 128; ++agent) {
                const std::string name = process.name + "-" + std::to_string(agent);
                if (agent < kAgents) {
                    names.push_back(name);
                    a.load(fromHex(process.ask("another " + name)));
                }
                const auto slice = listOf({local.desc(agent * kSlice, kSlice)});
                nixlXferReqH *request = nullptr;
                const size_t to = agent < kAgents ? names.size() - 1 : names.size() - 1 - agent % kAgents;
                ASSERT_EQ(a->createXferReq(NIXL_WRITE, slice, listOf({{there.addr + agent * kSlice, kSlice, 0}}),
                                           names[to], request),
                          NIXL_SUCCESS)
                    << nixlx::lastError();
                ASSERT_EQ(finish(request, a->postXferReq(request)), NIXL_SUCCESS)
                    << names[to] << ": " << nixlx::lastError();
                ASSERT_EQ(a->releaseXferReq(request), NIXL_SUCCESS);
            }
            EXPECT_EQ(process.ask("holds " + std::to_string(100 + i)), "yes") << "a part by each";
        }
        EXPECT_LE(openDescriptors(), descriptors + kProcesses + 2 * kProcesses * kAgents);
        for (PeerProcess &process : processes) process.kill();
        for (const std::string &name : names) {
            EXPECT_TRUE(eventually([&] { return a->genNotif(name, "x") == NIXL_ERR_NOT_FOUND; })) << name;
        }
    }
    EXPECT_TRUE(eventually([&] { return openDescriptors() == descriptors && sharedMappings() == mappings; }))
        << openDescriptors() << " descriptors, " << sharedMappings() << " mappings; before " << descriptors << ", "
        << mappings;
}

TEST_P(Neighbours, BeyondTheBudgetOfDescriptorsAPeerIsRefusedUntilAnotherEnds) {
    PeerProcess crowd("crowd", options());
    crowd.offer(kSize, 1);
    const auto another = [&](size_t number) { return fromHex(crowd.ask("another crowd-" + std::to_string(number))); };
    std::optional<PeerProcess> first(std::in_place, "first", options());
    first->offer(kSize, 1);
    a.load(first->metadata());
    // A quarter of them, two for each peer: the sixteenth is one too many.
    const rlim_t allowed = 16;
    ASSERT_LT(openDescriptors() + 2 * allowed + 8, allowed * 8) << "the test itself has too many open";
    const DescriptorLimit limit(allowed * 8);
    for (size_t i = 1; i < allowed; ++i) a.load(another(i));
    const nixl_blob_t blob = another(allowed);
    std::string loaded;
    EXPECT_EQ(a->loadRemoteMD(blob, loaded), NIXL_ERR_NOT_SUPPORTED);
    EXPECT_THAT(nixlx::lastError(),
                HasSubstr("16 engines are linked, which is as many as 128 descriptors allow (ulimit -n)"));
    first->kill();
    EXPECT_TRUE(eventually([&] { return a->loadRemoteMD(blob, loaded) == NIXL_SUCCESS; })) << nixlx::lastError();
}

// ---- Pause ---------------------------------------------------------------------------------------------------------

TEST_P(Neighbours, APeerThatStandsStillWithinACopyHindersNobodyAndGoesOn) {
    constexpr size_t kLarge = size_t{16} << 20;
    auto &b = start("B", kLarge, 1);
    auto &c = start("C", kSize, 2);
    const auto memory = registrationOf({b.local.desc()});
    for (Met *peer : {&b, &c}) {
        peer->process.ask("storm A " + std::to_string(peer->local.address()) + " " +
                          std::to_string(peer->local.size()));
        expectToGoOn(peer->process.name);
    }
    // Somewhere; most likely within a copy.
    nixl_status_t status = NIXL_SUCCESS;
    auto begin = steady_clock::now();
    for (int i = 0; i < 50 && status == NIXL_SUCCESS; ++i) {
        b.process.signal(SIGSTOP);
        begin = steady_clock::now();
        status = a->deregisterMem(memory);
        if (status != NIXL_SUCCESS) break;
        ASSERT_EQ(a->registerMem(memory), NIXL_SUCCESS) << nixlx::lastError();
        b.process.signal(SIGCONT);
        expectToGoOn("B"); // it has seen nothing of that
    }
    EXPECT_EQ(status, NIXL_ERR_REPOST_ACTIVE);
    EXPECT_LT(steady_clock::now() - begin, kHang);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("deregisterMem: backend SHM: a peer that stands still is copying"));
    expectToGoOn("C");
    auto &d = start("D", kSize, 3); // a new one
    EXPECT_EQ(run(NIXL_READ, d, "hello"), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(run(NIXL_READ, b), NIXL_SUCCESS) << "its memory is there; " << nixlx::lastError();
    EXPECT_EQ(a->deregisterMem(memory), NIXL_ERR_REPOST_ACTIVE) << "still; " << nixlx::lastError();

    b.process.signal(SIGCONT);
    expectToGoOn("B"); // the memory is registered, as it was
    expectToGoOn("C");
    for (Met *peer : {&b, &c}) {
        const std::string count = peer->process.ask("calm");
        EXPECT_EQ(count.find(' '), std::string::npos) << count;
        expectAll(peer->process.name, std::stoull(count));
    }
    EXPECT_EQ(a->deregisterMem(memory), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(a->deregisterMem(memory), NIXL_ERR_NOT_FOUND);
}

TEST_P(Neighbours, WhatAPeerThatStandsStillWasSentArrivesOnceItGoesOn) {
    auto &b = start("B", kSize, 1);
    auto &c = start("C", kSize, 2);
    b.process.signal(SIGSTOP);
    // One-sided: it need not run for the data. Its places for messages end at some time.
    size_t sent = 0;
    const std::string message(4096, 'm');
    nixl_status_t status = NIXL_SUCCESS;
    for (; sent < 100'000 && status == NIXL_SUCCESS; ++sent) status = a->genNotif("B", message);
    --sent;
    EXPECT_EQ(status, NIXL_ERR_REPOST_ACTIVE);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("64 MiB of notifications wait at agent 'B'"));
    EXPECT_GT(sent, 15'000u);
    EXPECT_EQ(run(NIXL_READ, b), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(b.local.holds(1));
    nixlXferReqH *request = nullptr;
    nixl_opt_args_t args;
    args.notif = "with a transfer";
    require(a->createXferReq(NIXL_WRITE, listOf({b.local.desc()}), listOf({b.there}), "B", request, &args), "create");
    ASSERT_EQ(a->postXferReq(request), NIXL_IN_PROG);
    for (uint64_t i = 0; i < 100; ++i) { // the others
        ASSERT_EQ(a->getXferStatus(request), NIXL_IN_PROG) << nixlx::lastError();
        ASSERT_EQ(run(NIXL_WRITE, c, "x"), NIXL_SUCCESS) << nixlx::lastError();
    }
    EXPECT_TRUE(eventually([&] { return c.process.ask("received") == "100"; }));
    b.process.signal(SIGCONT);
    EXPECT_EQ(finish(request, NIXL_IN_PROG), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(a->releaseXferReq(request), NIXL_SUCCESS);
    EXPECT_TRUE(eventually([&] { return b.process.ask("received") == std::to_string(sent + 1); }))
        << b.process.ask("received");
    EXPECT_EQ(run(NIXL_WRITE, b, "last"), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(eventually([&] { return b.process.ask("received") == std::to_string(sent + 2); })) << "each once";
}

// ---- Siege ---------------------------------------------------------------------------------------------------------

/// A process that connects to an engine as often as it can and says nothing, nonsense or half of something.
class Siege {
public:
    explicit Siege(const std::string &listener) {
        address_.sun_family = AF_UNIX;
        std::memcpy(address_.sun_path + 1, listener.data(), listener.size());
        size_ = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + listener.size());
        // Version 1, its listener, its name.
        for (const auto &[value, bytes] : {std::pair<uint64_t, size_t>('H', 1), {1, 4}, {listener.size(), 4}}) {
            hello_.append(reinterpret_cast<const char *>(&value), bytes);
        }
        hello_ += listener;
        hello_.append("\5\0\0\0siege", 9);
        process_ = ::fork();
        if (process_ == 0) lay();
    }
    ~Siege() {
        end();
    }

    void
    end() {
        if (process_ < 0) return;
        ::kill(process_, SIGKILL);
        ::waitpid(process_, nullptr, 0);
        process_ = -1;
    }

private:
    /// System calls only: a fork of a program with threads.
    [[noreturn]] void
    lay() const {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        ::syscall(SYS_close_range, 3U, ~0U, 0U); // those of the agent
        const int memory = ::memfd_create("siege", 0);
        static std::array<int, 400> sockets;
        sockets.fill(-1);
        for (size_t i = 0;; i = (i + 1) % sockets.size()) {
            char byte;
            if (sockets[i] >= 0 && ::recv(sockets[i], &byte, 1, MSG_DONTWAIT) < 0) continue; // it is let be
            ::close(sockets[i]);
            sockets[i] = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0);
            if (::connect(sockets[i], reinterpret_cast<const sockaddr *>(&address_), size_) != 0) continue;
            switch (i % 8) {
            case 0: ::send(sockets[i], hello_.data(), hello_.size() / 2, MSG_NOSIGNAL); break;
            case 1: ::send(sockets[i], hello_.data(), hello_.size(), MSG_NOSIGNAL); break; // and gives nothing
            case 2: give(sockets[i], hello_, memory); break;
            case 3: give(sockets[i], "B", memory); break;
            case 4: ::send(sockets[i], &address_, sizeof address_, MSG_NOSIGNAL); break;
            case 5: ::send(sockets[i], nullptr, 0, MSG_NOSIGNAL); break;
            default: break; // the silent ones
            }
        }
    }

    static void
    give(int socket, std::string_view bytes, int memory) {
        iovec piece{const_cast<char *>(bytes.data()), bytes.size()};
        alignas(cmsghdr) char room[CMSG_SPACE(2 * sizeof(int))] = {};
        const int both[2] = {memory, memory};
        msghdr header{};
        header.msg_iov = &piece;
        header.msg_iovlen = 1;
        header.msg_control = room;
        header.msg_controllen = sizeof room;
        cmsghdr *const control = CMSG_FIRSTHDR(&header);
        control->cmsg_level = SOL_SOCKET;
        control->cmsg_type = SCM_RIGHTS;
        control->cmsg_len = CMSG_LEN(sizeof both);
        std::memcpy(CMSG_DATA(control), both, sizeof both);
        ::sendmsg(socket, &header, MSG_NOSIGNAL);
    }

    sockaddr_un address_{};
    socklen_t size_ = 0;
    std::string hello_;
    pid_t process_ = -1;
};

/// Where an engine is met, as its metadata tells peers.
std::string
listenerIn(const nixl_blob_t &blob) {
    const size_t at = blob.find("nixl-shm-");
    return at == nixl_blob_t::npos ? "" : blob.substr(at, 9 + 32);
}

TEST_P(Neighbours, ASiegeKeepsNobodyOutAndLeavesNothing) {
    auto &c = start("C", kSize, 1);
    exchange(c, 10);
    const size_t descriptors = openDescriptors(), mappings = sharedMappings();
    Siege siege(listenerIn(a.metadata()));
    EXPECT_TRUE(eventually([&] { return openDescriptors() > descriptors + 100; })) << "it has begun";
    for (uint64_t i = 0; i < 20; ++i) {
        SCOPED_TRACE(i);
        exchange(c, 20 + i);                                  // who is known
        PeerProcess next("N" + std::to_string(i), options()); // who comes: it connects to A
        next.offer(kSize, i);
        next.load(a.metadata());
        next.ask("notify A hello");
        EXPECT_TRUE(eventually([&] { return from(next.name).size() == 1; }));
    }
    siege.end();
    EXPECT_TRUE(eventually([&] { return openDescriptors() == descriptors && sharedMappings() == mappings; }))
        << openDescriptors() << " descriptors, " << sharedMappings() << " mappings; before " << descriptors << ", "
        << mappings;
    exchange(c, 50);
}

} // namespace
} // namespace nx::test
