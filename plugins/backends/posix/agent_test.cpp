// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: the backend is what it says in the system that it finds: which queue it uses, what it leaves behind, and how it
// lives with signals, forks and threads that end. Method: agents that load the plugin, over files in a folder of the
// test's own; what would spoil the process happens in a child of it.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <functional>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <memory>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include <gtest/gtest.h>

#include "nixl.h"
#include "support/agent_pair.h"
#include "support/temp_dir.h"

namespace nx::test {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

/// An agent with memory and one file, all registered.
struct Moving {
    Moving(const TempDir &folder, size_t bytes, bool progress_thread, const nixl_b_params_t &params = {})
        : memory(bytes),
          path(folder / "data"),
          agent("A", {.backend = "POSIX", .params = params, .progress_thread = progress_thread}) {
        require(agent->registerMem(registrationOf({memory.desc()})), "register memory");
        nixl_reg_dlist_t files(FILE_SEG);
        files.addDesc(nixlBlobDesc(0, 0, 77, "rw,create:" + path));
        require(agent->registerMem(files), "register the file");
    }

    nixlXferReqH *
    request(nixl_xfer_op_t operation) {
        nixlXferReqH *made = nullptr;
        require(agent->createXferReq(operation, listOf({memory.desc()}), listOf({{0, memory.size(), 77}}, FILE_SEG),
                                     "A", made),
                "create");
        return made;
    }

    nixlx::Report
    report(nixlXferReqH *request) {
        nixlx::Report report;
        require(agent->getXferReport(request, report), "report");
        return report;
    }

    Buffer memory;
    const std::string path;
    PairedAgent agent;
};

/// Runs `body` in a child and returns what it printed to its descriptor; "signal N" if it ended so.
std::string
inChild(const std::function<std::string()> &body) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return "no pipe";
    const pid_t child = ::fork();
    if (child == 0) {
        std::string said;
        try {
            said = body();
        }
        catch (const std::exception &e) {
            said = std::string("threw: ") + e.what();
        }
        const bool written = ::write(ends[1], said.data(), said.size()) == static_cast<ssize_t>(said.size());
        ::_exit(written ? 0 : 1);
    }
    ::close(ends[1]);
    std::string said;
    char part[4096];
    for (ssize_t count; (count = ::read(ends[0], part, sizeof(part))) > 0;)
        said.append(part, static_cast<size_t>(count));
    ::close(ends[0]);
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status)) : said;
}

/// The system calls answer EPERM from now on, as a container's profile has it.
void
forbid(std::initializer_list<int> calls) {
    std::vector<sock_filter> filter{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
    for (const int call : calls) {
        filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(call), 0, 1));
        filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM));
    }
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        throw std::runtime_error("no seccomp");
    }
}

/// The path of a transfer that succeeds with every byte.
std::string
pathOfARoundTrip(bool progress_thread, const nixl_b_params_t &params) {
    const TempDir folder;
    Moving moving(folder, 3 * kMiB + 1, progress_thread, params);
    nixlXferReqH *write = moving.request(NIXL_WRITE), *read = moving.request(NIXL_READ);
    moving.memory.fill(1);
    require(moving.agent->postXferReq(write) < 0 ? NIXL_ERR_UNKNOWN : NIXL_SUCCESS, "post");
    require(moving.agent->waitXfer(write), "write");
    moving.memory.clear();
    require(moving.agent->postXferReq(read) < 0 ? NIXL_ERR_UNKNOWN : NIXL_SUCCESS, "post");
    require(moving.agent->waitXfer(read), "read");
    if (!moving.memory.holds(1)) return "wrong bytes";
    return moving.report(read).path;
}

TEST(PosixQueue, TheOneAskedForIsUsedAndTold) {
    for (const bool progress_thread : {false, true}) {
        EXPECT_EQ(pathOfARoundTrip(progress_thread, {{"use_aio", "true"}}), "posix, Linux AIO");
        EXPECT_EQ(pathOfARoundTrip(progress_thread, {{"use_posix_aio", "true"}}), "posix, threads");
        EXPECT_EQ(pathOfARoundTrip(progress_thread, {{"use_posix_aio", "1"}, {"use_aio", "1"}}), "posix, Linux AIO")
            << "1.4's order";
    }
    EXPECT_EQ(inChild([] { // which may be forbidden here
                  forbid({SYS_io_uring_setup});
                  return pathOfARoundTrip(false, {});
              }),
              "posix, Linux AIO");
    EXPECT_EQ(inChild([] {
                  forbid({SYS_io_uring_setup, SYS_io_setup});
                  return pathOfARoundTrip(true, {});
              }),
              "posix, threads");
    EXPECT_EQ(inChild([] { // setting up is allowed, and using it is not
                  forbid({SYS_io_uring_enter});
                  return pathOfARoundTrip(false, {});
              }),
              "posix, Linux AIO");
}

