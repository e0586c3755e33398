// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Agents that find each other through their listeners, and what bytes from the network can do to an agent. The sockets
// and their limits are tested beside src/metadata.
#include <algorithm>
#include <arpa/inet.h>
#include <cstring>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <random>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

#include "nixl.h"
#include "support/agent_pair.h"
#include "support/buffer.h"
#include "support/gated_backend.h"

namespace nx::test {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

constexpr auto kLong = std::chrono::milliseconds(60'000);

PairOptions
listening() {
    PairOptions options;
    options.backend = "GATED";
    options.listen = true;
    return options;
}

class Listener : public ::testing::Test {
protected:
    void
    SetUp() override {
        gated().reset();
    }

    /// Registers `x` at A and `y` at B.
    void
    registerBoth() {
        require(pair.a->registerMem(registrationOf({x.desc()})), "register at A");
        require(pair.b->registerMem(registrationOf({y.desc()})), "register at B");
    }

    bool
    transferWorks(uint64_t seed) {
        x.fill(seed);
        nixlXferReqH *request = nullptr;
        if (pair.a->createXferReq(NIXL_WRITE, listOf({x.desc()}), listOf({y.desc()}), "B", request) != NIXL_SUCCESS) {
            return false;
        }
        const bool done = pair.run(request) == NIXL_SUCCESS && y.firstDifference(seed) == y.size();
        return pair.release(request) == NIXL_SUCCESS && done;
    }

    /// A socket on which a frame written by hand has gone to the listener at `port`.
    static int
    say(int port, const std::string &verb, const std::string &payload) {
        const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.sin_port = htons(static_cast<uint16_t>(port));
        EXPECT_EQ(::connect(socket, reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
        const std::string body = "NIXLCOMM:" + verb + payload;
        const uint64_t length = body.size();
        const std::string frame = std::string(reinterpret_cast<const char *>(&length), sizeof length) + body;
        for (size_t at = 0; at < frame.size();) {
            const auto put = ::send(socket, frame.data() + at, frame.size() - at, MSG_NOSIGNAL);
            if (put <= 0) break;
            at += static_cast<size_t>(put);
        }
        return socket;
    }

    void
    sayToB(const std::string &verb, const std::string &payload) {
        const int socket = say(pair.b.address().port, verb, payload);
        ::shutdown(socket, SHUT_WR);
        char byte;
        while (::recv(socket, &byte, 1, 0) > 0) {} // until B has dealt with it
        ::close(socket);
    }

    AgentPair pair{listening()};
    Buffer x{4096}, y{4096};
};

TEST_F(Listener, TwoAgentsFindEachOtherTransferAndPart) { // contract A2
    registerBoth();
    const auto to_b = pair.b.address();
    ASSERT_EQ(pair.a->fetchRemoteMD("B", &to_b), NIXL_SUCCESS);
    ASSERT_EQ(pair.a->sendLocalMD(&to_b), NIXL_SUCCESS);
    EXPECT_TRUE(eventually([&] { return pair.a->checkRemoteMD("B", listOf({y.desc()})) == NIXL_SUCCESS; }));
    EXPECT_TRUE(eventually([&] { return pair.b->checkRemoteMD("A", listOf({x.desc()})) == NIXL_SUCCESS; }));
    EXPECT_EQ(pair.a->waitMetadata(kLong), NIXL_SUCCESS);
    EXPECT_TRUE(transferWorks(1));
    ASSERT_EQ(pair.b->genNotif("A", "Done_reading"), NIXL_SUCCESS);
    EXPECT_EQ(pair.receive(pair.a, "B", 1), std::vector<std::string>{"Done_reading"});

    ASSERT_EQ(pair.a->invalidateLocalMD(&to_b), NIXL_SUCCESS);
    EXPECT_TRUE(eventually([&] { return pair.b->checkRemoteMD("A", {DRAM_SEG}) == NIXL_ERR_NOT_FOUND; }));
    EXPECT_EQ(pair.b->genNotif("A", "too late"), NIXL_ERR_NOT_FOUND);
    EXPECT_TRUE(transferWorks(2)) << "A still knows B";
}

TEST_F(Listener, AnAgentWithoutListenerFetchesAndSends) {
    PairOptions quiet = listening();
    quiet.listen = false;
    PairedAgent c("C", quiet);
    registerBoth();
    const auto to_b = pair.b.address();
    ASSERT_EQ(c->fetchRemoteMD("B", &to_b), NIXL_SUCCESS);
    ASSERT_EQ(c->sendLocalMD(&to_b), NIXL_SUCCESS);
    EXPECT_EQ(c->waitMetadata(kLong, &to_b), NIXL_SUCCESS);
    EXPECT_EQ(c->checkRemoteMD("B", listOf({y.desc()})), NIXL_SUCCESS);
    EXPECT_EQ(pair.b->checkRemoteMD("C", {DRAM_SEG}), NIXL_SUCCESS);
    uint16_t port = 77;
    EXPECT_EQ(c->getListenPort(port), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(port, 77);
}

TEST_F(Listener, PartialMetadataGrowsThePeer) { // contract A4
    registerBoth();
    Buffer z(4096);
    require(pair.a->registerMem(registrationOf({z.desc()})), "register another");
    auto to_b = pair.b.address();
    ASSERT_EQ(pair.a->sendLocalPartialMD(registrationOf({z.desc()}), &to_b), NIXL_SUCCESS);
    EXPECT_EQ(pair.a->waitMetadata(kLong), NIXL_ERR_NOT_FOUND) << "memory before the connection";
    EXPECT_THAT(nixlx::lastError(), HasSubstr("load a blob with connection info first"));
    ASSERT_EQ(pair.a->sendLocalPartialMD({DRAM_SEG}, &to_b), NIXL_SUCCESS);
    ASSERT_EQ(pair.a->sendLocalPartialMD(registrationOf({x.desc()}), &to_b), NIXL_SUCCESS);
    EXPECT_EQ(pair.a->waitMetadata(kLong), NIXL_SUCCESS);
    EXPECT_EQ(pair.b->checkRemoteMD("A", listOf({x.desc()})), NIXL_SUCCESS);
    EXPECT_EQ(pair.b->checkRemoteMD("A", listOf({x.desc(), z.desc()})), NIXL_ERR_NOT_FOUND);
    ASSERT_EQ(pair.a->sendLocalPartialMD(registrationOf({z.desc()}), &to_b), NIXL_SUCCESS);
    EXPECT_EQ(pair.a->waitMetadata(kLong), NIXL_SUCCESS);
    EXPECT_EQ(pair.b->checkRemoteMD("A", listOf({x.desc(), z.desc()})), NIXL_SUCCESS);
    EXPECT_EQ(pair.a->sendLocalPartialMD(registrationOf({z.desc(0, 7)}), &to_b), NIXL_ERR_NOT_FOUND)
        << "what is made in the call fails in the call";
}

TEST_F(Listener, CallsThatCannotWorkSaySoAtOnce) {
    nixl_opt_args_t args;
    for (const auto *given : {static_cast<nixl_opt_args_t *>(nullptr), &args}) {
        EXPECT_EQ(pair.a->sendLocalMD(given), NIXL_ERR_NOT_SUPPORTED);
        EXPECT_EQ(pair.a->sendLocalPartialMD({DRAM_SEG}, given), NIXL_ERR_NOT_SUPPORTED);
        EXPECT_EQ(pair.a->fetchRemoteMD("B", given), NIXL_ERR_NOT_SUPPORTED);
        EXPECT_EQ(pair.a->invalidateLocalMD(given), NIXL_ERR_NOT_SUPPORTED);
        EXPECT_THAT(nixlx::lastError(), HasSubstr("ipAddr"));
    }
    args.ipAddr = "127.0.0.1";
    args.port = 70'000;
    EXPECT_EQ(pair.a->sendLocalMD(&args), NIXL_ERR_INVALID_PARAM);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("sendLocalMD: port 70000"));
    args.port = 1;
    args.ipAddr = "no host";
    EXPECT_EQ(pair.a->fetchRemoteMD("B", &args), NIXL_ERR_INVALID_PARAM);
    nixlAgent bare("bare", nixlAgentConfig());
    const auto to_b = pair.b.address();
    EXPECT_EQ(bare.sendLocalMD(&to_b), NIXL_ERR_INVALID_PARAM) << "nothing to publish";
    EXPECT_EQ(pair.a->waitMetadata(0ms), NIXL_SUCCESS) << "none of these was started";
}

TEST_F(Listener, APortInUseStopsTheConstructorWithASentence) {
    nixlAgentConfig config;
    config.useListenThread = true;
    config.listenPort = static_cast<uint16_t>(pair.b.address().port);
    try {
        nixlAgent second("second", config);
        FAIL() << "it listens on a port that is in use";
    }
    catch (const std::runtime_error &error) {
        EXPECT_THAT(error.what(), HasSubstr("listening on port " + std::to_string(config.listenPort)));
        EXPECT_THAT(error.what(), HasSubstr("Address already in use"));
    }
}

TEST_F(Listener, ABlobOfTheAgentItselfAndOneWithoutCommonBackendAreRefused) {
    registerBoth();
    const auto to_self = pair.a.address();
    ASSERT_EQ(pair.a->sendLocalMD(&to_self), NIXL_SUCCESS);
    EXPECT_EQ(pair.a->waitMetadata(kLong), NIXL_ERR_INVALID_PARAM);
    nixlAgentConfig config;
    config.useListenThread = true;
    config.listenPort = 0;
    nixlAgent bare("bare", config);
    nixl_opt_args_t to_bare;
    to_bare.ipAddr = "127.0.0.1";
    uint16_t port = 0;
    ASSERT_EQ(bare.getListenPort(port), NIXL_SUCCESS);
    to_bare.port = port;
    ASSERT_EQ(pair.a->sendLocalMD(&to_bare), NIXL_SUCCESS);
    EXPECT_EQ(pair.a->waitMetadata(kLong), NIXL_ERR_BACKEND);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("no common backend found"));
}

TEST_F(Listener, APeerMayBeQuickerThanTheAgentsFirstBackend) {
    registerBoth();
    nixlAgentConfig config;
    config.useListenThread = true;
    config.listenPort = 0;
    nixlAgent late("late", config);
    uint16_t port = 0;
    ASSERT_EQ(late.getListenPort(port), NIXL_SUCCESS);
    std::string blob;
    ASSERT_EQ(pair.a->getLocalMD(blob), NIXL_SUCCESS);
    const int socket = say(port, "LOAD", blob);
    std::string heard;
    const auto hearAnswers = [&](size_t count) {
        char byte;
        while (count > 0 && ::recv(socket, &byte, 1, 0) > 0) {
            heard += byte;
            if (heard.ends_with("NIXLCOMM:DONE")) --count;
        }
    };
    hearAnswers(1);
    EXPECT_EQ(late.checkRemoteMD("A", {DRAM_SEG}), NIXL_ERR_NOT_FOUND);

    nixlBackendH *backend = nullptr;
    ASSERT_EQ(late.createBackend("GATED", {}, backend), NIXL_SUCCESS);
    hearAnswers(1);
    EXPECT_EQ(late.checkRemoteMD("A", listOf({x.desc()})), NIXL_SUCCESS);
    ::close(socket);
}

// ---- Metadata that is older than what the peer has -----------------------------------------------------------------

TEST_F(Listener, WhatThePeerRegisteredAfterTheFetchIsFetchedByTheCallThatNeedsIt) {
    const auto to_b = pair.b.address();
    ASSERT_EQ(pair.a->fetchRemoteMD("B", &to_b), NIXL_SUCCESS);
    ASSERT_EQ(pair.a->waitMetadata(kLong), NIXL_SUCCESS);
    registerBoth();
    EXPECT_TRUE(transferWorks(1)) << nixlx::lastError();

    // Not more than once a second: the refusals until then tell why.
    Buffer z(4096);
    require(pair.b->registerMem(registrationOf({z.desc()})), "register more at B");
    nixlDlistH *list = nullptr;
    std::string refusal;
    EXPECT_TRUE(eventually([&] {
        const auto status = pair.a->prepXferDlist("B", listOf({z.desc()}), list);
        if (status == NIXL_ERR_NOT_FOUND) refusal = nixlx::lastError();
        return status == NIXL_SUCCESS;
    }));
    if (!refusal.empty()) {
        EXPECT_THAT(refusal,
                    HasSubstr("the peer may have registered since; its metadata was fetched again from "
                              "127.0.0.1:"));
    }
    require(pair.a->releasedDlistH(list), "release");
}

TEST_F(Listener, AskingWhetherMetadataHasComeFetchesItInTheBackground) {
    const auto to_b = pair.b.address();
    ASSERT_EQ(pair.a->fetchRemoteMD("B", &to_b), NIXL_SUCCESS);
    ASSERT_EQ(pair.a->waitMetadata(kLong), NIXL_SUCCESS);
    registerBoth();
    EXPECT_TRUE(eventually([&] { return pair.a->checkRemoteMD("B", listOf({y.desc()})) == NIXL_SUCCESS; }));
}

TEST_F(Listener, WhatIsNoLongerRegisteredIsNoLongerPublished) {
    registerBoth();
    const auto to_b = pair.b.address();
    ASSERT_EQ(pair.a->fetchRemoteMD("B", &to_b), NIXL_SUCCESS);
    ASSERT_EQ(pair.a->waitMetadata(kLong), NIXL_SUCCESS);
    require(pair.b->deregisterMem(registrationOf({y.desc()})), "deregister");
    PairedAgent c("C", listening());
    ASSERT_EQ(c->fetchRemoteMD("B", &to_b), NIXL_SUCCESS);
    ASSERT_EQ(c->waitMetadata(kLong), NIXL_SUCCESS);
    EXPECT_EQ(c->checkRemoteMD("B", {DRAM_SEG}), NIXL_SUCCESS);
    EXPECT_EQ(c->checkRemoteMD("B", listOf({y.desc()})), NIXL_ERR_NOT_FOUND);
}

TEST_F(Listener, WhoseMetadataWasSentHereIsNotFetchedAndTheSentenceSaysWhatToDo) {
    const auto to_a = pair.a.address();
    ASSERT_EQ(pair.b->sendLocalMD(&to_a), NIXL_SUCCESS);
    ASSERT_EQ(pair.b->waitMetadata(kLong), NIXL_SUCCESS);
    registerBoth();
    nixlXferReqH *request = nullptr;
    nixlDlistH *list = nullptr;
    EXPECT_EQ(pair.a->createXferReq(NIXL_WRITE, listOf({x.desc()}), listOf({y.desc()}), "B", request),
              NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("the peer may have registered since; fetch its metadata again"));
    EXPECT_EQ(pair.a->prepXferDlist("B", listOf({y.desc()}), list), NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("the peer may have registered since; fetch its metadata again"));
    Buffer unregistered(64);
    EXPECT_EQ(
        pair.a->createXferReq(NIXL_WRITE, listOf({unregistered.desc()}), listOf({unregistered.desc()}), "B", request),
        NIXL_ERR_NOT_FOUND);
}

TEST_F(Listener, ARangeThatIsMissingHereIsNoReasonToFetch) {
    registerBoth();
    const auto to_b = pair.b.address();
    ASSERT_EQ(pair.a->fetchRemoteMD("B", &to_b), NIXL_SUCCESS);
    ASSERT_EQ(pair.a->waitMetadata(kLong), NIXL_SUCCESS);
    Buffer unregistered(4096);
    nixlXferReqH *request = nullptr;
    EXPECT_EQ(pair.a->createXferReq(NIXL_WRITE, listOf({unregistered.desc()}), listOf({y.desc()}), "B", request),
              NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(nixlx::lastError(), ::testing::Not(HasSubstr("fetch")));
}

/// A listening socket whose other end is the test: an agent that says what it is told to say.
class Puppet {
public:
    Puppet() : listening_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof address;
        EXPECT_EQ(::bind(listening_, reinterpret_cast<sockaddr *>(&address), size), 0);
        EXPECT_EQ(::listen(listening_, 16), 0);
        EXPECT_EQ(::getsockname(listening_, reinterpret_cast<sockaddr *>(&address), &size), 0);
        args.ipAddr = "127.0.0.1";
        args.port = ntohs(address.sin_port);
    }
    ~Puppet() {
        close();
    }

    /// Answers the first question on a new connection.
    void
    answerOnce(const std::string &blob) {
        connection_ = ::accept4(listening_, nullptr, nullptr, SOCK_CLOEXEC);
        hearQuestion();
        const std::string body = "NIXLCOMM:LOAD" + blob;
        const uint64_t length = body.size();
        const std::string frame = std::string(reinterpret_cast<const char *>(&length), sizeof length) + body;
        EXPECT_EQ(::send(connection_, frame.data(), frame.size(), MSG_NOSIGNAL), static_cast<ssize_t>(frame.size()));
    }

    void
    hearQuestion() {
        char question[8 + 13];
        EXPECT_EQ(::recv(connection_, question, sizeof question, MSG_WAITALL), static_cast<ssize_t>(sizeof question));
    }

    bool
    hasHeardMore() const {
        char byte;
        return ::recv(connection_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
    }

    void
    close() {
        for (int *socket : {&connection_, &listening_}) {
            if (*socket >= 0) ::close(std::exchange(*socket, -1));
        }
    }

    nixl_opt_args_t args; ///< its address

private:
    int listening_, connection_ = -1;
};

TEST_F(Listener, ManyThreadsThatLackARangeWaitForOneFetchAndNotForLong) {
    Puppet puppet;
    ASSERT_EQ(pair.a->fetchRemoteMD("B", &puppet.args), NIXL_SUCCESS);
    puppet.answerOnce(pair.b.metadata());
    ASSERT_EQ(pair.a->waitMetadata(kLong), NIXL_SUCCESS);
    registerBoth();
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&] {
            nixlXferReqH *request = nullptr;
            EXPECT_EQ(pair.a->createXferReq(NIXL_WRITE, listOf({x.desc()}), listOf({y.desc()}), "B", request),
                      NIXL_ERR_NOT_FOUND);
            EXPECT_THAT(nixlx::lastError(), HasSubstr("without an answer within 2000 ms"));
        });
    }
    puppet.hearQuestion();
    EXPECT_EQ(pair.a->checkRemoteMD("B", listOf({y.desc()})), NIXL_ERR_NOT_FOUND) << "it does not wait";
    for (auto &thread : threads) thread.join();
    EXPECT_FALSE(puppet.hasHeardMore());
    pair.a.agent.reset(); // with the fetch still under way
}

TEST_F(Listener, ADeadPeersRefusalSaysBoth) {
    Puppet puppet;
    ASSERT_EQ(pair.a->fetchRemoteMD("B", &puppet.args), NIXL_SUCCESS);
    puppet.answerOnce(pair.b.metadata());
    ASSERT_EQ(pair.a->waitMetadata(kLong), NIXL_SUCCESS);
    registerBoth();
    puppet.close();
    nixlXferReqH *request = nullptr;
    EXPECT_EQ(pair.a->createXferReq(NIXL_WRITE, listOf({x.desc()}), listOf({y.desc()}), "B", request),
              NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("remote agent has no DRAM_SEG registered"));
    EXPECT_THAT(nixlx::lastError(), HasSubstr("and that failed: "));
    EXPECT_THAT(nixlx::lastError(), HasSubstr("Connection refused"));
    EXPECT_EQ(pair.a->waitMetadata(0ms), NIXL_SUCCESS) << "no call of the program's failed";
}

// W1, W2, W13 and others: frames whose blob is hostile. The recorded ones of the fuzz corpus are sent too, by
// tests/fuzz.
TEST_F(Listener, HostileBlobsChangeNothing) {
    registerBoth();
    pair.exchange();
    const std::string genuine = pair.a.metadata();
    const auto at = [&](const std::string &what) { return genuine.find(what); };
    std::vector<std::string> blobs;
    const auto edited = [&](size_t place, uint64_t value) {
        std::string blob = genuine;
        std::memcpy(blob.data() + place, &value, sizeof value);
        blobs.push_back(std::move(blob));
    };
    const size_t memory_type = at("nixlSDList|") + 11 + 1 + 8;
    for (const uint64_t value : {uint64_t{5}, uint64_t{0xffffffff}, uint64_t{0x80000000}}) { // W1
        std::string blob = genuine;
        std::memcpy(blob.data() + memory_type, &value, 4);
        blobs.push_back(std::move(blob));
    }
    for (const char *field : {"Agent", "Conns", "nixlSecElms", "bknd", "nixlDList"}) { // W2
        for (const uint64_t value : {UINT64_MAX, UINT64_MAX - 7, uint64_t{1} << 63, uint64_t{1} << 40, uint64_t{0}}) {
            edited(at(field) + std::string(field).size(), value);
        }
    }
    blobs.push_back("nixlSerDes|");
    blobs.push_back("x");
    for (size_t size = 1; size < std::min<size_t>(genuine.size(), 232); size += 7)
        blobs.push_back(genuine.substr(0, size));
    for (const auto &blob : blobs) sayToB("LOAD", blob);
    EXPECT_EQ(pair.b->checkRemoteMD("A", listOf({x.desc()})), NIXL_SUCCESS);
    EXPECT_TRUE(transferWorks(1));
    const auto to_b = pair.b.address();
    ASSERT_EQ(pair.a->sendLocalMD(&to_b), NIXL_SUCCESS);
    EXPECT_EQ(pair.a->waitMetadata(kLong), NIXL_SUCCESS) << "the genuine one still loads";
}

// W6: a peer that is loaded must survive whatever names it.
TEST_F(Listener, ABadBlobThatNamesALivePeerLeavesThePeerAsItWas) {
    registerBoth();
    pair.exchange();
    Buffer z(4096);
    require(pair.b->registerMem(registrationOf({z.desc()})), "register more at B");
    const std::string grown = pair.b.metadata();
    for (const auto call : {EngineCall::kLoadRemote, EngineCall::kLoadPeer}) {
        gated().fail(call, NIXL_ERR_BACKEND, 1000);
        std::string loaded = "untouched";
        const auto status = pair.a->loadRemoteMD(grown, loaded);
        EXPECT_EQ(status == NIXL_SUCCESS, call != EngineCall::kLoadRemote) << "connections are not loaded twice";
        gated().reset();
        EXPECT_EQ(pair.a->checkRemoteMD("B", listOf({y.desc()})), NIXL_SUCCESS);
        EXPECT_EQ(pair.a->checkRemoteMD("B", listOf({z.desc()})),
                  status == NIXL_SUCCESS ? NIXL_SUCCESS : NIXL_ERR_NOT_FOUND);
        EXPECT_TRUE(transferWorks(3));
        pair.a.load(grown);
    }
    EXPECT_EQ(pair.a->checkRemoteMD("B", listOf({y.desc(), z.desc()})), NIXL_SUCCESS);
}

TEST_F(Listener, ABadBlobOfAnotherStartLeavesTheKnownStartAsItWas) {
    registerBoth();
    pair.exchange();
    PairOptions quiet = listening();
    quiet.listen = false;
    Buffer z(4096);
    PairedAgent restarted("B", quiet); // the same name, another incarnation
    require(restarted->registerMem(registrationOf({z.desc()})), "register at the other start");
    std::string loaded = "untouched";
    gated().fail(EngineCall::kValidatePeer, NIXL_ERR_MISMATCH);
    EXPECT_EQ(pair.a->loadRemoteMD(restarted.metadata(), loaded), NIXL_ERR_MISMATCH);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("the one that is known stays"));
    EXPECT_EQ(loaded, "untouched");
    EXPECT_EQ(pair.a->checkRemoteMD("B", listOf({y.desc()})), NIXL_SUCCESS);
    EXPECT_TRUE(transferWorks(5));
    pair.a.load(restarted.metadata());
    EXPECT_EQ(pair.a->checkRemoteMD("B", listOf({y.desc()})), NIXL_ERR_NOT_FOUND) << "replaced";
    EXPECT_EQ(pair.a->checkRemoteMD("B", listOf({z.desc()})), NIXL_SUCCESS);
}

