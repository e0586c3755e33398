// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: network interfaces that lead nowhere cost nobody a peer that can be reached through another. Method: two
// processes, each in a network namespace of its own, joined by one good link, and in both of them such an interface.
// Needs the right to make namespaces (root, or CAP_SYS_ADMIN) and the program ip; skipped with the reason otherwise.
#include <algorithm>
#include <cstdlib>
#include <exception>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <net/if.h>
#include <sched.h>
#include <sys/mount.h>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/peer_process.h"

namespace nx::test {
namespace {

using ::testing::HasSubstr;

constexpr std::chrono::seconds kHang{20}; ///< on a busy machine; UCX alone finds out after 30 s or more
constexpr size_t kSize = size_t{1} << 20;

/// Of a thread, and of the processes it starts: its own interfaces, and /sys to look at them.
class Namespace {
public:
    /// Throws std::runtime_error with the reason why there can be none.
    Namespace() {
        onThread([this] {
            must(::unshare(CLONE_NEWNET | CLONE_NEWNS), "unshare");
            must(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "mount /");
            must(::mount("sysfs", "/sys", "sysfs", 0, nullptr), "mount /sys");
            net_ = ::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
            mounts_ = ::open("/proc/thread-self/ns/mnt", O_RDONLY | O_CLOEXEC);
        });
    }
    ~Namespace() {
        ::close(net_);
        ::close(mounts_);
    }
    Namespace(const Namespace &) = delete;
    Namespace &
    operator=(const Namespace &) = delete;

    /// Runs it on a thread in there. Throws what it throws.
    void
    run(const std::function<void()> &work) const {
        onThread([&] {
            must(::unshare(CLONE_FS), "unshare");
            must(::setns(net_, CLONE_NEWNET), "setns");
            must(::setns(mounts_, CLONE_NEWNS), "setns");
            work();
        });
    }

    /// As the shell does.
    void
    sh(const std::string &commands) const {
        run([&] {
            if (std::system(("set -e; " + commands).c_str()) != 0) throw std::runtime_error("failed: " + commands);
        });
    }

    /// As an argument of ip.
    std::string
    path() const {
        return "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(net_);
    }

private:
    static void
    must(int result, const char *what) {
        if (result != 0) throw std::runtime_error(std::string(what) + ": " + std::strerror(errno));
    }

    static void
    onThread(const std::function<void()> &work) {
        std::exception_ptr error;
        std::thread([&] {
            try {
                work();
            }
            catch (...) {
                error = std::current_exception();
            }
        }).join();
        if (error) std::rethrow_exception(error);
    }

    int net_ = -1, mounts_ = -1;
};

struct BadInterface {
    const char *name;
    const char *commands; ///< in each namespace; N is 1 or 2 there
};

const BadInterface kBadInterfaces[] = {
    {"PointToPoint",
     "ip link add ppp0 type veth peer name end; ip link set ppp0 up; ip link set end up;"
     "ip addr add 10.88.0.N/32 dev ppp0"},
    // What is sent to it vanishes without an answer.
    {"Silent",
     "ip link add ppp0 type veth peer name end; ip link set ppp0 up; ip link set end up;"
     "ip addr add 10.88.0.N/32 dev ppp0; ip route add default via 10.77.0.99;"
     "ip neigh add 10.77.0.99 lladdr 02:00:00:00:00:99 dev eth0"},
    {"SameAddress",
     "ip link add net0 type veth peer name end; ip link set net0 up; ip link set end up;"
     "ip addr add 172.17.0.1/16 dev net0"},
    {"SameBridge",
     "ip link add docker0 type bridge; ip link add port type veth peer name end; ip link set port master docker0 up;"
     "ip link set end up; ip link set docker0 up; ip addr add 172.17.0.1/16 dev docker0"},
};

class Interfaces : public ::testing::TestWithParam<BadInterface> {
protected:
    void
    SetUp() override {
        if (std::system("ip -Version >/dev/null 2>&1") != 0)
            GTEST_SKIP() << "network namespaces: there is no program ip";
        try {
            here = std::make_unique<Namespace>();
            there = std::make_unique<Namespace>();
        }
        catch (const std::runtime_error &error) {
            GTEST_SKIP() << "network namespaces cannot be made: " << error.what();
        }
        here->sh("ip link add eth0 type veth peer name eth0 netns " + there->path());
        prepare(*here, "1");
        prepare(*there, "2");
        for (const Namespace *space : {here.get(), there.get()}) space->run(waitForInterfaces);
        a = start(*here, "A");
        b = start(*there, "B");
    }

