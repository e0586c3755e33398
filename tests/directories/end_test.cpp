// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: what is published goes with its publisher, however that ends, and those that have fetched it are told. Method:
// directories that are closed, processes that are killed.
#include <csignal>
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include "directories/contract.h"
#include "support/eventually.h"

namespace nx::test {

namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

/// In which an end that should not be told would have been. Longer finds no more than the next test's runs do.
constexpr std::chrono::milliseconds kQuiet{20};

/// A child process that has done `body` and waits for its end.
class Process {
public:
    template<class Body> explicit Process(Body body) {
        int ready[2];
        if (::pipe(ready) != 0) throw std::runtime_error("pipe");
        pid_ = ::fork();
        if (pid_ == 0) {
            const char done = body() ? 'y' : 'n';
            if (::write(ready[1], &done, 1) != 1) ::_exit(1);
            for (;;) ::pause();
        }
        char done = 0;
        good_ = ::read(ready[0], &done, 1) == 1 && done == 'y';
        ::close(ready[0]);
        ::close(ready[1]);
    }

    ~Process() {
        kill();
    }

    bool
    good() const {
        return good_;
    }

    void
    kill() {
        if (pid_ <= 0) return;
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
        pid_ = -1;
    }

private:
    pid_t pid_;
    bool good_;
};

} // namespace

TEST_P(DirectoryContract, WhatADirectoryHasPublishedGoesWithIt) {
    auto a = start("a");
    const auto b = start("b");
    ASSERT_EQ(publish(*a, "metadata", "1"), NIXL_SUCCESS);
    a.reset();
    EXPECT_EQ(found(*b, "a", "metadata"), "NIXL_ERR_NOT_FOUND");
}

TEST_P(DirectoryContract, WhatAKilledProcessHasPublishedGoesWithIt) {
    const auto b = start("b");
    auto a = start("a");
    Process process([&] { return publish(*a, "metadata", "1") == NIXL_SUCCESS; });
    ASSERT_TRUE(process.good());
    EXPECT_EQ(found(*b, "a", "metadata"), "1");
    process.kill();
    EXPECT_TRUE(eventually([&] { return found(*b, "a", "metadata") == "NIXL_ERR_NOT_FOUND"; }, leaseAndMore()));
    ASSERT_EQ(publish(*start("a"), "metadata", "2"), NIXL_SUCCESS) << takeSentence();
}

TEST_P(DirectoryContract, AChildThatAPublisherLeavesBehindKeepsNothing) {
    const auto b = start("b");
    auto a = start("a");
    int left[2]; // closed when the child has ended
    ASSERT_EQ(::pipe(left), 0);
    Process process([&] {
        if (publish(*a, "metadata", "1") != NIXL_SUCCESS) return false;
        if (::fork() == 0) {
            ::close(left[1]);
            char byte;
            (void)!::read(left[0], &byte, 1);
            ::_exit(0);
        }
        return true;
    });
    ASSERT_TRUE(process.good());
    ASSERT_EQ(found(*b, "a", "metadata"), "1");
    process.kill();
    EXPECT_TRUE(eventually([&] { return found(*b, "a", "metadata") == "NIXL_ERR_NOT_FOUND"; }, leaseAndMore()));
    ::close(left[0]);
    ::close(left[1]);
}

TEST_P(DirectoryContract, TheWatchTellsOfThoseWhoWithdraw) {
    const auto a = start("a"), b = start("b"), reader = start("reader");
    for (auto *agent : {a.get(), b.get()}) ASSERT_EQ(publish(*agent, "metadata", "1"), NIXL_SUCCESS);
    ASSERT_EQ(found(*reader, "a", "metadata"), "1");
    ASSERT_EQ(found(*reader, "b", "metadata"), "1");
    ASSERT_EQ(a->withdraw(soon()), NIXL_SUCCESS);
    EXPECT_THAT(ended(*reader, kPatience), ElementsAre("a"));
    EXPECT_THAT(ended(*reader, kQuiet), IsEmpty()) << "once";
    ASSERT_EQ(publish(*a, "metadata", "2"), NIXL_SUCCESS);
    ASSERT_EQ(found(*reader, "a", "metadata"), "2");
    ASSERT_EQ(a->withdraw(soon()), NIXL_SUCCESS);
    EXPECT_THAT(ended(*reader, kPatience), ElementsAre("a")) << "and again";
}

TEST_P(DirectoryContract, TheWatchTellsOfThoseWhoseDirectoryGoes) {
    auto a = start("a");
    const auto reader = start("reader");
    ASSERT_EQ(publish(*a, "metadata", "1"), NIXL_SUCCESS);
    ASSERT_EQ(found(*reader, "a", "metadata"), "1");
    a.reset();
    EXPECT_THAT(ended(*reader, kPatience), ElementsAre("a"));
}

