// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: a peer that stands still ends the requests to it in time, and never writes into their buffers again. Method:
// the peer is a process of its own, stopped in the middle of a transfer; when the request has ended its buffer is
// filled with a pattern, the process goes on, serves again and ends. Over shared memory and over the network, with and
// without a progress thread.
#include <csignal>
#include <fcntl.h>
#include <fstream>
#include <poll.h>
#include <sstream>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nixlx/engine.h"
#include "support/agent_pair.h"

namespace nx::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using ::testing::HasSubstr;

constexpr size_t kSize = size_t{32} << 20;
constexpr uint64_t kTheirs = 1, kPattern = 2;
constexpr milliseconds kLimit{300}, kSettleGuard{150};
constexpr std::chrono::seconds kHang{10}; ///< beyond both, on a busy machine

/// How the agents meet over UCX.
enum class Way {
    kLocal, ///< over shared memory
    kTcp    ///< over the network: without the trailer that tells ours of each other
};

struct Setup {
    Way way;
    bool progress_thread;
};

/// Of UCX from here on, also in processes that are started. Newer ones copy from and to a peer's memory through the
/// kernel where they can, for which the peer need not run: stopping it would stop nothing.
bool
chooseTransports(Way way) {
    return setenv("UCX_TLS", way == Way::kTcp ? "tcp" : "^cma,tcp", 1) == 0;
}

/// An agent "B" with memory that holds a pattern, in a process of its own, which runs this program anew: a fork alone
/// would inherit a UCX whose thread is gone. It serves until its socket is closed.
class ServingProcess {
public:
    static constexpr const char *kTask = "NX_TEST_SERVING_PROCESS"; ///< "socket threaded" in its environment

    explicit ServingProcess(bool progress_thread) {
        int sockets[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) abort();
        const std::string task = std::to_string(sockets[1]) + " " + std::to_string(progress_thread);
        pid_ = fork();
        if (pid_ == 0) {
            fcntl(sockets[1], F_SETFD, 0);
            setenv(kTask, task.c_str(), 1);
            execl("/proc/self/exe", "serving-process", "--gtest_filter=*", nullptr);
            _exit(1);
        }
        close(sockets[1]);
        socket_ = sockets[0];
        size_t size = 0;
        receive(&there.addr, sizeof there.addr);
        receive(&size, sizeof size);
        metadata.resize(size);
        receive(metadata.data(), size);
        there.len = kSize;
    }
    ~ServingProcess() {
        if (pid_ > 0) kill();
    }

    void
    stop() const {
        ::kill(pid_, SIGSTOP);
        waitpid(pid_, nullptr, WUNTRACED);
    }

    void
    goOn() const {
        ::kill(pid_, SIGCONT);
    }

    void
    kill() {
        ::kill(pid_, SIGKILL);
        finish();
    }

    /// Ends it; whether it ended in an orderly way.
    bool
    finish() {
        close(std::exchange(socket_, -1));
        int status = 0;
        waitpid(std::exchange(pid_, -1), &status, 0);
        return WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }

    nixl_blob_t metadata;
    nixlBasicDesc there{0, 0, 0}; ///< its memory

    /// What the process does.
    [[noreturn]] static void
    serve(int socket, bool progress_thread) {
        Buffer memory(kSize);
        memory.fill(kTheirs);
        const PairedAgent b("B", {.backend = "UCX", .params = {}, .progress_thread = progress_thread});
        require(b->registerMem(registrationOf({memory.desc()})), "register at B");
        const nixl_blob_t blob = b.metadata();
        const uintptr_t address = memory.address();
        const size_t size = blob.size();
        for (const auto &[bytes, length] :
             {std::pair<const void *, size_t>(&address, sizeof address), {&size, sizeof size}, {blob.data(), size}}) {
            if (write(socket, bytes, length) != static_cast<ssize_t>(length)) _exit(1);
        }
        nixl_notifs_t none;
        pollfd closed{socket, POLLIN, 0};
        while (::poll(&closed, 1, progress_thread ? 10 : 0) == 0) (void)b->getNotifs(none);
        _exit(0);
    }

private:
    void
    receive(void *bytes, size_t size) const {
        ASSERT_EQ(recv(socket_, bytes, size, MSG_WAITALL), static_cast<ssize_t>(size));
    }

    pid_t pid_ = -1;
    int socket_ = -1;
};

/// Turns a process that ServingProcess started into one, before the first test.
class BecomeServingProcess : public ::testing::Environment {
    void
    SetUp() override {
        const auto task = nixlx::configValue(ServingProcess::kTask);
        if (!task) return;
        int socket = -1;
        bool progress_thread = false;
        std::istringstream(*task) >> socket >> progress_thread;
        ServingProcess::serve(socket, progress_thread);
    }
};
const auto *const become_serving_process = ::testing::AddGlobalTestEnvironment(new BecomeServingProcess);

