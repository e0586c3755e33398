// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: a registration gets the file that it names, or the error that says why not; few descriptors are open, none is
// left, and what is used is the registered file or STALE, whatever becomes of its path and of the program's descriptor.
// Method: real files in a folder of the test; faults are made in the file system.
#include "kit/files.h"

#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <fstream>
#include <functional>
#include <set>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/fd.h"
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

[[maybe_unused]] std::string
read(const std::string &path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
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

TEST_F(FilesTest, ADescriptorIsTheProgramsOwn) {
    const auto path = folder_.write("a", "text");
    const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    const size_t before = openDescriptors();
    for (const auto *const label : {"", "b"}) {
        auto file = add(files_, static_cast<uint64_t>(fd.get()), label);
        ASSERT_TRUE(file);
        EXPECT_EQ(*file->use(), fd.get());
        file->done();
        EXPECT_EQ(contents(*file), "text");
        EXPECT_TRUE(file->readOnly());
        EXPECT_EQ(file->name(), "descriptor " + std::to_string(fd.get()) + " ('" + path + "')");
        EXPECT_EQ(openDescriptors(), before);
    }
    EXPECT_EQ(openDescriptors(), before);
}

} // namespace
} // namespace nx::kit