TEST(PosixQueue, OneThatIsRefusedRefusesTheBackendWithASentence) {
    for (const auto &[parameter, call] : {std::pair{"use_uring", SYS_io_uring_setup}, {"use_aio", SYS_io_setup}}) {
        const std::string said = inChild([&] {
            forbid({static_cast<int>(call)});
            nixlAgent agent("A", nixlAgentConfig());
            nixlBackendH *backend = nullptr;
            const auto status = agent.createBackend("POSIX", {{parameter, "true"}}, backend);
            return nixlEnumStrings::statusStr(status) + ": " + nixlx::lastError();
        });
        EXPECT_NE(said.find("NIXL_ERR_BACKEND: "), std::string::npos) << said;
        EXPECT_NE(said.find("Operation not permitted"), std::string::npos) << said;
        EXPECT_NE(said.find(parameter), std::string::npos) << said;
    }
}

TEST(PosixLife, NoThreadAndNoDescriptorIsLeft) {
    const auto count = [](const char *what) {
        return std::distance(std::filesystem::directory_iterator(what), std::filesystem::directory_iterator());
    };
    const auto threads = count("/proc/self/task");
    pathOfARoundTrip(true, {}); // what the process keeps
    const auto descriptors = count("/proc/self/fd");
    for (const char *queue : {"use_uring", "use_aio", "use_posix_aio"}) {
        for (const bool progress_thread : {false, true}) {
            try {
                pathOfARoundTrip(progress_thread, {{queue, "true"}});
            }
            catch (const std::exception &refused) {
                std::cout << refused.what() << "\n";
            }
            EXPECT_EQ(count("/proc/self/fd"), descriptors) << queue;
            // The kernel's workers of a ring end by themselves.
            EXPECT_TRUE(eventually([&] { return count("/proc/self/task") <= threads; })) << queue;
        }
    }
}

TEST(PosixLife, AWriteBeyondTheLimitOfFilesFailsAndDoesNotEndTheProgram) {
    for (const bool progress_thread : {false, true}) {
        for (const char *queue : {"", "use_aio", "use_posix_aio"}) {
            const std::string said = inChild([&]() -> std::string {
                std::signal(SIGXFSZ, SIG_DFL);
                const rlimit limit{kMiB + kMiB / 2, kMiB + kMiB / 2};
                ::setrlimit(RLIMIT_FSIZE, &limit);
                const TempDir folder;
                Moving moving(folder, 4 * kMiB, progress_thread, {{*queue ? queue : "use_nothing", "true"}});
                nixlXferReqH *write = moving.request(NIXL_WRITE);
                nixl_status_t status = moving.agent->postXferReq(write);
                if (status == NIXL_IN_PROG) status = moving.agent->waitXfer(write);
                const nixlx::Report report = moving.report(write);
                // Whatever went first: as many bytes as it says, and never more than are allowed.
                const bool right =
                    report.bytes_done <= limit.rlim_cur && std::filesystem::file_size(moving.path) <= limit.rlim_cur;
                return nixlEnumStrings::statusStr(status) + (right ? ", " : ", too much, ") + report.error;
            });
            EXPECT_NE(said.find("NIXL_ERR_BACKEND, "), std::string::npos) << queue << ": " << said;
            EXPECT_NE(said.find("File too large"), std::string::npos) << queue << ": " << said;
        }
    }
}

TEST(PosixLife, WhatAThreadPostedGoesOnWhenItHasEnded) {
    for (const bool progress_thread : {false, true}) {
        const TempDir folder;
        Moving moving(folder, 64 * kMiB, progress_thread);
        nixlXferReqH *write = moving.request(NIXL_WRITE);
        for (uint64_t round = 0; round < 5; ++round) {
            moving.memory.fill(round);
            nixl_status_t status = NIXL_IN_PROG;
            std::thread([&] { status = moving.agent->postXferReq(write); }).join();
            if (status == NIXL_IN_PROG) status = moving.agent->waitXfer(write);
            ASSERT_EQ(status, NIXL_SUCCESS) << nixlx::lastError();
            std::ifstream file(moving.path, std::ios::binary);
            std::vector<char> found(moving.memory.size());
            file.read(found.data(), static_cast<std::streamsize>(found.size()));
            ASSERT_EQ(std::memcmp(found.data(), moving.memory.data(), found.size()), 0);
        }
    }
}

TEST(PosixLife, AForkInTheMiddleDisturbsNothing) {
    const TempDir folder;
    Moving moving(folder, 64 * kMiB, true);
    nixlXferReqH *write = moving.request(NIXL_WRITE), *read = moving.request(NIXL_READ);
    for (uint64_t round = 0; round < 5; ++round) {
        moving.memory.fill(round);
        for (nixlXferReqH *request : {write, read}) {
            const nixl_status_t posted = moving.agent->postXferReq(request);
            ASSERT_GE(posted, 0) << nixlx::lastError();
            EXPECT_EQ(inChild([&] { return nixlEnumStrings::statusStr(moving.agent->getXferStatus(request)); }),
                      "NIXL_ERR_FORKED");
            ASSERT_EQ(moving.agent->waitXfer(request), NIXL_SUCCESS) << nixlx::lastError();
            if (request == write) moving.memory.clear();
        }
        ASSERT_TRUE(moving.memory.holds(round));
    }
}

