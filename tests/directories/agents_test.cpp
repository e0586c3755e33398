// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: agents meet at a directory by the calls of NIXL 1.4 without an address. Method: agents of one process and a
// folder; several processes are in tests/system.
#include <atomic>
#include <cstdlib>
#include <dlfcn.h>
#include <fstream>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sstream>
#include <thread>

#include "nixlx/report.h"
#include "support/agent_pair.h"
#include "support/eventually.h"
#include "support/tcpstore_server.h"
#include "support/temp_dir.h"

namespace {
/// Called in place of the start of a thread, by the thread that starts it.
std::function<void()> before_thread;
} // namespace

extern "C" int
pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *), void *argument) {
    using Real = int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    static const auto real = reinterpret_cast<Real>(::dlsym(RTLD_NEXT, "pthread_create"));
    if (const auto hook = std::exchange(before_thread, nullptr)) hook();
    return real(thread, attributes, body, argument);
}

namespace nx::test {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;
using testing::IsEmpty;

class DirectoryAgents : public testing::Test {
protected:
    void
    SetUp() override {
        use("file:////" + folder_.path().string());
    }

    void
    TearDown() override {
        ::unsetenv("NIXL_METADATA_STORE");
    }

    static void
    use(const std::string &directory) {
        ::setenv("NIXL_METADATA_STORE", directory.c_str(), 1);
    }

    static void
    settle(PairedAgent &agent) {
        ASSERT_EQ(agent->waitMetadata(kPatience), NIXL_SUCCESS) << nixlx::lastError();
    }

    static bool
    knows(PairedAgent &agent, const std::string &peer) {
        return agent->checkRemoteMD(peer, nixl_xfer_dlist_t(DRAM_SEG)) == NIXL_SUCCESS;
    }

    /// Publishes and fetches.
    static void
    introduce(PairedAgent &from, PairedAgent &to) {
        ASSERT_EQ(from->sendLocalMD(), NIXL_SUCCESS) << nixlx::lastError();
        settle(from);
        ASSERT_EQ(to->fetchRemoteMD(from.name), NIXL_SUCCESS) << nixlx::lastError();
        settle(to);
        ASSERT_TRUE(knows(to, from.name));
    }

