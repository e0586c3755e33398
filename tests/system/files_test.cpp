// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: a transfer to or from a file ends as SUCCESS with every byte, or with the error and the exact count of the
// request that failed. Method: real files that are missing, special, replaced, cut, shared or sparse, over each queue
// of the backend. Direct I/O is in files_direct_test.cpp, what a process must do to itself in file_faults_test.cpp.
#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <random>
#include <thread>
#include <cstdio>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "support/io_faults.h"
#include "support/temp_dir.h"
#include "system/descriptors.h"
#include "system/file_agent.h"

namespace nx::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class Files : public FilesTest {};

INSTANTIATE_TEST_SUITE_P(Posix, Files, testing::ValuesIn(kHows), nameOf);

/// Registration says the same whichever queue is used.
class FilesRegistered : public FilesTest {};

INSTANTIATE_TEST_SUITE_P(Posix, FilesRegistered, testing::Values(kHows[0]), nameOf);

// ---- Paths ----------------------------------------------------------------------------------------------------------

TEST_P(FilesRegistered, WhatCannotBeOpenedIsRefusedAndNamed) {
    const std::string is_there = dir.write("is there", "x"), folder = dir / "folder", fifo = dir / "fifo";
    ASSERT_EQ(::mkdir(folder.c_str(), 0755), 0);
    ASSERT_EQ(::mkfifo(fifo.c_str(), 0644), 0);
    const size_t before = openDescriptorsOfAnAgentThatWorks();
    const std::pair<std::string, std::string> refused[] = {
        {"ro:" + (dir / "none"), "No such file or directory"},
        {"rw:" + (dir / "none"), "No such file or directory"},
        {"rw,create:" + (dir / "none/inside"), "No such file or directory"},
        {"rw:" + is_there + "/inside", "Not a directory"},
        {"rw:" + folder, "directory"},
        {"ro:" + folder, "directory"},
        {"ro:" + fifo, "pipe"}, // must not wait for a writer either
        {"rw:" + fifo, "pipe"},
        {"ro:/" + std::string(5000, 'x'), "name too long"},
    };
    for (const auto &[meta_info, reason] : refused) {
        SCOPED_TRACE(meta_info.substr(0, 100));
        EXPECT_EQ(agent().addFile(77, meta_info), NIXL_ERR_BACKEND);
        EXPECT_THAT(nixlx::lastError(), HasSubstr(reason));
        EXPECT_THAT(nixlx::lastError(), HasSubstr(meta_info.substr(meta_info.find('/'), 50)));
        EXPECT_EQ(agent().removeFile(77), NIXL_ERR_NOT_FOUND);
    }
    EXPECT_EQ(openDescriptors(), before);
    EXPECT_EQ(agent().addFile(77, "ro:" + is_there), NIXL_SUCCESS) << nixlx::lastError();
}

TEST_P(FilesRegistered, AMisspeltPathIsNoDescriptor) {
    // In NIXL 1.4 these mean "the device id is a descriptor": here one that must not be written.
    const std::string path = dir.write("innocent", "innocent");
    const OpenFile innocent(path, O_RDWR);
    for (const std::string &meta_info :
         {"rw,drect:" + path, "rw,:" + path, "wr:" + path, "RW:" + path, "rw,direct,fast:" + path, "direct:" + path,
          ":" + path, "rw;create:" + path, std::string("rw:"), std::string("ro,direct:")}) {
        SCOPED_TRACE(meta_info);
        EXPECT_EQ(agent().addFile(innocent.id(), meta_info), NIXL_ERR_BACKEND);
        EXPECT_THAT(nixlx::lastError(), HasSubstr(meta_info.substr(0, meta_info.find(':'))));
        EXPECT_EQ(agent().removeFile(innocent.id()), NIXL_ERR_NOT_FOUND);
    }
    // Free text, as programs of 1.4 give it beside a descriptor, is none.
    for (const char *meta_info : {"", "b", "/path-like", "file 7"}) {
        EXPECT_EQ(agent().addFile(innocent.id(), meta_info), NIXL_SUCCESS) << meta_info << ": " << nixlx::lastError();
        EXPECT_EQ(agent().removeFile(innocent.id()), NIXL_SUCCESS);
    }
    EXPECT_EQ(contentsOf(path), "innocent");
}

