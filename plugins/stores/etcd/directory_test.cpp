// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: whatever becomes of etcd and whatever is in it, calls end with the truth or a sentence, nobody is taken for
// dead because etcd was away, and what was published comes back by itself. Method: real servers that are killed,
// paused, cut off, compacted, filled, locked; leases of a second. What holds for every store is in tests/directories.
#include "etcd/directory.h"

#include <csignal>
#include <cstdlib>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include "base/last_error.h"
#include "support/etcd_server.h"
#include "support/eventually.h"
#include "support/relay.h"
#include "support/tcpstore_server.h"

namespace nx::etcd {
namespace {

using namespace std::chrono_literals;
using std::chrono::milliseconds;
using test::EtcdServer;
using test::eventually;
using test::kPatience;
using test::Relay;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

using Deadline = nixlx::Directory::Deadline;

Deadline
in(milliseconds time) {
    return std::chrono::steady_clock::now() + time;
}

Deadline
soon() {
    return in(kPatience);
}

class EtcdDirectory : public testing::Test {
protected:
    void
    SetUp() override {
        if (const auto why = EtcdServer::missing(); !why.empty()) GTEST_SKIP() << why;
    }

    ~EtcdDirectory() override {
        for (const char *option : {"NIXL_ETCD_USER", "NIXL_ETCD_PASSWORD", "NIXL_ETCD_CA_FILE"}) ::unsetenv(option);
    }

    std::unique_ptr<Directory>
    start(const std::string &agent, const std::string &address, std::chrono::seconds lease = 1s) {
        nixlx::DirectoryParams params;
        params.agent = agent;
        params.address = address;
        params.incarnation = {3, ++starts_};
        params.lease = lease;
        auto directory = Directory::open(params);
        EXPECT_TRUE(directory.ok()) << directory.message();
        return *std::move(directory);
    }

    static std::string
    through(const Relay &relay) {
        return "http://127.0.0.1:" + std::to_string(relay.port());
    }

    static nixl_status_t
    publish(Directory &directory, std::string_view blob, Deadline deadline = soon()) {
        clearBackendSentence();
        return directory.publish("metadata", blob, deadline);
    }

    /// The blob, or the sentence.
    static std::string
    found(Directory &reader, const std::string &agent, milliseconds patience = kPatience) {
        std::string blob;
        clearBackendSentence();
        if (reader.fetch(agent, "metadata", blob, in(patience)) == NIXL_SUCCESS) return blob;
        return takeBackendSentence("no sentence");
    }

    static bool
    finds(Directory &reader, const std::string &agent, const std::string &blob) {
        return eventually([&] { return found(reader, agent) == blob; });
    }

    /// Does what the agent's thread does for as long as `until` is false. Who has ended meanwhile.
    template<class Until>
    static std::vector<std::string>
    serve(std::initializer_list<Directory *> directories, Until until) {
        std::vector<nixlx::DirectoryEnd> ends;
        EXPECT_TRUE(eventually([&] {
            for (auto *directory : directories) {
                pollfd readable{directory->descriptor(), POLLIN, 0};
                if (::poll(&readable, 1, 0) != 1) continue;
                EXPECT_EQ(directory->takeEnded(ends), NIXL_SUCCESS);
            }
            return until(ends);
        }));
        std::vector<std::string> agents;
        for (const auto &end : ends) agents.push_back(end.agent);
        return agents;
    }

    static std::vector<std::string>
    serveFor(std::initializer_list<Directory *> directories, milliseconds time) {
        const auto end = in(time);
        return serve(directories, [&](auto &) { return std::chrono::steady_clock::now() >= end; });
    }

    static auto
    anEnd() {
        return [](const std::vector<nixlx::DirectoryEnd> &ends) { return !ends.empty(); };
    }

    /// Asks etcd itself.
    static std::string
    ask(const std::string &address, const std::string &path, const std::string &body) {
        const Settings settings{{address}, "/", "", "", "", "", ""};
        const std::atomic<Deadline> end{Deadline::max()};
        Client client(settings, end);
        const auto answer = client.post(path, body, soon());
        return answer.ok() ? *answer : answer.message();
    }

