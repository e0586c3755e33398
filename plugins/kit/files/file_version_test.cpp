// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: a version is seen when it is published, whole, and otherwise leaves nothing; what is left of who crashed is
// removed, and nothing else. Method: real files in a folder of the test, of which another writer's are made by hand.
#include "kit/files/file_version.h"

#include <algorithm>
#include <fcntl.h>
#include <filesystem>
#include <new>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/thread.h"
#include "support/no_memory.h"
#include "support/temp_dir.h"

namespace nx::kit {
namespace {

using testing::HasSubstr;
using Names = std::vector<std::string>;

class FileVersionTest : public testing::Test {
protected:
    std::shared_ptr<File>
    add(uint64_t id, const std::string &meta_info) {
        auto file = files_.add(nixlBlobDesc(0, 0, id, meta_info));
        EXPECT_TRUE(file.ok()) << file.message();
        return file.ok() ? *file : nullptr;
    }

    /// Everything in the folder.
    Names
    names() const {
        Names found;
        for (const auto &entry : std::filesystem::directory_iterator(folder_.path())) {
            found.push_back(entry.path().filename());
        }
        std::sort(found.begin(), found.end());
        return found;
    }

    static std::string
    contents(const std::string &path) {
        const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
        std::string text(100000, '\0');
        text.resize(static_cast<size_t>(std::max<ssize_t>(0, ::read(fd.get(), text.data(), text.size()))));
        return text;
    }

