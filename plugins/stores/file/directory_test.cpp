// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: whatever is in the folder and whatever becomes of it, calls end with the truth or a sentence, and files of
// other people are left alone. Method: a real folder, spoilt in every way. What holds for every store is in
// tests/directories.
#include "file/directory.h"

#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/last_error.h"
#include "support/eventually.h"
#include "support/temp_dir.h"

namespace nx::file_store {
namespace {

namespace fs = std::filesystem;
using test::kPatience;
using test::TempDir;
using testing::AllOf;
using testing::HasSubstr;

class FileDirectory : public testing::Test {
protected:
    static Deadline
    soon() {
        return std::chrono::steady_clock::now() + kPatience;
    }

    std::unique_ptr<Directory>
    start(const std::string &agent, std::chrono::milliseconds lease = nixlx::DirectoryParams().lease) {
        nixlx::DirectoryParams params;
        params.agent = agent;
        params.lease = lease;
        params.address = folder_.path();
        params.incarnation = {2, static_cast<uint8_t>(starts_ >> 8), static_cast<uint8_t>(++starts_)};
        auto directory = Directory::open(params);
        EXPECT_TRUE(directory.ok()) << directory.message();
        return directory.ok() ? *std::move(directory) : nullptr;
    }

    static nixl_status_t
    publish(Directory &directory, std::string_view blob = "blob") {
        clearBackendSentence();
        return directory.publish("metadata", blob, soon());
    }

    /// The blob, or the sentence.
    static std::string
    found(Directory &reader, const std::string &agent = "a") {
        std::string blob;
        clearBackendSentence();
        const auto status = reader.fetch(agent, "metadata", blob, soon());
        return status == NIXL_SUCCESS ? blob : takeBackendSentence("no sentence");
    }

    std::string
    entry(const std::string &file) const {
        return folder_ / ("a.agent/" + file);
    }

    /// Runs `body` in a child process; whether it returned true.
    template<class Body>
    static bool
    inChild(Body body) {
        const pid_t child = ::fork();
        if (child == 0) ::_exit(body() ? 0 : 1);
        int status = 0;
        ::waitpid(child, &status, 0);
        return WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }

    /// As if it had been published by a process of another host, so long ago.
    void
    moveAway(const std::string &agent, std::chrono::seconds age = {}) const {
        const std::string path = folder_ / (agent + ".agent/.start");
        std::string start;
        std::getline(std::ifstream(path), start);
        std::ofstream(path) << start << "\nprocess 1\nhost another\n"; // the same file, so that it can be touched
        fs::last_write_time(path, fs::file_time_type::clock::now() - age);
    }

    /// Does what the agents' threads do until one is told that another has ended, at most so long.
    static std::vector<std::string>
    ended(std::initializer_list<Directory *> directories, std::chrono::milliseconds patience) {
        std::vector<nixlx::DirectoryEnd> ends;
        test::eventually(
            [&] {
                for (auto *directory : directories) {
                    auto *watch = static_cast<nixlx::DirectoryWatch *>(
                        directory->ability(nixlx::DirectoryWatch::kName, nixlx::DirectoryWatch::kVersion));
                    EXPECT_EQ(watch->takeEnded(ends), NIXL_SUCCESS);
                }
                return !ends.empty();
            },
            patience);
        std::vector<std::string> agents;
        for (const auto &end : ends) agents.push_back(end.agent);
        return agents;
    }

