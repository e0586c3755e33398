// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: no name leaves its folder or is taken for another, and no bytes are taken for a start that are none. Method:
// names and bytes that try to.
#include "file/format.h"

#include <climits>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <set>

namespace nx::file_store {
namespace {

std::string
named(std::string_view name) {
    auto file = fileNameOf(name, ".md", "the label");
    return file.ok() ? *std::move(file) : file.message();
}

TEST(FileNames, LeavesOrdinaryNamesAsTheyAre) {
    EXPECT_EQ(named("decode-3_a.b"), "decode-3_a.b.md");
}

TEST(FileNames, WritesEveryOtherByteAsANumber) {
    EXPECT_EQ(named("../x"), "%2E.%2Fx.md");
    EXPECT_EQ(named(std::string_view("a\0b", 3)), "a%00b.md");
    EXPECT_EQ(named("100%"), "100%25.md");
    EXPECT_EQ(named("\xc3\xa9"), "%C3%A9.md");
}

TEST(FileNames, TellsNamesApartAndKeepsThemInTheFolder) {
    const std::string names[] = {"",   ".",   "..",    "%",    "%25",    "%2E",  "/",
                                 "//", "a/b", "a%2Fb", "a\\b", ".start", ".new", std::string(1, '\0'),
                                 "\n", "A",   "a",     ".md",  "md",     " ",    "~"};
    std::set<std::string> files;
    for (const auto &name : names) {
        const auto file = named(name);
        EXPECT_TRUE(files.insert(file).second) << name << " is written as another: " << file;
        EXPECT_EQ(file.find('/'), std::string::npos) << file;
        EXPECT_NE(file.front(), '.') << file;
    }
}

TEST(FileNames, RefusesWhatIsTooLongForAFile) {
    EXPECT_EQ(named(std::string(NAME_MAX - 3, 'a')).size(), static_cast<size_t>(NAME_MAX));
    const auto refused = fileNameOf(std::string(NAME_MAX - 2, 'a'), ".md", "the label");
    EXPECT_EQ(refused.code(), NIXL_ERR_INVALID_PARAM);
    EXPECT_THAT(refused.message(), testing::HasSubstr("it needs 256 characters, and a file name has at most 255"));
}

TEST(FileStart, IsTheFirstLineAndNothingElse) {
    const std::string digits = "00112233445566778899aabbccddeeff";
    const std::string file = digits + "\nblob";
    const auto start = startIn(file, "x.md");
    ASSERT_TRUE(start.ok()) << start.message();
    EXPECT_EQ(*start, digits);
    EXPECT_TRUE(startIn(digits + "\n", "x.md").ok());
    for (const std::string &bytes :
         {std::string(), digits, digits.substr(1) + "\n", digits + "0\n", "A" + digits.substr(1) + "\n",
          "\n" + digits + "\n", std::string(32, '\0') + "\n", " " + digits.substr(1) + "\n"}) {
        const auto refused = startIn(bytes, "x.md");
        EXPECT_EQ(refused.code(), NIXL_ERR_MISMATCH) << bytes;
        EXPECT_EQ(refused.message(), "'x.md' does not begin with the number of a start") << bytes;
    }
}

TEST(FileHost, IsALineOfItsOwn) {
    EXPECT_EQ(hostIn("0123\nprocess 7\nhost a-b\n"), "a-b");
    EXPECT_EQ(hostIn("0123\nhost a"), "a");
    for (const char *none : {"", "host a", "0123\nprocess host a\n", "0123\nhost \n"})
        EXPECT_EQ(hostIn(none), "") << none;
}

} // namespace
} // namespace nx::file_store