// P16: what is not accepted changes nothing. The state is compared by what it serves.
// W5: 26 bytes dropped any peer.
TEST_F(Listener, APeerThatHasShownWhichStartItIsIsNotForgottenForAStranger) {
    registerBoth();
    pair.exchange();
    const std::string mark = "NIXLCOMM:";
    std::string other_start = "A";
    for (int i = 0; i < 8; ++i) other_start += mark + "xx";
    for (const auto &stranger : {std::string("A"), other_start, other_start + "x"}) {
        sayToB("INVL", stranger);
        EXPECT_EQ(pair.b->checkRemoteMD("A", listOf({x.desc()})), NIXL_SUCCESS) << stranger;
    }
    EXPECT_TRUE(transferWorks(1));
    const auto to_b = pair.b.address();
    ASSERT_EQ(pair.a->invalidateLocalMD(&to_b), NIXL_SUCCESS);
    EXPECT_TRUE(eventually([&] { return pair.b->checkRemoteMD("A", {DRAM_SEG}) == NIXL_ERR_NOT_FOUND; }))
        << "but for itself";
}

TEST_F(Listener, APeerOfNixlIsForgottenByItsName) {
    std::string blob = pair.a.metadata();
    blob.resize(blob.find("nixlxTrailer")); // NIXL has none
    pair.b.load(blob);
    sayToB("INVL", "A");
    EXPECT_TRUE(eventually([&] { return pair.b->checkRemoteMD("A", {DRAM_SEG}) == NIXL_ERR_NOT_FOUND; }));
}