    static void
    put(const EtcdServer &server, const std::string &key, std::string_view value) {
        ask(server.url(), "/v3/kv/put", R"({"key":")" + toBase64(key) + R"(","value":")" + toBase64(value) + R"("})");
    }

    static std::string
    value(const EtcdServer &server, const std::string &key) {
        const auto range = R"({"success":[{"request_range":{"key":")" + toBase64(key) + R"("}}]})";
        const auto answer = txnIn(ask(server.url(), "/v3/kv/txn", range));
        return answer.ok() && !answer->found[0].empty() ? answer->found[0][0].value : "nothing";
    }

    const Keys keys_{"/nixl/agents/"};
    uint8_t starts_ = 0;
};

// ---- With agents of NIXL 1.4 and other programs

TEST_F(EtcdDirectory, HasTheKeysOfNixl) {
    const EtcdServer server;
    const auto a = start("A", server.url());
    ASSERT_EQ(publish(*a, "ours"), NIXL_SUCCESS);
    EXPECT_EQ(value(server, "/nixl/agents//A/metadata"), "ours");
    EXPECT_NE(value(server, "/nixl/agents//A/"), "nothing") << "the anchor, which 1.4 watches";
    ASSERT_EQ(a->withdraw(soon()), NIXL_SUCCESS);
    EXPECT_EQ(value(server, "/nixl/agents//A/metadata"), "nothing");
    EXPECT_EQ(value(server, "/nixl/agents//A/"), "nothing");

    put(server, "/nixl/agents//B/", ""); // as 1.4 does
    put(server, "/nixl/agents//B/metadata", "theirs");
    EXPECT_EQ(found(*a, "B"), "theirs");
    EXPECT_THAT(serveFor({a.get()}, 300ms), IsEmpty());
    ask(server.url(), "/v3/kv/deleterange",
        R"({"key":")" + toBase64("/nixl/agents//B/") + R"(","range_end":")" + toBase64("/nixl/agents//B0") + R"("})");
    EXPECT_THAT(serve({a.get()}, anEnd()), ElementsAre("B"));
}

TEST_F(EtcdDirectory, SaysWhatProgramsOfNixlLookFor) {
    const EtcdServer server;
    const auto a = start("A", server.url());
    EXPECT_THAT(found(*a, "B"),
                AllOf(HasSubstr("Failed to fetch metadata from etcd for agent: B"),
                      HasSubstr("Watch timed out for key: /nixl/agents//B/metadata")));
}

TEST_F(EtcdDirectory, AnAgentOf14TakesTheNameLikeAnyOther) {
    const EtcdServer server;
    const auto a = start("A", server.url()), reader = start("reader", server.url());
    ASSERT_EQ(publish(*a, "ours"), NIXL_SUCCESS);
    put(server, "/nixl/agents//A/", "");
    EXPECT_THAT(found(*reader, "A"), HasSubstr("Failed to fetch")) << "it has published nothing yet";
    put(server, "/nixl/agents//A/metadata", "theirs");
    EXPECT_EQ(found(*reader, "A"), "theirs");
    EXPECT_EQ(publish(*a, "ours again"), NIXL_ERR_NOT_ALLOWED);
    a->withdraw(soon());
    EXPECT_EQ(found(*reader, "A"), "theirs");
    const auto later = start("A", server.url());
    ASSERT_EQ(publish(*later, "ours"), NIXL_SUCCESS);
    EXPECT_EQ(found(*reader, "A"), "ours");
}

TEST_F(EtcdDirectory, OtherProgramsKeysAreLeftAlone) {
    const EtcdServer server;
    const auto a = start("A", server.url()), reader = start("reader", server.url());
    const std::string strange[] = {"/nixl/agents/",           "/nixl/agents//",
                                   "/nixl/agents///",         "/nixl/agents///x",
                                   "/nixl/agents//A",         "/nixl/agents//A0",
                                   "/nixl/agents/other",      "/nixl/agents//B/x/y/z",
                                   "/nixl/agents//\xff\xfe/", std::string("/nixl/agents//\0/", 16)};
    ASSERT_EQ(publish(*a, "ours"), NIXL_SUCCESS);
    EXPECT_EQ(found(*reader, "A"), "ours");
    for (const auto &key : strange) put(server, key, "of another program");
    EXPECT_THAT(found(*reader, "B"), HasSubstr("Failed to fetch"));
    ASSERT_EQ(a->withdraw(soon()), NIXL_SUCCESS);
    EXPECT_THAT(serve({reader.get()}, anEnd()), ElementsAre("A"));
    for (const auto &key : strange) {
        EXPECT_EQ(value(server, key), "of another program") << key;
        ask(server.url(), "/v3/kv/deleterange", R"({"key":")" + toBase64(key) + R"("})");
    }
    EXPECT_THAT(serveFor({reader.get()}, 50ms), IsEmpty());
}

// ---- The lease

TEST_F(EtcdDirectory, WhatIsPublishedStaysAsLongAsItsAgent) {
    const EtcdServer server;
    const auto a = start("A", server.url()), reader = start("reader", server.url());
    ASSERT_EQ(publish(*a, "ours"), NIXL_SUCCESS);
    EXPECT_EQ(found(*reader, "A"), "ours");
    EXPECT_THAT(serveFor({reader.get()}, 2500ms), IsEmpty()) << "two leases and a half";
    EXPECT_EQ(found(*reader, "A"), "ours");
}

TEST_F(EtcdDirectory, OfTwoAgentsWithOneNameTheLaterIsFoundAndTheEarlierGivesUp) {
    const EtcdServer server;
    const auto a = start("A", server.url()), b = start("A", server.url()), reader = start("reader", server.url());
    ASSERT_EQ(publish(*a, "first"), NIXL_SUCCESS);
    ASSERT_EQ(publish(*b, "second"), NIXL_SUCCESS);
    EXPECT_EQ(found(*reader, "A"), "second");
    EXPECT_THAT(serveFor({a.get(), b.get(), reader.get()}, 1500ms), IsEmpty()) << "they do not fight";
    EXPECT_EQ(found(*reader, "A"), "second");
    EXPECT_EQ(publish(*a, "first"), NIXL_ERR_NOT_ALLOWED);
    EXPECT_THAT(takeBackendSentence(""), HasSubstr("another start of this agent has published since"));
}

// ---- etcd is away

TEST_F(EtcdDirectory, ARestartChangesNothing) {
    EtcdServer server;
    const auto a = start("A", server.url()), reader = start("reader", server.url());
    ASSERT_EQ(publish(*a, "ours"), NIXL_SUCCESS);
    EXPECT_EQ(found(*reader, "A"), "ours");
    serveFor({reader.get()}, 50ms); // until it watches
    server.kill();
    EXPECT_THAT(found(*reader, "A"), HasSubstr("etcd at " + server.url() + " cannot be asked"));
    EXPECT_EQ(publish(*a, "ours"), NIXL_ERR_BACKEND);
    EXPECT_THAT(serveFor({a.get(), reader.get()}, 1500ms), IsEmpty()) << "longer than the lease";
    server.start();
    EXPECT_TRUE(finds(*reader, "A", "ours"));
    EXPECT_THAT(serveFor({a.get(), reader.get()}, 1500ms), IsEmpty());
    ASSERT_EQ(a->withdraw(soon()), NIXL_SUCCESS);
    EXPECT_THAT(serve({reader.get()}, anEnd()), ElementsAre("A"));
}

TEST_F(EtcdDirectory, AnEtcdThatForgotAllIsToldAgain) {
    EtcdServer server;
    const auto a = start("A", server.url()), reader = start("reader", server.url());
    ASSERT_EQ(publish(*a, "ours"), NIXL_SUCCESS);
    ASSERT_EQ(a->publish("part", "more", soon()), NIXL_SUCCESS);
    EXPECT_EQ(found(*reader, "A"), "ours");
    server.forget();
    server.start();
    EXPECT_THAT(serve({a.get(), reader.get()}, [&](auto &) { return found(*reader, "A") == "ours"; }), IsEmpty());
    std::string blob;
    EXPECT_THAT(serve({a.get(), reader.get()},
                      [&](auto &) { return reader->fetch("A", "part", blob, soon()) == NIXL_SUCCESS; }),
                IsEmpty());
    EXPECT_EQ(blob, "more");
}

TEST_F(EtcdDirectory, AnOutageLongerThanAllLeasesMakesNobodyForgetAnybody) {
    const EtcdServer server;
    Relay relay(server.port());
    const auto a = start("A", through(relay)), b = start("B", through(relay)), outside = start("C", server.url());
    for (auto *each : {a.get(), b.get()}) ASSERT_EQ(publish(*each, "ours"), NIXL_SUCCESS);
    EXPECT_EQ(found(*a, "B"), "ours");
    EXPECT_EQ(found(*b, "A"), "ours");
    relay.stop();
    const auto gone = [&](auto &) { return value(server, keys_.anchor("A")) == "nothing"; };
    EXPECT_THAT(serve({a.get(), b.get()}, gone), IsEmpty());
    EXPECT_THAT(found(*outside, "A"), HasSubstr("Failed to fetch"));
    EXPECT_THAT(found(*a, "B", 200ms), HasSubstr("did not answer in time"));
    relay.goOn();
    const auto back = [&](auto &) { return found(*outside, "A") == "ours" && found(*outside, "B") == "ours"; };
    EXPECT_THAT(serve({a.get(), b.get()}, back), IsEmpty());
    EXPECT_THAT(serveFor({a.get(), b.get()}, 500ms), IsEmpty());
}

TEST_F(EtcdDirectory, WhoDiesDuringAnOutageIsToldAfterIt) {
    EtcdServer server;
    Relay relay(server.port());
    auto a = start("A", server.url());
    const auto reader = start("reader", through(relay));
    ASSERT_EQ(publish(*a, "ours"), NIXL_SUCCESS);
    EXPECT_EQ(found(*reader, "A"), "ours");
    serveFor({reader.get()}, 50ms);
    relay.stop();
    a.reset();
    EXPECT_THAT(serveFor({reader.get()}, 1s), IsEmpty());
    // What the stream would have told can be had no more.
    ask(server.url(), "/v3/kv/compaction", R"({"revision":"4","physical":true})");
    relay.resetAt(Relay::Way::kBack, 0);
    relay.resetAt(Relay::Way::kBack, UINT64_MAX);
    relay.goOn();
    EXPECT_THAT(serve({reader.get()}, anEnd()), ElementsAre("A"));
}

TEST_F(EtcdDirectory, APausedEtcdMakesNobodyForgetAnybody) {
    EtcdServer server;
    const auto a = start("A", server.url()), b = start("B", server.url());
    for (auto *each : {a.get(), b.get()}) ASSERT_EQ(publish(*each, "ours"), NIXL_SUCCESS);
    EXPECT_EQ(found(*a, "B"), "ours");
    EXPECT_EQ(found(*b, "A"), "ours");
    server.signal(SIGSTOP);
    EXPECT_THAT(serveFor({a.get(), b.get()}, 2s), IsEmpty());
    server.signal(SIGCONT);
    EXPECT_THAT(serveFor({a.get(), b.get()}, 2s), IsEmpty());
    EXPECT_TRUE(finds(*a, "B", "ours"));
    EXPECT_TRUE(finds(*b, "A", "ours"));
}

TEST_F(EtcdDirectory, ASlowEtcdIsWaitedFor) {
    const EtcdServer server;
    Relay relay(server.port());
    relay.setDelay(Relay::Way::kForward, 50ms);
    relay.setDelay(Relay::Way::kBack, 50ms);
    const auto a = start("A", through(relay), 3s), reader = start("reader", through(relay), 3s);
    ASSERT_EQ(publish(*a, "ours"), NIXL_SUCCESS);
    EXPECT_EQ(found(*reader, "A"), "ours");
    EXPECT_THAT(serveFor({a.get(), reader.get()}, 1500ms), IsEmpty()) << "its lease is renewed in time";
    EXPECT_EQ(publish(*a, "late", in(20ms)), NIXL_ERR_TIMEOUT);
    ASSERT_EQ(a->withdraw(soon()), NIXL_SUCCESS);
    EXPECT_THAT(serve({reader.get()}, anEnd()), ElementsAre("A"));
}

TEST_F(EtcdDirectory, TheEndDoesNotWaitForASilentEtcd) {
    const EtcdServer server;
    Relay relay(server.port());
    auto a = start("A", through(relay));
    ASSERT_EQ(publish(*a, "ours"), NIXL_SUCCESS);
    EXPECT_EQ(found(*a, "A"), "ours");
    relay.stop();
    const auto begun = std::chrono::steady_clock::now();
    a->endBy(begun + 100ms);
    a.reset();
    EXPECT_LT(std::chrono::steady_clock::now() - begun, kPatience) << "a hang";
}

// ---- Members

TEST_F(EtcdDirectory, AnotherMemberIsAskedWhenOneDoesNotServe) {
    EtcdServer server({}, 3);
    const auto a = start("A", server.urls()), reader = start("reader", server.urls());
    ASSERT_EQ(publish(*a, "ours"), NIXL_SUCCESS) << takeBackendSentence("");
    EXPECT_EQ(found(*reader, "A"), "ours");
    server.kill(0);
    EXPECT_TRUE(finds(*reader, "A", "ours"));
    EXPECT_TRUE(eventually([&] { return publish(*a, "more") == NIXL_SUCCESS; }));
    EXPECT_TRUE(finds(*reader, "A", "more"));
    EXPECT_THAT(serveFor({a.get(), reader.get()}, 1500ms), IsEmpty());
    server.kill(1); // two of three: nobody decides
    EXPECT_NE(publish(*a, "most", in(1s)), NIXL_SUCCESS);
    server.start();
    EXPECT_TRUE(eventually([&] { return publish(*a, "most") == NIXL_SUCCESS; }));
    EXPECT_TRUE(finds(*reader, "A", "most"));
    ASSERT_EQ(a->withdraw(soon()), NIXL_SUCCESS);
    EXPECT_THAT(serve({reader.get()}, anEnd()), ElementsAre("A"));
}

// ---- What etcd refuses

TEST_F(EtcdDirectory, MoreThanEtcdTakesIsRefusedAndChangesNothing) {
    const EtcdServer server;
    const auto a = start("A", server.url()), reader = start("reader", server.url());
    ASSERT_EQ(publish(*a, std::string(1'000'000, 'x')), NIXL_SUCCESS);
    for (const size_t size : {size_t{1'700'000}, size_t{5'000'000}}) {
        EXPECT_EQ(publish(*a, std::string(size, 'y')), NIXL_ERR_INVALID_PARAM) << size;
        EXPECT_THAT(takeBackendSentence(""), HasSubstr("raise --max-request-bytes of etcd")) << size;
    }
    EXPECT_EQ(found(*reader, "A"), std::string(1'000'000, 'x'));
    const auto other = start("A", server.url());
    EXPECT_EQ(publish(*other, std::string(2'000'000, 'y')), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(found(*reader, "A"), std::string(1'000'000, 'x')) << "the name was not taken";
}

TEST_F(EtcdDirectory, AFullEtcdIsASentence) {
    const EtcdServer server({"--quota-backend-bytes=2000000"});
    const auto a = start("A", server.url()), reader = start("reader", server.url());
    ASSERT_EQ(publish(*a, "ours"), NIXL_SUCCESS);
    const std::string large(500'000, 'x');
    EXPECT_TRUE(eventually([&] { return publish(*a, large) == NIXL_ERR_NO_MEMORY; }));
    EXPECT_THAT(takeBackendSentence(""), HasSubstr("compact and defragment etcd"));
    const auto before = found(*reader, "A");
    EXPECT_THAT(serveFor({a.get(), reader.get()}, 1500ms), IsEmpty()) << "leases are renewed all the same";
    EXPECT_EQ(found(*reader, "A"), before) << "and what was there stays";
}

TEST_F(EtcdDirectory, CredentialsAreAskedForAndRenewed) {
    EtcdServer server;
    for (const auto &[path, body] : std::initializer_list<std::pair<std::string, std::string>>{
             {"/v3/auth/user/add", R"({"name":"root","password":"top secret"})"},
             {"/v3/auth/role/add", R"({"name":"root"})"},
             {"/v3/auth/user/grant", R"({"user":"root","role":"root"})"},
             {"/v3/auth/user/add", R"({"name":"guest","password":"guest"})"},
             {"/v3/auth/enable", "{}"}}) {
        ask(server.url(), path, body);
    }
    const auto without = start("A", server.url());
    EXPECT_EQ(publish(*without, "ours"), NIXL_ERR_NOT_ALLOWED);
    EXPECT_THAT(takeBackendSentence(""), HasSubstr("set NIXL_ETCD_USER and NIXL_ETCD_PASSWORD"));
    ::setenv("NIXL_ETCD_USER", "root", 1);
    ::setenv("NIXL_ETCD_PASSWORD", "wrong", 1);
    const auto wrong = start("A", server.url());
    EXPECT_EQ(publish(*wrong, "ours"), NIXL_ERR_NOT_ALLOWED);
    EXPECT_THAT(takeBackendSentence(""), AllOf(HasSubstr("authentication failed"), testing::Not(HasSubstr("wrong"))));
    ::setenv("NIXL_ETCD_USER", "guest", 1);
    ::setenv("NIXL_ETCD_PASSWORD", "guest", 1);
    const auto guest = start("A", server.url());
    EXPECT_EQ(publish(*guest, "ours"), NIXL_ERR_NOT_ALLOWED);
    EXPECT_THAT(takeBackendSentence(""), HasSubstr("permission denied"));
    ::setenv("NIXL_ETCD_USER", "root", 1);
    ::setenv("NIXL_ETCD_PASSWORD", "top secret", 1);
    const auto a = start("A", server.url()), reader = start("reader", server.url());
    ASSERT_EQ(publish(*a, "ours"), NIXL_SUCCESS) << takeBackendSentence("");
    EXPECT_EQ(found(*reader, "A"), "ours");
    server.kill(); // it forgets its tokens
    server.start();
    EXPECT_TRUE(finds(*reader, "A", "ours"));
    EXPECT_THAT(serveFor({a.get(), reader.get()}, 2s), IsEmpty());
    ASSERT_EQ(a->withdraw(soon()), NIXL_SUCCESS);
    EXPECT_THAT(serve({reader.get()}, anEnd()), ElementsAre("A"));
}

TEST_F(EtcdDirectory, TlsKnowsItsServer) {
    EtcdServer server;
    const auto &folder = server.folder();
    const std::string make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "
                             "/CN=etcd -addext subjectAltName=IP:127.0.0.1 -keyout " +
        folder / "key.pem" + " -out " + folder / "cert.pem" + " 2>/dev/null";
    if (std::system(make.c_str()) != 0) GTEST_SKIP() << "there is no openssl that makes certificates";
    server.kill();
    server.setScheme("https", {"--cert-file=" + folder / "cert.pem", "--key-file=" + folder / "key.pem"});
    server.start();
    const auto stranger = start("A", server.url());
    EXPECT_EQ(publish(*stranger, "ours"), NIXL_ERR_BACKEND);
    EXPECT_THAT(takeBackendSentence(""), HasSubstr("certificate"));
    ::setenv("NIXL_ETCD_CA_FILE", (folder / "cert.pem").c_str(), 1);
    const auto a = start("A", server.url()), reader = start("reader", server.url());
    ASSERT_EQ(publish(*a, "ours"), NIXL_SUCCESS) << takeBackendSentence("");
    EXPECT_EQ(found(*reader, "A"), "ours");
    ASSERT_EQ(a->withdraw(soon()), NIXL_SUCCESS);
    EXPECT_THAT(serve({reader.get()}, anEnd()), ElementsAre("A"));
}

TEST_F(EtcdDirectory, WhatIsNoEtcdIsASentence) {
    test::TcpStoreServer silent;
    const auto a = start("A", "http://" + silent.endpoint());
    EXPECT_EQ(publish(*a, "ours", in(100ms)), NIXL_ERR_TIMEOUT);
    silent.stop();
    EXPECT_EQ(publish(*a, "ours"), NIXL_ERR_BACKEND);
    EXPECT_THAT(takeBackendSentence(""), HasSubstr("cannot be asked"));
}

} // namespace
} // namespace nx::etcd
