// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: the engine keeps its promises, over shared memory and over the network path, with and
// without a progress thread, and when the other side stops or dies. Method: two engines of one process, or one here
// and one in a child process, on whatever UCX is found (NIXL_UCX_LIBRARY chooses another).
#include "ucx/engine.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <cstddef>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <new>
#include <numeric>
#include <poll.h>
#include <spawn.h>
#include <sstream>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include <gtest/gtest.h>

#include "base/last_error.h"
#include "kit/nixl14.h"
#include "support/buffer.h"
#include "support/eventually.h"
#include "support/no_memory.h"
#include "ucx/runtime.h"
#include "wire/limits.h"
#include "wire/notification.h"

namespace nx::ucx {
namespace {

using nx::test::Buffer;
using nx::test::eventually;

/// How two engines meet.
enum class Way {
    kLocal,  ///< both know that they are on one host
    kRemote, ///< both know each other, and that they are not
    kPlain   ///< as a peer of NIXL 1.4 would be met
};

struct Setup {
    Way way;
    bool progress_thread;
};

std::unique_ptr<Engine>
makeEngine(const std::string &name, bool progress_thread, nixl_b_params_t params = {}) {
    nixlBackendInitParams init;
    init.localAgent = name;
    init.type = "UCX";
    init.customParams = &params;
    init.enableProgTh = progress_thread;
    return std::make_unique<Engine>(&init);
}

void
introduce(Engine &from, const std::string &name, Engine &to, Way way) {
    std::string connection_info, info;
    ASSERT_EQ(from.getConnInfo(connection_info), NIXL_SUCCESS);
    ASSERT_EQ(from.getPeerInfo(info), NIXL_SUCCESS);
    if (way == Way::kRemote) info = encodePeerInfo({"another host", "", decodePeerInfo(info)->features});
    ASSERT_EQ(to.loadPeer(name, connection_info, way == Way::kPlain ? nullptr : &info), NIXL_SUCCESS);
}

/// Memory registered at its owner and, if there is one, known to a peer.
class Region {
public:
    /// `kept`: where the memory stays after the region. Nothing keeps a peer's late bytes from landing in it.
    Region(Engine &owner, size_t size, std::vector<std::shared_ptr<Buffer>> *kept = nullptr)
        : memory_(std::make_shared<Buffer>(size)),
          buffer(*memory_),
          owner_(owner) {
        if (kept) kept->push_back(memory_);
        EXPECT_EQ(owner.registerMem({buffer.address(), size, 0, ""}, DRAM_SEG, local), NIXL_SUCCESS);
    }
    ~Region() {
        if (remote) user_->unloadMD(remote);
        deregister();
    }

    void
    deregister() {
        if (local) owner_.deregisterMem(std::exchange(local, nullptr));
    }

    void
    showTo(Engine &user, const std::string &owner_name) {
        std::string key;
        EXPECT_EQ(owner_.getPublicData(local, key), NIXL_SUCCESS);
        const nixlBlobDesc desc(buffer.address(), buffer.size(), 0, key);
        EXPECT_EQ(user.loadRemoteMD(desc, DRAM_SEG, owner_name, remote), NIXL_SUCCESS);
        user_ = &user;
    }

    unsigned char &
    operator[](size_t i) {
        return buffer.data()[i];
    }

    void
    fill(unsigned seed) {
        for (size_t i = 0; i < buffer.size(); ++i)
            buffer.data()[i] = static_cast<unsigned char>(i * 31 + i / 251 + seed);
    }

    bool
    equals(const Region &other) const {
        return std::equal(buffer.data(), buffer.data() + buffer.size(), other.buffer.data());
    }

private:
    const std::shared_ptr<Buffer> memory_;

public:
    Buffer &buffer;
    nixlBackendMD *local = nullptr;
    nixlBackendMD *remote = nullptr;

private:
    Engine &owner_;
    Engine *user_ = nullptr;
};

/// A plan between one local and one remote region, which own the memory.
struct PlanOf {
    PlanOf(nixl_xfer_op_t operation,
           const std::string &agent,
           const Region &local,
           const Region &remote,
           std::vector<nixlx::Run> runs)
        : agent(agent),
          local_segment{local.local, 0},
          remote_segment{remote.remote, 0},
          runs(std::move(runs)) {
        uint64_t bytes = 0, blocks = 0;
        for (const nixlx::Run &run : this->runs) {
            bytes += run.length * run.count;
            blocks += run.count;
        }
        plan = {operation,  DRAM_SEG, DRAM_SEG, this->agent, {&local_segment, 1}, {&remote_segment, 1},
                this->runs, bytes,    blocks};
    }
    PlanOf(const PlanOf &) = delete;

    std::string agent;
    nixlx::Segment local_segment, remote_segment;
    std::vector<nixlx::Run> runs;
    nixlx::Plan plan;
};

/// One block from the beginning of one region to the beginning of the other.
nixlx::Run
whole(const Region &local, const Region &remote, size_t length) {
    return {local.buffer.address(), remote.buffer.address(), length, 0, 0, 1, 0, 0};
}

class Request {
public:
    Request(Engine &engine, const PlanOf &plan) : Request(engine, plan.plan) {}
    Request(Engine &engine, const nixlx::Plan &plan) : engine_(engine) {
        EXPECT_EQ(engine.prepare(plan, nullptr, handle), NIXL_SUCCESS) << takeBackendSentence("");
    }
    ~Request() {
        if (handle) engine_.release(handle);
    }

    nixl_status_t
    post(const std::string *notification = nullptr) {
        return engine_.post(handle, notification);
    }

    nixl_status_t
    check() {
        return engine_.check(handle);
    }

    nixlBackendReqH *handle = nullptr;

private:
    Engine &engine_;
};

class EnginePair : public testing::TestWithParam<Setup> {
protected:
    EnginePair()
        : a(makeEngine("alice", GetParam().progress_thread)),
          b(makeEngine("bob", GetParam().progress_thread)) {
        introduce(*a, "alice", *b, GetParam().way);
        introduce(*b, "bob", *a, GetParam().way);
    }

    /// Lets both sides progress until `request` is final.
    nixl_status_t
    settle(Request &request) {
        nixl_status_t status = NIXL_IN_PROG;
        EXPECT_TRUE(eventually([&] {
            pump();
            return (status = request.check()) != NIXL_IN_PROG;
        }));
        return status;
    }

    nixl_status_t
    run(Request &request, const std::string *notification = nullptr) {
        const nixl_status_t status = request.post(notification);
        return status == NIXL_IN_PROG ? settle(request) : status;
    }

    void
    pump() {
        b->getNotifs(at_bob);
    }

    bool
    bobHas(const std::string &message, const std::string &sender = "alice") {
        return eventually([&] {
            a->getNotifs(at_alice); // progress
            b->getNotifs(at_bob);
            return std::find(at_bob.begin(), at_bob.end(), std::pair(sender, message)) != at_bob.end();
        });
    }