TEST_F(Listener, MutatedBlobsNeverHurtALivePeer) {
    registerBoth();
    pair.exchange();
    const std::string genuine = pair.b.metadata();
    constexpr unsigned kSeed = 20251126;
    std::mt19937 random(kSeed);
    int refused = 0, accepted = 0;
    for (int i = 0; i < 3000; ++i) {
        std::string blob = genuine;
        for (unsigned edits = 1 + random() % 3; edits > 0; --edits) {
            const size_t place = random() % blob.size();
            switch (random() % 4) {
            case 0: blob[place] = static_cast<char>(random()); break;
            case 1: blob.erase(place, random() % 16); break;
            case 2: blob.insert(place, std::string(random() % 16, static_cast<char>(random()))); break;
            default: blob.resize(place + 1);
            }
        }
        std::string name;
        if (pair.a->loadRemoteMD(blob, name) == NIXL_SUCCESS) {
            // It may claim ranges that B does not have; nobody can know.
            ++accepted;
            require(pair.a->invalidateRemoteMD(name), "invalidate");
            pair.a.load(genuine);
        } else {
            ++refused;
        }
        ASSERT_EQ(pair.a->checkRemoteMD("B", listOf({y.desc()})), NIXL_SUCCESS) << "seed " << kSeed << " blob " << i;
        if (i % 100 == 0) {
            ASSERT_TRUE(transferWorks(static_cast<uint64_t>(i) + 1)) << "seed " << kSeed << " blob " << i;
        }
    }
    EXPECT_GT(refused, 1000);
    EXPECT_GT(accepted, 10) << "damage in the trailer only";
}

