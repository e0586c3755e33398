// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: each name gets its answer, absent whatever cannot be looked at; many are looked at at once.
// Method: files of the test, and a double of stat(2) that holds the callers until there are several.
#include "kit/files/file_query.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <new>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nixlx/engine.h"
#include "support/eventually.h"
#include "support/temp_dir.h"

namespace nx::kit {
namespace {

using testing::HasSubstr;

nixl_reg_dlist_t
namesOf(const std::vector<std::string> &names) {
    nixl_reg_dlist_t list(FILE_SEG);
    for (const auto &name : names) list.addDesc({0, 0, 0, name});
    return list;
}

int
look(const std::string &path, struct stat &info) {
    return ::stat(path.c_str(), &info) == 0 ? 0 : errno;
}

TEST(FileQuery, AnswersWithSizeModeAndTimeOrNothingInOrder) {
    const test::TempDir folder;
    const auto a = folder.write("a", "12345"), empty = folder.write("empty", "");
    const std::vector<std::string> names = {folder / "missing",
                                            a,
                                            "",
                                            empty,
                                            "rw,direct:" + a,
                                            "rw:" + (folder / "missing"),
                                            "rw,driect:" + a,
                                            a + "/b",
                                            std::string(5000, 'x'),
                                            a + std::string("\0b", 2),
                                            folder.path().string()};
    std::vector<nixl_query_resp_t> answers(3);
    ASSERT_EQ(queryPaths(namesOf(names), look, answers), NIXL_SUCCESS);
    ASSERT_EQ(answers.size(), names.size());
    struct stat info;
    ASSERT_EQ(look(a, info), 0);
    const nixl_b_params_t of_a = {
        {"size", "5"}, {"mode", std::to_string(info.st_mode)}, {"mtime", std::to_string(info.st_mtime)}};
    for (size_t i = 0; i < names.size(); ++i) {
        const bool there = i == 1 || i == 3 || i == 4 || i == 10;
        EXPECT_EQ(answers[i].has_value(), there) << names[i];
    }
    EXPECT_EQ(answers[1], of_a);
    EXPECT_EQ(answers[4], of_a);
    EXPECT_EQ(answers[3]->at("size"), "0");
}

TEST(FileQuery, ManyNamesAreLookedAtAtOnce) {
    // 16 at once are a sixteenth of the time; nobody answers before they are there.
    constexpr size_t kAtOnce = 16, kNames = 100000;
    std::vector<std::string> names(kNames);
    for (size_t i = 0; i < kNames; ++i) names[i] = std::to_string(i);
    std::atomic<size_t> now = 0, most = 0;
    const auto slow = [&](const std::string &path, struct stat &info) {
        size_t seen = most, here = ++now;
        while (here > seen && !most.compare_exchange_weak(seen, here)) {}
        EXPECT_TRUE(test::eventually([&] { return most >= kAtOnce; }));
        --now;
        info = {};
        info.st_size = std::stol(path);
        return path.ends_with('7') ? ENOENT : 0;
    };
    std::vector<nixl_query_resp_t> answers;
    ASSERT_EQ(queryPaths(namesOf(names), slow, answers), NIXL_SUCCESS);
    ASSERT_EQ(answers.size(), kNames);
    for (size_t i = 0; i < kNames; ++i) {
        if (i % 10 == 7) {
            ASSERT_FALSE(answers[i]) << i;
        } else {
            ASSERT_EQ(answers[i]->at("size"), names[i]);
        }
    }
}

TEST(FileQuery, AShortageIsAnErrorAndNoAnswer) {
    std::vector<nixl_query_resp_t> answers(3);
    for (const int error : {EMFILE, ENFILE, ENOMEM}) {
        const auto none = [&](const std::string &path, struct stat &) { return path == "b" ? error : ENOENT; };
        EXPECT_EQ(queryPaths(namesOf({"a", "b"}), none, answers), NIXL_ERR_NO_MEMORY);
        EXPECT_EQ(answers.size(), 3u);
    }
    const std::vector<std::string> many(1000, "x");
    const auto throws = [](const std::string &, struct stat &) -> int { throw std::bad_alloc(); };
    EXPECT_EQ(queryPaths(namesOf(many), throws, answers), NIXL_ERR_NO_MEMORY);
    EXPECT_EQ(answers.size(), 3u);
    for (const int error : {EACCES, EIO, ELOOP, EXDEV}) {
        const auto fails = [&](const std::string &, struct stat &) { return error; };
        ASSERT_EQ(queryPaths(namesOf({"a"}), fails, answers), NIXL_SUCCESS);
        EXPECT_FALSE(answers.at(0));
        answers.resize(3);
    }
}

} // namespace
} // namespace nx::kit