    const TempDir folder_;

private:
    unsigned starts_ = 0;
};

TEST_F(FileDirectory, NeedsAnAbsolutePath) {
    for (const auto &address : {std::string(), std::string("relative"), std::string("x"), std::string("/a\0b", 4)}) {
        nixlx::DirectoryParams params;
        params.agent = "a";
        params.address = address;
        const auto directory = Directory::open(params);
        EXPECT_EQ(directory.code(), NIXL_ERR_INVALID_PARAM);
        EXPECT_THAT(directory.message(), HasSubstr("no absolute path of a folder"));
    }
}

TEST_F(FileDirectory, RefusesAFolderThatOthersCanWrite) {
    const auto a = start("a");
    ASSERT_EQ(publish(*a), NIXL_SUCCESS);
    ASSERT_EQ(::chmod(folder_.path().c_str(), 0777), 0);
    EXPECT_EQ(publish(*a), NIXL_ERR_NOT_ALLOWED);
    EXPECT_THAT(found(*a), AllOf(HasSubstr(folder_.path()), HasSubstr("can be written by others (mode 0777)")));
}

TEST_F(FileDirectory, SaysThatTheFolderIsNotThere) {
    const auto a = start("a"), b = start("b");
    ASSERT_EQ(publish(*a), NIXL_SUCCESS);
    fs::remove_all(folder_.path());
    EXPECT_EQ(publish(*a), NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(takeBackendSentence(""), AllOf(HasSubstr("the folder cannot be opened"), HasSubstr("No such file")));
    EXPECT_THAT(found(*b), HasSubstr("the folder cannot be opened"));
    fs::create_directory(folder_.path());
    EXPECT_EQ(publish(*a, "again"), NIXL_SUCCESS) << takeBackendSentence("");
    EXPECT_EQ(found(*b), "again");
}

TEST_F(FileDirectory, SaysThatItMayNotWrite) {
    const auto a = start("a"), b = start("b");
    ASSERT_EQ(publish(*a), NIXL_SUCCESS);
    ASSERT_EQ(::chmod(folder_.path().c_str(), 0555), 0);
    EXPECT_TRUE(inChild([&] {
        if (::geteuid() == 0 && ::seteuid(65534) != 0) return false;
        return publish(*b) == NIXL_ERR_BACKEND &&
            takeBackendSentence("").find("make the folder 'b.agent': Permission denied") != std::string::npos;
    }));
    ASSERT_EQ(::chmod(folder_.path().c_str(), 0755), 0);
    EXPECT_EQ(found(*b), "blob") << "what was there stays";
}

TEST_F(FileDirectory, AFullDiskKeepsWhatWasThere) {
    ASSERT_EQ(::chmod(folder_.path().c_str(), 0700), 0);
    // Private first, so that nothing is seen outside. In a changed root, "/" is no mount and cannot be made so.
    const auto mountSmall = [&] {
        return ::unshare(::geteuid() == 0 ? CLONE_NEWNS : CLONE_NEWUSER | CLONE_NEWNS) == 0 &&
            ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
            ::mount("none", folder_.path().c_str(), "tmpfs", 0, "size=64k,mode=0700") == 0;
    };
    if (!inChild(mountSmall)) GTEST_SKIP() << "no small file system can be mounted here by this user";
    EXPECT_TRUE(inChild([&] {
        if (!mountSmall()) return false;
        const auto a = start("a"), later = start("a");
        const std::string large(100'000, 'x');
        const auto full = [&](Directory &agent) {
            return publish(agent, large) == NIXL_ERR_NO_MEMORY &&
                takeBackendSentence("").find("No space left on device") != std::string::npos;
        };
        return publish(*a, "small") == NIXL_SUCCESS && full(*a) && found(*a) == "small" && full(*later) &&
            found(*later) == "small" && publish(*a, std::string(20'000, 'y')) == NIXL_SUCCESS;
    }));
}

// What the system allows a user to watch may be used up by others. Then ends are not seen, and all else works.
TEST_F(FileDirectory, IsUsedWithoutSeeingEndsWhereNothingMoreCanBeWatched) {
    ASSERT_EQ(::chmod(folder_.path().c_str(), 0700), 0);
    const auto allow = [](const std::string &what, int count) {
        if (::unshare(CLONE_NEWUSER) != 0) return false;
        std::ofstream limit("/proc/sys/user/max_inotify_" + what);
        limit << count << std::flush;
        return limit.good();
    };
    if (!inChild([&] { return allow("instances", 0); })) GTEST_SKIP() << "this user cannot limit what it may watch";
    const auto works = [&] {
        const auto a = start("a"), b = start("b");
        return publish(*b) == NIXL_SUCCESS && found(*a, "b") == "blob" && b->withdraw(soon()) == NIXL_SUCCESS &&
            found(*a, "b").find("published nothing") != std::string::npos;
    };
    EXPECT_TRUE(inChild([&] { return allow("instances", 0) && works(); }));
    EXPECT_TRUE(inChild([&] { return allow("watches", 0) && works(); }));
}

TEST_F(FileDirectory, HostileContentsAreRefusedAndReplaced) {
    const auto a = start("a"), b = start("b");
    const auto spoil = [&](const std::string &file, auto body) {
        ASSERT_EQ(publish(*a), NIXL_SUCCESS) << takeBackendSentence("");
        fs::remove_all(entry(file));
        body(entry(file));
    };
    const auto write = [](const std::string &text) {
        return [text](const std::string &path) { std::ofstream(path, std::ios::binary) << text; };
    };
    const auto fifo = [](const std::string &path) { ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0); };
    const auto link = [](const std::string &path) { fs::create_symlink("/etc/passwd", path); };
    const auto folder = [](const std::string &path) { fs::create_directory(path); };
    for (const std::string file : {".start", "metadata.md"}) {
        for (const std::function<void(const std::string &)> &body :
             std::vector<std::function<void(const std::string &)>>{fifo, link, folder}) {
            spoil(file, body);
            EXPECT_THAT(found(*b), HasSubstr("'" + file + "' is no regular file"));
            fs::remove_all(entry(file));
        }
        spoil(file, write(""));
        EXPECT_THAT(found(*b), HasSubstr("does not begin with the number of a start")) << file;
        spoil(file, write(std::string(100, 'x')));
        EXPECT_THAT(found(*b), HasSubstr("does not begin with the number of a start")) << file;
    }
    spoil("metadata.md", [](const std::string &path) {
        std::ofstream(path).put('x');
        fs::resize_file(path, (64 << 20) + 100);
    });
    EXPECT_THAT(found(*b), HasSubstr("'metadata.md' has 67108964 bytes, more than"));
    spoil("metadata.md", [&](const std::string &path) {
        std::ifstream lease(entry(".start"));
        std::string start;
        std::getline(lease, start);
        std::ofstream(path) << start << '\n';
    });
    EXPECT_THAT(found(*b), HasSubstr("'metadata.md' has no metadata in it"));
    spoil("metadata.md", write(std::string(32, '0') + "\nan earlier start's"));
    EXPECT_THAT(found(*b), HasSubstr("has published nothing under 'metadata'"));
    ASSERT_EQ(publish(*a), NIXL_SUCCESS);
    EXPECT_EQ(found(*b), "blob");
}

TEST_F(FileDirectory, ALinkInPlaceOfAnAgentLeadsNowhere) {
    const TempDir elsewhere;
    elsewhere.write("metadata.md", "theirs");
    fs::create_directory_symlink(elsewhere.path(), folder_ / "a.agent");
    const auto a = start("a");
    EXPECT_EQ(publish(*a), NIXL_ERR_MISMATCH);
    EXPECT_THAT(takeBackendSentence(""), HasSubstr("'a.agent' is no folder"));
    EXPECT_THAT(found(*a), HasSubstr("'a.agent' is no folder"));
    EXPECT_EQ(std::distance(fs::directory_iterator(elsewhere.path()), {}), 1);
}

TEST_F(FileDirectory, LeavesOtherPeoplesFilesAlone) {
    fs::create_directories(folder_ / "a.agent/theirs");
    fs::create_directories(folder_ / "models");
    folder_.write("notes.md", "notes");
    folder_.write("models/weights.md", "weights");
    folder_.write("a.agent/notes.txt", "notes");
    {
        const auto a = start("a"), b = start("b"), later = start("a");
        for (auto *agent : {a.get(), b.get(), later.get()}) ASSERT_EQ(publish(*agent), NIXL_SUCCESS);
    }
    for (const std::string name : {"a.agent/theirs", "notes.md", "models/weights.md", "a.agent/notes.txt"}) {
        EXPECT_TRUE(fs::exists(folder_ / name)) << name;
    }
    EXPECT_FALSE(fs::exists(folder_ / "b.agent"));
    EXPECT_FALSE(fs::exists(entry(".start")));
}

TEST_F(FileDirectory, WaitsForAFolderThatAnotherHoldsNoLongerThanAllowed) {
    const auto a = start("a");
    ASSERT_EQ(publish(*a), NIXL_SUCCESS);
    const Fd other(::open((folder_ / "a.agent").c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_EQ(::flock(other.get(), LOCK_EX), 0);
    EXPECT_EQ(found(*a), "blob") << "readers need no lock";
    EXPECT_EQ(a->publish("metadata", "2", std::chrono::steady_clock::now() + std::chrono::milliseconds(20)),
              NIXL_ERR_TIMEOUT);
    EXPECT_THAT(takeBackendSentence(""), HasSubstr("another process holds the folder 'a.agent'"));
    a->endBy(std::chrono::steady_clock::now());
    EXPECT_EQ(a->withdraw(soon()), NIXL_ERR_TIMEOUT);
}

TEST_F(FileDirectory, AnAgentOfAnotherHostIsThereWhileItsLeaseIsYoung) {
    const auto a = start("a"), b = start("b");
    ASSERT_EQ(publish(*a), NIXL_SUCCESS);
    moveAway("a", std::chrono::seconds(9));
    EXPECT_EQ(found(*b), "blob");
    moveAway("a", std::chrono::seconds(11));
    EXPECT_THAT(found(*b), HasSubstr("its process has ended"));
    moveAway("a", std::chrono::seconds(-1000)); // whoever has no good clock is not dead for that
    EXPECT_EQ(found(*b), "blob");
}

TEST_F(FileDirectory, AgentsOfOtherHostsAreTold) {
    const std::chrono::milliseconds lease(600);
    const auto a = start("a", lease), b = start("b", lease);
    ASSERT_EQ(publish(*a), NIXL_SUCCESS);
    moveAway("a");
    EXPECT_EQ(found(*b), "blob");
    EXPECT_THAT(ended({a.get(), b.get()}, 2 * lease), testing::IsEmpty()) << "it touches its lease";
    EXPECT_EQ(found(*b), "blob");
    EXPECT_THAT(ended({b.get()}, kPatience), testing::ElementsAre("a")) << "no more";
}

TEST_F(FileDirectory, WhatAnotherHostLeftBehindIsRemovedLater) {
    for (const char *agent : {"a", "b"}) {
        fs::create_directory(folder_ / (std::string(agent) + ".agent"));
        folder_.write(std::string(agent) + ".agent/.start", std::string(32, 'd') + "\n");
    }
    moveAway("a", std::chrono::seconds(20));
    moveAway("b", std::chrono::seconds(200));
    ASSERT_EQ(publish(*start("c")), NIXL_SUCCESS);
    EXPECT_TRUE(fs::exists(folder_ / "a.agent")) << "its host may only have been slow";
    EXPECT_FALSE(fs::exists(folder_ / "b.agent"));
}

TEST_F(FileDirectory, ThousandsOfAgentsThatEndedWithoutAWordFade) {
    constexpr int kDead = 1500;
    for (int i = 0; i < kDead; ++i) {
        const auto name = "dead" + std::to_string(i) + ".agent";
        fs::create_directory(folder_ / name);
        folder_.write(name + "/.start", std::string(32, 'd') + "\n");
        folder_.write(name + "/metadata.md", std::string(32, 'd') + "\nblob");
    }
    const auto count = [&] { return std::distance(fs::directory_iterator(folder_.path()), {}); };
    const auto alive = start("alive");
    ASSERT_EQ(publish(*alive), NIXL_SUCCESS);
    EXPECT_EQ(count(), kDead + 1 - 64);
    EXPECT_THAT(found(*alive, "dead7"), HasSubstr("dead7"));
    for (int i = 0; i < 200 && count() > 1; ++i) ASSERT_EQ(publish(*start("one of many")), NIXL_SUCCESS);
    EXPECT_EQ(count(), 1);
    EXPECT_EQ(found(*alive, "alive"), "blob");
}

} // namespace
} // namespace nx::file_store