class PausedPeer : public ::testing::TestWithParam<Setup> {
protected:
    PausedPeer()
        : chosen_(chooseTransports(GetParam().way)),
          sink_(kSize),
          shared_sink_(kSize),
          at_c_(64 << 10),
          for_c_(64 << 10),
          b(GetParam().progress_thread),
          a("A", options()),
          c("C", options()) {
        for (const Buffer *buffer : {&sink_, &shared_sink_, &for_c_}) {
            require(a->registerMem(registrationOf({buffer->desc()})), "register at A");
        }
        require(c->registerMem(registrationOf({at_c_.desc()})), "register at C");
        meet(b.metadata);
        meet(c.metadata());
    }

    static PairOptions
    options() {
        return {"UCX", {}, GetParam().progress_thread};
    }

    void
    meet(nixl_blob_t blob) const {
        if (GetParam().way == Way::kTcp) blob.resize(std::min(blob.size(), blob.rfind("nixlxTrailer")));
        a.load(blob);
    }

    nixlXferReqH *
    requestTo(const std::string &name, nixl_xfer_op_t operation, const Buffer &here, const nixlBasicDesc &there) const {
        nixlXferReqH *request = nullptr;
        require(a->createXferReq(operation, listOf({here.desc()}), listOf({there}), name, request), "create");
        return request;
    }

    nixl_status_t
    finish(nixlXferReqH *request, nixl_status_t status) {
        eventually([&] {
            if (status == NIXL_IN_PROG) status = a->getXferStatus(request);
            (void)c->getNotifs(c.inbox); // progress
            return status != NIXL_IN_PROG;
        });
        return status;
    }

    nixl_status_t
    run(nixlXferReqH *request) {
        return finish(request, a->postXferReq(request));
    }

    /// Stops the peer while `request` runs, and waits for the end of the request, using another peer meanwhile.
    nixl_status_t
    endWithAPausedPeer(nixlXferReqH *request) {
        nixlXferReqH *bystander = requestTo("C", NIXL_READ, for_c_, at_c_.desc());
        nixl_status_t status;
        do {
            b.goOn();
            status = a->postXferReq(request);
            b.stop();
            stopped_ = steady_clock::now();
            while (status == NIXL_IN_PROG && steady_clock::now() - stopped_ < kHang + kPatience) {
                EXPECT_EQ(run(bystander), NIXL_SUCCESS) << nixlx::lastError();
                status = a->getXferStatus(request);
            }
        } while (status == NIXL_SUCCESS); // it was faster
        EXPECT_EQ(a->releaseXferReq(bystander), NIXL_SUCCESS);
        return status;
    }

    void
    endsInTime(nixl_xfer_op_t operation) {
        nixlXferReqH *request = requestTo("B", operation, sink_, b.there);
        ASSERT_EQ(a->setXferLimits(request, {.stall = kLimit}), NIXL_SUCCESS);
        EXPECT_EQ(endWithAPausedPeer(request), NIXL_ERR_TIMEOUT);
        const auto took = steady_clock::now() - stopped_;
        EXPECT_GE(took, kLimit);
        EXPECT_LT(took, kLimit + kSettleGuard + kHang);
        RecordProperty("milliseconds", std::to_string(took / milliseconds(1)));
        EXPECT_THAT(nixlx::lastError(), HasSubstr("the stall limit"));
        sink_.fill(kPattern);
        EXPECT_EQ(a->checkRemoteMD("B", {DRAM_SEG}), NIXL_ERR_NOT_FOUND) << "the peer is lost";
        EXPECT_EQ(a->releaseXferReq(request), NIXL_SUCCESS) << nixlx::lastError();
    }

    /// It takes what is left in its queues, serves again as the peer that it is, and ends; nothing of it arrives.
    void
    goesOnWithoutHarm(bool was_written_to = false) {
        if (was_written_to && GetParam().way == Way::kTcp) {
            GTEST_SKIP() << "UCX can end a process that is written to over TCP when its connection is dropped";
        }
        b.goOn();
        if (a->checkRemoteMD("B", {DRAM_SEG}) != NIXL_SUCCESS) meet(b.metadata);
        nixlXferReqH *again = requestTo("B", NIXL_READ, shared_sink_, b.there);
        EXPECT_EQ(run(again), NIXL_SUCCESS) << nixlx::lastError();
        EXPECT_TRUE(b.finish()) << "the process did not survive the loss of its connection";
        EXPECT_EQ(sink_.firstDifference(kPattern), kSize) << "bytes arrived after the final status";
    }