TEST_F(Listener, LoadsAndTransfersGoOnWhileOthersArrive) {
    registerBoth();
    pair.exchange();
    std::atomic<bool> stop{false};
    std::vector<std::thread> peers;
    for (int i = 0; i < 4; ++i) {
        peers.emplace_back([&, i] {
            PairOptions quiet = listening();
            quiet.listen = false;
            const auto to_a = pair.a.address();
            while (!stop) {
                PairedAgent other("peer" + std::to_string(i), quiet);
                require(other->sendLocalMD(&to_a), "send");
                require(other->fetchRemoteMD("A", &to_a), "fetch");
                require(other->waitMetadata(kLong), "wait");
                require(other->invalidateLocalMD(&to_a), "invalidate");
            }
        });
    }
    for (uint64_t i = 1; i <= 50; ++i) ASSERT_TRUE(transferWorks(i));
    stop = true;
    for (auto &peer : peers) peer.join();
}

TEST_F(Listener, ManyAgentsComeAndGoWithoutTrace) {
    const auto descriptors = [] {
        int count = 0;
        for (int fd = 0; fd < 1024; ++fd) count += ::fcntl(fd, F_GETFD) != -1;
        return count;
    };
    const auto once = [&] {
        PairedAgent c("C", listening());
        const auto to_b = pair.b.address();
        require(c->sendLocalMD(&to_b), "send");
        require(c->waitMetadata(kLong), "wait");
        require(c->invalidateLocalMD(&to_b), "invalidate");
    };
    once();
    EXPECT_TRUE(eventually([&] { return pair.b->checkRemoteMD("C", {DRAM_SEG}) == NIXL_ERR_NOT_FOUND; }));
    const int before = descriptors();
    for (int i = 0; i < 50; ++i) once();
    // Not more: the first connection may have been open still when they were counted before.
    EXPECT_TRUE(eventually([&] { return descriptors() <= before; })) << descriptors() << " against " << before;
}

} // namespace
} // namespace nx::test
