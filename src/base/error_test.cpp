// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

#include <cerrno>
#include <gtest/gtest.h>
#include <iomanip>
#include <memory>
#include <thread>
#include <type_traits>
#include <utility>

#include "base/last_error.h"
#include "nixlx/engine.h"
#include "nixlx/report.h"

namespace nx {
namespace {

static_assert(sizeof(Status) == sizeof(void *), "success is one null pointer");

// Beside std::quoted.
static_assert(std::is_same_v<decltype(quoted(std::declval<std::string &>())), std::string>);
static_assert(std::is_same_v<decltype(quoted(std::declval<const std::string &>())), std::string>);
static_assert(std::is_same_v<decltype(quoted(std::declval<std::string>())), std::string>);
static_assert(std::is_same_v<decltype(quoted(std::declval<std::string_view>())), std::string>);

Status
refuse() {
    return {NIXL_ERR_NOT_FOUND, "no such file"};
}

TEST(Status, CarriesCodeAndSentence) {
    const Status fine;
    EXPECT_TRUE(fine.ok());
    EXPECT_EQ(fine.code(), NIXL_SUCCESS);
    EXPECT_EQ(fine.message(), "");
    const Status bad = refuse();
    EXPECT_FALSE(bad.ok());
    EXPECT_EQ(bad.code(), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(bad.message(), "no such file");
}

TEST(Status, GathersContextOnTheWayUp) {
    const Status bad = refuse().withContext("open '/x'").withContext("register 3 ranges");
    EXPECT_EQ(bad.code(), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(bad.message(), "register 3 ranges: open '/x': no such file");
    EXPECT_TRUE(Status().withContext("anything").ok());
}

TEST(Status, GivesItsErrorAway) {
    const Error error = refuse().error();
    EXPECT_EQ(error.code, NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(Status(error).message(), "no such file");
}

TEST(Result, HoldsAValueOrAStatus) {
    Result<std::unique_ptr<int>> fine = std::make_unique<int>(5);
    ASSERT_TRUE(fine.ok());
    EXPECT_EQ(**fine, 5);
    EXPECT_EQ(*std::move(fine).operator*(), 5);
    Result<std::unique_ptr<int>> bad = refuse();
    EXPECT_FALSE(bad.ok());
    EXPECT_EQ(bad.code(), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(std::move(bad).status().message(), "no such file");
}

TEST(ErrorText, WithErrnoNamesTheCause) {
    EXPECT_EQ(withErrno("open /x", ENOENT), "open /x: No such file or directory (errno 2)");
}

TEST(ErrorText, QuotedEscapesAndCuts) {
    EXPECT_EQ(nx::quoted("UCX"), "'UCX'");
    EXPECT_EQ(nx::quoted(""), "''");
    EXPECT_EQ(nx::quoted("a\nb\x1b[31m\x7f"), "'a\\x0ab\\x1b[31m\\x7f'");
    EXPECT_EQ(nx::quoted("\xc3\xa9"), "'\\xc3\\xa9'");
    EXPECT_EQ(nx::quoted(std::string("a\0b", 3)), "'a\\x00b'");
    EXPECT_EQ(nx::quoted("12345", 5), "'12345'");
    EXPECT_EQ(nx::quoted("123456", 5), "'12345'... (6 bytes)");
}

TEST(LastError, KeepsABackendsSentenceOfThisThreadUntilTaken) {
    clearBackendSentence();
    EXPECT_EQ(takeBackendSentence("nothing said"), "nothing said");
    EXPECT_EQ(nixlx::fail(NIXL_ERR_BACKEND, "the cable is out"), NIXL_ERR_BACKEND);
    std::thread([] { EXPECT_EQ(takeBackendSentence("other thread"), "other thread"); }).join();
    EXPECT_EQ(takeBackendSentence("nothing said"), "the cable is out");
    EXPECT_EQ(takeBackendSentence("nothing said"), "nothing said");
    nixlx::fail(NIXL_ERR_BACKEND, "old");
    clearBackendSentence();
    EXPECT_EQ(takeBackendSentence("nothing said"), "nothing said");
}

TEST(LastError, IsOfThisThread) {
    setLastError("here");
    std::thread([] {
        EXPECT_EQ(nixlx::lastError(), "");
        setLastError("there");
    }).join();
    EXPECT_EQ(nixlx::lastError(), "here");
}

TEST(EnumStrings, NameEveryEnumeratorAndNoOther) {
    using namespace nixlEnumStrings;
    EXPECT_EQ(statusStr(NIXL_SUCCESS), "NIXL_SUCCESS");
    EXPECT_EQ(statusStr(NIXL_IN_PROG), "NIXL_IN_PROG");
    for (int status = NIXL_ERR_NOT_POSTED; status >= NIXL_ERR_FORKED; --status) {
        EXPECT_TRUE(statusStr(static_cast<nixl_status_t>(status)).starts_with("NIXL_ERR_")) << status;
    }
    EXPECT_EQ(statusStr(static_cast<nixl_status_t>(-30)), "BAD_STATUS");
    EXPECT_EQ(memTypeStr(FILE_SEG), "FILE_SEG");
    EXPECT_EQ(memTypeStr(static_cast<nixl_mem_t>(7)), "BAD_SEG");
    EXPECT_EQ(xferOpStr(NIXL_READ), "READ");
}

} // namespace
} // namespace nx
