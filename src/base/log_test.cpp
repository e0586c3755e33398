// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: programs that parse NIXL's lines can parse ours. Method: lines of a child process, whose level is still unset.
#include "utils/common/nixl_log.h"

#include <array>
#include <cerrno>
#include <cstdlib>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <regex>
#include <sstream>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

struct Output {
    int status; ///< as of waitpid
    std::vector<std::string> lines;
};

/// What `body` writes to stderr in a child process with this NIXL_LOG_LEVEL (null: unset).
template<class Body>
Output
runInChild(const char *level, Body body) {
    int ends[2];
    if (::pipe(ends) != 0) throw std::runtime_error("pipe");
    const pid_t child = ::fork();
    if (child == 0) {
        ::dup2(ends[1], STDERR_FILENO);
        ::close(ends[0]);
        ::close(ends[1]);
        if (level) {
            ::setenv("NIXL_LOG_LEVEL", level, 1);
        } else {
            ::unsetenv("NIXL_LOG_LEVEL");
        }
        body();
        std::_Exit(0);
    }
    ::close(ends[1]);
    std::string text;
    std::array<char, 4096> buffer;
    for (ssize_t got; (got = ::read(ends[0], buffer.data(), buffer.size())) > 0;) text.append(buffer.data(), got);
    ::close(ends[0]);
    Output output{};
    ::waitpid(child, &output.status, 0);
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) output.lines.push_back(line);
    return output;
}

void
oneOfEach() {
    NIXL_TRACE << "trace";
    NIXL_DEBUG << "debug";
    NIXL_INFO << "info";
    NIXL_WARN << "warn";
    NIXL_ERROR << "error " << 7;
}

TEST(Log, LinesHaveTheFormThatProgramsParse) {
    const auto output = runInChild("INFO", oneOfEach);
    ASSERT_EQ(output.lines.size(), 3u);
    // E1122 20:12:32.281878   17173 file.cpp:334] text
    const std::regex form(R"(([IWEF])(\d{4}) (\d\d:\d\d:\d\d\.\d{6}) +(\d+) ([a-z_]+\.cpp):(\d+)\] (.*))");
    std::vector<std::string> found;
    for (const auto &line : output.lines) {
        std::smatch parts;
        ASSERT_TRUE(std::regex_match(line, parts, form)) << line;
        EXPECT_EQ(parts[5], "log_test.cpp");
        found.push_back(parts[1].str() + parts[7].str());
    }
    EXPECT_THAT(found, ElementsAre("Iinfo", "Wwarn", "Eerror 7"));
}

TEST(Log, PrintsFromTheLevelOn) {
    EXPECT_EQ(runInChild(nullptr, oneOfEach).lines.size(), 2u) << "WARN without a level";
    EXPECT_EQ(runInChild("", oneOfEach).lines.size(), 2u);
    EXPECT_EQ(runInChild("trace", oneOfEach).lines.size(), 5u) << "in any case";
    EXPECT_EQ(runInChild("DEBUG", oneOfEach).lines.size(), 4u);
    EXPECT_EQ(runInChild("ERROR", oneOfEach).lines.size(), 1u);
    EXPECT_THAT(runInChild("FATAL", oneOfEach).lines, IsEmpty());
}

TEST(Log, AnInvalidLevelIsAWarningAndMeansWarn) {
    const auto output = runInChild("LOUD", oneOfEach);
    ASSERT_EQ(output.lines.size(), 3u);
    EXPECT_TRUE(output.lines[0].starts_with("W"));
    EXPECT_THAT(output.lines[0], HasSubstr("NIXL_LOG_LEVEL is 'LOUD', which is none of TRACE, DEBUG, INFO"));
}

TEST(Log, ADisabledLineFormatsNothing) {
    const auto output = runInChild("WARN", [] {
        int evaluated = 0;
        NIXL_INFO << ++evaluated;
        NIXL_WARN << "evaluated " << evaluated;
    });
    ASSERT_EQ(output.lines.size(), 1u);
    EXPECT_THAT(output.lines[0], HasSubstr("] evaluated 0"));
}

TEST(Log, ErrnoVariantsAddItsText) {
    const auto output = runInChild("WARN", [] {
        errno = ENOENT;
        NIXL_PERROR << "open failed";
        NIXL_ERROR_FUNC << "text";
    });
    ASSERT_EQ(output.lines.size(), 2u);
    EXPECT_THAT(output.lines[0], HasSubstr("] [No such file or directory] open failed"));
    EXPECT_THAT(output.lines[1], HasSubstr("] operator(): text"));
    EXPECT_EQ(nixl_strerror(ENOENT), "No such file or directory");
}

TEST(Log, AFatalLineAndAFailedAssertionEndTheProcess) {
    const auto fatal = runInChild("WARN", [] { NIXL_FATAL << "over"; });
    EXPECT_TRUE(WIFSIGNALED(fatal.status) && WTERMSIG(fatal.status) == SIGABRT);
    ASSERT_EQ(fatal.lines.size(), 1u);
    EXPECT_TRUE(fatal.lines[0].starts_with("F"));
    const auto failed = runInChild("WARN", [] { NIXL_ASSERT_ALWAYS(1 + 1 == 3) << "arithmetic"; });
    EXPECT_TRUE(WIFSIGNALED(failed.status));
    ASSERT_EQ(failed.lines.size(), 1u);
    EXPECT_THAT(failed.lines[0], HasSubstr("check failed: 1 + 1 == 3 arithmetic"));
    EXPECT_THAT(runInChild("WARN", [] { NIXL_ASSERT_ALWAYS(true) << "fine"; }).lines, IsEmpty());
}

TEST(Log, LinesOfThreadsDoNotMix) {
    const auto output = runInChild("WARN", [] {
        std::vector<std::thread> threads;
        for (int i = 0; i < 4; ++i) {
            threads.emplace_back([] {
                for (int n = 0; n < 100; ++n) NIXL_WARN << std::string(200, 'x') << "end";
            });
        }
        for (auto &thread : threads) thread.join();
    });
    EXPECT_EQ(output.lines.size(), 400u);
    for (const auto &line : output.lines) {
        EXPECT_TRUE(line.starts_with("W") && line.ends_with("] " + std::string(200, 'x') + "end")) << line;
    }
}

} // namespace