TEST_P(FilesRegistered, AnIdIsOneFileAtATime) {
    const std::string one = dir.write("one", "one"), other = dir.write("other", "other");
    const Buffer &memory = this->memory(3);
    ASSERT_EQ(agent().addFile(5, "ro:" + one), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(agent().addFile(5, "ro:" + other), NIXL_ERR_BACKEND);
    EXPECT_THAT(nixlx::lastError(), AllOf(HasSubstr("5"), HasSubstr(one)));
    EXPECT_EQ(agent().addFile(5, "ro:" + one), NIXL_SUCCESS) << "the same file again: " << nixlx::lastError();
    EXPECT_EQ(agent().removeFile(5), NIXL_SUCCESS);
    EXPECT_EQ(agent().addFile(5, "ro:" + other), NIXL_ERR_BACKEND) << "it is still registered once";
    expectSuccess(agent().move(NIXL_READ, memory, 5));
    EXPECT_EQ(std::memcmp(memory.data(), "one", 3), 0);
    EXPECT_EQ(agent().removeFile(5), NIXL_SUCCESS);
    ASSERT_EQ(agent().addFile(5, "ro:" + other), NIXL_SUCCESS) << nixlx::lastError();
    expectSuccess(agent().move(NIXL_READ, memory, 5));
    EXPECT_EQ(std::memcmp(memory.data(), "oth", 3), 0);
}

TEST_P(FilesRegistered, WhatIsNoFileIsNoDescriptor) {
    const std::string path = dir.write("innocent", "innocent");
    const OpenFile innocent(path, O_RDWR);
    for (const uint64_t id : {uint64_t{700}, uint64_t{1} << 32 | innocent.id(), ~uint64_t{0}, uint64_t{0x80000000},
                              ~uint64_t{0} << 32 | innocent.id()}) {
        SCOPED_TRACE(id);
        EXPECT_EQ(agent().addFile(id), NIXL_ERR_BACKEND);
        EXPECT_THAT(nixlx::lastError(), HasSubstr(std::to_string(id)));
    }
    int pipe[2], pair[2];
    ASSERT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    const OpenFile read_end(pipe[0]), write_end(pipe[1]), socket(pair[0]), other(pair[1]),
        epoll(::epoll_create1(EPOLL_CLOEXEC)), event(::eventfd(1, EFD_CLOEXEC)), folder(dir.path().string(), O_RDONLY);
    for (const OpenFile *each : {&read_end, &write_end, &socket, &epoll, &event, &folder}) {
        EXPECT_EQ(agent().addFile(each->id()), NIXL_ERR_BACKEND) << "descriptor " << **each;
        EXPECT_THAT(nixlx::lastError(), HasSubstr(std::to_string(**each)));
    }
}

TEST_P(FilesRegistered, DescriptorsAreCloseOnExecAndComeBack) {
    const size_t before = openDescriptorsOfAnAgentThatWorks();
    for (uint64_t i = 0; i < 50; ++i) {
        const std::string path = dir.write(std::to_string(i), "x");
        ASSERT_EQ(agent().addFile(1000 + i, (i % 2 ? "rw:" : "ro:") + path), NIXL_SUCCESS) << nixlx::lastError();
    }
    for (const auto &entry : std::filesystem::directory_iterator("/proc/self/fd")) {
        const int fd = std::stoi(entry.path().filename());
        const int flags = ::fcntl(fd, F_GETFD);
        std::error_code gone;
        const auto target = std::filesystem::read_symlink(entry.path(), gone);
        if (flags < 0 || gone || fd <= 2) continue; // the directory's own
        if (target.string().starts_with(dir.path().string()) || target.string().find("io_uring") != std::string::npos) {
            EXPECT_TRUE(flags & FD_CLOEXEC) << target;
        }
    }
    for (uint64_t i = 0; i < 50; ++i) EXPECT_EQ(agent().removeFile(1000 + i), NIXL_SUCCESS);
    EXPECT_EQ(openDescriptors(), before);
}

TEST_P(FilesRegistered, CreateMakesAFileThatItsOwnerWrites) {
    const ::mode_t mask = ::umask(022);
    ASSERT_EQ(agent().addFile(1, "rw,create:" + (dir / "new")), NIXL_SUCCESS) << nixlx::lastError();
    ::umask(mask);
    struct stat status{};
    ASSERT_EQ(::stat((dir / "new").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode, static_cast<mode_t>(S_IFREG | 0644));
    EXPECT_EQ(status.st_size, 0);
    dir.write("old", "old");
    ASSERT_EQ(agent().addFile(2, "rw,create:" + (dir / "old")), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(contentsOf(dir / "old"), "old") << "what is there is kept";
}

TEST_P(FilesRegistered, ARootIsNotLeft) {
    const std::string root = dir / "root", outside = dir.write("outside", "outside");
    ASSERT_EQ(::mkdir(root.c_str(), 0755), 0);
    ASSERT_EQ(::mkdir((root + "/folder").c_str(), 0755), 0);
    dir.write("root/inside", "inside.");
    ASSERT_EQ(::symlink(outside.c_str(), (root + "/link").c_str()), 0);
    ASSERT_EQ(::symlink("..", (root + "/up").c_str()), 0);
    agent({{"root", root}});
    const Buffer &memory = this->memory(7);
    for (const std::string &path :
         {outside, root + "/../outside", std::string("../outside"), std::string("folder/../../outside"),
          std::string("link"), std::string("up/outside"), root + "/link", std::string("/etc/passwd"),
          std::string("/proc/self/exe"), root + "side", std::string("..")}) {
        for (const char *words : {"ro:", "rw:", "rw,create:"}) {
            EXPECT_EQ(agent().addFile(900, words + path), NIXL_ERR_BACKEND) << words << path;
            EXPECT_NE(nixlx::lastError(), "");
        }
        // Nor does a question.
        nixl_reg_dlist_t names(FILE_SEG);
        names.addDesc(nixlBlobDesc(0, 0, 0, path));
        std::vector<nixl_query_resp_t> answers;
        ASSERT_EQ(agent()->queryMem(names, answers, &agent().paired.with_backend), NIXL_SUCCESS);
        EXPECT_FALSE(answers.at(0)) << path;
    }
    for (const std::string &path : {root + "/inside", std::string("inside"), std::string("folder/../inside")}) {
        ASSERT_EQ(agent().addFile(900, "ro:" + path), NIXL_SUCCESS) << nixlx::lastError();
        expectSuccess(agent().move(NIXL_READ, memory, 900));
        EXPECT_EQ(std::memcmp(memory.data(), "inside.", 7), 0);
        EXPECT_EQ(agent().removeFile(900), NIXL_SUCCESS);
    }
    // Somebody exchanges a folder for a link that leads out, all the time.
    ASSERT_EQ(::mkdir((root + "/a").c_str(), 0755), 0);
    dir.write("root/a/outside", "inside.");
    ASSERT_EQ(::symlink(dir.path().c_str(), (root + "/b").c_str()), 0);
    std::atomic<bool> is_over{false};
    std::thread somebody([&] {
        while (!is_over) {
            ::syscall(SYS_renameat2, AT_FDCWD, (root + "/a").c_str(), AT_FDCWD, (root + "/b").c_str(), RENAME_EXCHANGE);
        }
    });
    size_t opened = 0, refused = 0;
    const auto attempt = [&] {
        if (agent().addFile(900, "rw:a/outside") != NIXL_SUCCESS) {
            ++refused;
            return;
        }
        ++opened;
        EXPECT_EQ(agent().move(NIXL_READ, memory, 900).status, NIXL_SUCCESS);
        EXPECT_EQ(std::memcmp(memory.data(), "inside.", 7), 0);
        EXPECT_EQ(agent().removeFile(900), NIXL_SUCCESS);
    };
    EXPECT_TRUE(eventually([&] {
        for (int i = 0; i < 3000 && !testing::Test::HasFailure(); ++i) attempt();
        return (opened > 0 && refused > 0) || testing::Test::HasFailure();
    })) << "nobody exchanges them";
    is_over = true;
    somebody.join();
    EXPECT_EQ(contentsOf(outside), "outside");
}

TEST_P(FilesRegistered, QueriesAreAnsweredForWhateverIsAsked) {
    const std::string some = dir.write("some", "1234567");
    ASSERT_EQ(::symlink(some.c_str(), (dir / "link").c_str()), 0);
    nixl_reg_dlist_t names(FILE_SEG);
    for (const std::string &name : {some, dir / "none", std::string(), dir / "link", dir.path().string(),
                                    some + "/below", std::string(5000, 'x'), some + std::string(1, '\0') + "x"}) {
        names.addDesc(nixlBlobDesc(0, 0, 0, name));
    }
    std::vector<nixl_query_resp_t> answers;
    ASSERT_EQ(agent()->queryMem(names, answers, &agent().paired.with_backend), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_EQ(answers.size(), 8u);
    struct stat status{};
    ASSERT_EQ(::stat(some.c_str(), &status), 0);
    for (const size_t there : {0u, 3u}) {
        ASSERT_TRUE(answers[there]) << there;
        EXPECT_EQ(answers[there]->at("size"), "7");
        EXPECT_EQ(answers[there]->at("mode"), std::to_string(status.st_mode));
        EXPECT_EQ(answers[there]->at("mtime"), std::to_string(status.st_mtime));
    }
    EXPECT_TRUE(answers[4]) << "a directory is there";
    for (const size_t absent : {1u, 2u, 5u, 6u, 7u}) EXPECT_FALSE(answers[absent]) << absent;
}

// ---- Files that are not what they were ------------------------------------------------------------------------------

TEST_P(Files, AReadOnlyFileIsReadAndRefusesWrites) {
    const std::string path = file("data", 10000, 1);
    const OpenFile read_only(path, O_RDONLY), write_only(path, O_WRONLY);
    const Buffer &memory = this->memory(10000);
    ASSERT_EQ(agent().addFile(read_only.id()), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_EQ(agent().addFile(write_only.id()), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_EQ(agent().addFile(900, "ro:" + path), NIXL_SUCCESS) << nixlx::lastError();
    for (const uint64_t id : {read_only.id(), uint64_t{900}}) {
        memory.fill(2);
        const std::string name = id == 900 ? path : std::to_string(id);
        expectFailure(agent().move(NIXL_WRITE, memory, id), NIXL_ERR_NOT_ALLOWED, 0, {name, "read"});
        expectSuccess(agent().move(NIXL_READ, memory, id));
        EXPECT_TRUE(memory.holds(1));
    }
    // The other way round.
    memory.clear();
    expectFailure(agent().move(NIXL_READ, memory, write_only.id()), NIXL_ERR_BACKEND, 0,
                  {std::to_string(write_only.id()), std::strerror(EBADF)});
    EXPECT_TRUE(memory.isZero());
    memory.fill(1);
    expectSuccess(agent().move(NIXL_WRITE, memory, write_only.id()));
}

TEST_P(Files, ADeletedFileIsThereAsLongAsItIsOpen) {
    const std::string path = file("data", 10000, 1);
    const OpenFile open(path, O_RDWR);
    const Buffer &memory = this->memory(10000);
    ASSERT_EQ(agent().addFile(open.id()), NIXL_SUCCESS);
    ASSERT_EQ(agent().addFile(900, "rw:" + path), NIXL_SUCCESS);
    ASSERT_EQ(::unlink(path.c_str()), 0);
    expectSuccess(agent().move(NIXL_READ, memory, open.id()));
    EXPECT_TRUE(memory.holds(1));
    memory.fill(2);
    expectSuccess(agent().move(NIXL_WRITE, memory, 900));
    memory.clear();
    expectSuccess(agent().move(NIXL_READ, memory, open.id()));
    EXPECT_TRUE(memory.holds(2));
}

TEST_P(Files, AFileThatWasCutEndsWhereItEnds) {
    const std::string path = file("data", 10000, 1);
    const Buffer &memory = this->memory(10000), before(10000);
    ASSERT_EQ(agent().addFile(900, "rw:" + path), NIXL_SUCCESS);
    nixlXferReqH *read = agent().request(NIXL_READ, memory, 900);
    expectSuccess(agent().run(read));
    for (const size_t left : {9999u, 4096u, 4095u, 1u, 0u}) {
        SCOPED_TRACE(left);
        ASSERT_EQ(::truncate(path.c_str(), static_cast<off_t>(left)), 0);
        std::memset(memory.data(), 0x5a, 10000);
        expectFailure(agent().run(read), NIXL_ERR_BACKEND, left, {path, "10000", std::to_string(left)});
        before.fill(1);
        EXPECT_EQ(std::memcmp(memory.data(), before.data(), left), 0);
        EXPECT_EQ(std::count(memory.data() + left, memory.data() + 10000, 0x5a), static_cast<ptrdiff_t>(10000 - left));
    }
    // Longer again: what was cut off is zeros.
    ASSERT_EQ(::truncate(path.c_str(), 10000), 0);
    expectSuccess(agent().run(read));
    EXPECT_TRUE(memory.isZero());
    EXPECT_EQ(agent()->releaseXferReq(read), NIXL_SUCCESS);
}

TEST_P(Files, ADescriptorThatBecameAnotherFileIsNotUsed) {
    const std::string path = file("data", 10000, 1);
    dir.write("innocent", std::string(10000, 'i'));
    constexpr int kNumber = 700; // which nobody else gets
    OpenFile data(path, O_RDWR, kNumber);
    const uint64_t id = data.id();
    const Buffer &memory = this->memory(10000);
    ASSERT_EQ(agent().addFile(id), NIXL_SUCCESS);
    nixlXferReqH *write = agent().request(NIXL_WRITE, memory, id), *read = agent().request(NIXL_READ, memory, id);
    data.close();
    expectFailure(agent().run(read), NIXL_ERR_NOT_FOUND, 0, {std::to_string(id)});
    const OpenFile innocent(dir / "innocent", O_RDWR, kNumber);
    ASSERT_EQ(innocent.id(), id);
    memory.fill(2);
    for (nixlXferReqH *request : {write, read}) {
        expectFailure(agent().run(request), NIXL_ERR_STALE, 0, {std::to_string(id)});
    }
    EXPECT_TRUE(memory.holds(2)) << "read from the file that has the number now";
    EXPECT_EQ(contentsOf(dir / "innocent"), std::string(10000, 'i'));
    EXPECT_EQ(agent()->releaseXferReq(write), NIXL_SUCCESS);
    EXPECT_EQ(agent()->releaseXferReq(read), NIXL_SUCCESS);
    EXPECT_EQ(agent().removeFile(id), NIXL_SUCCESS);
    EXPECT_EQ(::fcntl(*innocent, F_GETFD), FD_CLOEXEC) << "the program's descriptor was closed";
}

TEST_P(Files, APathThatLeadsToAnotherFileIsStaleWhenItIsOpenedAgain) {
    constexpr size_t kFiles = 300, kSize = 500;
    const DescriptorLimit limit(128);
    for (size_t i = 0; i < kFiles; ++i) file(std::to_string(i), kSize, i);
    const Buffer &memory = this->memory(kSize);
    for (size_t i = 0; i < kFiles; ++i) {
        ASSERT_EQ(agent().addFile(1000 + i, "rw:" + (dir / std::to_string(i))), NIXL_SUCCESS) << nixlx::lastError();
    }
    // The first ones have made place for others by now.
    dir.write("other", std::string(kSize, 'o'));
    ASSERT_EQ(::rename((dir / "other").c_str(), (dir / "0").c_str()), 0);
    ASSERT_EQ(::unlink((dir / "1").c_str()), 0);
    std::memset(memory.data(), 0x5a, kSize);
    expectFailure(agent().move(NIXL_WRITE, memory, 1000), NIXL_ERR_STALE, 0, {dir / "0"});
    EXPECT_EQ(contentsOf(dir / "0"), std::string(kSize, 'o'));
    expectFailure(agent().move(NIXL_READ, memory, 1001), NIXL_ERR_NOT_FOUND, 0, {dir / "1"});
    for (size_t i = 2; i < kFiles; ++i) {
        expectSuccess(agent().move(NIXL_READ, memory, 1000 + i));
        ASSERT_TRUE(memory.holds(i)) << i;
    }
    EXPECT_LT(openDescriptors(), 128u);
}

TEST_P(Files, ACharacterDeviceTakesMoreThanFourGibibytes) {
    // W18: an I/O that the kernel cuts at 2 GiB, and a length in 32 bits. Nothing is copied: a device that takes all,
    // from memory that is never touched.
    constexpr size_t kSize = (size_t{4} << 30) + 4096;
    void *room = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ASSERT_NE(room, MAP_FAILED);
    const nixlBasicDesc all(reinterpret_cast<uintptr_t>(room), kSize, 0);
    if (agent()->registerMem(registrationOf({all})) != NIXL_SUCCESS) {
        ::munmap(room, kSize);
        GTEST_SKIP() << "4 GiB of memory cannot be registered: " << nixlx::lastError();
    }
    ASSERT_EQ(agent().addFile(900, "rw:/dev/null"), NIXL_SUCCESS) << nixlx::lastError();
    expectSuccess(agent().move(NIXL_WRITE, listOf({all}), listOf({{0, kSize, 900}}, FILE_SEG)));
    EXPECT_EQ(agent()->deregisterMem(registrationOf({all})), NIXL_SUCCESS);
    ::munmap(room, kSize);
}

TEST_P(Files, AnInputOutputErrorIsOfTheRequestThatHasIt) {
    // Memory of this process as a file: behind the end of what is mapped, reading is EIO; a page before, short first.
    const OpenFile self("/proc/self/mem", O_RDONLY);
    const std::string path = file("data", 8192, 1);
    const OpenFile mapped(dir.write("mapped", std::string(4096, 'm')), O_RDONLY);
    void *pages = ::mmap(nullptr, 8192, PROT_READ, MAP_PRIVATE, *mapped, 0); // the second one is not there
    ASSERT_NE(pages, MAP_FAILED);
    const auto place = reinterpret_cast<uintptr_t>(pages);
    // Linux AIO has nothing to do with files of this kind.
    const bool readable = std::string_view(GetParam().option) != "use_aio";
    const size_t there = readable ? 4096 : 0;
    const Buffer &memory = this->memory(8192), &other = this->memory(8192);
    ASSERT_EQ(agent().addFile(self.id()), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_EQ(agent().addFile(900, "ro:" + path), NIXL_SUCCESS);
    nixlXferReqH *innocent = agent().request(NIXL_READ, other, 900);
    nixlXferReqH *broken = agent().request(NIXL_READ, memory, self.id(), place);
    for (int i = 0; i < 20; ++i) {
        memory.clear();
        other.clear();
        const nixl_status_t first = agent()->postXferReq(broken), second = agent()->postXferReq(innocent);
        Outcome outcome{agent().finish(broken, first), {}};
        ASSERT_EQ(agent()->getXferReport(broken, outcome.report), NIXL_SUCCESS);
        expectFailure(outcome, NIXL_ERR_BACKEND, there,
                      {std::to_string(self.id()), std::strerror(readable ? EIO : EINVAL)});
        EXPECT_EQ(std::count(memory.data(), memory.data() + 8192, 'm'), static_cast<ptrdiff_t>(there));
        ASSERT_EQ(agent().finish(innocent, second), NIXL_SUCCESS) << nixlx::lastError();
        ASSERT_TRUE(other.holds(1));
    }
    EXPECT_EQ(agent()->releaseXferReq(innocent), NIXL_SUCCESS);
    EXPECT_EQ(agent()->releaseXferReq(broken), NIXL_SUCCESS);
    ::munmap(pages, 8192);
}

// ---- Offsets --------------------------------------------------------------------------------------------------------

TEST_P(Files, OffsetsThatNoFileHasAreRefused) {
    const std::string path = file("data", 10000, 1);
    const Buffer &memory = this->memory(8192);
    ASSERT_EQ(agent().addFile(900, "rw:" + path), NIXL_SUCCESS);
    const uint64_t kLast = std::numeric_limits<int64_t>::max();
    for (const uint64_t offset : {uint64_t{0} - 4096, uint64_t{0} - 8192, kLast + 1, kLast - 4095, kLast - 8192}) {
        for (const nixl_xfer_op_t operation : {NIXL_WRITE, NIXL_READ}) {
            SCOPED_TRACE(std::to_string(offset) + (operation == NIXL_READ ? " read" : " write"));
            nixlXferReqH *request = nullptr;
            nixl_status_t status = agent()->createXferReq(operation, listOf({memory.desc()}),
                                                          listOf({{offset, 8192, 900}}, FILE_SEG), "A", request);
            if (status == NIXL_SUCCESS) {
                const Outcome outcome = agent().run(request);
                status = outcome.status;
                EXPECT_EQ(outcome.report.bytes_done, 0u);
                EXPECT_THAT(outcome.report.error, HasSubstr(path));
                EXPECT_EQ(agent()->releaseXferReq(request), NIXL_SUCCESS);
            } else {
                EXPECT_EQ(request, nullptr);
            }
            // A read at an offset that a file could have finds no byte there.
            const bool possible = offset <= kLast && kLast - offset >= 8192;
            if (possible) EXPECT_EQ(status, NIXL_ERR_BACKEND);
            else EXPECT_THAT(status, testing::AnyOf(NIXL_ERR_INVALID_PARAM, NIXL_ERR_NOT_FOUND));
        }
    }
    struct stat status{};
    ASSERT_EQ(::stat(path.c_str(), &status), 0);
    EXPECT_EQ(status.st_size, 10000);
}

TEST_P(Files, AFileOf16GibibytesOfHoles) {
    constexpr uint64_t kEnd = uint64_t{16} << 30;
    constexpr size_t kSize = 4096;
    const std::string path = dir.write("sparse", "");
    if (::truncate(path.c_str(), static_cast<off_t>(kEnd)) != 0) {
        GTEST_SKIP() << "a file of 16 GiB: " << std::strerror(errno);
    }
    const Buffer &memory = this->memory(kSize), &beyond = this->memory(3 * kSize);
    ASSERT_EQ(agent().addFile(900, "rw:" + path), NIXL_SUCCESS);
    uint64_t seed = 0;
    for (const uint64_t offset : {kEnd - kSize, (uint64_t{4} << 30) - 1000, (uint64_t{2} << 30) - 1000, kEnd / 2 + 7}) {
        memory.fill(++seed);
        expectSuccess(agent().move(NIXL_WRITE, memory, 900, offset));
        memory.clear();
        expectSuccess(agent().move(NIXL_READ, memory, 900, offset));
        EXPECT_TRUE(memory.holds(seed)) << offset;
    }
    // Holes are zeros, the last page is the first one written, and behind it is the end.
    memory.fill(99);
    expectSuccess(agent().move(NIXL_READ, memory, 900, kEnd - 10 * kSize));
    EXPECT_TRUE(memory.isZero());
    expectFailure(agent().move(NIXL_READ, beyond, 900, kEnd - 2 * kSize), NIXL_ERR_BACKEND, 2 * kSize, {path});
    EXPECT_EQ(std::count(beyond.data(), beyond.data() + kSize, 0), static_cast<ptrdiff_t>(kSize));
    struct stat status{};
    ASSERT_EQ(::stat(path.c_str(), &status), 0);
    EXPECT_EQ(static_cast<uint64_t>(status.st_size), kEnd);
    EXPECT_LT(status.st_blocks * 512, 1 << 20) << "holes were filled";
}

// ---- Many -----------------------------------------------------------------------------------------------------------

TEST_P(Files, ThousandsOfFilesInOneRequestWithFewDescriptors) {
    constexpr size_t kFiles = 1500, kSize = 700;
    const DescriptorLimit limit(256);
    const Buffer &memory = this->memory(kFiles * kSize);
    nixl_reg_dlist_t files(FILE_SEG);
    nixl_xfer_dlist_t pieces(DRAM_SEG), places(FILE_SEG);
    for (size_t i = 0; i < kFiles; ++i) {
        files.addDesc(nixlBlobDesc(0, 0, 1000 + i, "rw,create:" + (dir / std::to_string(i))));
        pieces.addDesc(memory.desc(i * kSize, kSize));
        places.addDesc({0, kSize, 1000 + i});
    }
    size_t after_the_first = 0; // with what is made when something is first needed
    for (uint64_t round = 1; round <= 2; ++round) {
        ASSERT_EQ(agent()->registerMem(files), NIXL_SUCCESS) << nixlx::lastError();
        memory.fill(round);
        expectSuccess(agent().move(NIXL_WRITE, pieces, places));
        EXPECT_LT(openDescriptors(), 256u);
        memory.clear();
        expectSuccess(agent().move(NIXL_READ, pieces, places));
        EXPECT_TRUE(memory.holds(round));
        EXPECT_EQ(agent()->deregisterMem(files), NIXL_SUCCESS);
        if (round == 1) after_the_first = openDescriptors();
    }
    EXPECT_EQ(openDescriptors(), after_the_first);
    EXPECT_LT(after_the_first, 30u);
    for (const size_t i : {size_t{0}, kFiles / 2, kFiles - 1}) {
        const std::string found = contentsOf(dir / std::to_string(i));
        ASSERT_EQ(found.size(), kSize);
        EXPECT_EQ(std::memcmp(found.data(), memory.data() + i * kSize, kSize), 0) << i;
    }
}

TEST_P(Files, TwoAgentsWriteOneFile) {
    // Blocks of both in turn, all at once: each byte is of its writer.
    constexpr size_t kBlock = 1000, kBlocks = 512;
    const std::string path = dir.write("data", "");
    const Buffer ours(kBlock * kBlocks), theirs(kBlock * kBlocks);
    const FileAgent other(GetParam(), {}, "B");
    other.add(theirs);
    agent().add(ours);
    ours.fill(1);
    theirs.fill(2);
    std::vector<std::pair<const FileAgent *, nixlXferReqH *>> requests;
    for (const FileAgent *each : {const_cast<const FileAgent *>(&agent()), &other}) {
        ASSERT_EQ(each->addFile(900, "rw:" + path), NIXL_SUCCESS) << nixlx::lastError();
        const bool is_ours = each != &other;
        nixl_xfer_dlist_t pieces(DRAM_SEG), places(FILE_SEG);
        for (size_t i = is_ours ? 0 : 1; i < kBlocks; i += 2) {
            pieces.addDesc((is_ours ? ours : theirs).desc(i * kBlock, kBlock));
            places.addDesc({i * kBlock, kBlock, 900});
        }
        requests.emplace_back(each, each->request(NIXL_WRITE, pieces, places));
    }
    std::vector<nixl_status_t> posted;
    for (const auto &[each, request] : requests) posted.push_back((*each)->postXferReq(request));
    for (size_t i = 0; i < 2; ++i) {
        const auto &[each, request] = requests[i];
        EXPECT_EQ(each->finish(request, posted[i]), NIXL_SUCCESS) << nixlx::lastError();
        EXPECT_EQ((*each)->releaseXferReq(request), NIXL_SUCCESS);
    }
    const std::string found = contentsOf(path);
    ASSERT_EQ(found.size(), ours.size());
    for (size_t i = 0; i < kBlocks; ++i) {
        ASSERT_EQ(std::memcmp(found.data() + i * kBlock, (i % 2 ? theirs : ours).data() + i * kBlock, kBlock), 0) << i;
    }
}

TEST_P(Files, PreparedListsOfTheOwnNameArePickedByIndex) {
    constexpr size_t kBlock = 100, kBlocks = 50;
    const std::string path = file("data", kBlock * kBlocks, 1);
    const Buffer &memory = this->memory(kBlock * kBlocks), contents(kBlock * kBlocks);
    contents.fill(1);
    ASSERT_EQ(agent().addFile(900, "ro:" + path), NIXL_SUCCESS);
    nixl_xfer_dlist_t blocks(DRAM_SEG), places(FILE_SEG);
    for (size_t i = 0; i < kBlocks; ++i) {
        blocks.addDesc(memory.desc(i * kBlock, kBlock));
        places.addDesc({i * kBlock, kBlock, 900});
    }
    nixlDlistH *local = nullptr, *far = nullptr;
    ASSERT_EQ(agent()->prepXferDlist("", blocks, local), NIXL_SUCCESS);
    ASSERT_EQ(agent()->prepXferDlist("A", places, far), NIXL_SUCCESS) << nixlx::lastError();
    const std::vector<int> to{3, 7, 8, 0}, from{9, 7, 8, 49};
    nixlXferReqH *request = nullptr;
    ASSERT_EQ(agent()->makeXferReq(NIXL_READ, local, to, far, from, request), NIXL_SUCCESS) << nixlx::lastError();
    expectSuccess(agent().run(request));
    for (size_t i = 0; i < to.size(); ++i) {
        EXPECT_EQ(std::memcmp(memory.data() + static_cast<size_t>(to[i]) * kBlock,
                              contents.data() + static_cast<size_t>(from[i]) * kBlock, kBlock),
                  0)
            << i;
    }
    EXPECT_EQ(agent()->releaseXferReq(request), NIXL_SUCCESS);
    EXPECT_EQ(agent()->releasedDlistH(local), NIXL_SUCCESS);
    EXPECT_EQ(agent()->releasedDlistH(far), NIXL_SUCCESS);
}

// ---- Property -------------------------------------------------------------------------------------------------------

TEST_P(Files, RequestsAmongFaultsEndEachAsTheirOwnFilesSay) {
    // P21-P23: requests of many pieces, all in flight at once on a queue that is smaller than they are together. Some
    // have pieces that cannot succeed; what they report and what is in memory agree, and no other request has an error.
    constexpr size_t kRequests = 24, kRounds = 12, kPieceMax = 6000, kFileSize = 200000;
    constexpr unsigned char kUntouched = 0xee; // in no file
    std::mt19937_64 random(20261129);
    const auto below = [&](size_t end) { return static_cast<size_t>(random() % end); };
    FileAgent &agent = this->agent({{"kernel_queue_size", "16"}, {"ios_pool_size", "64"}});
    std::string contents(kFileSize, '\0');
    for (char &byte : contents) byte = static_cast<char>(random() % 128);
    ASSERT_EQ(agent.addFile(900, "ro:" + dir.write("whole", contents)), NIXL_SUCCESS);
    ASSERT_EQ(agent.addFile(901, "ro:" + dir.write("short", contents.substr(0, kFileSize / 2))), NIXL_SUCCESS);
    const OpenFile write_only(dir / "whole", O_WRONLY);
    ASSERT_EQ(agent.addFile(write_only.id()), NIXL_SUCCESS);
    const Buffer &memory = this->memory(kRequests * 40 * kPieceMax);
    size_t faulted = 0;
    for (size_t round = 0; round < kRounds; ++round) {
        SCOPED_TRACE("round " + std::to_string(round));
        struct Made {
            nixlXferReqH *request;
            nixl_status_t posted;
            size_t total;
            bool is_faulted;
            nixl_xfer_dlist_t pieces, places;
        };
        std::vector<Made> all;
        std::memset(memory.data(), kUntouched, memory.size());
        for (size_t i = 0; i < kRequests; ++i) {
            nixl_xfer_dlist_t pieces(DRAM_SEG), places(FILE_SEG);
            bool is_faulted = false;
            size_t at = i * 40 * kPieceMax;
            const size_t begin = at;
            for (size_t left = 1 + below(40); left > 0; --left) {
                const size_t length = 1 + below(kPieceMax), kind = i % 3 == 0 ? below(30) : 29;
                size_t offset = below(kFileSize - length);
                uint64_t id = 900;
                if (kind == 0) id = write_only.id();
                if (kind == 1) id = 901, offset = kFileSize / 2 - 1 - below(length); // its end lies within
                if (kind == 2) id = 901, offset = kFileSize / 2 + below(1000);
                is_faulted |= kind < 3;
                pieces.addDesc(memory.desc(at, length));
                places.addDesc({offset, length, id});
                at += length;
            }
            all.push_back(
                {agent.request(NIXL_READ, pieces, places), NIXL_IN_PROG, at - begin, is_faulted, pieces, places});
            faulted += is_faulted;
        }
        for (Made &made : all) made.posted = agent->postXferReq(made.request);
        for (size_t i = 0; i < kRequests; ++i) {
            SCOPED_TRACE("request " + std::to_string(i));
            const Made &made = all[i];
            const nixl_status_t status = agent.finish(made.request, made.posted);
            nixlx::Report report;
            ASSERT_EQ(agent->getXferReport(made.request, report), NIXL_SUCCESS);
            ASSERT_NE(status, NIXL_IN_PROG);
            ASSERT_EQ(status == NIXL_SUCCESS, !made.is_faulted) << report.error;
            // What arrived is right, and counted.
            size_t arrived = 0;
            for (int j = 0; j < made.pieces.descCount(); ++j) {
                const auto *bytes = reinterpret_cast<const unsigned char *>(made.pieces[j].addr);
                for (size_t k = 0; k < made.pieces[j].len; ++k) {
                    if (bytes[k] == kUntouched) continue;
                    ++arrived;
                    ASSERT_EQ(bytes[k], static_cast<unsigned char>(contents[made.places[j].addr + k]));
                }
            }
            ASSERT_EQ(report.bytes_done, arrived) << report.error;
            ASSERT_EQ(made.is_faulted, arrived < made.total);
            ASSERT_EQ(agent->releaseXferReq(made.request), NIXL_SUCCESS);
        }
    }
    EXPECT_GT(faulted, kRounds) << "the test has lost its faults";
}

TEST_P(Files, RequestsCancelledAtAnyMomentCountWhatArrivedAndLoseNoSlot) {
    constexpr size_t kRequests = 4, kRounds = 8, kSize = size_t{16} << 20;
    constexpr unsigned char kUntouched = 0xee; // not in the file
    std::mt19937_64 random(20261129);
    FileAgent &agent = this->agent({{"kernel_queue_size", "16"}});
    std::string contents(kSize, '\0');
    for (size_t i = 0; i < kSize; ++i) contents[i] = static_cast<char>(i * 7 % 128);
    ASSERT_EQ(agent.addFile(900, "ro:" + dir.write("data", contents)), NIXL_SUCCESS);
    const Buffer &memory = this->memory(kRequests * kSize);
    std::vector<nixlXferReqH *> requests;
    for (size_t i = 0; i < kRequests; ++i) {
        nixl_xfer_dlist_t pieces(DRAM_SEG), places(FILE_SEG);
        const size_t piece = i % 2 ? 30000 : kSize;
        for (size_t at = 0; at < kSize; at += piece) {
            const size_t length = std::min(piece, kSize - at);
            pieces.addDesc(memory.desc(i * kSize + kSize - at - length, length)); // back to front: nothing is merged
            places.addDesc({at, length, 900});
        }
        requests.push_back(agent.request(NIXL_READ, pieces, places));
    }
    size_t cancelled = 0;
    for (size_t round = 0; round < kRounds; ++round) {
        SCOPED_TRACE("round " + std::to_string(round));
        std::memset(memory.data(), kUntouched, memory.size());
        std::vector<nixl_status_t> posted;
        for (size_t i = 0; i < kRequests; ++i) {
            posted.push_back(agent->postXferReq(requests[i]));
            for (size_t polls = random() % 4; polls > 0; --polls) agent->getXferStatus(requests[i]);
            const size_t which = random() % 2 ? i : random() % kRequests;
            ASSERT_EQ(agent->cancelXferReq(requests[which]), NIXL_SUCCESS);
        }
        for (size_t i = 0; i < kRequests; ++i) {
            const nixl_status_t status = agent.finish(requests[i], posted[i]);
            nixlx::Report report;
            ASSERT_EQ(agent->getXferReport(requests[i], report), NIXL_SUCCESS);
            const unsigned char *begin = memory.data() + i * kSize;
            const auto arrived = kSize - static_cast<size_t>(std::count(begin, begin + kSize, kUntouched));
            ASSERT_EQ(report.bytes_done, arrived) << report.error;
            ASSERT_EQ(status, arrived == kSize ? NIXL_SUCCESS : NIXL_ERR_CANCELED);
            cancelled += status != NIXL_SUCCESS;
        }
    }
    // As deep as before: each of them, at once, to its end.
    std::memset(memory.data(), kUntouched, memory.size());
    std::vector<nixl_status_t> posted;
    for (nixlXferReqH *request : requests) posted.push_back(agent->postXferReq(request));
    for (size_t i = 0; i < kRequests; ++i) {
        EXPECT_EQ(agent.finish(requests[i], posted[i]), NIXL_SUCCESS);
        EXPECT_EQ(agent->releaseXferReq(requests[i]), NIXL_SUCCESS);
    }
    EXPECT_EQ(std::count(memory.data(), memory.data() + memory.size(), kUntouched), 0);
    EXPECT_GT(cancelled, 0u) << "the test has cancelled nothing";
}

/// Over threads, whose system calls the program can stand in for.
class FilesHarmed : public FilesTest {};

INSTANTIATE_TEST_SUITE_P(Posix, FilesHarmed, testing::Values(kHows[4], kHows[5]), nameOf);

TEST_P(FilesHarmed, InterruptedAndShortOnesGoOnAndErrorsAreOfTheirRequest) {
    constexpr size_t kRequests = 16, kRounds = 20, kPieces = 90, kPieceMax = 3000; // more than a post reads by itself
    constexpr size_t kFileSize = kPieces * kPieceMax;
    constexpr unsigned char kUntouched = 0xee; // in no file
    std::mt19937_64 random(20261129);
    const auto fresh = [&] {
        std::string contents(kFileSize, '\0');
        for (char &byte : contents) byte = static_cast<char>(random() % 128);
        return contents;
    };
    // Each request has a file of its own; that of every fourth one fails now and then: all hard links of one inode.
    std::vector<std::string> names, held;
    for (size_t i = 0; i < kRequests; ++i) {
        names.push_back(dir / std::to_string(i));
        if (i % 4 == 0 && i > 0) ASSERT_EQ(::link(names[0].c_str(), names[i].c_str()), 0);
        else dir.write(std::to_string(i), "");
        ASSERT_EQ(agent().addFile(1000 + i, "rw:" + names[i]), NIXL_SUCCESS) << nixlx::lastError();
    }
    struct stat failing{};
    ASSERT_EQ(::stat(names[0].c_str(), &failing), 0);
    const Buffer &memory = this->memory(kRequests * kFileSize);
    uint64_t total = 0, failures = 0;
    for (size_t round = 0; round < kRounds; ++round) {
        SCOPED_TRACE("round " + std::to_string(round));
        const bool reads = round % 2;
        if (!reads) {
            held.clear();
            for (size_t i = 0; i < kRequests; ++i) {
                held.push_back(fresh());
                std::memcpy(memory.data() + i * kFileSize, held[i].data(), kFileSize);
                ASSERT_EQ(::truncate(names[i].c_str(), 0), 0);
            }
        } else {
            for (size_t i = 0; i < kRequests; ++i) dir.write(std::to_string(i), held[i % 4 ? i : 0]);
            std::memset(memory.data(), kUntouched, memory.size());
        }
        std::vector<nixlXferReqH *> requests;
        for (size_t i = 0; i < kRequests; ++i) {
            nixl_xfer_dlist_t pieces(DRAM_SEG), places(FILE_SEG);
            for (size_t at = 0; at < kFileSize;) {
                const size_t length = std::min(kFileSize - at, 1 + static_cast<size_t>(random() % kPieceMax));
                pieces.addDesc(memory.desc(i * kFileSize + at, length));
                places.addDesc({at, length, 1000 + i});
                at += length;
            }
            requests.push_back(agent().request(reads ? NIXL_READ : NIXL_WRITE, pieces, places));
        }
        const IoFaults faults(round, failing.st_ino);
        std::vector<nixl_status_t> posted;
        // Those of the failing inode one after the other, so that what is in it can be told.
        for (size_t i = 0; i < kRequests; ++i)
            posted.push_back(i % 4 ? agent()->postXferReq(requests[i]) : NIXL_SUCCESS);
        for (size_t i = 0; i < kRequests; ++i) {
            SCOPED_TRACE("request " + std::to_string(i));
            if (i % 4 == 0 && !reads) {
                ASSERT_EQ(::truncate(names[i].c_str(), 0), 0);
            }
            if (i % 4 == 0) posted[i] = agent()->postXferReq(requests[i]);
            const nixl_status_t status = agent().finish(requests[i], posted[i]);
            nixlx::Report report;
            ASSERT_EQ(agent()->getXferReport(requests[i], report), NIXL_SUCCESS);
            if (status != NIXL_SUCCESS) {
                ++failures;
                ASSERT_EQ(i % 4, 0u) << "an innocent one: " << report.error;
                ASSERT_EQ(status, NIXL_ERR_BACKEND);
                EXPECT_THAT(report.error, AllOf(HasSubstr(names[i]), HasSubstr(std::strerror(EIO))));
            }
            const std::string file = reads ? std::string() : contentsOf(names[i]);
            const unsigned char *bytes = memory.data() + i * kFileSize;
            const std::string &source = held[reads && i % 4 == 0 ? 0 : i];
            size_t arrived = 0;
            for (size_t k = 0; k < kFileSize; ++k) {
                // Holes of a file that was not written to its end are zeros, as is one byte of 128 of those written.
                if (reads ? bytes[k] == kUntouched : k >= file.size()) continue;
                const auto found = reads ? bytes[k] : static_cast<unsigned char>(file[k]);
                if (found == static_cast<unsigned char>(source[k])) ++arrived;
                else ASSERT_EQ(found, 0) << "at " << k;
            }
            if (reads || status == NIXL_SUCCESS) ASSERT_EQ(report.bytes_done, arrived);
            else ASSERT_LE(report.bytes_done, arrived); // by chance a hole is what should be there
            ASSERT_EQ(agent()->releaseXferReq(requests[i]), NIXL_SUCCESS);
        }
        total += faults.counts().calls;
        EXPECT_GT(faults.counts().cut, 0u);
        EXPECT_GT(faults.counts().interrupted, 0u);
    }
    EXPECT_GT(total, kRounds * kRequests);
    EXPECT_GT(failures, 0u) << "the test has lost its errors";
}

} // namespace
} // namespace nx::test