    std::vector<std::shared_ptr<Buffer>> kept; ///< goes after the engines
    std::unique_ptr<Engine> a, b;
    notif_list_t at_alice, at_bob;
};

std::string
nameOf(const testing::TestParamInfo<Setup> &info) {
    static constexpr const char *kWays[] = {"Local", "Remote", "Plain"};
    return std::string(kWays[static_cast<size_t>(info.param.way)]) +
        (info.param.progress_thread ? "Threaded" : "Polled");
}

INSTANTIATE_TEST_SUITE_P(Ucx,
                         EnginePair,
                         testing::Values(Setup{Way::kLocal, false},
                                         Setup{Way::kLocal, true},
                                         Setup{Way::kPlain, false},
                                         Setup{Way::kPlain, true}),
                         nameOf);

// ---- Data ----------------------------------------------------------------------------------------------------------

TEST_P(EnginePair, WritesAndReadsBack) {
    constexpr size_t kSize = 3 << 20;
    Region source(*a, kSize), back(*a, kSize), target(*b, kSize);
    target.showTo(*a, "bob");
    source.fill(1);
    const PlanOf out(NIXL_WRITE, "bob", source, target, {whole(source, target, kSize)});
    Request write(*a, out);
    ASSERT_EQ(run(write), NIXL_SUCCESS) << a->describe(write.handle).error;
    EXPECT_TRUE(target.equals(source));

    const PlanOf in(NIXL_READ, "bob", back, target, {whole(back, target, kSize)});
    Request read(*a, in);
    ASSERT_EQ(run(read), NIXL_SUCCESS);
    EXPECT_TRUE(back.equals(source));
}

TEST_P(EnginePair, RepostsTheSameRequest) {
    Region source(*a, 4096), target(*b, 4096);
    target.showTo(*a, "bob");
    const PlanOf plan(NIXL_WRITE, "bob", source, target, {whole(source, target, 4096)});
    Request request(*a, plan);
    EXPECT_EQ(request.check(), NIXL_ERR_NOT_POSTED);
    for (unsigned round = 0; round < 200; ++round) {
        source.fill(round);
        ASSERT_EQ(run(request), NIXL_SUCCESS);
        ASSERT_TRUE(target.equals(source)) << round;
    }
}

TEST_P(EnginePair, MovesStridedRunsInBothDirectionsOfTime) {
    // 64 blocks of 100 bytes; remote ones stand in reverse order, 128 bytes apart.
    constexpr size_t kBlocks = 64, kLength = 100, kLocalStride = 112, kRemoteStride = 128;
    Region source(*a, kBlocks * kLocalStride), target(*b, kBlocks * kRemoteStride);
    target.showTo(*a, "bob");
    source.fill(5);
    const nixlx::Run run_back{source.buffer.address(),
                              target.buffer.address() + (kBlocks - 1) * kRemoteStride,
                              kLength,
                              kLocalStride,
                              uint64_t{0} - kRemoteStride,
                              kBlocks,
                              0,
                              0};
    const PlanOf plan(NIXL_WRITE, "bob", source, target, {run_back});
    Request request(*a, plan);
    ASSERT_EQ(run(request), NIXL_SUCCESS);
    for (size_t i = 0; i < kBlocks; ++i) {
        EXPECT_EQ(memcmp(&source[i * kLocalStride], &target[(kBlocks - 1 - i) * kRemoteStride], kLength), 0) << i;
        EXPECT_EQ(target[(kBlocks - 1 - i) * kRemoteStride + kLength], 0) << "behind block " << i;
    }
}

TEST_P(EnginePair, MovesMoreBlocksThanTheWindowHolds) {
    constexpr size_t kBlocks = 5000, kLength = 512;
    Region source(*a, kBlocks * kLength), target(*b, kBlocks * kLength);
    target.showTo(*a, "bob");
    source.fill(9);
    for (const nixl_xfer_op_t operation : {NIXL_WRITE, NIXL_READ}) {
        Region &from = operation == NIXL_WRITE ? source : target;
        Region &to = operation == NIXL_WRITE ? target : source;
        from.fill(operation + 7u);
        const PlanOf plan(
            operation, "bob", source, target,
            {{source.buffer.address(), target.buffer.address(), kLength, kLength, kLength, kBlocks, 0, 0}});
        Request request(*a, plan);
        ASSERT_EQ(run(request), NIXL_SUCCESS);
        EXPECT_TRUE(to.equals(from));
    }
}

TEST_P(EnginePair, TakesZeroLengthBlocksAndRegistrations) {
    nixlBackendMD *nothing = nullptr;
    ASSERT_EQ(a->registerMem({0, 0, 0, ""}, DRAM_SEG, nothing), NIXL_SUCCESS);
    std::string key;
    EXPECT_EQ(a->getPublicData(nothing, key), NIXL_SUCCESS);
    EXPECT_FALSE(key.empty());
    EXPECT_EQ(a->deregisterMem(nothing), NIXL_SUCCESS);

    Region source(*a, 64), target(*b, 64);
    target.showTo(*a, "bob");
    source.fill(3);
    const std::string message = "nothing moved";
    const PlanOf empty(NIXL_WRITE, "bob", source, target, {whole(source, target, 0)});
    Request request(*a, empty);
    EXPECT_EQ(run(request, &message), NIXL_SUCCESS);
    EXPECT_TRUE(bobHas(message));
    EXPECT_EQ(target[0], 0);
}

TEST_P(EnginePair, MovesDataWithinOneAgent) {
    Region source(*a, 70000), target(*a, 70000);
    source.fill(4);
    ASSERT_EQ(a->connect("alice"), NIXL_SUCCESS);
    ASSERT_EQ(a->loadLocalMD(target.local, target.remote), NIXL_SUCCESS);
    {
        const PlanOf plan(NIXL_WRITE, "alice", source, target, {whole(source, target, 70000)});
        Request request(*a, plan);
        const std::string message = "to myself";
        ASSERT_EQ(run(request, &message), NIXL_SUCCESS);
        EXPECT_TRUE(target.equals(source));
        EXPECT_TRUE(eventually([&] {
            a->getNotifs(at_alice);
            return !at_alice.empty();
        }));
        EXPECT_EQ(at_alice.at(0), std::pair(std::string("alice"), message));
    }
    a->unloadMD(target.remote);
    target.remote = nullptr;
}

TEST_P(EnginePair, SaysWhichWayTheBytesGo) {
    Region source(*a, 64), target(*b, 64);
    target.showTo(*a, "bob");
    const PlanOf plan(NIXL_WRITE, "bob", source, target, {whole(source, target, 64)});
    Request request(*a, plan);
    const std::string path = a->describe(request.handle).path;
    EXPECT_TRUE(path.starts_with("ucx 1.")) << path;
    EXPECT_NE(path.find("libucp"), std::string::npos) << path;
    EXPECT_NE(path.find(GetParam().way == Way::kLocal ? "shared memory (same host)" : "network"), std::string::npos)
        << path;
    const auto cost = a->cost(DRAM_SEG, DRAM_SEG, "bob");
    ASSERT_TRUE(cost);
    EXPECT_GT(nixlx::predict(*cost, plan.plan), 0);
}

// ---- Notifications -------------------------------------------------------------------------------------------------

TEST_P(EnginePair, TellsTheTargetAfterTheData) {
    constexpr size_t kSize = 300'000;
    Region source(*a, kSize), target(*b, kSize);
    target.showTo(*a, "bob");
    const PlanOf plan(NIXL_WRITE, "bob", source, target, {whole(source, target, kSize)});
    Request request(*a, plan);
    for (unsigned round = 1; round <= 50; ++round) {
        source.fill(round);
        const std::string message = "round " + std::to_string(round);
        nixl_status_t status = request.post(&message);
        at_bob.clear();
        ASSERT_TRUE(eventually([&] {
            if (status == NIXL_IN_PROG) status = request.check();
            pump();
            return !at_bob.empty();
        }));
        ASSERT_TRUE(target.equals(source)) << "told before the data of round " << round << " was there";
        EXPECT_EQ(at_bob.at(0).second, message);
        if (status == NIXL_IN_PROG) status = settle(request);
        ASSERT_EQ(status, NIXL_SUCCESS);
    }
}

TEST_P(EnginePair, CarriesEmptyBinaryAndLargeMessages) {
    const std::string binary("\0\x01|\xff\0", 5), large(1 << 20, 'x');
    for (const std::string &message : {std::string(), binary, large}) {
        ASSERT_EQ(a->genNotif("bob", message), NIXL_SUCCESS);
        EXPECT_TRUE(bobHas(message)) << message.size();
    }
    ASSERT_EQ(b->genNotif("alice", "back"), NIXL_SUCCESS);
    EXPECT_TRUE(eventually([&] {
        pump();
        a->getNotifs(at_alice);
        return !at_alice.empty();
    }));
}

TEST_P(EnginePair, TellsTheTargetOfAReadAfterItIsDone) {
    Region sink(*a, 100'000), target(*b, 100'000);
    target.showTo(*a, "bob");
    target.fill(8);
    const PlanOf plan(NIXL_READ, "bob", sink, target, {whole(sink, target, 100'000)});
    Request request(*a, plan);
    const std::string message = "you may reuse it";
    ASSERT_EQ(run(request, &message), NIXL_SUCCESS);
    EXPECT_TRUE(sink.equals(target));
    EXPECT_TRUE(bobHas(message));
}

TEST_P(EnginePair, TellsTheTargetWithoutHelpOfTheCaller) {
    if (!GetParam().progress_thread) GTEST_SKIP() << "without a progress thread the caller is the progress";
    constexpr size_t kSize = 16 << 20;
    Region source(*a, kSize), target(*b, kSize);
    target.showTo(*a, "bob");
    source.fill(6);
    const PlanOf plan(NIXL_WRITE, "bob", source, target, {whole(source, target, kSize)});
    Request request(*a, plan);
    const std::string message = "on its own";
    ASSERT_GE(request.post(&message), NIXL_SUCCESS);
    // Neither side's engine is called until the message is there.
    ASSERT_TRUE(eventually([&] {
        pump();
        return !at_bob.empty();
    }));
    EXPECT_TRUE(target.equals(source));
    EXPECT_EQ(settle(request), NIXL_SUCCESS);
}

TEST_P(EnginePair, HandsOutAllThatHasArrivedAtOnce) {
    if (GetParam().progress_thread) GTEST_SKIP() << "the progress thread takes messages in";
    constexpr size_t kCount = 5000;
    const std::string message(100, 'm');
    for (size_t i = 0; i < kCount; ++i) ASSERT_EQ(a->genNotif("bob", message), NIXL_SUCCESS);
    int calls = 0;
    ASSERT_TRUE(eventually([&] {
        for (int i = 0; i < 100; ++i) a->getNotifs(at_alice); // what UCX has not sent yet
        pump();
        return ++calls, at_bob.size() == kCount;
    })) << at_bob.size();
    EXPECT_LT(calls, 200); // of about 8 messages each it would take 625
}

/// Engines that keep credits, and what they do without a place for their messages.
class Credits : public EnginePair {
protected:
    /// Messages from alice to bob until there is no place for more; how many. Their sum in megabytes is about that.
    size_t
    flood() {
        const std::string message((1 << 20) - kit::kMessageOverhead - strlen("alice"), 'f');
        nixl_status_t status = NIXL_SUCCESS;
        size_t count = 0;
        for (; count < 1000; ++count) {
            if ((status = a->genNotif("bob", message)) != NIXL_SUCCESS) break;
        }
        EXPECT_EQ(status, NIXL_ERR_REPOST_ACTIVE);
        EXPECT_NE(takeBackendSentence("").find("64 MiB of notifications to peer 'bob'"), std::string::npos);
        return count;
    }

    void
    fetch(size_t count) {
        EXPECT_TRUE(eventually([&] {
            a->getNotifs(at_alice);
            pump();
            return at_bob.size() >= count;
        })) << at_bob.size()
            << " of " << count;
    }
};

INSTANTIATE_TEST_SUITE_P(Ucx,
                         Credits,
                         testing::Values(Setup{Way::kLocal, false},
                                         Setup{Way::kLocal, true},
                                         Setup{Way::kRemote, false},
                                         Setup{Way::kRemote, true}),
                         nameOf);

TEST_P(Credits, HoldMessagesBackAndLoseNone) {
    size_t sent = flood();
    EXPECT_EQ(sent, kit::kShareBytes >> 20);
    for (int round = 0; round < 3; ++round) {
        fetch(sent);
        // Once bob has fetched, there are places again, although nobody has told alice yet.
        ASSERT_TRUE(eventually([&] {
            pump();
            const nixl_status_t status = a->genNotif("bob", "again");
            EXPECT_TRUE(status == NIXL_SUCCESS || status == NIXL_ERR_REPOST_ACTIVE);
            return status == NIXL_SUCCESS;
        }));
        sent += 1 + flood();
    }
    fetch(sent);
    for (int i = 0; i < 100; ++i) pump();
    EXPECT_EQ(at_bob.size(), sent);
}

TEST_P(Credits, ARequestEndsOnceItsMessageHasAPlace) {
    Region source(*a, 100'000), target(*b, 100'000);
    target.showTo(*a, "bob");
    const PlanOf plan(NIXL_WRITE, "bob", source, target, {whole(source, target, 100'000)});
    Request first(*a, plan), second(*a, plan);
    source.fill(1);
    const size_t sent = flood();
    const std::string message = "first", other = "second";
    ASSERT_EQ(first.post(&message), NIXL_IN_PROG);
    ASSERT_EQ(second.post(&other), NIXL_IN_PROG);
    if (GetParam().progress_thread) {
        EXPECT_TRUE(eventually([&] { return target.equals(source); }));
    }
    for (int i = 0; i < 1000; ++i) ASSERT_EQ(first.check(), NIXL_IN_PROG);
    EXPECT_EQ(a->genNotif("bob", "small"), NIXL_ERR_REPOST_ACTIVE) << "not before those who wait";
    EXPECT_EQ(settle(first), NIXL_SUCCESS);
    EXPECT_EQ(settle(second), NIXL_SUCCESS);
    fetch(sent + 2);
    EXPECT_NE(at_bob.at(sent).second, at_bob.at(sent + 1).second);
    for (size_t i : {sent, sent + 1}) EXPECT_TRUE(at_bob[i].second == message || at_bob[i].second == other);
}

TEST_P(Credits, ARequestThatWaitsForAPlaceCanBeCancelled) {
    Region source(*a, 1000), target(*b, 1000);
    target.showTo(*a, "bob");
    const PlanOf plan(NIXL_WRITE, "bob", source, target, {whole(source, target, 1000)});
    Request request(*a, plan);
    const size_t sent = flood();
    const std::string message(1 << 20, 'x');
    ASSERT_EQ(request.post(&message), NIXL_IN_PROG);
    if (!GetParam().progress_thread) fetch(1); // else its data is not there, and it does not wait for a place yet
    if (GetParam().progress_thread) {
        for (int i = 0; i < 1000; ++i) ASSERT_EQ(request.check(), NIXL_IN_PROG);
    }
    a->cancel(request.handle);
    nixl_status_t status = NIXL_IN_PROG;
    EXPECT_TRUE(eventually([&] {
        if (!GetParam().progress_thread) pump();
        return (status = request.check()) != NIXL_IN_PROG;
    }));
    EXPECT_TRUE(status == NIXL_ERR_CANCELED || (!GetParam().progress_thread && status == NIXL_SUCCESS)) << status;
    fetch(sent);
}

TEST_P(Credits, ARequestThatWaitsForAPlaceEndsWithTheConnection) {
    Region source(*a, 1000), target(*b, 1000);
    target.showTo(*a, "bob");
    const PlanOf plan(NIXL_WRITE, "bob", source, target, {whole(source, target, 1000)});
    Request request(*a, plan);
    flood();
    const std::string message = "x";
    ASSERT_EQ(request.post(&message), NIXL_IN_PROG);
    for (int i = 0; i < 1000; ++i) ASSERT_EQ(request.check(), NIXL_IN_PROG);
    ASSERT_EQ(a->disconnect("bob"), NIXL_SUCCESS);
    EXPECT_EQ(settle(request), NIXL_ERR_REMOTE_DISCONNECT);
}

TEST_P(Credits, AMessageLargerThanTheShareWaitsForHalfOfIt) {
    const std::string large(100 << 20, 'l');
    ASSERT_EQ(a->genNotif("bob", large), NIXL_SUCCESS);
    EXPECT_EQ(a->genNotif("bob", large), NIXL_ERR_REPOST_ACTIVE);
    fetch(1);
    EXPECT_EQ(at_bob.at(0).second.size(), large.size());
    ASSERT_TRUE(eventually([&] {
        pump();
        return a->genNotif("bob", "small") == NIXL_SUCCESS;
    }));
    EXPECT_EQ(a->genNotif("bob", std::string(wire::kNotificationBytesMax + 1, 'l')), NIXL_ERR_INVALID_PARAM);
}

/// Somebody who has bob's address and says what he likes.
class Stranger {
public:
    explicit Stranger(Engine &to) {
        const Options options;
        auto library = Library::load(options.library);
        EXPECT_TRUE(library.ok());
        context = *Context::create(**library, {"stranger", plainSettings(options, (*library)->minorVersion())});
        worker = *Worker::create(*context, "stranger:0", sink);
        std::string address;
        EXPECT_EQ(to.getConnInfo(address), NIXL_SUCCESS);
        std::lock_guard lock(worker->mutex());
        endpoint = *Endpoint::create(*worker, address, true);
    }

    /// A question; it counts the answers.
    struct Answers final : Operation {
        void
        finished(Code code) noexcept override {
            ++(code == kDone ? given : lost);
        }
        int given = 0, lost = 0;
    };

    void
    ask(std::string_view name, Answers &answers) {
        std::lock_guard lock(worker->mutex());
        EXPECT_EQ(endpoint->ask(name, answers), kPending);
    }

    void
    say(const std::string &bytes) {
        static Forgotten forgotten;
        std::lock_guard lock(worker->mutex());
        EXPECT_GE(endpoint->send(bytes, forgotten), 0);
    }

    void
    progress() {
        std::lock_guard lock(worker->mutex());
        worker->progress();
    }

    kit::Bell bell;
    Mail sink{"stranger", bell};
    std::unique_ptr<Context> context;
    std::unique_ptr<Worker> worker;
    std::unique_ptr<Endpoint> endpoint;
};

TEST_P(Credits, AStrangersQuestionsHarmNobody) {
    auto stranger = std::make_unique<Stranger>(*b);
    Stranger::Answers nonsense, about_alice;
    const std::string long_name(5000, 'n');
    const auto askNonsense = [&] {
        const int known = nonsense.given;
        stranger->ask("nobody", nonsense);
        stranger->ask(std::string_view("\0\xff", 2), nonsense);
        stranger->ask(long_name, nonsense);
        EXPECT_TRUE(eventually([&] {
            stranger->progress();
            pump();
            return nonsense.given == known + 3;
        }));
    };
    askNonsense();
    // One who asks about another's messages learns when they are fetched, and nothing else.
    ASSERT_EQ(a->genNotif("bob", "hello"), NIXL_SUCCESS);
    if (!GetParam().progress_thread) fetch(1);
    stranger->ask("alice", about_alice);
    fetch(1);
    ASSERT_TRUE(eventually([&] {
        stranger->progress();
        pump();
        return about_alice.given == 1;
    }));
    // One who goes before he is answered, with his own message or alice's still there.
    for (int round = 0; round < 3; ++round) {
        stranger->say(wire::encodeNotification("stranger", std::string(100, 's')));
        stranger->ask("stranger", about_alice);
        for (int i = 0; i < 100; ++i) stranger->progress();
        stranger->endpoint.reset();
        for (int i = 0; i < 100; ++i) stranger->progress();
        stranger = std::make_unique<Stranger>(*b);
        askNonsense();
    }
    stranger->endpoint.reset();
    const size_t before = at_bob.size();
    ASSERT_EQ(a->genNotif("bob", "still there"), NIXL_SUCCESS);
    EXPECT_TRUE(eventually([&] {
        pump();
        return std::any_of(at_bob.begin() + static_cast<ptrdiff_t>(before), at_bob.end(),
                           [](const auto &entry) { return entry.second == "still there"; });
    }));
}

TEST_P(EnginePair, WhatAnOriginalSendsTooMuchCostsItselfOnly) {
    if (GetParam().way != Way::kPlain) GTEST_SKIP() << "peers of ours do not send too much";
    auto carol = makeEngine("carol", GetParam().progress_thread);
    introduce(*b, "bob", *carol, Way::kPlain);
    const std::string message(1 << 20, 'f');
    // Bob's thread takes in what it may keep, and does not ask what it costs.
    for (int i = 0; i < 100; ++i) {
        ASSERT_TRUE(eventually([&] {
            a->getNotifs(at_alice);
            return a->genNotif("bob", message) == NIXL_SUCCESS || !GetParam().progress_thread;
        }));
    }
    ASSERT_EQ(carol->genNotif("bob", "quiet"), NIXL_SUCCESS);
    EXPECT_TRUE(eventually([&] {
        carol->getNotifs(at_alice);
        pump();
        return std::any_of(at_bob.begin(), at_bob.end(), [](const auto &entry) { return entry.first == "carol"; });
    }));
}

// ---- Peers ---------------------------------------------------------------------------------------------------------

TEST_P(EnginePair, RefusesUnknownPeers) {
    EXPECT_EQ(a->connect("carol"), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(a->disconnect("carol"), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(a->genNotif("carol", "x"), NIXL_ERR_NOT_FOUND);
    nixlBackendMD *md = nullptr;
    EXPECT_EQ(a->loadRemoteMD({0, 8, 0, "0123456789ab"}, DRAM_SEG, "carol", md), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(md, nullptr);
}

TEST_P(EnginePair, LoadsTheSamePeerAgain) {
    std::string info;
    ASSERT_EQ(b->getConnInfo(info), NIXL_SUCCESS);
    EXPECT_EQ(a->loadPeer("bob", info, nullptr), NIXL_SUCCESS);
    info[1] = static_cast<char>(info[1] ^ 1); // of another worker
    EXPECT_EQ(a->loadPeer("bob", info, nullptr), NIXL_ERR_NOT_ALLOWED);
    ASSERT_EQ(a->connect("bob"), NIXL_SUCCESS);
    for (int round = 0; round < 5; ++round) {
        ASSERT_EQ(a->disconnect("bob"), NIXL_SUCCESS);
        EXPECT_EQ(a->genNotif("bob", "x"), NIXL_ERR_NOT_FOUND);
        introduce(*b, "bob", *a, GetParam().way);
        const std::string message = "round " + std::to_string(round);
        ASSERT_EQ(a->genNotif("bob", message), NIXL_SUCCESS);
        EXPECT_TRUE(bobHas(message));
    }
}

// The keys of the old connection must not meet the endpoints of the new one.
TEST_P(EnginePair, ARequestStaysWithTheConnectionThatItsRangesWereLoadedFor) {
    Region source(*a, 4096), target(*b, 4096), newer(*b, 4096);
    target.showTo(*a, "bob");
    source.fill(1);
    const PlanOf plan(NIXL_WRITE, "bob", source, target, {whole(source, target, 4096)});
    ASSERT_EQ(a->disconnect("bob"), NIXL_SUCCESS);
    introduce(*b, "bob", *a, GetParam().way);
    newer.showTo(*a, "bob");

    Request old(*a, plan);
    EXPECT_EQ(run(old), NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_NE(takeBackendSentence("").find("this agent has disconnected it"), std::string::npos);
    EXPECT_EQ(target[4095], 0);

    const nixlx::Segment remote[] = {{newer.remote, 0}, {target.remote, 0}};
    const nixlx::Run runs[] = {whole(source, newer, 4096),
                               {source.buffer.address(), target.buffer.address(), 4096, 0, 0, 1, 0, 1}};
    nixlx::Plan both = plan.plan;
    both.remote_segments = remote;
    both.runs = runs;
    both.total_bytes = 8192;
    both.block_count = 2;
    Request mixed(*a, both);
    EXPECT_EQ(run(mixed), NIXL_ERR_INVALID_PARAM);
    EXPECT_NE(takeBackendSentence("").find("were loaded for different connections"), std::string::npos);
    EXPECT_EQ(target[4095], 0);

    const PlanOf again(NIXL_WRITE, "bob", source, newer, {whole(source, newer, 4096)});
    Request fresh(*a, again);
    EXPECT_EQ(run(fresh), NIXL_SUCCESS);
    EXPECT_TRUE(newer.equals(source));
}

TEST_P(EnginePair, DeliversWhatWasSentBeforeADisconnect) {
    for (int i = 0; i < 100; ++i) ASSERT_EQ(a->genNotif("bob", std::to_string(i)), NIXL_SUCCESS);
    ASSERT_EQ(a->disconnect("bob"), NIXL_SUCCESS);
    EXPECT_TRUE(bobHas("99"));
    EXPECT_EQ(at_bob.size(), 100u);
}

TEST_P(EnginePair, RefusesAddressesAndKeysThatWouldEndTheProcess) {
    EXPECT_EQ(a->loadPeer("eve", "", nullptr), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(a->loadPeer("eve", "x", nullptr), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(a->loadPeer("eve", std::string(1 << 20, ' '), nullptr), NIXL_ERR_INVALID_PARAM);
    nixlBackendMD *md = nullptr;
    EXPECT_EQ(a->loadRemoteMD({0, 8, 0, ""}, DRAM_SEG, "bob", md), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(a->loadRemoteMD({0, 8, 0, "x"}, DRAM_SEG, "bob", md), NIXL_ERR_INVALID_PARAM);
    std::string info;
    const std::string nonsense = "nonsense";
    ASSERT_EQ(b->getConnInfo(info), NIXL_SUCCESS);
    EXPECT_EQ(a->loadPeer("eve", info, &nonsense), NIXL_ERR_MISMATCH);
    EXPECT_EQ(a->connect("eve"), NIXL_ERR_NOT_FOUND) << "what was refused is not known";
}

TEST_P(EnginePair, RefusesAPeerThatNoTransportReachesAndGoesOn) {
    const std::string nowhere = std::string("\x20", 1) + "12345678" + '\xff'; // an address without devices
    ASSERT_EQ(a->loadPeer("eve", nowhere, nullptr), NIXL_SUCCESS);
    EXPECT_EQ(a->connect("eve"), NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_EQ(a->connect("bob"), NIXL_SUCCESS);
}

TEST_P(EnginePair, ReportsAPeerThatHasShutDown) {
    Region source(*a, 4096);
    Region target(*b, 4096);
    target.showTo(*a, "bob");
    const PlanOf plan(NIXL_WRITE, "bob", source, target, {whole(source, target, 4096)});
    Request request(*a, plan);
    ASSERT_EQ(run(request), NIXL_SUCCESS);
    target.deregister();
    b.reset();
    nixl_status_t status = NIXL_SUCCESS;
    EXPECT_TRUE(eventually([&] {
        status = status == NIXL_IN_PROG ? request.check() : request.post();
        return status < 0;
    }));
    EXPECT_EQ(status, NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_NE(takeBackendSentence("").find("'bob'"), std::string::npos);
}

TEST_P(EnginePair, ReportsAPeerThatIsGoneBeforeTheFirstContact) {
    b.reset();
    nixl_status_t status = NIXL_SUCCESS;
    EXPECT_TRUE(eventually([&] {
        a->getNotifs(at_alice); // progress
        status = a->genNotif("bob", "is anybody there?");
        return status < 0;
    }));
    EXPECT_EQ(status, NIXL_ERR_REMOTE_DISCONNECT) << takeBackendSentence("");
    EXPECT_EQ(a->disconnect("bob"), NIXL_SUCCESS);
}

// ---- Cancelling ----------------------------------------------------------------------------------------------------

TEST_P(EnginePair, SettlesACancelledRequestBeforeItIsFinal) {
    constexpr size_t kSize = 256 << 20;
    Region sink(*a, kSize), target(*b, kSize);
    target.showTo(*a, "bob");
    memset(target.buffer.data(), 0xbb, kSize);
    const PlanOf plan(NIXL_READ, "bob", sink, target, {whole(sink, target, kSize)});
    Request request(*a, plan);
    ASSERT_EQ(request.post(), NIXL_IN_PROG);
    a->cancel(request.handle);
    a->cancel(request.handle);
    EXPECT_EQ(settle(request), NIXL_ERR_CANCELED);
    EXPECT_EQ(request.check(), NIXL_ERR_CANCELED);
    // Final: from here on the memory is the caller's.
    memset(sink.buffer.data(), 0, kSize);
    for (int i = 0; i < 2000; ++i) {
        pump();
        a->getNotifs(at_alice);
    }
    EXPECT_EQ(std::count(sink.buffer.data(), sink.buffer.data() + kSize, 0), static_cast<ptrdiff_t>(kSize));
    // And the request can be used again.
    EXPECT_EQ(run(request), NIXL_SUCCESS);
    EXPECT_TRUE(sink.equals(target));
}

TEST_P(EnginePair, KeepsTheMessageOfACancelledRequest) {
    constexpr size_t kSize = 64 << 20;
    Region source(*a, kSize), target(*b, kSize);
    target.showTo(*a, "bob");
    const PlanOf plan(NIXL_WRITE, "bob", source, target, {whole(source, target, kSize)});
    Request request(*a, plan);
    const std::string message = "must not arrive";
    ASSERT_EQ(request.post(&message), NIXL_IN_PROG);
    a->cancel(request.handle);
    EXPECT_EQ(settle(request), NIXL_ERR_CANCELED);
    ASSERT_EQ(a->genNotif("bob", "after it"), NIXL_SUCCESS);
    EXPECT_TRUE(bobHas("after it"));
    EXPECT_EQ(at_bob.size(), 1u);
}

// A watch of the old connection that fires late must not hit the new one, whose descriptor may have the same number.
TEST_P(EnginePair, ReconnectsManyTimesWithoutTakingThePeerForDead) {
    const int rounds = GetParam().way == Way::kLocal ? 500 : 50; // only links are watched
    for (int i = 0; i < rounds; ++i) {
        ASSERT_EQ(a->disconnect("bob"), NIXL_SUCCESS);
        introduce(*b, "bob", *a, GetParam().way);
        const auto status = a->genNotif("bob", "hello");
        ASSERT_EQ(status, NIXL_SUCCESS) << "round " << i << ": " << takeBackendSentence("");
        pump();
    }
}

TEST_P(EnginePair, EndsWithRequestsInFlight) {
    constexpr size_t kSize = 64 << 20;
    Region source(*a, kSize), target(*b, kSize, &kept);
    target.showTo(*a, "bob");
    const PlanOf plan(NIXL_WRITE, "bob", source, target, {whole(source, target, kSize)});
    Request request(*a, plan);
    ASSERT_EQ(request.post(), NIXL_IN_PROG);
    ASSERT_EQ(a->disconnect("bob"), NIXL_SUCCESS);
    const nixl_status_t status = settle(request);
    EXPECT_TRUE(status == NIXL_SUCCESS || status == NIXL_ERR_REMOTE_DISCONNECT) << status;
}

// ---- Descriptors ---------------------------------------------------------------------------------------------------

/// What the descriptors are of that a program has which this process executes. A line each, those of `ls` left out.
std::vector<std::string>
inheritedDescriptors() {
    int ends[2];
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    const char *arguments[] = {"ls", "-l", "/proc/self/fd", nullptr};
    pid_t child = 0;
    EXPECT_EQ(::posix_spawnp(&child, "ls", &actions, nullptr, const_cast<char **>(arguments), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    ::close(ends[1]);
    std::vector<std::string> found;
    FILE *const output = ::fdopen(ends[0], "r");
    for (char line[512]; std::fgets(line, sizeof line, output);) {
        const char *const arrow = std::strstr(line, " -> ");
        if (!arrow || std::strstr(arrow, "/fd")) continue;
        const char *number = arrow;
        while (number[-1] != ' ') --number;
        if (std::atoi(number) > STDERR_FILENO) found.push_back(number);
    }
    std::fclose(output);
    int status = -1;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    return found;
}

const std::vector<std::string> kGivenDescriptors = inheritedDescriptors(); // by whoever runs the tests

TEST_P(EnginePair, AnExecutedProgramInheritsNoDescriptor) {
    Region at_a(*a, 4096), at_b(*b, 4096);
    at_a.showTo(*b, "alice");
    at_b.showTo(*a, "bob");
    const PlanOf there(NIXL_WRITE, "bob", at_a, at_b, {whole(at_a, at_b, 4096)});
    const PlanOf back(NIXL_WRITE, "alice", at_b, at_a, {whole(at_b, at_a, 4096)});
    Request first(*a, there), second(*b, back);
    ASSERT_EQ(run(first), NIXL_SUCCESS);
    nixl_status_t status = second.post();
    ASSERT_TRUE(eventually([&] {
        a->getNotifs(at_alice); // progress
        return status != NIXL_IN_PROG || (status = second.check()) != NIXL_IN_PROG;
    }));
    ASSERT_EQ(status, NIXL_SUCCESS);
    EXPECT_EQ(inheritedDescriptors(), kGivenDescriptors);
}

size_t
descriptorCount() {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

// UCX before 1.20 keeps the connection over the network, with a descriptor at both ends.
TEST_P(EnginePair, APeerThatIsLoadedAgainAndAgainCostsNoDescriptors) {
    constexpr size_t kRounds = 20;
    Region source(*a, 4096);
    size_t kept = 0;
    const auto reload = [&] {
        ASSERT_EQ(a->disconnect("bob"), NIXL_SUCCESS);
        introduce(*b, "bob", *a, GetParam().way);
        Region target(*b, 4096);
        target.showTo(*a, "bob");
        const PlanOf plan(NIXL_WRITE, "bob", source, target, {whole(source, target, 4096)});
        Request request(*a, plan);
        ASSERT_EQ(run(request), NIXL_SUCCESS);
        unsigned minor_version = 0;
        std::sscanf(a->describe(request.handle).path.c_str(), "ucx 1.%u", &minor_version);
        kept = GetParam().way == Way::kPlain && minor_version < 20 ? 2 : 0;
    };
    reload();
    const size_t before = descriptorCount();
    for (size_t i = 0; i < kRounds; ++i) reload();
    const size_t slack = kRounds / 4; // connections that are just being closed
    EXPECT_TRUE(eventually([&] {
        pump();
        a->getNotifs(at_alice);
        return descriptorCount() <= before + kept * kRounds + slack;
    })) << before
        << " before, " << descriptorCount() << " after";
}

// ---- No memory -----------------------------------------------------------------------------------------------------

/// Two engines that are driven by this thread, which has no memory for some of it.
class WithoutMemory : public testing::TestWithParam<Way> {
protected:
    WithoutMemory() : a(makeEngine("alice", false)), b(makeEngine("bob", false)) {
        introduce(*a, "alice", *b, GetParam());
        introduce(*b, "bob", *a, GetParam());
    }

    template<class Call>
    static void
    without(Call call) {
        try {
            const nx::test::NoMemory none;
            call();
        }
        catch (const std::bad_alloc &) {
            // Of the call itself: for its sentence.
        }
    }

    /// Its end is met without memory.
    nixl_status_t
    settle(Request &request) {
        EXPECT_TRUE(eventually([&] {
            if (b) b->getNotifs(at_bob);
            without([&] { request.check(); });
            return static_cast<Transfer *>(request.handle)->quiet();
        }));
        return request.check();
    }

    std::unique_ptr<Engine> a, b;
    notif_list_t at_alice, at_bob;
};

INSTANTIATE_TEST_SUITE_P(Ucx, WithoutMemory, testing::Values(Way::kLocal, Way::kPlain), [](const auto &info) {
    return std::string(info.param == Way::kLocal ? "Local" : "Plain");
});

TEST_P(WithoutMemory, ARequestEndsAsItDoesElse) {
    constexpr size_t kSize = 64 << 20;
    Region sink(*a, kSize), target(*b, kSize);
    target.showTo(*a, "bob");
    target.fill(3);
    const PlanOf plan(NIXL_READ, "bob", sink, target, {whole(sink, target, kSize)});
    Request request(*a, plan);
    const std::string message = "all of it has been read";
    ASSERT_EQ(request.post(&message), NIXL_IN_PROG);
    EXPECT_EQ(settle(request), NIXL_SUCCESS);
    EXPECT_TRUE(sink.equals(target));
    EXPECT_TRUE(eventually([&] {
        b->getNotifs(at_bob);
        return !at_bob.empty();
    }));
}

TEST_P(WithoutMemory, ARequestWhosePeerIsLostEnds) {
    constexpr size_t kSize = 64 << 20;
    Region source(*a, kSize);
    auto target = std::make_unique<Region>(*b, kSize);
    target->showTo(*a, "bob");
    const PlanOf plan(NIXL_WRITE, "bob", source, *target, {whole(source, *target, kSize)});
    Request request(*a, plan);
    ASSERT_EQ(request.post(), NIXL_IN_PROG);
    target->deregister();
    b.reset();
    EXPECT_EQ(settle(request), NIXL_ERR_REMOTE_DISCONNECT);
}

TEST_P(WithoutMemory, QuestionsAreAnswered) {
    /// Keeps questions until they are to be answered, or the worker goes.
    struct Keeper final : MessageSink {
        void
        arrived(std::string_view) override {}
        void
        refused(const char *) override {}
        bool
        asked(Worker &, std::string_view, void *question) override {
            questions.push_back(question);
            return true;
        }
        void
        giveBack(Worker &worker) noexcept override {
            for (; !questions.empty(); questions.pop_back()) worker.answer(questions.back());
        }
        std::vector<void *> questions;
    };
    Stranger stranger(*b);
    Keeper keeper;
    const auto asked = *Worker::create(*stranger.context, "asked", keeper);
    stranger.endpoint.reset();
    {
        std::lock_guard lock(stranger.worker->mutex());
        stranger.endpoint = *Endpoint::create(*stranger.worker, asked->address(), true);
    }
    const auto drive = [&] {
        stranger.progress();
        std::lock_guard lock(asked->mutex());
        asked->progress();
    };
    constexpr int kQuestions = 100;
    Stranger::Answers answers;
    for (int round = 1; round <= 3; ++round) {
        for (int i = 0; i < kQuestions; ++i) stranger.ask("stranger", answers);
        ASSERT_TRUE(eventually([&] {
            drive();
            return keeper.questions.size() == kQuestions;
        }));
        bool done = false;
        without([&] {
            for (; keeper.questions.size() > kQuestions / 2; keeper.questions.pop_back()) {
                asked->answer(keeper.questions.back());
            }
            std::lock_guard lock(asked->mutex());
            asked->progress();
            keeper.giveBack(*asked);
            done = true;
        });
        EXPECT_TRUE(done);
        EXPECT_TRUE(eventually([&] {
            drive();
            return answers.given == round * kQuestions;
        }));
    }
    stranger.endpoint.reset();
}

/// What is written to stderr meanwhile, readable at any time.
class Stderr {
public:
    Stderr() {
        ::dup2(file_.get(), STDERR_FILENO);
    }
    ~Stderr() {
        ::dup2(before_.get(), STDERR_FILENO);
    }

    bool
    has(const std::string &text) const {
        std::string all(64 << 10, '\0');
        all.resize(static_cast<size_t>(std::max<ssize_t>(::pread(file_.get(), all.data(), all.size(), 0), 0)));
        return all.find(text) != std::string::npos;
    }

private:
    const Fd file_{::memfd_create("stderr", MFD_CLOEXEC)};
    const Fd before_{::dup(STDERR_FILENO)};
};

TEST_P(WithoutMemory, AMessageIsLostThatCannotBeKeptAndTheNextOneArrives) {
    ASSERT_EQ(a->genNotif("bob", "too long to be kept without an allocation"), NIXL_SUCCESS);
    {
        const Stderr written;
        EXPECT_TRUE(eventually([&] {
            a->getNotifs(at_alice); // progress
            without([&] { b->getNotifs(at_bob); });
            return !at_bob.empty() || written.has("(no memory for the text of this line)");
        }));
    }
    ASSERT_EQ(a->genNotif("bob", "the next one, just as long as the first"), NIXL_SUCCESS);
    EXPECT_TRUE(eventually([&] {
        a->getNotifs(at_alice);
        b->getNotifs(at_bob);
        return !at_bob.empty();
    }));
    ASSERT_EQ(at_bob.size(), 1u);
    EXPECT_EQ(at_bob[0].second, "the next one, just as long as the first");
}

// ---- Copies that are forbidden --------------------------------------------------------------------------------------

/// From here on the system forbids this thread to copy from and into other processes' memory, as it does where the
/// other one is made undumpable or Yama's ptrace_scope is raised.
void
forbidCopies() {
    const sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_writev, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog program{std::size(filter), const_cast<sock_filter *>(filter)};
    ASSERT_EQ(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ASSERT_EQ(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

// UCX before 1.20 makes none.
TEST(Engine, ACopyThatIsForbiddenIsSaidAndThePeerCanBeLoadedAgain) {
    constexpr size_t kSize = 4 << 20;
    for (const nixl_xfer_op_t operation : {NIXL_READ, NIXL_WRITE}) {
        auto a = makeEngine("alice", false), b = makeEngine("bob", false);
        introduce(*b, "bob", *a, Way::kLocal);
        Region here(*a, kSize), there(*b, kSize), again(*b, kSize);
        there.showTo(*a, "bob");
        notif_list_t at_bob;
        const auto run = [&](const Region &remote) {
            const PlanOf plan(operation, "bob", here, remote, {whole(here, remote, kSize)});
            Request request(*a, plan);
            nixl_status_t status = request.post();
            EXPECT_TRUE(eventually([&] {
                b->getNotifs(at_bob);
                return status != NIXL_IN_PROG || (status = request.check()) != NIXL_IN_PROG;
            }));
            return std::pair(status, a->describe(request.handle).error);
        };
        ASSERT_EQ(run(there).first, NIXL_SUCCESS);
        std::thread([&] {
            forbidCopies();
            const auto [status, error] = run(there);
            if (status == NIXL_SUCCESS) return;
            EXPECT_EQ(status, NIXL_ERR_REMOTE_DISCONNECT);
            EXPECT_NE(error.find("'bob' has lost its connection: the system refuses to copy"), std::string::npos)
                << error;
        }).join();

        ASSERT_EQ(a->disconnect("bob"), NIXL_SUCCESS);
        introduce(*b, "bob", *a, Way::kLocal);
        again.showTo(*a, "bob");
        EXPECT_EQ(run(again).first, NIXL_SUCCESS);
        ASSERT_EQ(a->genNotif("bob", "still here"), NIXL_SUCCESS);
        EXPECT_TRUE(eventually([&] {
            b->getNotifs(at_bob);
            return !at_bob.empty();
        }));
    }
}

// ---- Another process -----------------------------------------------------------------------------------------------

/// An engine "bob" with a region in a process of its own, which runs this program anew: a fork alone would inherit a
/// UCX whose thread is gone. It serves until it is killed.
class Child {
public:
    static constexpr const char *kTask = "NX_TEST_UCX_CHILD"; ///< "descriptor size threaded" in its environment

    Child(size_t size, bool progress_thread) {
        int fds[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) abort();
        const std::string task =
            std::to_string(fds[1]) + " " + std::to_string(size) + " " + std::to_string(progress_thread);
        pid_ = fork();
        if (pid_ == 0) {
            fcntl(fds[1], F_SETFD, 0);
            setenv(kTask, task.c_str(), 1);
            execl("/proc/self/exe", "ucx-child", "--gtest_filter=*", nullptr);
            _exit(1);
        }
        close(fds[1]);
        socket_ = Fd(fds[0]);
        conn_info = receive(socket_.get());
        peer_info = receive(socket_.get());
        key = receive(socket_.get());
        memcpy(&address, receive(socket_.get()).data(), sizeof address);
    }
    ~Child() {
        signal(SIGKILL);
    }

    void
    signal(int number) {
        if (pid_ <= 0) return;
        kill(pid_, number);
        if (number == SIGKILL) waitpid(std::exchange(pid_, -1), nullptr, 0);
        if (number == SIGSTOP) waitpid(pid_, nullptr, WUNTRACED);
    }

    std::string conn_info, peer_info, key;
    uintptr_t address = 0;

    /// What the child does.
    [[noreturn]] static void
    serve(int fd, size_t size, bool progress_thread) {
        auto engine = makeEngine("bob", progress_thread);
        Buffer buffer(size);
        memset(buffer.data(), 0xbb, size);
        nixlBackendMD *md = nullptr;
        std::string bytes;
        engine->registerMem({buffer.address(), size, 0, ""}, DRAM_SEG, md);
        engine->getConnInfo(bytes);
        send(fd, bytes);
        engine->getPeerInfo(bytes);
        send(fd, bytes);
        engine->getPublicData(md, bytes);
        send(fd, bytes);
        const uintptr_t where = buffer.address();
        send(fd, std::string(reinterpret_cast<const char *>(&where), sizeof where));
        notif_list_t messages;
        pollfd closed{fd, POLLIN, 0};
        // Without a progress thread it polls; with one it just lives until its parent does not.
        while (::poll(&closed, 1, progress_thread ? -1 : 0) == 0) engine->getNotifs(messages);
        _exit(0);
    }

private:
    static void
    send(int fd, const std::string &bytes) {
        const uint32_t size = static_cast<uint32_t>(bytes.size());
        if (write(fd, &size, sizeof size) != sizeof size) _exit(1);
        if (write(fd, bytes.data(), size) != static_cast<ssize_t>(size)) _exit(1);
    }

    static std::string
    receive(int fd) {
        uint32_t size = 0;
        EXPECT_EQ(read(fd, &size, sizeof size), static_cast<ssize_t>(sizeof size));
        std::string bytes(size, '\0');
        EXPECT_EQ(recv(fd, bytes.data(), size, MSG_WAITALL), static_cast<ssize_t>(size));
        return bytes;
    }

    pid_t pid_ = -1;
    Fd socket_;
};

/// Turns a process that Child started into one, before the first test.
class BecomeChild : public testing::Environment {
    void
    SetUp() override {
        const auto task = nixlx::configValue(Child::kTask);
        if (!task) return;
        int fd = -1;
        size_t size = 0;
        bool progress_thread = false;
        std::istringstream(*task) >> fd >> size >> progress_thread;
        Child::serve(fd, size, progress_thread);
    }
};
const auto *const become_child = testing::AddGlobalTestEnvironment(new BecomeChild);

class OtherProcess : public testing::TestWithParam<Setup> {
protected:
    explicit OtherProcess(size_t size = 256 << 20)
        : child(size, GetParam().progress_thread),
          engine(makeEngine("alice", GetParam().progress_thread)),
          region(std::make_unique<Region>(*engine, size)) {
        const std::string *peer_info = GetParam().way == Way::kLocal ? &child.peer_info : nullptr;
        EXPECT_EQ(engine->loadPeer("bob", child.conn_info, peer_info), NIXL_SUCCESS);
        EXPECT_EQ(engine->loadRemoteMD({child.address, size, 0, child.key}, DRAM_SEG, "bob", remote), NIXL_SUCCESS);
    }
    ~OtherProcess() override {
        engine->unloadMD(remote);
        region.reset();
    }

    std::unique_ptr<PlanOf>
    plan(nixl_xfer_op_t operation, size_t length) {
        auto made = std::make_unique<PlanOf>(
            operation, "bob", *region, *region,
            std::vector<nixlx::Run>{{region->buffer.address(), child.address, length, 0, 0, 1, 0, 0}});
        made->remote_segment.metadata = remote;
        return made;
    }

    nixl_status_t
    settle(Request &request) {
        nixl_status_t status = NIXL_IN_PROG;
        EXPECT_TRUE(eventually([&] { return (status = request.check()) != NIXL_IN_PROG; }));
        return status;
    }

    Child child;
    std::unique_ptr<Engine> engine;
    std::unique_ptr<Region> region;
    nixlBackendMD *remote = nullptr;
};

INSTANTIATE_TEST_SUITE_P(Ucx,
                         OtherProcess,
                         testing::Values(Setup{Way::kLocal, false},
                                         Setup{Way::kLocal, true},
                                         Setup{Way::kPlain, false},
                                         Setup{Way::kPlain, true}),
                         nameOf);

TEST_P(OtherProcess, ServesReadsAndWrites) {
    const auto in = plan(NIXL_READ, 10 << 20);
    Request read(*engine, *in);
    nixl_status_t status = read.post();
    ASSERT_EQ(status == NIXL_IN_PROG ? settle(read) : status, NIXL_SUCCESS);
    EXPECT_EQ(std::count(region->buffer.data(), region->buffer.data() + (10 << 20), 0xbb), 10 << 20);
    memset(region->buffer.data(), 0x11, 4096);
    const auto out = plan(NIXL_WRITE, 4096);
    Request write(*engine, *out);
    status = write.post();
    ASSERT_EQ(status == NIXL_IN_PROG ? settle(write) : status, NIXL_SUCCESS);
    memset(region->buffer.data(), 0, 4096);
    status = read.post();
    ASSERT_EQ(status == NIXL_IN_PROG ? settle(read) : status, NIXL_SUCCESS);
    EXPECT_EQ((*region)[4095], 0x11);
    EXPECT_EQ((*region)[4096], 0xbb);
}

TEST_P(OtherProcess, WhenKilledEndsAllRequestsWithDisconnect) {
    const auto in = plan(NIXL_READ, 200 << 20), out = plan(NIXL_WRITE, 200 << 20);
    std::deque<Request> requests;
    const nixl_status_t status = requests.emplace_back(*engine, *out).post();
    ASSERT_EQ(status == NIXL_IN_PROG ? settle(requests[0]) : status, NIXL_SUCCESS);
    requests.clear();
    child.signal(SIGSTOP);
    for (int i = 0; i < 8; ++i) {
        ASSERT_EQ(requests.emplace_back(*engine, *in).post(), NIXL_IN_PROG);
        ASSERT_EQ(requests.emplace_back(*engine, *out).post(), NIXL_IN_PROG);
    }
    child.signal(SIGKILL);
    for (Request &request : requests) {
        EXPECT_EQ(settle(request), NIXL_ERR_REMOTE_DISCONNECT);
        EXPECT_NE(engine->describe(request.handle).error.find("'bob' is gone"), std::string::npos);
    }
    EXPECT_EQ(requests[0].post(), NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_EQ(engine->genNotif("bob", "x"), NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_EQ(engine->disconnect("bob"), NIXL_SUCCESS);
}

TEST_P(OtherProcess, NeverReportsAMessageToTheDeadAsDelivered) {
    // The target is stopped before the post: it cannot have taken the message when it dies.
    const auto out = plan(NIXL_WRITE, 64 << 10);
    Request write(*engine, *out);
    nixl_status_t status = write.post();
    ASSERT_EQ(status == NIXL_IN_PROG ? settle(write) : status, NIXL_SUCCESS);
    child.signal(SIGKILL);
    ASSERT_TRUE(eventually([&] {
        status = status == NIXL_IN_PROG ? write.check() : write.post();
        return status < 0;
    }));
    EXPECT_EQ(status, NIXL_ERR_REMOTE_DISCONNECT);
}

TEST_P(OtherProcess, WhenStoppedLeavesACancelledReadUnsettledOrQuiet) {
    // NIXL 1.4 calls the release of such a request a success, and the bytes arrive later.
    const auto in = plan(NIXL_READ, 200 << 20);
    Request read(*engine, *in);
    ASSERT_EQ(read.post(), NIXL_IN_PROG);
    child.signal(SIGSTOP);
    engine->cancel(read.handle);
    nixl_status_t status = NIXL_IN_PROG;
    for (int i = 0; i < 1000 && status == NIXL_IN_PROG; ++i) status = read.check();
    if (status != NIXL_IN_PROG) memset(region->buffer.data(), 0, region->buffer.size()); // final: it is ours again
    const bool was_final = status != NIXL_IN_PROG;
    child.signal(SIGCONT);
    if (!was_final) {
        status = settle(read);
        memset(region->buffer.data(), 0, region->buffer.size());
    }
    EXPECT_EQ(status, NIXL_ERR_CANCELED);
    notif_list_t none;
    for (int i = 0; i < 2000; ++i) engine->getNotifs(none);
    EXPECT_EQ(std::count(region->buffer.data(), region->buffer.data() + region->buffer.size(), 0),
              static_cast<ptrdiff_t>(region->buffer.size()));
}

/// A peer that is stopped in the middle of a transfer, whose connection is then dropped.
class StoppedPeer : public OtherProcess {
protected:
    StoppedPeer() : OtherProcess(64 << 20), other(*engine, 4096) {}

    void
    connectAndStop() {
        const auto little = plan(NIXL_READ, 4096);
        Request request(*engine, *little);
        const nixl_status_t status = request.post();
        ASSERT_EQ(status == NIXL_IN_PROG ? settle(request) : status, NIXL_SUCCESS);
        child.signal(SIGSTOP);
    }

    /// Posts one request for each `part` bytes of the region, in blocks that do not merge.
    void
    postParts(size_t part, bool with_writes) {
        constexpr size_t kBlock = 4096;
        for (uint64_t from = 0; from < region->buffer.size(); from += part) {
            const bool writes = with_writes && requests.size() % 2 == 1;
            plans
                .emplace_back(writes ? NIXL_WRITE : NIXL_READ, "bob", *region, *region,
                              std::vector<nixlx::Run>{{region->buffer.address() + from, child.address + from, kBlock,
                                                       kBlock, kBlock, part / kBlock, 0, 0}})
                .remote_segment.metadata = remote;
            ASSERT_EQ(requests.emplace_back(*engine, plans.back()).post(), NIXL_IN_PROG);
        }
    }

    /// Posts until the transfer still runs when the peer stands still.
    void
    postAndStop(Request &request) {
        nixl_status_t status;
        do {
            child.signal(SIGCONT);
            status = request.post();
            child.signal(SIGSTOP);
            if (status == NIXL_IN_PROG) status = request.check();
        } while (status == NIXL_SUCCESS);
        ASSERT_EQ(status, NIXL_IN_PROG);
    }

    /// The peer goes on, takes what is left in its queues, and serves again.
    void
    resumeAndUse() {
        child.signal(SIGCONT);
        engine->unloadMD(remote);
        ASSERT_EQ(engine->disconnect("bob"), NIXL_SUCCESS);
        const std::string *peer_info = GetParam().way == Way::kLocal ? &child.peer_info : nullptr;
        ASSERT_EQ(engine->loadPeer("bob", child.conn_info, peer_info), NIXL_SUCCESS);
        ASSERT_EQ(engine->loadRemoteMD({child.address, 64 << 20, 0, child.key}, DRAM_SEG, "bob", remote), NIXL_SUCCESS);
        PlanOf plan(NIXL_READ, "bob", other, other,
                    {{other.buffer.address(), child.address + (64 << 20) - 4096, 4096, 0, 0, 1, 0, 0}});
        plan.remote_segment.metadata = remote;
        Request request(*engine, plan);
        nixl_status_t status = request.post();
        ASSERT_EQ(status == NIXL_IN_PROG ? settle(request) : status, NIXL_SUCCESS);
        EXPECT_EQ(other[4095], 0xbb);
    }

    void
    expectOnly(unsigned char byte) {
        const auto *begin = region->buffer.data(), *end = begin + region->buffer.size();
        EXPECT_EQ(std::count(begin, end, byte), end - begin) << "bytes arrived after the final status";
    }

    Region other;
    std::deque<PlanOf> plans;
    std::deque<Request> requests;
};

INSTANTIATE_TEST_SUITE_P(Ucx,
                         StoppedPeer,
                         testing::Values(Setup{Way::kLocal, false},
                                         Setup{Way::kLocal, true},
                                         Setup{Way::kPlain, false},
                                         Setup{Way::kPlain, true}),
                         nameOf);

TEST_P(StoppedPeer, WritesNothingIntoAForcedRead) {
    const auto in = plan(NIXL_READ, 64 << 20);
    {
        Request read(*engine, *in);
        postAndStop(read);
        engine->cancel(read.handle);
        ASSERT_TRUE(engine->forceQuiet(read.handle));
        const nixl_status_t status = settle(read);
        EXPECT_TRUE(status == NIXL_ERR_CANCELED || status == NIXL_ERR_REMOTE_DISCONNECT) << status;
        EXPECT_LT(engine->bytesDone(read.handle).value_or(UINT64_MAX), 64u << 20);
        EXPECT_EQ(read.post(), NIXL_ERR_REMOTE_DISCONNECT);
    }
    memset(region->buffer.data(), 0x5a, region->buffer.size());
    resumeAndUse();
    expectOnly(0x5a);
    child.signal(SIGKILL);
    expectOnly(0x5a);
}

TEST_P(StoppedPeer, TakesNothingFromAForcedWrite) {
    memset(region->buffer.data(), 0xbb, region->buffer.size());
    const auto out = plan(NIXL_WRITE, 64 << 20);
    {
        Request write(*engine, *out);
        postAndStop(write);
        engine->cancel(write.handle);
        ASSERT_TRUE(engine->forceQuiet(write.handle));
        const nixl_status_t status = settle(write);
        EXPECT_TRUE(status == NIXL_ERR_CANCELED || status == NIXL_ERR_REMOTE_DISCONNECT) << status;
    }
    memset(region->buffer.data(), 0x5a, region->buffer.size());
    resumeAndUse(); // reads the end of what was written
    expectOnly(0x5a);
}

/// The network copies nothing between processes.
class StoppedLocalPeer : public StoppedPeer {};

INSTANTIATE_TEST_SUITE_P(Ucx,
                         StoppedLocalPeer,
                         testing::Values(Setup{Way::kLocal, false}, Setup{Way::kLocal, true}),
                         nameOf);

TEST_P(StoppedLocalPeer, LeavesNoCopyWaitingInAConnectionThatIsDropped) {
    // UCX makes its single copies a few per step, and some versions end the process that closes a queue of them.
    constexpr size_t kPart = 1 << 20;
    connectAndStop();
    ASSERT_NO_FATAL_FAILURE(postParts(kPart, false));
    engine->cancel(requests.back().handle);
    ASSERT_TRUE(engine->forceQuiet(requests.back().handle));
    const bool was_final = requests.back().check() != NIXL_IN_PROG;
    auto *const last = region->buffer.data() + region->buffer.size() - kPart;
    if (was_final) memset(last, 0x5a, kPart);
    child.signal(SIGCONT);
    for (Request &request : requests) EXPECT_NE(settle(request), NIXL_IN_PROG);
    requests.clear();
    resumeAndUse();
    if (was_final) {
        EXPECT_EQ(std::count(last, last + kPart, 0x5a), static_cast<ptrdiff_t>(kPart));
    }
}

TEST_P(StoppedLocalPeer, IsGivenUpOnceThereIsMemory) {
    connectAndStop();
    ASSERT_NO_FATAL_FAILURE(postParts(8 << 20, true));
    bool dropped = false;
    try {
        const nx::test::NoMemory none;
        dropped = engine->forceQuiet(requests[0].handle);
    }
    catch (const std::bad_alloc &) {
        // It says so below.
    }
    EXPECT_TRUE(dropped);
    child.signal(SIGCONT);
    for (Request &request : requests) EXPECT_NE(settle(request), NIXL_IN_PROG);
    requests.clear();
    resumeAndUse();
}

TEST_P(StoppedPeer, CallsNothingFinalThatItsFullQueueStillHolds) {
    // Over shared memory some UCX keep reads behind a full queue until the peer goes on: then they are not final.
    constexpr size_t kPart = 8 << 20;
    connectAndStop();
    ASSERT_NO_FATAL_FAILURE(postParts(kPart, true));
    for (Request &request : requests) engine->cancel(request.handle);
    ASSERT_TRUE(engine->forceQuiet(requests[0].handle));
    for (int i = 0; i < 1000; ++i) {
        for (Request &request : requests) request.check();
    }
    std::vector<bool> was_final;
    for (size_t i = 0; i < requests.size(); ++i) {
        was_final.push_back(requests[i].check() != NIXL_IN_PROG);
        if (was_final[i]) memset(region->buffer.data() + i * kPart, 0x5a, kPart);
    }
    child.signal(SIGCONT);
    for (Request &request : requests) EXPECT_NE(settle(request), NIXL_IN_PROG) << "it ends when the peer goes on";
    requests.clear();
    resumeAndUse();
    for (size_t i = 0; i < was_final.size(); ++i) {
        if (!was_final[i]) continue;
        const auto *begin = region->buffer.data() + i * kPart;
        EXPECT_EQ(std::count(begin, begin + kPart, 0x5a), static_cast<ptrdiff_t>(kPart)) << i;
    }
    RecordProperty("final_before_the_peer_went_on",
                   static_cast<int>(std::count(was_final.begin(), was_final.end(), true)));
}

// ---- Options and life ----------------------------------------------------------------------------------------------

TEST(Engine, RefusesBadParametersWithASentence) {
    try {
        makeEngine("alice", false, {{"num_workers", "none"}});
        FAIL() << "it was taken";
    }
    catch (const std::invalid_argument &error) {
        EXPECT_NE(std::string(error.what()).find("num_workers"), std::string::npos);
    }
}

TEST(Engine, IsNotMadeWhereUcxCannotStart) {
    // A setting that UCX refuses, a file that is missing, and a library that is something else.
    const std::pair<nixl_b_params_t, std::string> cases[] = {
        {{{"engine_config", "TLS=tpc"}}, "UCX cannot start: "},
        {{{"ucx_library", "/nonexistent/libucp.so.0"}}, "/nonexistent/libucp.so.0"},
        {{{"ucx_library", "libm.so.6"}}, "libm.so.6"}};
    for (const auto &[params, expected] : cases) {
        for (const bool progress_thread : {false, true}) {
            try {
                makeEngine("alice", progress_thread, params);
                FAIL() << expected << ": it was made";
            }
            catch (const std::runtime_error &error) {
                EXPECT_NE(std::string(error.what()).find(expected), std::string::npos) << error.what();
            }
        }
    }
    EXPECT_NE(makeEngine("alice", false), nullptr) << "where it can, one is made afterwards";
}

TEST(Engine, RefusesHostMemoryGivenAsVram) {
    auto engine = makeEngine("alice", false);
    Buffer buffer(4096);
    nixlBackendMD *md = nullptr;
    EXPECT_EQ(engine->registerMem({buffer.address(), 4096, 0, ""}, VRAM_SEG, md), NIXL_ERR_BACKEND);
    EXPECT_NE(takeBackendSentence("").find("host memory"), std::string::npos);
    EXPECT_EQ(engine->registerMem({buffer.address(), 4096, 0, ""}, FILE_SEG, md), NIXL_ERR_NOT_SUPPORTED);
}

// As a program that knows NIXL 1.4 only meets the plugin.
TEST(Nixl14, MovesDataAndRefusesToReleaseAnActiveRequest) {
    constexpr size_t kSize = 256 << 20;
    Buffer source(kSize), target(kSize); // outlive the engines
    source.fill(1);
    const auto make = [](const std::string &name) {
        nixlBackendInitParams init;
        init.localAgent = name;
        init.type = "UCX";
        return std::make_unique<kit::Nixl14Engine>(&init, nixlx_plugin_descriptor);
    };
    const auto a = make("alice"), b = make("bob");
    EXPECT_TRUE(a->supportsRemote() && a->supportsLocal() && a->supportsNotif());
    EXPECT_EQ(a->getSupportedMems(), (nixl_mem_list_t{DRAM_SEG, VRAM_SEG}));
    std::string info, key;
    ASSERT_EQ(b->getConnInfo(info), NIXL_SUCCESS);
    ASSERT_EQ(a->loadRemoteConnInfo("bob", info), NIXL_SUCCESS);
    nixlBackendMD *mine = nullptr, *theirs = nullptr, *loaded = nullptr;
    ASSERT_EQ(a->registerMem({source.address(), kSize, 0, ""}, DRAM_SEG, mine), NIXL_SUCCESS);
    ASSERT_EQ(b->registerMem({target.address(), kSize, 0, ""}, DRAM_SEG, theirs), NIXL_SUCCESS);
    ASSERT_EQ(b->getPublicData(theirs, key), NIXL_SUCCESS);
    ASSERT_EQ(a->loadRemoteMD({target.address(), kSize, 0, key}, DRAM_SEG, "bob", loaded), NIXL_SUCCESS);

    nixl_meta_dlist_t local(DRAM_SEG), remote(DRAM_SEG);
    for (const size_t i : {2, 0, 1, 3}) {
        local.addDesc({source.address() + i * kSize / 4, kSize / 4, 0, mine});
        remote.addDesc({target.address() + i * kSize / 4, kSize / 4, 0, loaded});
    }
    nixl_opt_b_args_t args;
    args.hasNotif = true;
    args.notifMsg = "1.4";
    nixlBackendReqH *handle = nullptr;
    ASSERT_EQ(a->prepXfer(NIXL_WRITE, local, remote, "bob", handle), NIXL_SUCCESS);
    ASSERT_EQ(a->postXfer(NIXL_WRITE, local, remote, "bob", handle, &args), NIXL_IN_PROG);
    EXPECT_EQ(a->postXfer(NIXL_WRITE, local, remote, "bob", handle), NIXL_ERR_REPOST_ACTIVE);
    notif_list_t at_bob;
    EXPECT_TRUE(eventually([&] {
        b->getNotifs(at_bob);
        return a->checkXfer(handle) != NIXL_IN_PROG && !at_bob.empty();
    }));
    EXPECT_EQ(a->checkXfer(handle), NIXL_SUCCESS);
    EXPECT_EQ(at_bob, (notif_list_t{{"alice", "1.4"}}));
    EXPECT_TRUE(target.holds(1));
    std::chrono::microseconds duration{-1}, margin{-1};
    nixl_cost_t method{};
    EXPECT_EQ(a->estimateXferCost(NIXL_WRITE, local, remote, "bob", handle, duration, margin, method), NIXL_SUCCESS);
    EXPECT_GT(duration.count(), 0);

    ASSERT_EQ(a->postXfer(NIXL_WRITE, local, remote, "bob", handle), NIXL_IN_PROG);
    EXPECT_TRUE(eventually([&] {
        b->getNotifs(at_bob);
        const nixl_status_t status = a->releaseReqH(handle);
        EXPECT_TRUE(status == NIXL_SUCCESS || status == NIXL_ERR_REPOST_ACTIVE);
        return status == NIXL_SUCCESS;
    }));
    nixlMemViewH view = nullptr;
    EXPECT_EQ(a->prepMemView(nixl_meta_dlist_t(VRAM_SEG), view), NIXL_ERR_NOT_SUPPORTED);
    EXPECT_EQ(a->prepMemView(nixl_remote_meta_dlist_t(VRAM_SEG), view), NIXL_ERR_NOT_SUPPORTED);
    a->unloadMD(loaded);
    a->deregisterMem(mine);
    b->deregisterMem(theirs);
}

TEST(Engine, SleepsWhenThereIsNothingToDo) {
    auto engine = makeEngine("alice", true), other = makeEngine("bob", true);
    introduce(*engine, "alice", *other, Way::kLocal);
    introduce(*other, "bob", *engine, Way::kLocal);
    notif_list_t got;
    ASSERT_EQ(engine->genNotif("bob", "hello"), NIXL_SUCCESS);
    ASSERT_TRUE(eventually([&] {
        other->getNotifs(got);
        return !got.empty();
    }));
    const auto cpu = [] {
        rusage usage{};
        getrusage(RUSAGE_SELF, &usage);
        return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1'000'000 + usage.ru_utime.tv_usec +
            usage.ru_stime.tv_usec;
    };
    const auto wait = [fd = Fd(eventfd(0, EFD_CLOEXEC))](int milliseconds) {
        pollfd never{fd.get(), POLLIN, 0};
        ASSERT_EQ(::poll(&never, 1, milliseconds), 0);
    };
    // Four threads of ours and UCX's own: all asleep once the last echoes are gone.
    ASSERT_TRUE(eventually([&] {
        const auto before = cpu();
        wait(300);
        return cpu() - before < 5000;
    }));
}

TEST(Engine, SplitsLargeRequestsOverItsThreads) {
    const nixl_b_params_t params{{"num_threads", "2"}, {"split_batch_size", "16"}, {"num_workers", "2"}};
    auto a = makeEngine("alice", false, params), b = makeEngine("bob", true);
    for (const Way way : {Way::kPlain, Way::kLocal}) {
        introduce(*b, "bob", *a, way);
        Region source(*a, 1000 * 512), target(*b, 1000 * 512);
        target.showTo(*a, "bob");
        source.fill(way == Way::kPlain ? 1 : 2);
        const PlanOf plan(NIXL_WRITE, "bob", source, target,
                          {{source.buffer.address(), target.buffer.address(), 512, 512, 512, 1000, 0, 0}});
        Request request(*a, plan);
        for (int round = 0; round < 20; ++round) {
            const std::string message = "split " + std::to_string(round);
            ASSERT_EQ(request.post(&message), NIXL_IN_PROG);
            nixl_status_t status = NIXL_IN_PROG;
            ASSERT_TRUE(eventually([&] { return (status = request.check()) != NIXL_IN_PROG; }));
            ASSERT_EQ(status, NIXL_SUCCESS);
            ASSERT_TRUE(target.equals(source));
            notif_list_t got;
            ASSERT_TRUE(eventually([&] {
                b->getNotifs(got);
                return !got.empty();
            }));
            EXPECT_EQ(got.size(), 1u);
            EXPECT_EQ(got[0].second, message);
        }
        ASSERT_EQ(a->disconnect("bob"), NIXL_SUCCESS);
    }
}

TEST(Engine, UsesTheWorkerThatIsAskedFor) {
    auto a = makeEngine("alice", false, {{"num_workers", "2"}}), b = makeEngine("bob", true);
    introduce(*b, "bob", *a, Way::kLocal);
    Region source(*a, 64), target(*b, 64);
    target.showTo(*a, "bob");
    const PlanOf plan(NIXL_WRITE, "bob", source, target, {whole(source, target, 64)});
    nixl_opt_b_args_t args;
    nixlBackendReqH *handle = nullptr;
    args.customParam = "worker_id=2";
    EXPECT_EQ(a->prepare(plan.plan, &args, handle), NIXL_ERR_INVALID_PARAM);
    args.customParam = "worker_id=1";
    ASSERT_EQ(a->prepare(plan.plan, &args, handle), NIXL_SUCCESS);
    nixl_status_t status = a->post(handle, nullptr);
    ASSERT_TRUE(eventually([&] { return status != NIXL_IN_PROG || (status = a->check(handle)) != NIXL_IN_PROG; }));
    EXPECT_EQ(status, NIXL_SUCCESS);
    a->release(handle);
}

TEST(Mail, DropsAndCountsMalformedMessages) {
    kit::Bell bell;
    Mail mail("bob", bell);
    mail.arrived("");
    mail.arrived("nonsense");
    mail.arrived(std::string_view("nixlSerDes|name\xff\xff\xff\xff\xff\xff\xff\xff", 23));
    mail.arrived(wire::encodeNotification("alice", "good"));
    notif_list_t got;
    EXPECT_FALSE(mail.takeAll(got));
    EXPECT_EQ(got, (notif_list_t{{"alice", "good"}}));
    EXPECT_EQ(mail.inbox().droppedCount(), 3u);
}

} // namespace
} // namespace nx::ucx