TEST_P(DirectoryContract, TheWatchTellsOfThoseWhoseNameAnotherStartTakes) {
    const auto first = start("a"), second = start("a"), reader = start("reader");
    ASSERT_EQ(publish(*first, "metadata", "1"), NIXL_SUCCESS);
    ASSERT_EQ(found(*reader, "a", "metadata"), "1");
    ASSERT_EQ(publish(*second, "metadata", "2"), NIXL_SUCCESS);
    EXPECT_THAT(ended(*reader, kPatience), ElementsAre("a"));
    ASSERT_EQ(found(*reader, "a", "metadata"), "2");
    ASSERT_EQ(first->withdraw(soon()), NIXL_SUCCESS);
    EXPECT_THAT(ended(*reader, kQuiet), IsEmpty()) << "the second one is still there";
}

TEST_P(DirectoryContract, TheWatchTellsOfKilledProcesses) {
    const auto reader = start("reader");
    for (int round = 0; round < GetParam().kills; ++round) { // a process's end has no certain order
        auto a = start("a");
        Process process([&] { return publish(*a, "metadata", "1") == NIXL_SUCCESS; });
        ASSERT_TRUE(process.good());
        ASSERT_EQ(found(*reader, "a", "metadata"), "1");
        process.kill();
        ASSERT_THAT(ended(*reader, leaseAndMore()), ElementsAre("a")) << round;
    }
}

TEST_P(DirectoryContract, TheWatchIsSilentWhileAgentsLive) {
    const auto a = start("a"), b = start("b"), reader = start("reader");
    EXPECT_EQ(found(*reader, "a", "metadata"), "NIXL_ERR_NOT_FOUND");
    ASSERT_EQ(publish(*a, "metadata", "1"), NIXL_SUCCESS);
    EXPECT_THAT(ended(*reader, kQuiet), IsEmpty()) << "nothing of it was fetched yet";
    ASSERT_EQ(found(*reader, "a", "metadata"), "1");
    ASSERT_EQ(publish(*a, "metadata", "2"), NIXL_SUCCESS);
    ASSERT_EQ(publish(*a, "more", "3"), NIXL_SUCCESS);
    ASSERT_EQ(found(*reader, "a", "none"), "NIXL_ERR_NOT_FOUND");
    ASSERT_EQ(publish(*b, "metadata", "1"), NIXL_SUCCESS);
    ASSERT_EQ(b->withdraw(soon()), NIXL_SUCCESS) << "never fetched";
    EXPECT_THAT(ended(*reader, kQuiet), IsEmpty());
    ASSERT_EQ(a->withdraw(soon()), NIXL_SUCCESS);
    EXPECT_THAT(ended(*reader, kPatience), ElementsAre("a")) << "still followed";
}

TEST_P(DirectoryContract, TheWatchForgets) {
    const auto a = start("a"), b = start("b"), reader = start("reader");
    for (auto *agent : {a.get(), b.get()}) ASSERT_EQ(publish(*agent, "metadata", "1"), NIXL_SUCCESS);
    ASSERT_EQ(found(*reader, "a", "metadata"), "1");
    ASSERT_EQ(found(*reader, "b", "metadata"), "1");
    static_cast<nixlx::DirectoryWatch *>(reader->ability(nixlx::DirectoryWatch::kName, nixlx::DirectoryWatch::kVersion))
        ->forget("a");
    ASSERT_EQ(a->withdraw(soon()), NIXL_SUCCESS);
    ASSERT_EQ(b->withdraw(soon()), NIXL_SUCCESS);
    EXPECT_THAT(ended(*reader, kPatience), ElementsAre("b"));
}

TEST_P(DirectoryContract, TheWatchTellsOfHundredsAtOnce) {
    const auto reader = start("reader");
    std::vector<std::string> names;
    for (int i = 0; i < 100; ++i) names.push_back("agent " + std::to_string(i)); // one start counts to 255
    std::vector<std::unique_ptr<nixlx::Directory>> agents;
    for (const auto &name : names) {
        agents.push_back(start(name));
        ASSERT_EQ(publish(*agents.back(), "metadata", name), NIXL_SUCCESS) << takeSentence();
        ASSERT_EQ(found(*reader, name, "metadata"), name);
    }
    agents.clear();
    std::vector<std::string> told;
    EXPECT_TRUE(eventually([&] {
        for (auto &name : ended(*reader, kPatience)) told.push_back(std::move(name));
        return told.size() >= names.size();
    }));
    EXPECT_THAT(told, testing::UnorderedElementsAreArray(names));
}

TEST_P(DirectoryContract, UnknownAbilitiesAreAbsent) {
    const auto a = start("a");
    EXPECT_EQ(a->ability("no such ability", 1), nullptr);
    EXPECT_EQ(a->ability(nixlx::DirectoryWatch::kName, 1000), nullptr) << "of a later version";
}

TEST_P(DirectoryContract, AfterEndByNothingTakesLong) {
    const auto a = start("a");
    ASSERT_EQ(publish(*a, "metadata", "1"), NIXL_SUCCESS);
    const auto begun = std::chrono::steady_clock::now();
    a->endBy(begun);
    (void)a->publish("metadata", "2", Deadline::max());
    std::string blob;
    (void)a->fetch("b", "metadata", blob, Deadline::max());
    (void)a->withdraw(Deadline::max());
    EXPECT_LT(std::chrono::steady_clock::now() - begun, kPatience) << "a hang";
}

} // namespace nx::test
