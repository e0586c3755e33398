// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: where the system has little left to give, agents work or say so, and the process goes on. UCX itself aborts or
// hangs. Method: children with n descriptors, threads or MiB of address space left make two agents that meet and move
// bytes, for rising n; then they get all back and must work. In the program whose children have no UCX yet.
// NIXL_UCX_LIBRARY chooses the UCX; NIXL_UCX_SCARCITY_STEP=1 tries every n.
#include <csignal>
#include <cstdio>
#include <fcntl.h>
#include <fstream>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "nixlx/engine.h"
#include "support/agent_pair.h"

namespace nx::ucx {
namespace {

using nx::test::AgentPair;
using nx::test::Buffer;

enum class Scarce { kDescriptors, kThreads, kAddressSpace };

struct Case {
    Scarce what;
    bool same_host; ///< else over the network, as with peers of NIXL 1.4
    bool progress_thread;
    unsigned step, enough; ///< of n; with the latter all works
};

constexpr unsigned kHangSeconds = 60;
constexpr uid_t kNobody = 54321; ///< without threads of its own, and not exempt from the limit as root is

constexpr const char *kWrong = "wrong ";

enum Outcome : int { kWorked = 0, kRefused = 1, kBroken = 2 };

/// The soft limit of `resource` while it lives.
class Limit {
public:
    Limit(int resource, rlim_t value) : resource_(resource) {
        getrlimit(resource_, &before_);
        const rlimit limit{std::min(value, before_.rlim_max), before_.rlim_max};
        setrlimit(resource_, &limit);
    }
    ~Limit() {
        setrlimit(resource_, &before_);
    }
    Limit(const Limit &) = delete;
    Limit &
    operator=(const Limit &) = delete;

private:
    const int resource_;
    rlimit before_{};
};

/// Leaves `count` descriptors.
Limit
leaveDescriptors(unsigned count) {
    std::vector<int> taken;
    for (unsigned i = 0; i < count; ++i) taken.push_back(::dup(0));
    const int next = ::dup(0);
    for (const int fd : taken) ::close(fd);
    ::close(next);
    return {RLIMIT_NOFILE, static_cast<rlim_t>(next)};
}

Limit
leaveAddressSpace(unsigned mebibytes) {
    size_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    return {RLIMIT_AS, pages * static_cast<size_t>(sysconf(_SC_PAGESIZE)) + (rlim_t{mebibytes} << 20)};
}

Limit
leave(Scarce what, unsigned count) {
    switch (what) {
    case Scarce::kDescriptors: return leaveDescriptors(count);
    case Scarce::kThreads: return {RLIMIT_NPROC, 1 + count};
    case Scarce::kAddressSpace: break;
    }
    return leaveAddressSpace(count);
}

/// The sentence of what failed; none: all went well.
std::string
useTwoAgents(const Case &which, Buffer &source, Buffer &target) {
    try {
        AgentPair pair({.backend = "UCX", .params = {}, .progress_thread = which.progress_thread});
        nx::test::require(pair.a->registerMem(nx::test::registrationOf({source.desc()})), "register");
        nx::test::require(pair.b->registerMem(nx::test::registrationOf({target.desc()})), "register");
        const auto shown = [&](nixl_blob_t blob) {
            if (!which.same_host) blob.resize(std::min(blob.size(), blob.rfind("nixlxTrailer")));
            return blob;
        };
        pair.a.load(shown(pair.b.metadata()));
        pair.b.load(shown(pair.a.metadata()));
        nixlXferReqH *request = nullptr;
        nixl_opt_args_t args;
        args.notif = "done";
        nx::test::require(pair.a->createXferReq(NIXL_WRITE, nx::test::listOf({source.desc()}),
                                                nx::test::listOf({target.desc()}), "B", request, &args),
                          "create the request");
        target.clear();
        nx::test::require(pair.run(request), "transfer");
        if (target.firstDifference(7) != target.size()) throw std::runtime_error(kWrong + std::string("bytes"));
        if (pair.receive(pair.b, "A", 1).size() != 1) throw std::runtime_error(kWrong + std::string("messages"));
        nx::test::require(pair.release(request), "release");
        return {};
    }
    catch (const std::exception &error) {
        return error.what();
    }
}

/// What the child does. `report` is told what was refused, and what is wrong.
Outcome
live(const Case &which, unsigned count, int report) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(kHangSeconds);
    setenv("UCX_HANDLE_ERRORS", "none", 1);
    setenv("UCX_LOG_LEVEL", "fatal", 1);
    setenv("NIXL_LOG_LEVEL", "FATAL", 1);
    Buffer source(1 << 16), target(1 << 16);
    source.fill(7);
    std::string said, afterwards;
    if (which.what == Scarce::kThreads && setuid(kNobody) != 0) return kBroken;
    {
        const Limit limit = leave(which.what, count);
        said = useTwoAgents(which, source, target);
    }
    afterwards = useTwoAgents(which, source, target);
    dprintf(report, "%s%s%s", said.c_str(), afterwards.empty() ? "" : "; and afterwards: ", afterwards.c_str());
    if (!afterwards.empty() || said.starts_with(kWrong)) return kBroken;
    return said.empty() ? kWorked : kRefused;
}

struct End {
    int status;
    std::string said;
};

End
inChild(const Case &which, unsigned count) {
    int fds[2];
    EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
    const pid_t child = fork();
    if (child == 0) _exit(live(which, count, fds[1]));
    ::close(fds[1]);
    End end{};
    char text[4096];
    for (ssize_t size; (size = ::read(fds[0], text, sizeof text)) > 0;)
        end.said.append(text, static_cast<size_t>(size));
    ::close(fds[0]);
    waitpid(child, &end.status, 0);
    return end;
}

class Scarcity : public testing::TestWithParam<Case> {};

TEST_P(Scarcity, EndsInASentenceAndNeverInTheProcess) {
    const Case which = GetParam();
    if (which.what == Scarce::kThreads && geteuid() != 0) {
        GTEST_SKIP() << "only root can become a user without other threads";
    }
#ifdef __SANITIZE_ADDRESS__
    if (which.what == Scarce::kAddressSpace) GTEST_SKIP() << "the address sanitizer takes all the address space";
#endif
    const auto wanted = nixlx::configValue("NIXL_UCX_SCARCITY_STEP");
    const unsigned step = wanted ? static_cast<unsigned>(std::stoul(*wanted)) : which.step;
    unsigned refused = 0, worked = 0;
    for (unsigned count = 0; count <= which.enough; count += step) {
        SCOPED_TRACE(std::to_string(count) + " left");
        const End end = inChild(which, count);
        ASSERT_TRUE(WIFEXITED(end.status)) << "signal " << WTERMSIG(end.status);
        ASSERT_NE(WEXITSTATUS(end.status), kBroken) << end.said;
        const bool works = WEXITSTATUS(end.status) == kWorked;
        EXPECT_TRUE(works || !end.said.empty());
        ++(works ? worked : refused);
    }
    EXPECT_GT(refused, 0u);
    EXPECT_GT(worked, 0u);
}

INSTANTIATE_TEST_SUITE_P(All,
                         Scarcity,
                         testing::Values(Case{Scarce::kDescriptors, false, true, 20, 140},
                                         Case{Scarce::kDescriptors, true, true, 20, 140},
                                         Case{Scarce::kDescriptors, true, false, 20, 140},
                                         Case{Scarce::kThreads, true, true, 2, 12},
                                         Case{Scarce::kAddressSpace, false, true, 150, 900},
                                         Case{Scarce::kAddressSpace, true, true, 150, 900}),
                         [](const auto &info) {
                             const Case &which = info.param;
                             const char *what = which.what == Scarce::kDescriptors ? "Descriptors"
                                 : which.what == Scarce::kThreads                  ? "Threads"
                                                                                   : "AddressSpace";
                             return std::string(what) + (which.same_host ? "Local" : "Plain") +
                                 (which.progress_thread ? "Threaded" : "Polled");
                         });

} // namespace
} // namespace nx::ucx
