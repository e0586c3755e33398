// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "base/config.h"

#include <cstdlib>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nixlx/engine.h"
#include "support/temp_dir.h"

namespace nx {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr char kName[] = "NIXL_TEST_OPTION";

class Config : public testing::Test {
protected:
    ~Config() override {
        ::unsetenv(kName);
        setConfigFileForTest("");
    }

    void
    useFile(const std::string &content) {
        setConfigFileForTest(folder_.write("nixl.cfg", content));
    }

    void
    useEnvironment(const std::string &value) {
        ::setenv(kName, value.c_str(), 1);
    }

    const test::TempDir folder_;
};

TEST_F(Config, HasNothingWithoutEnvironmentAndFile) {
    setConfigFileForTest("");
    auto value = configString(kName);
    ASSERT_TRUE(value.ok());
    EXPECT_FALSE(*value);
    EXPECT_FALSE(*configBool(kName));
    EXPECT_FALSE(*configUnsigned(kName));
    EXPECT_FALSE(nixlx::configValue(kName));
}

TEST_F(Config, PrefersTheEnvironmentToTheFile) {
    useFile("NIXL_TEST_OPTION = 'file'\nNIXL_OTHER = 'other'\n");
    EXPECT_EQ(**configString(kName), "file");
    useEnvironment("environment");
    EXPECT_EQ(**configString(kName), "environment");
    EXPECT_EQ(**configString("NIXL_OTHER"), "other");
    EXPECT_EQ(nixlx::configValue(kName), "environment");
}

TEST_F(Config, AnEmptyVariableIsAValue) {
    useFile("NIXL_TEST_OPTION = 'file'\n");
    useEnvironment("");
    EXPECT_EQ(**configString(kName), "");
}

TEST_F(Config, ReadsEveryTypeOfTheFile) {
    useFile("NIXL_TEST_OPTION = true\nNUMBER = 4096\nHEX = 0x10\nTEXT = \"a \\\"b\\\"\"\nFLAG = 'on'\n");
    EXPECT_EQ(**configBool(kName), true);
    EXPECT_EQ(**configUnsigned("NUMBER"), 4096u);
    EXPECT_EQ(**configUnsigned("HEX"), 16u);
    EXPECT_EQ(**configString("TEXT"), "a \"b\"");
    EXPECT_EQ(**configBool("FLAG"), true);
}

TEST_F(Config, ABrokenFileIsASentenceWithItsLine) {
    useFile("GOOD = 1\nbroken = = 2\n");
    auto value = configString(kName);
    EXPECT_EQ(value.code(), NIXL_ERR_MISMATCH);
    EXPECT_THAT(value.message(), AllOf(HasSubstr("configuration file"), HasSubstr("nixl.cfg"), HasSubstr("line 2")));
    EXPECT_EQ(configBool(kName).message(), value.message());
    EXPECT_THROW((void)nixlx::configValue(kName), std::runtime_error);
    useEnvironment("x");
    EXPECT_EQ(**configString(kName), "x") << "the environment needs no file";
}

TEST_F(Config, AFileThatCannotBeReadIsASentence) {
    setConfigFileForTest(folder_ / "missing");
    EXPECT_EQ(configString(kName).code(), NIXL_ERR_MISMATCH);
    setConfigFileForTest(folder_.path().string());
    EXPECT_EQ(configString(kName).code(), NIXL_ERR_MISMATCH);
}

TEST_F(Config, AnEmptyFileIsFine) {
    setConfigFileForTest("/dev/null");
    EXPECT_TRUE(configString(kName).ok()) << configString(kName).message();
    useFile("");
    EXPECT_TRUE(configString(kName).ok());
}

TEST_F(Config, AValueThatDoesNotConvertIsASentenceAndNoFallback) {
    useFile("NIXL_TEST_OPTION = 7\n");
    useEnvironment("seven");
    auto number = configUnsigned(kName);
    EXPECT_EQ(number.code(), NIXL_ERR_MISMATCH);
    EXPECT_THAT(number.message(), HasSubstr("NIXL_TEST_OPTION is 'seven', which is not a whole number"));
    auto flag = configBool(kName);
    EXPECT_EQ(flag.code(), NIXL_ERR_MISMATCH);
    EXPECT_THAT(flag.message(), HasSubstr("which is not a truth value"));
}

TEST(ConfigText, KnowsEveryFormOfABool) {
    for (const char *yes : {"y", "yes", "on", "1", "true", "enable", "YES", "True", "oN"}) {
        EXPECT_EQ(parseBool(yes), true) << yes;
    }
    for (const char *no : {"n", "no", "off", "0", "false", "disable", "NO", "False", "Off"}) {
        EXPECT_EQ(parseBool(no), false) << no;
    }
    for (const char *neither : {"", "2", "yess", " yes", "maybe", "-1"}) EXPECT_FALSE(parseBool(neither)) << neither;
}

TEST(ConfigText, ReadsNumbersWhollyOrNotAtAll) {
    EXPECT_EQ(parseUnsigned("0"), 0u);
    EXPECT_EQ(parseUnsigned("18446744073709551615"), UINT64_MAX);
    EXPECT_EQ(parseUnsigned("0xfF"), 255u);
    for (const char *bad : {"", " 1", "1 ", "+1", "-1", "1k", "0x", "0x-1", "0xg", "18446744073709551616", "1.5"}) {
        EXPECT_FALSE(parseUnsigned(bad)) << bad;
    }
    EXPECT_EQ(parseSigned("-9223372036854775808"), INT64_MIN);
    EXPECT_EQ(parseSigned("12"), 12);
    for (const char *bad : {"", "+1", " 1", "0x1", "--1", "9223372036854775808"}) EXPECT_FALSE(parseSigned(bad)) << bad;
}

TEST(ConfigFile, NamedFileComesBeforeTheOneAtHome) {
    // The child starts the program anew and has not looked for its file yet.
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    const test::TempDir home;
    home.write(".nixl.cfg", "WHO = 'home'\n");
    const auto named = home.write("named.cfg", "WHO = 'named'\n");
    const auto who = [&](bool name_it) {
        ::setenv("HOME", home.path().c_str(), 1);
        if (name_it) {
            ::setenv("NIXL_CONFIG_FILE", named.c_str(), 1);
        } else {
            ::unsetenv("NIXL_CONFIG_FILE");
        }
        const auto found = configString("WHO");
        std::filesystem::remove_all(home.path()); // the child's own
        return found.ok() && *found ? **found : "";
    };
    EXPECT_EXIT(std::_Exit(who(true) == "named" ? 0 : 1), testing::ExitedWithCode(0), "");
    EXPECT_EXIT(std::_Exit(who(false) == "home" ? 0 : 1), testing::ExitedWithCode(0), "");
}

} // namespace
} // namespace nx