    static void
    write(FileVersion &version, const std::string &text) {
        const auto fd = version.use();
        ASSERT_TRUE(fd.ok()) << fd.message();
        ASSERT_EQ(::pwrite(*fd, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
    }

    const test::TempDir folder_;
    const std::string path_ = folder_ / "a";
    Files files_{{.root = {}, .open_max = 2}};
};

TEST_F(FileVersionTest, IsSeenWhenItIsPublishedAndGoneIfItIsDropped) {
    const auto file = add(1, "rw,create,atomic:" + path_);
    EXPECT_TRUE(file->atomic());
    EXPECT_EQ(names(), Names{});
    const auto version = file->version(true, nullptr);
    EXPECT_EQ(names(), Names{}) << "nobody has used it";
    write(*version, "one");
    EXPECT_EQ(names(), Names{".a.nixl-0"});
    version->drop();
    EXPECT_EQ(names(), Names{});
    ASSERT_TRUE(version->publish().ok()) << "there is nothing to be published";
    EXPECT_EQ(names(), Names{});
    write(*version, "two");
    ASSERT_TRUE(version->publish().ok());
    EXPECT_EQ(names(), Names{"a"});
    version->drop();
    EXPECT_EQ(contents(path_), "two");
}

TEST_F(FileVersionTest, WhatIsReadStaysTheSameVersion) {
    folder_.write("a", "one");
    const auto file = add(1, "rw,atomic:" + path_);
    const auto read = file->version(false, nullptr), next = file->version(true, nullptr);
    const auto text = [&] {
        char found[4]{};
        const auto fd = read->use();
        EXPECT_TRUE(fd.ok()) << fd.message();
        EXPECT_EQ(::pread(*fd, found, 3, 0), 3);
        return std::string(found);
    };
    EXPECT_EQ(text(), "one");
    write(*next, "two");
    ASSERT_TRUE(next->publish().ok());
    EXPECT_EQ(text(), "one");
    read->drop();
    EXPECT_EQ(text(), "two");
    EXPECT_FALSE(next->readOnly());
    EXPECT_TRUE(read->readOnly());
}

TEST_F(FileVersionTest, OnlyWhatIsLeftAndOursIsRemoved) {
    folder_.write("a", "a");
    folder_.write(".a.nixl-0", "left");
    folder_.write(".a.nixl-15", "left");
    folder_.write(".a.nixl-16", "no number of ours");
    folder_.write(".b.nixl-0", "of another path");
    folder_.write("precious", "precious");
    ASSERT_EQ(::symlink("precious", (folder_ / ".a.nixl-1").c_str()), 0);
    ASSERT_EQ(::mkfifo((folder_ / ".a.nixl-2").c_str(), 0644), 0);
    ASSERT_EQ(::mkdir((folder_ / ".a.nixl-3").c_str(), 0755), 0);
    const Fd held(::open(folder_.write(".a.nixl-4", "held").c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_EQ(::flock(held.get(), LOCK_EX), 0);
    folder_.write(".a.nixl-5", "of another user");
    const bool is_root = ::geteuid() == 0;
    if (is_root) {
        ASSERT_EQ(::chown((folder_ / ".a.nixl-5").c_str(), 65534, 65534), 0);
    }
    const auto file = add(1, "rw,atomic:" + path_);
    Names expected{".a.nixl-1", ".a.nixl-16", ".a.nixl-2", ".a.nixl-3", ".a.nixl-4", ".b.nixl-0", "a", "precious"};
    if (is_root) expected.insert(expected.begin() + 5, ".a.nixl-5");
    EXPECT_EQ(names(), expected);
    // Who writes goes round them.
    std::vector<std::unique_ptr<FileVersion>> versions;
    for (int i = 0; i < 3; ++i) write(*versions.emplace_back(file->version(true, nullptr)), "version");
    EXPECT_TRUE(std::filesystem::is_regular_file(folder_ / ".a.nixl-0"));
    EXPECT_EQ(contents(folder_ / "precious"), "precious");
    versions.clear();
    EXPECT_EQ(names(), expected);
}

TEST_F(FileVersionTest, SixteenWriteAPathAtOnceAndNotOneMore) {
    const auto file = add(1, "rw,create,atomic:" + path_);
    std::vector<std::unique_ptr<FileVersion>> versions;
    for (unsigned i = 0; i < FileVersion::kWritersMax; ++i) {
        const FileVersion *const beside = i ? versions.back().get() : nullptr;
        write(*versions.emplace_back(file->version(true, beside)), std::string(1 + i, 'x'));
        EXPECT_EQ(versions[i]->folder(), versions[0]->folder()) << "a descriptor for each of one folder";
    }
    const auto more = file->version(true, nullptr);
    EXPECT_EQ(more->use().code(), NIXL_ERR_BACKEND);
    EXPECT_THAT(more->use().message(), HasSubstr("'" + path_ + "' is being replaced by 16 others"));
    for (const size_t i : {3u, 0u, 15u}) {
        ASSERT_TRUE(versions[i]->publish().ok());
        EXPECT_EQ(contents(path_).size(), i + 1);
    }
    write(*more, "more");
    versions.clear();
    ASSERT_TRUE(more->publish().ok());
    EXPECT_EQ(names(), Names{"a"});
    EXPECT_EQ(contents(path_), "more");
}

TEST_F(FileVersionTest, WhatDoesNotKnowOfVersionsIsRefused) {
    folder_.write("a", "a");
    const auto file = add(1, "rw,atomic:" + path_);
    EXPECT_EQ(file->use().code(), NIXL_ERR_NOT_SUPPORTED);
    EXPECT_THAT(file->use().message(), HasSubstr("cannot replace a file as a whole ('atomic'), POSIX can"));
    EXPECT_FALSE(add(2, "rw:" + path_)->version(true, nullptr));
}

TEST_F(FileVersionTest, NothingIsLeftWhenMemoryEndsAnywhere) {
    folder_.write("a", "a");
    for (const bool writes : {false, true}) {
        bool done = false;
        size_t spared = 0;
        for (; !done; ++spared) {
            const test::NoMemory none(spared);
            try {
                auto file = files_.add(nixlBlobDesc(0, 0, 1, "rw,direct,atomic:" + path_));
                if (!file.ok()) continue;
                const auto version = (*file)->version(writes, nullptr);
                done = version->use().ok() && version->buffered().ok() && version->publish().ok();
            }
            catch (const std::bad_alloc &) {
            }
        }
        EXPECT_GT(spared, 5u);
        EXPECT_EQ(names(), Names{"a"});
    }
}

TEST_F(FileVersionTest, ThreadsThatReplaceOnePathSeeAlwaysAWholeOne) {
    constexpr size_t kThreads = 6, kRounds = 150, kSize = 5000;
    folder_.write("a", std::string(kSize, 'a'));
    std::vector<Thread> threads;
    for (size_t i = 0; i < kThreads; ++i) {
        threads.emplace_back("nixl-test", [&, i] {
            // Two of them under one id, the others share the path only.
            const auto file = add(i / 2, "rw,atomic:" + path_);
            for (size_t round = 0; round < kRounds; ++round) {
                const auto next = file->version(true, nullptr), read = file->version(false, nullptr);
                write(*next, std::string(kSize, static_cast<char>('a' + i)));
                if (round % 3) {
                    ASSERT_TRUE(next->publish().ok());
                }
                const auto fd = read->use();
                ASSERT_TRUE(fd.ok()) << fd.message();
                std::string found(kSize, '\0');
                ASSERT_EQ(::pread(*fd, found.data(), kSize, 0), static_cast<ssize_t>(kSize));
                ASSERT_EQ(found.find_first_not_of(found[0]), found.npos);
            }
        });
    }
    for (Thread &thread : threads) thread.join();
    EXPECT_EQ(names(), Names{"a"});
}

} // namespace
} // namespace nx::kit
