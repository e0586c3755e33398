// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A part of a test in a forked process, for what a process can do to itself only once: limits, namespaces, another
// user, a filter of system calls. The parent must have no agent at that time. Owned.
#pragma once

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <functional>
#include <grp.h>
#include <sched.h>
#include <string>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

#include <gtest/gtest.h>

namespace nx::test {

/// Runs `body` in a child, whose failed expectations and end by a signal are the test's. `prepare` runs there first:
/// what it returns, if not empty, is why the test cannot be done here, and is returned.
[[nodiscard]] inline std::string
inChild(const std::function<std::string()> &prepare, const std::function<void()> &body) {
    int fds[2];
    if (::pipe(fds) != 0) return std::string("pipe: ") + std::strerror(errno);
    std::fflush(nullptr);
    const pid_t pid = ::fork();
    if (pid == 0) {
        int status = 1;
        try {
            const std::string reason = prepare();
            if (::write(fds[1], reason.data(), reason.size()) < 0) ::_exit(2);
            ::close(fds[0]);
            ::close(fds[1]);
            if (reason.empty()) body();
            status = testing::Test::HasFailure() ? 1 : 0;
        }
        catch (const std::exception &error) {
            std::fprintf(stderr, "in the child: %s\n", error.what());
        }
        std::fflush(nullptr);
        ::_exit(status);
    }
    ::close(fds[1]);
    std::string reason;
    char part[256];
    for (ssize_t count; (count = ::read(fds[0], part, sizeof part)) > 0;)
        reason.append(part, static_cast<size_t>(count));
    ::close(fds[0]);
    int status = 0;
    ::waitpid(pid, &status, 0);
    EXPECT_FALSE(WIFSIGNALED(status)) << "the child was ended by signal " << WTERMSIG(status);
    EXPECT_EQ(WEXITSTATUS(status), 0) << "an expectation failed in the child, see above";
    return reason;
}

[[nodiscard]] inline std::string
inChild(const std::function<void()> &body) {
    return inChild([] { return std::string(); }, body);
}

/// Of this process: a file system of its own at `path`, which nobody else sees. Why not, if there can be none.
inline std::string
mountTmpfs(const std::string &path, const std::string &options) {
    const auto failed = [](const std::string &what) {
        return "mounting a file system: " + what + ": " + std::strerror(errno);
    };
    const uid_t user = ::getuid();
    const gid_t group = ::getgid();
    if (::unshare(CLONE_NEWNS) != 0) {
        if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return failed("unshare");
        std::ofstream("/proc/self/setgroups") << "deny";
        std::ofstream("/proc/self/uid_map") << "0 " << user << " 1";
        std::ofstream("/proc/self/gid_map") << "0 " << group << " 1";
    }
    if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return failed("mount /");
    if (::mount("none", path.c_str(), "tmpfs", 0, options.c_str()) != 0) return failed("mount tmpfs");
    return "";
}

} // namespace nx::test