    const TempDir folder_;
    Buffer memory_{4096}; // behind the agents
    PairedAgent a_{"A", {}}, b_{"B", {}};
};

TEST_F(DirectoryAgents, FindEachOtherByName) {
    introduce(a_, b_);
    introduce(b_, a_);
    EXPECT_EQ(a_->genNotif("B", "hello"), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(eventually([&] { return b_->getNotifs(b_.inbox) == NIXL_SUCCESS && b_.inbox.contains("A"); }));
}

TEST_F(DirectoryAgents, WaitForThoseWhoPublishLater) {
    ASSERT_EQ(b_->fetchRemoteMD("A"), NIXL_SUCCESS);
    EXPECT_EQ(b_->waitMetadata(milliseconds(0)), NIXL_IN_PROG);
    ASSERT_EQ(a_->sendLocalMD(), NIXL_SUCCESS);
    settle(b_);
    EXPECT_TRUE(knows(b_, "A"));
}

TEST_F(DirectoryAgents, AreToldThatNobodyCame) {
    nixlAgentConfig config;
    config.etcdWatchTimeout = std::chrono::milliseconds(20);
    nixlAgent agent("impatient", config);
    ASSERT_EQ(agent.fetchRemoteMD("nobody"), NIXL_SUCCESS);
    EXPECT_EQ(agent.waitMetadata(kPatience), NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("agent 'nobody' has published nothing"));
    EXPECT_EQ(agent.fetchRemoteMD(""), NIXL_ERR_INVALID_PARAM);
}

TEST_F(DirectoryAgents, ForgetThoseWhoWithdraw) {
    introduce(a_, b_);
    ASSERT_EQ(a_->invalidateLocalMD(), NIXL_SUCCESS);
    EXPECT_TRUE(eventually([&] { return !knows(b_, "A"); }));
    introduce(a_, b_);
}

TEST_F(DirectoryAgents, ForgetThoseWhoEnd) {
    introduce(a_, b_);
    a_.agent.reset();
    EXPECT_TRUE(eventually([&] { return !knows(b_, "A"); }));
}

TEST_F(DirectoryAgents, ForgetAnEarlierStartOnly) {
    introduce(a_, b_);
    PairedAgent later("A", {});
    b_.load(later.metadata()); // it came another way, before its first publication
    ASSERT_EQ(later->sendLocalMD(), NIXL_SUCCESS);
    settle(later);
    introduce(later, b_);
    a_.agent.reset();
    EXPECT_TRUE(knows(b_, "A"));
    later.agent.reset();
    EXPECT_TRUE(eventually([&] { return !knows(b_, "A"); }));
}

TEST_F(DirectoryAgents, LoadNothingThatIsPublishedUnderAnothersName) {
    PairedAgent c("C", {});
    for (auto *agent : {&a_, &c}) {
        ASSERT_EQ((*agent)->sendLocalMD(), NIXL_SUCCESS);
        settle(*agent);
    }
    const auto contents = [&](const std::string &agent) {
        std::ostringstream text;
        text << std::ifstream(folder_ / (agent + ".agent/metadata.md"), std::ios::binary).rdbuf();
        return text.str();
    };
    folder_.write("C.agent/metadata.md", contents("C").substr(0, 33) + contents("A").substr(33));
    ASSERT_EQ(b_->fetchRemoteMD("C"), NIXL_SUCCESS);
    EXPECT_EQ(b_->waitMetadata(kPatience), NIXL_ERR_MISMATCH);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("under the name of agent 'C' is the metadata of 'A'"));
    EXPECT_FALSE(knows(b_, "A"));
}

TEST_F(DirectoryAgents, FetchOnceMoreWhatWasRegisteredLater) {
    introduce(a_, b_);
    Buffer local(4096);
    require(a_->registerMem(registrationOf({memory_.desc()})), "register");
    require(b_->registerMem(registrationOf({local.desc()})), "register");
    ASSERT_EQ(a_->sendLocalMD(), NIXL_SUCCESS);
    settle(a_);
    nixlXferReqH *request = nullptr;
    EXPECT_EQ(b_->createXferReq(NIXL_READ, listOf({local.desc()}), listOf({memory_.desc()}), "A", request),
              NIXL_SUCCESS)
        << nixlx::lastError();
    b_.agent.reset(); // before its memory
}

TEST_F(DirectoryAgents, PublishPartsUnderLabels) {
    require(a_->registerMem(registrationOf({memory_.desc()})), "register");
    nixl_opt_args_t args;
    EXPECT_EQ(a_->sendLocalPartialMD(registrationOf({memory_.desc()}), &args), NIXL_ERR_INVALID_PARAM);
    EXPECT_THAT(nixlx::lastError(),
                HasSubstr("sendLocalPartial: metadata label is required for file send of local partial metadata"));
    args.metadataLabel = "../part";
    args.includeConnInfo = true;
    ASSERT_EQ(a_->sendLocalPartialMD(registrationOf({memory_.desc()}), &args), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_EQ(b_->fetchRemoteMD("A", &args), NIXL_SUCCESS);
    settle(b_);
    EXPECT_EQ(b_->checkRemoteMD("A", listOf({memory_.desc()})), NIXL_SUCCESS);
}

TEST_F(DirectoryAgents, GoOnWhileAnotherOneHostsTheirRendezvous) {
    const auto address = TcpStoreServer().endpoint(); // free now
    use("rendezvous://" + address);
    ::setenv("NIXL_RENDEZVOUS_LISTEN", address.c_str(), 1);
    PairedAgent host("H", {}), c("C", {});
    introduce(host, c);
    ::setenv("NIXL_RENDEZVOUS_LISTEN", "127.0.0.1:0", 1);
    Buffer local(4096);
    memory_.fill(1);
    require(a_->registerMem(registrationOf({memory_.desc()})), "register");
    require(b_->registerMem(registrationOf({local.desc()})), "register");
    introduce(a_, b_);
    nixlXferReqH *request = nullptr;
    require(b_->createXferReq(NIXL_READ, listOf({local.desc()}), listOf({memory_.desc()}), "A", request), "request");
    const auto moves = [&] {
        auto status = b_->postXferReq(request);
        eventually([&] { return (status = b_->getXferStatus(request)) != NIXL_IN_PROG; });
        return status == NIXL_SUCCESS;
    };
    ASSERT_TRUE(moves());
    host.agent.reset();
    EXPECT_TRUE(eventually([&] { // C has published again at the next host, which is one of those that listen
        EXPECT_TRUE(moves() && knows(b_, "A"));
        return c->sendLocalMD() == NIXL_SUCCESS && c->waitMetadata(kPatience) == NIXL_SUCCESS &&
            b_->fetchRemoteMD("C") == NIXL_SUCCESS && b_->waitMetadata(kPatience) == NIXL_SUCCESS;
    }));
    EXPECT_TRUE(moves() && knows(b_, "A") && knows(b_, "C"));
    EXPECT_TRUE(eventually([&] { return !knows(c, "H"); })) << "it has ended";
    EXPECT_EQ(b_->releaseXferReq(request), NIXL_SUCCESS);
    b_.agent.reset(); // before its memory
    ::unsetenv("NIXL_RENDEZVOUS_LISTEN");
}

TEST_F(DirectoryAgents, AnAddressMeansTheListener) {
    PairOptions options;
    options.listen = true;
    PairedAgent listening("L", options);
    const auto address = listening.address();
    ASSERT_EQ(a_->sendLocalMD(&address), NIXL_SUCCESS);
    settle(a_);
    EXPECT_TRUE(knows(listening, "A"));
    EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
}

TEST_F(DirectoryAgents, WithoutDirectoryTheCallSaysWhatToDo) {
    ::unsetenv("NIXL_METADATA_STORE");
    EXPECT_EQ(a_->sendLocalMD(), NIXL_ERR_NOT_SUPPORTED);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("no address was given (ipAddr), and no directory is set"));
    EXPECT_EQ(a_->fetchRemoteMD("B"), NIXL_ERR_NOT_SUPPORTED);
    EXPECT_EQ(a_->invalidateLocalMD(), NIXL_ERR_NOT_SUPPORTED);
}

TEST_F(DirectoryAgents, ADirectoryThatCannotBeIsNamed) {
    const std::tuple<std::string, nixl_status_t, std::string> bad[] = {
        {"nonsense", NIXL_ERR_MISMATCH, "is not <store>://<address>"},
        {"none:///", NIXL_ERR_NOT_FOUND, "libstore_none.so"},
        {"file://relative", NIXL_ERR_INVALID_PARAM, "'relative' is no absolute path"}};
    for (const auto &[directory, status, sentence] : bad) {
        use(directory);
        EXPECT_EQ(a_->sendLocalMD(), status) << directory;
        EXPECT_THAT(nixlx::lastError(), HasSubstr("NIXL_METADATA_STORE is '" + directory + "'"));
        EXPECT_THAT(nixlx::lastError(), HasSubstr(sentence));
    }
    use("file://" + (folder_ / "absent"));
    ASSERT_EQ(a_->sendLocalMD(), NIXL_SUCCESS) << "a store that is away may come back";
    EXPECT_EQ(a_->waitMetadata(kPatience), NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("the folder cannot be opened: No such file"));
    std::filesystem::create_directory(folder_ / "absent");
    ASSERT_EQ(a_->sendLocalMD(), NIXL_SUCCESS);
    settle(a_);
}

TEST_F(DirectoryAgents, AreNotMadeWithTwoDirectories) {
    ::setenv("NIXL_FILE_ENDPOINT", "/run/nixl", 1);
    ::setenv("NIXL_FILE_ENDPOINTS", "/run/nixl", 1);
    EXPECT_THROW(nixlAgent("torn", {}), std::runtime_error);
    ::unsetenv("NIXL_FILE_ENDPOINT");
    ::unsetenv("NIXL_FILE_ENDPOINTS");
}

TEST_F(DirectoryAgents, EndWhileTheyWait) {
    ASSERT_EQ(b_->fetchRemoteMD("A"), NIXL_SUCCESS);
    b_.agent.reset();
}

/// What a thread's start waits for must not be what others of the agent wait for.
class ThreadStart : public DirectoryAgents, public testing::WithParamInterface<bool> {};

TEST_P(ThreadStart, HoldsNoLockOfTheAgent) {
    nixl_opt_args_t args;
    if (GetParam()) {
        args.ipAddr = "127.0.0.1";
        args.port = 1;
    }
    std::atomic<bool> returned = false;
    std::thread other;
    bool in_time = false;
    before_thread = [&] {
        other = std::thread([&] {
            (void)a_->waitMetadata(milliseconds(0));
            returned = true;
        });
        in_time = eventually([&] { return returned.load(); }, std::chrono::seconds(10));
    };
    (void)a_->sendLocalMD(&args);
    ASSERT_TRUE(other.joinable()) << "no thread was started";
    other.join();
    EXPECT_TRUE(in_time);
}

INSTANTIATE_TEST_SUITE_P(Of, ThreadStart, testing::Bool(), [](const auto &info) {
    return info.param ? "Listeners" : "Directory";
});

} // namespace
} // namespace nx::test
