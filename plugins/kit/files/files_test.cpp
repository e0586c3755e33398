// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: a registration gets the file that it names, or the error that says why not; few descriptors are open, none is
// left, and what is used is the registered file or STALE, whatever becomes of its path and of the program's descriptor.
// Method: real files in a folder of the test; faults are made in the file system.
#include "kit/files/files.h"

#include <atomic>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <filesystem>
#include <new>
#include <stdexcept>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <tuple>
#include <unistd.h>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/fd.h"
#include "base/thread.h"
#include "support/eventually.h"
#include "support/no_memory.h"
#include "support/temp_dir.h"

namespace nx::kit {
namespace {

using testing::HasSubstr;

nixlBlobDesc
named(uint64_t device_id, const std::string &meta_info) {
    return {0, 0, device_id, meta_info};
}

/// Descriptors of this process.
size_t
openDescriptors() {
    size_t count = 0;
    DIR *const folder = ::opendir("/proc/self/fd");
    while (::readdir(folder)) ++count;
    ::closedir(folder);
    return count;
}

/// What the first bytes of a file in use are.
std::string
contents(File &file) {
    const auto fd = file.use();
    if (!fd.ok()) return fd.message();
    char text[64];
    const auto count = ::pread(*fd, text, sizeof text, 0);
    file.done();
    return {text, count < 0 ? 0 : static_cast<size_t>(count)};
}

class FilesTest : public testing::Test {
protected:
    std::shared_ptr<File>
    add(Files &files, uint64_t device_id, const std::string &meta_info) {
        auto file = files.add(named(device_id, meta_info));
        EXPECT_TRUE(file.ok()) << meta_info << ": " << file.message();
        return file.ok() ? *file : nullptr;
    }

    void
    expectRefused(Files &files,
                  uint64_t device_id,
                  const std::string &meta_info,
                  nixl_status_t code,
                  const std::string &why) {
        const size_t before = openDescriptors();
        const auto file = files.add(named(device_id, meta_info));
        EXPECT_EQ(file.code(), code) << meta_info << ": " << file.message();
        EXPECT_THAT(file.message(), HasSubstr(why));
        EXPECT_EQ(openDescriptors(), before) << meta_info;
    }

