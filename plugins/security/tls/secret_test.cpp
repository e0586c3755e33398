// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "tls/secret.h"

#include <algorithm>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/temp_dir.h"

namespace nx::tls {
namespace {

using ::testing::HasSubstr;

constexpr char kGood[] = "qL3vN8xT2mZ7rB5cY0wK9dF4hJ6gS1pA+uE=";

class SecretFile : public ::testing::Test {
protected:
    std::string
    file(const std::string &content, mode_t mode = 0600) {
        const auto path = folder.write("key", content);
        EXPECT_EQ(::chmod(path.c_str(), mode), 0);
        return path;
    }

    /// That of a refusal, which shows nothing of the file.
    std::string
    sentence(const std::string &content, nixl_status_t expected, mode_t mode = 0600) {
        const auto secret = Secret::read(file(content, mode));
        EXPECT_EQ(secret.code(), expected) << secret.message();
        EXPECT_TRUE(content.size() < 4 || secret.message().find(content.substr(0, 4)) == std::string::npos);
        return secret.message();
    }

    test::TempDir folder;
};

std::string
text(Secret::Key key) {
    return {key.begin(), key.end()};
}

TEST_F(SecretFile, MakesKeysThatDifferByPurposeAndSecret) {
    const auto one = Secret::read(file(kGood));
    ASSERT_TRUE(one.ok()) << one.message();
    const auto same = Secret::read(file(std::string(kGood) + "\n"));
    ASSERT_TRUE(same.ok()) << "a line's end does not count";
    EXPECT_EQ(text((*one)->channel()), text((*same)->channel()));
    EXPECT_EQ((*one)->id(), (*same)->id());
    EXPECT_NE(text((*one)->channel()), text((*one)->signing()));
    const auto other = Secret::read(file(std::string("X") + kGood));
    ASSERT_TRUE(other.ok());
    EXPECT_NE(text((*one)->channel()), text((*other)->channel()));
    EXPECT_NE(text((*one)->signing()), text((*other)->signing()));
    EXPECT_NE((*one)->id(), (*other)->id());
}

TEST_F(SecretFile, OthersMayNeitherReadNorChangeIt) {
    EXPECT_THAT(sentence(kGood, NIXL_ERR_NOT_ALLOWED, 0604), HasSubstr("read by others (mode 0604)"));
    EXPECT_THAT(sentence(kGood, NIXL_ERR_NOT_ALLOWED, 0602), HasSubstr("written by others (mode 0602)"));
    EXPECT_THAT(sentence(kGood, NIXL_ERR_NOT_ALLOWED, 0601), HasSubstr("read by others"));
    EXPECT_TRUE(Secret::read(file(kGood, 0400)).ok());
    if (::geteuid() != 0) GTEST_SKIP() << "only root can give files away";
    EXPECT_TRUE(Secret::read(file(kGood, 0640)).ok()) << "of root's, a group may be given to read it";
    const auto path = file(kGood);
    ASSERT_EQ(::chown(path.c_str(), 12345, 12345), 0);
    EXPECT_THAT(Secret::read(path).message(), HasSubstr("belongs to user 12345"));
}

TEST_F(SecretFile, WeakOnesAreRefusedAndTheSentenceSaysHowToMakeOne) {
    EXPECT_THAT(sentence("", NIXL_ERR_INVALID_PARAM), HasSubstr("openssl rand"));
    EXPECT_THAT(sentence("\n\n", NIXL_ERR_INVALID_PARAM), HasSubstr("weak"));
    EXPECT_THAT(sentence("correcthorsebatter", NIXL_ERR_INVALID_PARAM), HasSubstr("weak"));
    EXPECT_THAT(sentence("0123456789abcdef0123456789abcde", NIXL_ERR_INVALID_PARAM), HasSubstr("weak"))
        << "hexadecimal digits of fewer than 16 bytes";
    EXPECT_THAT(sentence(std::string(64, 'a'), NIXL_ERR_INVALID_PARAM), HasSubstr("weak"));
    EXPECT_THAT(sentence(std::string(8, '\0') + "\x01\x02\x03\x04\x05\x06\x07", NIXL_ERR_INVALID_PARAM),
                HasSubstr("weak"));
    EXPECT_TRUE(Secret::read(file("0123456789abcdef0123456789abcdef")).ok());
    EXPECT_TRUE(Secret::read(file("\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0b\x0c\x0e\xf1\xf2\xf3\xf4")).ok());
}

TEST_F(SecretFile, WhatIsNoKeyFileIsRefused) {
    EXPECT_THAT(sentence(std::string(2000, 'k') + "1234567", NIXL_ERR_INVALID_PARAM), HasSubstr("more than 1024"));
    EXPECT_EQ(Secret::read(folder / "missing").code(), NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(Secret::read(folder / "missing").message(), HasSubstr("No such file"));
    EXPECT_EQ(Secret::read(folder.path().string()).code(), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(Secret::read("").code(), NIXL_ERR_NOT_FOUND);
    ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
    EXPECT_THAT(Secret::read(folder / "fifo").message(), HasSubstr("no regular file")) << "and it did not wait";
}

TEST_F(SecretFile, KeysAreLeftOutOfCoreDumps) {
    const auto secret = Secret::read(file(kGood));
    ASSERT_TRUE(secret.ok());
    // The flags of the mapping that the key lies in.
    std::ifstream maps("/proc/self/smaps");
    const auto address = reinterpret_cast<uintptr_t>((*secret)->channel().data());
    bool here = false;
    std::string flags;
    for (std::string line; std::getline(maps, line);) {
        uintptr_t first = 0, last = 0;
        if (std::sscanf(line.c_str(), "%lx-%lx ", &first, &last) == 2 && line.find('-') < 20) {
            here = first <= address && address < last;
        }
        if (here && line.starts_with("VmFlags:")) flags = line;
    }
    EXPECT_THAT(flags, HasSubstr(" dd")) << "not to be dumped";
}

} // namespace
} // namespace nx::tls