TEST(PosixOptions, ADurableWriteAndItsFileAreThere) {
    EXPECT_EQ(pathOfARoundTrip(true, {{"durable", "yes"}}).substr(0, 5), "posix");
    EXPECT_EQ(pathOfARoundTrip(false, {{"durable", "yes"}, {"use_aio", "1"}}), "posix, Linux AIO");
}

TEST(PosixOptions, SmallQueuesMoveEverything) {
    for (const char *size : {"0", "1", "16"}) {
        EXPECT_EQ(pathOfARoundTrip(true, {{"kernel_queue_size", size}, {"ios_pool_size", "1"}}).substr(0, 5), "posix");
    }
}

TEST(PosixSides, TheFileMayBeTheLocalSide) {
    const TempDir folder;
    Moving moving(folder, kMiB, true);
    const auto file = listOf({{0, kMiB, 77}}, FILE_SEG), memory = listOf({moving.memory.desc()});
    nixlXferReqH *to_file = nullptr, *to_memory = nullptr; // READ moves from the remote side to the local one
    ASSERT_EQ(moving.agent->createXferReq(NIXL_READ, file, memory, "A", to_file), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_EQ(moving.agent->createXferReq(NIXL_WRITE, file, memory, "A", to_memory), NIXL_SUCCESS);
    moving.memory.fill(1);
    ASSERT_GE(moving.agent->postXferReq(to_file), 0);
    ASSERT_EQ(moving.agent->waitXfer(to_file), NIXL_SUCCESS);
    moving.memory.clear();
    ASSERT_GE(moving.agent->postXferReq(to_memory), 0);
    ASSERT_EQ(moving.agent->waitXfer(to_memory), NIXL_SUCCESS);
    EXPECT_TRUE(moving.memory.holds(1));
    nixlXferReqH *none = nullptr;
    EXPECT_LT(moving.agent->createXferReq(NIXL_READ, memory, memory, "A", none), 0) << "memory to memory";
}

TEST(PosixLife, ASystemCallOfWhoPostsIsNotInterruptedForIt) {
    const TempDir folder;
    Moving moving(folder, 32 * kMiB, true);
    nixlXferReqH *const write = moving.request(NIXL_WRITE), *const read = moving.request(NIXL_READ);
    moving.memory.fill(1);
    const int file = ::open(moving.path.c_str(), O_RDONLY | O_CLOEXEC), nothing = ::epoll_create1(EPOLL_CLOEXEC);
    size_t interrupted = 0;
    const auto run = [&](nixlXferReqH *request) {
        nixl_status_t status = moving.agent->postXferReq(request);
        while (status == NIXL_IN_PROG) {
            epoll_event event;
            interrupted += ::epoll_wait(nothing, &event, 1, 1) < 0;
            status = moving.agent->getXferStatus(request);
        }
        ASSERT_EQ(status, NIXL_SUCCESS) << nixlx::lastError();
    };
    for (int i = 0; i < 10; ++i) {
        run(write);
        ASSERT_EQ(::fdatasync(file), 0);
        ASSERT_EQ(::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED), 0);
        run(read);
    }
    EXPECT_EQ(interrupted, 0u);
    for (const int fd : {file, nothing}) ::close(fd);
    for (nixlXferReqH *const request : {write, read}) EXPECT_EQ(moving.agent->releaseXferReq(request), NIXL_SUCCESS);
}

TEST(PosixLife, ASmallReadOfWhatIsCachedIsOverWithItsPost) {
    const TempDir folder;
    Moving moving(folder, 64 << 10, true);
    nixlXferReqH *const write = moving.request(NIXL_WRITE), *const read = moving.request(NIXL_READ);
    moving.memory.fill(1);
    ASSERT_GE(moving.agent->postXferReq(write), 0) << nixlx::lastError();
    ASSERT_EQ(moving.agent->waitXfer(write), NIXL_SUCCESS) << nixlx::lastError();
    for (int i = 0; i < 3; ++i) {
        moving.memory.clear();
        EXPECT_EQ(moving.agent->postXferReq(read), NIXL_SUCCESS) << nixlx::lastError();
        EXPECT_TRUE(moving.memory.holds(1));
        EXPECT_EQ(moving.report(read).bytes_done, moving.memory.size());
    }
    // What is not all there ends as others do.
    ASSERT_EQ(::truncate(moving.path.c_str(), 1000), 0);
    nixl_status_t status = moving.agent->postXferReq(read);
    if (status == NIXL_IN_PROG) status = moving.agent->waitXfer(read);
    EXPECT_EQ(status, NIXL_ERR_BACKEND);
    EXPECT_EQ(moving.report(read).bytes_done, 1000u);
    for (nixlXferReqH *const request : {write, read}) EXPECT_EQ(moving.agent->releaseXferReq(request), NIXL_SUCCESS);
}

} // namespace
} // namespace nx::test