    test::TempDir folder_;
    Files files_{{}};
};

TEST_F(FilesTest, APathIsOpenUntilTheLastWhoHoldsItLetsGo) {
    const auto path = folder_.write("a", "text");
    const size_t before = openDescriptors();
    auto one = add(files_, 7, "rw:" + path);
    auto two = add(files_, 7, "rw:" + path);
    EXPECT_EQ(one, two);
    EXPECT_EQ(openDescriptors(), before + 1);
    const auto fd = one->use();
    ASSERT_TRUE(fd.ok());
    EXPECT_NE(::fcntl(*fd, F_GETFD) & FD_CLOEXEC, 0);
    EXPECT_EQ(::fcntl(*fd, F_GETFL) & (O_NONBLOCK | O_ACCMODE), O_RDWR);
    EXPECT_FALSE(one->readOnly());
    EXPECT_EQ(one->name(), "'" + path + "'");
    one->done();
    one.reset();
    EXPECT_EQ(contents(*two), "text");
    two.reset();
    EXPECT_EQ(openDescriptors(), before);
}

TEST_F(FilesTest, ADeviceIdIsOneFileAndFreeAgainWhenItGoes) {
    const auto a = folder_.write("a", "A"), b = folder_.write("b", "B");
    auto file = add(files_, 7, "rw:" + a);
    expectRefused(files_, 7, "rw:" + b, NIXL_ERR_INVALID_PARAM, "device id 7 is in use for '" + a + "'");
    expectRefused(files_, 7, "ro:" + a, NIXL_ERR_INVALID_PARAM, "device id 7 is in use");
    EXPECT_NE(add(files_, 8, "rw:" + a), file);
    file.reset();
    EXPECT_EQ(contents(*add(files_, 7, "rw:" + b)), "B");
}

TEST_F(FilesTest, ADescriptorIsDuplicatedFromItsFirstUseOn) {
    const auto path = folder_.write("a", "text");
    const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    const size_t before = openDescriptors();
    for (const auto *const label : {"", "b"}) {
        auto file = add(files_, static_cast<uint64_t>(fd.get()), label);
        ASSERT_TRUE(file);
        const auto used = file->use(); // so that the program may close it meanwhile
        EXPECT_NE(*used, fd.get());
        EXPECT_EQ(*file->use(), *used);
        EXPECT_EQ(openDescriptors(), before + 1);
        file->done();
        file->done();
        EXPECT_EQ(contents(*file), "text");
        EXPECT_TRUE(file->readOnly());
        EXPECT_EQ(file->name(), "descriptor " + std::to_string(fd.get()) + " ('" + path + "')");
        EXPECT_EQ(openDescriptors(), before + 1); // closing it may take long
    }
    EXPECT_EQ(openDescriptors(), before);
}

TEST_F(FilesTest, CreateMakesTheFileOnceAndNeverAgain) {
    Files files({.root = {}, .open_max = 1});
    const mode_t before = ::umask(0);
    auto file = add(files, 1, "rw,create:" + folder_ / "new");
    ::umask(before);
    struct stat info;
    ASSERT_EQ(::stat((folder_ / "new").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0644u);
    auto other = add(files, 2, "rw,create:" + folder_ / "other");
    std::filesystem::remove(folder_ / "new");
    const auto fd = file->use();
    EXPECT_EQ(fd.code(), NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(fd.message(), HasSubstr("it was removed since it was registered"));
    EXPECT_FALSE(std::filesystem::exists(folder_ / "new"));
}

TEST_F(FilesTest, WhatCannotBeOpenedIsAnErrorThatSaysWhy) {
    const auto file = folder_.write("file", "text");
    std::filesystem::create_directory(folder_ / "folder");
    ASSERT_EQ(::mkfifo((folder_ / "pipe").c_str(), 0600), 0);
    const Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    ASSERT_LT((folder_ / "socket").size(), sizeof address.sun_path);
    std::strcpy(address.sun_path, (folder_ / "socket").c_str());
    ASSERT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr *>(&address), sizeof address), 0);
    std::filesystem::create_symlink("loop", folder_ / "loop");

    expectRefused(files_, 1, "rw:" + folder_ / "missing", NIXL_ERR_NOT_FOUND, "make it first, or register it with");
    expectRefused(files_, 1, "rw,create:" + folder_ / "no/file", NIXL_ERR_NOT_FOUND, "No such file or directory");
    expectRefused(files_, 1, "rw:" + file + "/x", NIXL_ERR_NOT_FOUND, "Not a directory");
    expectRefused(files_, 1, "rw:" + folder_ / "folder", NIXL_ERR_INVALID_PARAM, "is a directory, not a file");
    expectRefused(files_, 1, "ro:" + folder_ / "folder", NIXL_ERR_INVALID_PARAM, "is a directory, not a file");
    expectRefused(files_, 1, "rw:" + folder_ / "pipe", NIXL_ERR_INVALID_PARAM, "is a pipe, not a file");
    expectRefused(files_, 1, "ro:" + folder_ / "pipe", NIXL_ERR_INVALID_PARAM, "is a pipe, not a file");
    expectRefused(files_, 1, "rw:" + folder_ / "socket", NIXL_ERR_INVALID_PARAM, "is a socket");
    expectRefused(files_, 1, "rw:" + folder_ / "loop", NIXL_ERR_BACKEND, "Too many levels of symbolic links");
    expectRefused(files_, 1, "rw,create:" + folder_ / std::string(300, 'x'), NIXL_ERR_INVALID_PARAM, "too long");
    expectRefused(files_, 1, "ro,direct:/proc/self/status", NIXL_ERR_NOT_SUPPORTED, "leave out 'direct'");
    expectRefused(files_, 1, "rw,driect:" + file, NIXL_ERR_INVALID_PARAM, "'driect' is unknown");
    EXPECT_EQ(contents(*add(files_, 1, "rw:" + file)), "text"); // the device id is free after all these
}

TEST_F(FilesTest, PermissionsAreNotGoneRound) {
    const auto secret = folder_.write("secret", "text"), readable = folder_.write("readable", "text");
    ASSERT_EQ(::chmod(secret.c_str(), 0), 0);
    ASSERT_EQ(::chmod(readable.c_str(), 0444), 0);
    ASSERT_EQ(::chmod(folder_.path().c_str(), 0755), 0);
    // Root may do everything, so another user tries.
    const pid_t child = ::fork();
    if (child == 0) {
        if (::getuid() == 0 && ::setuid(65534) != 0) ::_exit(10);
        Files files({});
        if (files.add(named(1, "rw:" + secret)).code() != NIXL_ERR_NOT_ALLOWED) ::_exit(1);
        if (files.add(named(1, "rw:" + readable)).code() != NIXL_ERR_NOT_ALLOWED) ::_exit(2);
        if (files.add(named(1, "rw,create:" + folder_ / "new")).code() != NIXL_ERR_NOT_ALLOWED) ::_exit(3);
        if (!files.add(named(1, "ro:" + readable)).ok()) ::_exit(4);
        ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

TEST_F(FilesTest, AFileThatIsOpenedAgainIsTheSameOrStale) {
    Files files({.root = {}, .open_max = 1});
    const auto path = folder_.write("a", "A"), other = folder_.write("b", "B");
    const std::string kept = folder_ / "kept";
    auto file = add(files, 1, "rw:" + path);
    const auto close = [&] { add(files, 2, "rw:" + other); };
    close();
    EXPECT_EQ(contents(*file), "A");
    close();
    std::filesystem::rename(path, kept);
    EXPECT_EQ(file->use().code(), NIXL_ERR_NOT_FOUND);
    std::filesystem::create_hard_link(other, path);
    const auto stale = file->use();
    EXPECT_EQ(stale.code(), NIXL_ERR_STALE);
    EXPECT_THAT(stale.message(), HasSubstr("'" + path + "' is another file than the one that was registered"));
    std::filesystem::rename(kept, path);
    EXPECT_EQ(contents(*file), "A");
    // As long as it is open it is the registered file, whatever the path leads to.
    ASSERT_TRUE(file->use().ok());
    std::filesystem::remove(path);
    close();
    EXPECT_EQ(contents(*file), "A");
    file->done();
}

TEST_F(FilesTest, AnotherFileWithTheSameInodeNumberIsStale) {
    Files files({.root = {}, .open_max = 1});
    const auto path = folder_.write("a", "A"), other = folder_.write("b", "B");
    const auto born = [&] {
        struct statx info{};
        EXPECT_EQ(::statx(AT_FDCWD, path.c_str(), 0, STATX_INO | STATX_BTIME, &info), 0);
        return std::tuple(info.stx_mask & STATX_BTIME, info.stx_ino, info.stx_btime.tv_sec, info.stx_btime.tv_nsec);
    };
    const auto before = born();
    if (!std::get<0>(before)) GTEST_SKIP() << "this file system does not tell when a file was made";
    auto file = add(files, 1, "rw:" + path);
    add(files, 2, "rw:" + other);
    // Most file systems give the number again at once; clocks of file systems are coarse.
    ASSERT_TRUE(test::eventually([&] {
        std::filesystem::remove(path);
        folder_.write("a", "another");
        return born() != before;
    }));
    EXPECT_EQ(file->use().code(), NIXL_ERR_STALE);
}

TEST_F(FilesTest, ARelativePathStaysWhereItWas) {
    const std::filesystem::path before = std::filesystem::current_path();
    Files files({.root = {}, .open_max = 1});
    const auto path = folder_.write("a", "A");
    std::filesystem::current_path(folder_.path());
    auto file = add(files, 1, "rw:a");
    add(files, 2, "rw:" + folder_.write("b", "B"));
    std::filesystem::current_path(before);
    EXPECT_EQ(contents(*file), "A");
    EXPECT_EQ(file->name(), "'" + path + "'");
}

TEST_F(FilesTest, ManyRegistrationsNeedFewDescriptors) {
    constexpr size_t kFiles = 20, kRegistrations = 20000, kOpenMax = 4;
    Files files({.root = {}, .open_max = kOpenMax});
    std::vector<std::string> paths;
    for (size_t i = 0; i < kFiles; ++i) paths.push_back(folder_.write(std::to_string(i), std::to_string(i)));
    const size_t before = openDescriptors();
    std::vector<std::shared_ptr<File>> all;
    for (size_t i = 0; i < kRegistrations; ++i) all.push_back(add(files, i, "ro:" + paths[i % kFiles]));
    EXPECT_EQ(openDescriptors(), before + kOpenMax);
    for (size_t i = 0; i < kRegistrations; i += 7) ASSERT_EQ(contents(*all[i]), std::to_string(i % kFiles));
    EXPECT_EQ(openDescriptors(), before + kOpenMax);
    all.clear();
    EXPECT_EQ(openDescriptors(), before);
}

/// The process may have so many descriptors more than it has, while this exists.
class FewDescriptors {
public:
    explicit FewDescriptors(size_t more) {
        ::getrlimit(RLIMIT_NOFILE, &before_);
        // The numbers given are the lowest that are free: count as many as there may be.
        std::vector<Fd> probes;
        for (size_t i = 0; i < more; ++i) probes.emplace_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
        const rlimit now{.rlim_cur = static_cast<rlim_t>(probes.back().get()) + 1, .rlim_max = before_.rlim_max};
        ::setrlimit(RLIMIT_NOFILE, &now);
    }
    ~FewDescriptors() {
        ::setrlimit(RLIMIT_NOFILE, &before_);
    }
    FewDescriptors(const FewDescriptors &) = delete;
    FewDescriptors &
    operator=(const FewDescriptors &) = delete;

private:
    rlimit before_{};
};

TEST_F(FilesTest, WithoutAFreeDescriptorIdleOnesAreClosed) {
    constexpr size_t kFiles = 100, kFree = 10;
    Files files({.root = {}, .open_max = 1000});
    std::vector<std::string> paths;
    for (size_t i = 0; i < kFiles; ++i) paths.push_back(folder_.write(std::to_string(i), std::to_string(i)));
    const FewDescriptors few(kFree);
    std::vector<std::shared_ptr<File>> all;
    for (size_t i = 0; i < kFiles; ++i) all.push_back(add(files, i, "rw:" + paths[i]));
    for (size_t i = 0; i < kFiles; ++i) ASSERT_EQ(contents(*all[i]), std::to_string(i));
    for (size_t i = 0; i < kFree; ++i) ASSERT_TRUE(all[i]->use().ok()) << i;
    const auto none = all[kFree]->use();
    EXPECT_EQ(none.code(), NIXL_ERR_NO_MEMORY);
    EXPECT_THAT(none.message(), HasSubstr("all of them are in use, allow more (ulimit -n)"));
    EXPECT_EQ(files.add(named(kFiles, "rw:" + paths[0])).code(), NIXL_ERR_NO_MEMORY);
    nixl_reg_dlist_t names(FILE_SEG);
    names.addDesc(named(0, paths[0]));
    std::vector<nixl_query_resp_t> answers;
    EXPECT_EQ(files.query(names, answers), NIXL_SUCCESS); // stat needs none
    all[0]->done();
    EXPECT_EQ(contents(*all[kFree]), std::to_string(kFree));
    for (size_t i = 1; i < kFree; ++i) all[i]->done();
}

TEST_F(FilesTest, DirectIoHasASecondDescriptorWithoutIt) {
    Files files({.root = {}, .open_max = 1});
    const auto path = folder_.write("a", "A");
    const size_t before = openDescriptors();
    auto direct = files.add(named(1, "rw,direct:" + path));
    if (direct.code() == NIXL_ERR_NOT_SUPPORTED) GTEST_SKIP() << direct.message();
    ASSERT_TRUE(direct.ok()) << direct.message();
    File &file = **direct;
    EXPECT_TRUE(file.direct());
    const auto fd = file.use();
    EXPECT_NE(::fcntl(*fd, F_GETFL) & O_DIRECT, 0);
    std::filesystem::rename(path, folder_ / "elsewhere"); // it is the open file's, not the path's
    const auto buffered = file.buffered();
    ASSERT_TRUE(buffered.ok()) << buffered.message();
    EXPECT_NE(*buffered, *fd);
    EXPECT_EQ(::fcntl(*buffered, F_GETFL) & (O_DIRECT | O_ACCMODE), O_RDWR);
    EXPECT_NE(::fcntl(*buffered, F_GETFD) & FD_CLOEXEC, 0);
    char text = 0;
    EXPECT_EQ(::pread(*buffered, &text, 1, 0), 1);
    EXPECT_EQ(text, 'A');
    EXPECT_EQ(*file.buffered(), *buffered);
    EXPECT_EQ(openDescriptors(), before + 2);
    file.done();
    add(files, 2, "rw:" + folder_.write("b", "B"));
    EXPECT_LE(openDescriptors(), before + 1);
    direct = Status(NIXL_ERR_CANCELED, "");
    EXPECT_EQ(openDescriptors(), before);

    auto plain = add(files, 2, "rw:" + folder_ / "b");
    const auto used = plain->use();
    EXPECT_FALSE(plain->direct());
    EXPECT_EQ(*plain->buffered(), *used);
    plain->done();
}

TEST_F(FilesTest, WhatIsNoDescriptorOfAFileIsRefused) {
    const auto path = folder_.write("a", "A");
    int pipe[2];
    ASSERT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
    const Fd reader(pipe[0]), writer(pipe[1]), folder(::open(folder_.path().c_str(), O_RDONLY | O_CLOEXEC)),
        socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)), place(::open(path.c_str(), O_PATH | O_CLOEXEC)),
        end(::open(path.c_str(), O_RDWR | O_APPEND | O_CLOEXEC)),
        read_only_end(::open(path.c_str(), O_RDONLY | O_APPEND | O_CLOEXEC));
    const auto refuse = [&](uint64_t device_id, const std::string &why) {
        expectRefused(files_, device_id, "", NIXL_ERR_INVALID_PARAM, why);
    };
    refuse(static_cast<uint64_t>(reader.get()), "is a pipe, not a file");
    refuse(static_cast<uint64_t>(folder.get()), "is a directory, not a file");
    refuse(static_cast<uint64_t>(socket.get()), "is a socket, not a file");
    refuse(static_cast<uint64_t>(place.get()), "is opened with O_PATH");
    refuse(static_cast<uint64_t>(end.get()), "has O_APPEND");
    refuse(100000, "device id 100000 is no descriptor that is open");
    refuse(uint64_t{1} << 32 | static_cast<uint64_t>(end.get()), "is no descriptor;");
    refuse(UINT64_MAX, "is no descriptor;");
    EXPECT_EQ(contents(*add(files_, static_cast<uint64_t>(read_only_end.get()), "")), "A");
}

TEST_F(FilesTest, ADescriptorThatTheProgramClosedOrUsesForAnotherFileIsNotUsed) {
    const auto a = folder_.write("a", "A"), b = folder_.write("b", "B");
    const Fd of_b(::open(b.c_str(), O_RDWR | O_CLOEXEC));
    const int number = ::open(a.c_str(), O_RDWR | O_CLOEXEC);
    auto file = add(files_, static_cast<uint64_t>(number), "");
    EXPECT_EQ(contents(*file), "A");
    ::close(number);
    const auto closed = file->use();
    EXPECT_EQ(closed.code(), NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(closed.message(), HasSubstr("descriptor " + std::to_string(number) + " is not open any more"));

    ASSERT_EQ(::dup3(of_b.get(), number, O_CLOEXEC), number);
    const auto stale = file->use();
    EXPECT_EQ(stale.code(), NIXL_ERR_STALE);
    EXPECT_THAT(stale.message(), HasSubstr("('" + b + "') is another file than the one that was registered"));
    // It is registered anew before the old registration goes.
    auto next = add(files_, static_cast<uint64_t>(number), "");
    EXPECT_NE(next, file);
    EXPECT_EQ(contents(*next), "B");
    file.reset();
    EXPECT_EQ(add(files_, static_cast<uint64_t>(number), ""), next);

    // The same file, opened again with the same number, is what was registered, and is used as it is open now.
    const Fd of_b_again(::open(b.c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_EQ(::dup3(of_b_again.get(), number, O_CLOEXEC), number);
    EXPECT_EQ(contents(*next), "B");
    EXPECT_TRUE(next->readOnly());
    next.reset();
    EXPECT_EQ(::close(number), 0); // we did not
}

TEST_F(FilesTest, ADescriptorsFlagsAreThoseOfItsLastUse) {
    const auto path = folder_.write("a", "A");
    const Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    auto file = add(files_, static_cast<uint64_t>(fd.get()), "");
    EXPECT_FALSE(file->direct());
    EXPECT_EQ(*file->buffered(), fd.get());
    if (::fcntl(fd.get(), F_SETFL, O_DIRECT) != 0) GTEST_SKIP() << "this file system does no direct I/O";
    const size_t before = openDescriptors();
    ASSERT_TRUE(file->use().ok());
    EXPECT_TRUE(file->direct());
    const auto buffered = file->buffered();
    ASSERT_TRUE(buffered.ok()) << buffered.message();
    EXPECT_NE(*buffered, fd.get());
    EXPECT_EQ(::fcntl(*buffered, F_GETFL) & O_DIRECT, 0);
    EXPECT_EQ(*file->buffered(), *buffered);
    file->done();
    file.reset();
    EXPECT_EQ(openDescriptors(), before);
}

TEST_F(FilesTest, ADescriptorThatAppendsByNowIsNotUsed) {
    const Fd fd(::open(folder_.write("a", "A").c_str(), O_RDWR | O_CLOEXEC));
    auto file = add(files_, static_cast<uint64_t>(fd.get()), "");
    ASSERT_EQ(::fcntl(fd.get(), F_SETFL, O_APPEND), 0);
    EXPECT_EQ(file->use().code(), NIXL_ERR_INVALID_PARAM);
    ASSERT_EQ(::fcntl(fd.get(), F_SETFL, 0), 0);
    EXPECT_EQ(contents(*file), "A");
}

TEST_F(FilesTest, APathAndADescriptorDoNotShareADeviceId) {
    const auto path = folder_.write("a", "A");
    const Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    const auto id = static_cast<uint64_t>(fd.get());
    auto file = add(files_, id, "");
    expectRefused(files_, id, "rw:" + path, NIXL_ERR_INVALID_PARAM, "is in use for descriptor");
    file = nullptr;
    file = add(files_, id, "rw:" + path);
    expectRefused(files_, id, "", NIXL_ERR_INVALID_PARAM, "is in use for '" + path + "'");
}

TEST_F(FilesTest, NothingIsLeftWhenMemoryEndsAnywhere) {
    const auto path = folder_.write("a", "A");
    const Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    const size_t before = openDescriptors();
    const std::pair<uint64_t, std::string> kinds[] = {
        {1000, "rw,direct:" + path}, {1000, "rw:" + path}, {static_cast<uint64_t>(fd.get()), ""}};
    for (const auto &[id, meta_info] : kinds) {
        const auto registration = named(id, meta_info);
        bool done = false;
        size_t spared = 0;
        for (; !done; ++spared) {
            std::shared_ptr<File> file;
            bool used = false;
            {
                const test::NoMemory none(spared);
                try {
                    auto added = files_.add(registration);
                    if (added.ok()) file = *added;
                    used = file && file->use().ok();
                    done = used && file->buffered().ok();
                }
                catch (const std::bad_alloc &) {
                }
            }
            if (used) file->done();
            if (!file) {
                ASSERT_EQ(openDescriptors(), before) << spared;
                EXPECT_EQ(contents(*add(files_, id, "ro:" + path)), "A"); // the device id is free
            }
        }
        EXPECT_GT(spared, 2u);
        EXPECT_EQ(openDescriptors(), before);
    }
}

TEST_F(FilesTest, UseAndDoneNeedNoMemory) {
    auto file = add(files_, 1, "rw:" + folder_.write("a", "A"));
    const uint64_t before = test::allocationCount();
    for (size_t i = 0; i < 100; ++i) {
        ASSERT_TRUE(file->use().ok());
        file->done();
    }
    EXPECT_EQ(test::allocationCount(), before);
}

TEST_F(FilesTest, ThreadsThatRegisterAndUseFilesGetTheirs) {
    constexpr size_t kThreads = 4, kPaths = 6, kRounds = 500;
    Files files({.root = {}, .open_max = 2});
    std::vector<std::string> paths;
    for (size_t i = 0; i < kPaths; ++i) paths.push_back(folder_.write(std::to_string(i), std::to_string(i)));
    std::atomic<size_t> wrong = 0;
    {
        std::vector<Thread> threads;
        for (size_t t = 0; t < kThreads; ++t) {
            threads.emplace_back("test", [&, t] {
                for (size_t round = 0; round < kRounds; ++round) {
                    const size_t i = (round + t) % kPaths;
                    const auto file = files.add(named(i, "rw:" + paths[i]));
                    if (!file.ok() || contents(**file) != std::to_string(i)) ++wrong;
                }
            });
        }
    }
    EXPECT_EQ(wrong, 0u);
}

TEST_F(FilesTest, ARootConfinesPathsAndQuestionsButNoDescriptors) {
    std::filesystem::create_directory(folder_ / "root");
    const auto inside = folder_.write("root/a", "A"), outside = folder_.write("b", "B");
    std::filesystem::create_symlink("../b", folder_ / "root/link");
    Files files({.root = folder_ / "root", .open_max = 1});
    EXPECT_EQ(contents(*add(files, 1, "rw:a")), "A");
    EXPECT_EQ(contents(*add(files, 1, "rw:" + inside)), "A");
    EXPECT_EQ(contents(*add(files, 1, "rw,create:new")), "");
    EXPECT_TRUE(std::filesystem::exists(folder_ / "root/new"));
    const std::string why = "it has to be beneath the root '" + folder_ / "root" + "'";
    expectRefused(files, 1, "rw:" + outside, NIXL_ERR_NOT_ALLOWED, why);
    expectRefused(files, 1, "rw:../b", NIXL_ERR_NOT_ALLOWED, why);
    expectRefused(files, 1, "rw,create:../new", NIXL_ERR_NOT_ALLOWED, why);
    expectRefused(files, 1, "rw:link", NIXL_ERR_NOT_ALLOWED, why);
    const Fd fd(::open(outside.c_str(), O_RDWR | O_CLOEXEC));
    EXPECT_EQ(contents(*add(files, static_cast<uint64_t>(fd.get()), "")), "B");

    nixl_reg_dlist_t names(FILE_SEG);
    for (const auto &name :
         {std::string("a"), inside, "rw:" + inside, outside, std::string("../b"), std::string("link")}) {
        names.addDesc(named(0, name));
    }
    std::vector<nixl_query_resp_t> answers;
    ASSERT_EQ(files.query(names, answers), NIXL_SUCCESS);
    for (size_t i = 0; i < answers.size(); ++i) EXPECT_EQ(answers[i].has_value(), i < 3) << i;
    EXPECT_THROW(Files({.root = folder_ / "nowhere", .open_max = 1}), std::runtime_error);
}

} // namespace
} // namespace nx::kit