    const bool chosen_;
    const Buffer sink_, shared_sink_, at_c_, for_c_; // outlive the agents, whose transfers may still run
    ServingProcess b;
    PairedAgent a, c;
    steady_clock::time_point stopped_;
};

INSTANTIATE_TEST_SUITE_P(Ucx,
                         PausedPeer,
                         testing::Values(Setup{Way::kLocal, false},
                                         Setup{Way::kLocal, true},
                                         Setup{Way::kTcp, false},
                                         Setup{Way::kTcp, true}),
                         [](const testing::TestParamInfo<Setup> &info) {
                             return std::string(info.param.way == Way::kLocal ? "Local" : "Tcp") +
                                 (info.param.progress_thread ? "Threaded" : "Polled");
                         });

TEST_P(PausedPeer, EndsAReadInTimeAndForGood) {
    endsInTime(NIXL_READ);
    goesOnWithoutHarm();
}

TEST_P(PausedPeer, EndsAWriteInTimeAndForGood) {
    sink_.fill(kTheirs); // so that what is read later is known
    endsInTime(NIXL_WRITE);
    goesOnWithoutHarm(true);
}

TEST_P(PausedPeer, EndsTheOtherRequestsToItWithDisconnect) {
    nixlXferReqH *limited = requestTo("B", NIXL_READ, sink_, b.there);
    nixlXferReqH *unlimited = requestTo("B", NIXL_READ, shared_sink_, b.there);
    ASSERT_EQ(run(unlimited), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_EQ(a->setXferLimits(limited, {.deadline = kLimit}), NIXL_SUCCESS);
    b.stop();
    ASSERT_EQ(a->postXferReq(unlimited), NIXL_IN_PROG);
    ASSERT_EQ(run(limited), NIXL_ERR_TIMEOUT);
    EXPECT_EQ(finish(unlimited, NIXL_IN_PROG), NIXL_ERR_REMOTE_DISCONNECT);
    sink_.fill(kPattern);
    goesOnWithoutHarm();
}

TEST_P(PausedPeer, EndsAReadBehindAQueueThatIsFull) {
    nixlXferReqH *write = requestTo("B", NIXL_WRITE, shared_sink_, b.there);
    nixlXferReqH *read = requestTo("B", NIXL_READ, sink_, b.there);
    shared_sink_.fill(kTheirs);
    ASSERT_EQ(run(write), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_EQ(run(read), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_EQ(a->setXferLimits(read, {.deadline = kLimit}), NIXL_SUCCESS);
    b.stop();
    ASSERT_EQ(a->postXferReq(write), NIXL_IN_PROG);
    for (int i = 0; i < 1000; ++i) ASSERT_EQ(a->getXferStatus(write), NIXL_IN_PROG) << nixlx::lastError();
    ASSERT_EQ(a->postXferReq(read), NIXL_IN_PROG);
    EXPECT_EQ(finish(read, NIXL_IN_PROG), NIXL_ERR_TIMEOUT) << nixlx::lastError();
    EXPECT_EQ(finish(write, NIXL_IN_PROG), NIXL_ERR_REMOTE_DISCONNECT) << nixlx::lastError();
    sink_.fill(kPattern);
    EXPECT_EQ(a->releaseXferReq(read), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(a->releaseXferReq(write), NIXL_SUCCESS) << nixlx::lastError();
    goesOnWithoutHarm(true);
}

size_t
residentBytes() {
    size_t all = 0, resident = 0;
    std::ifstream("/proc/self/statm") >> all >> resident;
    return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

/// Sends messages to a peer that stands still until there is no place for more.
void
flood(const PairedAgent &a) {
    const std::string message(4096, 'm');
    const size_t before = residentBytes();
    nixl_status_t status = NIXL_SUCCESS;
    size_t taken = 0;
    for (; taken < 200'000 && status == NIXL_SUCCESS; ++taken) status = a->genNotif("B", message);
    EXPECT_EQ(status, NIXL_ERR_REPOST_ACTIVE);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("64 MiB of notifications to peer 'B'"));
    EXPECT_GT(taken, 15'000u);
    EXPECT_LT(taken, 20'000u);
    EXPECT_LT(residentBytes() - before, size_t{300} << 20);
}

TEST_P(PausedPeer, IsNotSentMoreThanItsPlacesHold) {
    nixlXferReqH *write = requestTo("B", NIXL_WRITE, shared_sink_, b.there);
    shared_sink_.fill(kTheirs);
    ASSERT_EQ(run(write), NIXL_SUCCESS) << nixlx::lastError();
    b.stop();
    flood(a);
    nixl_opt_args_t args;
    args.notif = "with a transfer";
    ASSERT_EQ(a->postXferReq(write, &args), NIXL_IN_PROG);
    for (int i = 0; i < 1000; ++i) ASSERT_EQ(a->getXferStatus(write), NIXL_IN_PROG) << nixlx::lastError();
    b.goOn();
    EXPECT_EQ(finish(write, NIXL_IN_PROG), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(eventually([&] { return a->genNotif("B", "again") == NIXL_SUCCESS; })) << nixlx::lastError();
    EXPECT_EQ(a->releaseXferReq(write), NIXL_SUCCESS);
    EXPECT_TRUE(b.finish());
}

TEST_P(PausedPeer, WithoutAPlaceEndsRequestsWhenItDies) {
    nixlXferReqH *write = requestTo("B", NIXL_WRITE, shared_sink_, b.there);
    shared_sink_.fill(kTheirs);
    ASSERT_EQ(run(write), NIXL_SUCCESS) << nixlx::lastError();
    b.stop();
    flood(a);
    nixl_opt_args_t args;
    args.notif = "with a transfer";
    ASSERT_EQ(a->postXferReq(write, &args), NIXL_IN_PROG);
    for (int i = 0; i < 1000; ++i) ASSERT_EQ(a->getXferStatus(write), NIXL_IN_PROG) << nixlx::lastError();
    b.kill();
    EXPECT_EQ(finish(write, NIXL_IN_PROG), NIXL_ERR_REMOTE_DISCONNECT) << nixlx::lastError();
    EXPECT_TRUE(eventually([&] { return a->genNotif("B", "x") == NIXL_ERR_NOT_FOUND; })) << nixlx::lastError();
    EXPECT_EQ(a->releaseXferReq(write), NIXL_SUCCESS);
}

TEST_P(PausedPeer, LetsGoOfARequestPastItsDeadline) {
    nixlXferReqH *request = requestTo("B", NIXL_READ, sink_, b.there);
    ASSERT_EQ(run(request), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_EQ(a->setXferLimits(request, {.deadline = kLimit}), NIXL_SUCCESS);
    b.stop();
    ASSERT_EQ(a->postXferReq(request), NIXL_IN_PROG);
    nixl_status_t released = NIXL_SUCCESS;
    EXPECT_TRUE(eventually([&] { return (released = a->releaseXferReq(request)) != NIXL_ERR_REPOST_ACTIVE; }));
    EXPECT_EQ(released, NIXL_SUCCESS) << nixlx::lastError();
    sink_.fill(kPattern);
    goesOnWithoutHarm();
}

TEST_P(PausedPeer, DoesNotHoldUpTheEndOfAnAgentForLongerThanASecond) {
    nixlXferReqH *write = requestTo("B", NIXL_WRITE, shared_sink_, b.there);
    nixlXferReqH *read = requestTo("B", NIXL_READ, sink_, b.there);
    ASSERT_EQ(run(write), NIXL_SUCCESS) << nixlx::lastError();
    b.stop();
    ASSERT_EQ(a->postXferReq(write), NIXL_IN_PROG);
    ASSERT_EQ(a->postXferReq(read), NIXL_IN_PROG);
    for (int i = 0; i < 1000; ++i) ASSERT_EQ(a->getXferStatus(write), NIXL_IN_PROG) << nixlx::lastError();
    const auto start = steady_clock::now();
    a.agent.reset();
    const auto took = steady_clock::now() - start;
    EXPECT_LT(took, milliseconds(1500));
    RecordProperty("milliseconds", std::to_string(took / milliseconds(1)));
    sink_.fill(kPattern);
    b.goOn();
    EXPECT_TRUE(b.finish()) << "the process did not survive the loss of its connection";
    EXPECT_EQ(sink_.firstDifference(kPattern), kSize) << "bytes arrived after the end";
}

TEST_P(PausedPeer, DoesNotHoldUpTheEndOfAnAgentWithoutTransfersEither) {
    nixlXferReqH *read = requestTo("B", NIXL_READ, sink_, b.there);
    ASSERT_EQ(run(read), NIXL_SUCCESS) << nixlx::lastError();
    b.stop();
    const auto start = steady_clock::now();
    a.agent.reset();
    const auto took = steady_clock::now() - start;
    EXPECT_LT(took, milliseconds(1500));
    RecordProperty("milliseconds", std::to_string(took / milliseconds(1)));
    b.goOn();
    EXPECT_TRUE(b.finish());
}

} // namespace
} // namespace nx::test