    static void
    prepare(const Namespace &space, const std::string &number) {
        std::string commands = GetParam().commands;
        for (size_t at; (at = commands.find(".N")) != std::string::npos;) commands.replace(at + 1, 1, number);
        // Without IPv6 an interface is ready at once.
        space.sh("echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6 || true; ip link set lo up;"
                 "ip link set eth0 up; ip addr add 10.77.0." +
                 number + "/24 dev eth0; " + commands);
    }

    /// UCX takes those that are in operation when it starts.
    static void
    waitForInterfaces() {
        const auto inOperation = [](const std::filesystem::path &interface) {
            std::string state;
            unsigned flags = 0;
            std::ifstream(interface / "operstate") >> state;
            std::ifstream(interface / "flags") >> std::hex >> flags;
            return state == "up" || !(flags & IFF_UP) || flags & IFF_LOOPBACK;
        };
        const auto all = [&] {
            const std::filesystem::directory_iterator interfaces("/sys/class/net");
            return std::all_of(begin(interfaces), end(interfaces), inOperation);
        };
        if (!eventually(all)) throw std::runtime_error("an interface does not come up");
    }

    static std::unique_ptr<PeerProcess>
    start(const Namespace &space, const std::string &name) {
        std::unique_ptr<PeerProcess> process;
        // Newer UCX also copies between processes of one kernel, whatever their namespaces.
        const PairOptions options{"UCX", {{"engine_config", "TLS=tcp"}}, true};
        space.run([&] { process = std::make_unique<PeerProcess>(name, options); });
        return process;
    }

    static std::string
    post(const char *operation, const PeerProcess &target, const nixlBasicDesc &range) {
        return std::string("post ") + operation + " " + target.name + " " + std::to_string(range.addr) + " " +
            std::to_string(range.len);
    }

    static bool
    soonHolds(PeerProcess &process, uint64_t seed) {
        return eventually([&] { return process.ask("holds " + std::to_string(seed)) == "yes"; }, kHang);
    }

    std::unique_ptr<Namespace> here, there;
    std::unique_ptr<PeerProcess> a, b;
};

TEST_P(Interfaces, ThatLeadNowhereDoNotKeepAPeerFromBeingReached) {
    const nixlBasicDesc to = b->offer(kSize, 2);
    a->offer(kSize, 1);
    a->load(b->metadata()); // B does not know A
    a->ask(post("WRITE", *b, to));
    EXPECT_TRUE(soonHolds(*b, 1));
    const nixlBasicDesc from = b->offer(kSize, 3);
    a->offer(kSize, 4);
    a->load(b->metadata());
    a->ask(post("READ", *b, from));
    EXPECT_TRUE(soonHolds(*a, 3));
}

TEST_P(Interfaces, ThatLeadNowhereDoNotKeepMessagesBack) {
    a->load(b->metadata());
    b->load(a->metadata());
    a->ask("notify B hello");
    b->ask("notify A hello");
    for (PeerProcess *process : {a.get(), b.get()}) {
        EXPECT_TRUE(eventually([&] { return process->ask("received") == "1"; }, kHang)) << process->name;
    }
}

TEST_P(Interfaces, AreNamedWhereNoneLeadsToThePeer) {
    const nixlBasicDesc to = b->offer(kSize, 2);
    a->offer(kSize, 1);
    a->load(b->metadata());
    here->sh("ip link set eth0 down");
    std::string sentence;
    try {
        a->ask(post("WRITE", *b, to));
    }
    catch (const std::runtime_error &error) {
        sentence = error.what();
    }
    EXPECT_THAT(sentence, HasSubstr("peer 'B' is gone: "));
    EXPECT_THAT(sentence, HasSubstr("10.77.0.2:"));
}

INSTANTIATE_TEST_SUITE_P(Ucx, Interfaces, ::testing::ValuesIn(kBadInterfaces), [](const auto &tested) {
    return std::string(tested.param.name);
});

} // namespace
} // namespace nx::test
