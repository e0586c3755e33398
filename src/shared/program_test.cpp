// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: the public functions keep their word when the system refuses, and across fork. Method: children with limits;
// the exit status of a child tells which claim of it was wrong.
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nixlx/memory.h"
#include "nixlx/report.h"

namespace nx {
namespace {

using nixlx::allocShared;
using nixlx::findShared;
using nixlx::freeShared;
using testing::HasSubstr;

const bool info_is_logged = setenv("NIXL_LOG_LEVEL", "INFO", 1) == 0;

bool
isShared(const void *memory) {
    return findShared(reinterpret_cast<uint64_t>(memory), 1).has_value();
}

char *
allocate(size_t bytes) {
    return static_cast<char *>(allocShared(bytes));
}

/// What `body` returns in a child: 0, or the number of the claim that was wrong.
template<class Body>
int
inChild(Body body) {
    const pid_t child = fork();
    if (child == 0) {
        alarm(60);
        _exit(body());
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

void
limit(__rlimit_resource what, rlim_t value) {
    rlimit both{};
    getrlimit(what, &both);
    both.rlim_cur = value;
    if (setrlimit(what, &both) != 0) _exit(100);
}

TEST(SharedMemory, CanBeHadAndFreed) {
    ASSERT_TRUE(info_is_logged);
    char *memory = allocate(10000);
    ASSERT_NE(memory, nullptr);
    EXPECT_TRUE(isShared(memory));
    std::memset(memory, 1, 10000);
    freeShared(memory);
    freeShared(nullptr);
}

TEST(SharedMemory, ThatCannotBeHadIsNullAndASentence) {
    EXPECT_EQ(allocShared(size_t{1} << 62), nullptr);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("allocShared: the system refuses 4611686018427387904 bytes"));
    EXPECT_EQ(allocShared(SIZE_MAX), nullptr);
}

TEST(SharedMemory, WrongPointersAreToldAndLeftAlone) {
    int foreign = 3;
    testing::internal::CaptureStderr();
    freeShared(&foreign);
    EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("there is no allocation at this address"));
    EXPECT_EQ(foreign, 3);
}

TEST(SharedMemory, IsOrdinaryWithoutDescriptorsAndSaysSoOnce) {
    testing::internal::CaptureStderr();
    const int wrong = inChild([] {
        limit(RLIMIT_NOFILE, 3);
        char *one = allocate(1000), *two = allocate(size_t{100} << 20);
        if (!one || !two) return 1;
        one[999] = two[(size_t{100} << 20) - 1] = 1;
        if (isShared(one) || isShared(two)) return 2;
        freeShared(one);
        freeShared(two);
        limit(RLIMIT_NOFILE, 100);
        return isShared(allocShared(1000)) ? 0 : 3;
    });
    const std::string said = testing::internal::GetCapturedStderr();
    EXPECT_EQ(wrong, 0);
    EXPECT_THAT(said, HasSubstr("peers of this host cannot map: memfd_create: Too many open files"));
    EXPECT_EQ(said.find("allocShared"), said.rfind("allocShared"));
}

TEST(SharedMemory, IsOrdinaryWhereFilesMayNotBeSoLarge) {
    EXPECT_EQ(inChild([] {
                  limit(RLIMIT_FSIZE, 1 << 20); // more would end the process with SIGXFSZ
                  char *memory = allocate(1000);
                  return memory && !isShared(memory) ? 0 : 1;
              }),
              0);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST(SharedMemory, IsRefusedWithoutAddressSpaceAndGivenForWhatFits) {
    EXPECT_EQ(inChild([] {
                  limit(RLIMIT_AS, size_t{512} << 20);
                  if (allocShared(size_t{1} << 30)) return 1;
                  if (nixlx::lastError().find("ulimit -v") == std::string::npos) return 2;
                  char *fits = allocate(size_t{16} << 20);
                  if (!fits) return 3;
                  fits[0] = 1;
                  return 0;
              }),
              0);
}
#endif

TEST(SharedMemory, IsSharedWithAChildWhichFreesForItselfOnly) {
    char *one = allocate(4096), *two = allocate(4096);
    std::strcpy(one, "before");
    std::strcpy(two, "stays");
    EXPECT_EQ(inChild([&] {
                  if (std::strcmp(one, "before") != 0) return 1;
                  std::strcpy(one, "of the child");
                  freeShared(two);
                  char *own = allocate(4096);
                  if (!own || own == two || !isShared(own)) return 2;
                  if (findShared(reinterpret_cast<uint64_t>(own), 1)->base ==
                      findShared(reinterpret_cast<uint64_t>(one), 1)->base) {
                      return 3; // the parent cuts from that block
                  }
                  std::strcpy(own, "own");
                  freeShared(one);
                  return std::strcmp(own, "own") == 0 ? 0 : 4;
              }),
              0);
    EXPECT_STREQ(one, "of the child");
    EXPECT_STREQ(two, "stays");
    char *three = allocate(4096);
    EXPECT_NE(three, one);
    EXPECT_NE(three, two);
    for (char *memory : {one, two, three}) freeShared(memory);
}

TEST(SharedMemory, CanBeHadInAChildWhateverOtherThreadsDidAtTheFork) {
    std::atomic<bool> done{false};
    std::thread busy([&] {
        while (!done) freeShared(allocShared(4096));
    });
    for (int i = 0; i < 50; ++i) {
        EXPECT_EQ(inChild([] {
                      char *memory = allocate(4096);
                      if (!memory) return 1;
                      freeShared(memory);
                      return 0;
                  }),
                  0);
    }
    done = true;
    busy.join();
}

} // namespace
} // namespace nx
