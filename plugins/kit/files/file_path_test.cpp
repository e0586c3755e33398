// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: a metaInfo is a path with its flags, a label, or an error that says why; never a label by mistake.
#include "kit/files/file_path.h"

#include <fcntl.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nx::kit {
namespace {

using testing::HasSubstr;

TEST(FilePath, IsAModeWordsAndThePathBehindTheFirstColon) {
    const auto file = parseFilePath("rw,direct,sync,noatime,create:/data/a b:c,d");
    ASSERT_TRUE(file.ok() && *file) << file.message();
    EXPECT_EQ((*file)->path, "/data/a b:c,d");
    EXPECT_EQ((*file)->flags, O_RDWR | O_DIRECT | O_SYNC | O_NOATIME | O_CREAT | O_CLOEXEC);
    EXPECT_FALSE((*file)->atomic);
    const auto plain = parseFilePath("ro:x");
    ASSERT_TRUE(plain.ok() && *plain) << plain.message();
    EXPECT_EQ((*plain)->path, "x");
    EXPECT_EQ((*plain)->flags, O_RDONLY | O_CLOEXEC);
}

TEST(FilePath, AtomicIsAWordOfWhatIsWrittenAndImpliesNoOther) {
    for (const auto *const text : {"rw,atomic:/x", "rw,atomic,atomic:/x"}) {
        const auto file = parseFilePath(text);
        ASSERT_TRUE(file.ok() && *file) << file.message();
        EXPECT_TRUE((*file)->atomic);
        EXPECT_EQ((*file)->flags, O_RDWR | O_CLOEXEC);
    }
    const auto all = parseFilePath("rw,direct,atomic,create:/x");
    ASSERT_TRUE(all.ok() && *all) << all.message();
    EXPECT_TRUE((*all)->atomic);
    EXPECT_EQ((*all)->flags, O_RDWR | O_DIRECT | O_CREAT | O_CLOEXEC);
}

TEST(FilePath, EmptyTextsAndLabelsNameNone) {
    for (const auto *const label : {"", "b", "cache", "/data/cache.bin", "/data/a:b", "row", "root", "data/a:b"}) {
        const auto file = parseFilePath(label);
        EXPECT_TRUE(file.ok() && !*file) << label << ": " << file.message();
    }
}

TEST(FilePath, WhatLooksLikeOneAndIsNoneIsAnErrorThatNamesTheFault) {
    const std::pair<std::string, std::string> faults[] = {
        {"rw,driect:/x", "the word 'driect' is unknown"},
        {"rw,direct,:/x", "the word '' is unknown"},
        {"rw,:/x", "the word '' is unknown"},
        {"rw,DIRECT:/x", "the word 'DIRECT' is unknown"},
        {"rw, direct:/x", "the word ' direct' is unknown"},
        {"rw,rw:/x", "the word 'rw' is unknown"},
        {"ro,atomic:/x", "'atomic' is about what is written, it goes with rw"},
        {"rw,atomics:/x", "the word 'atomics' is unknown"},
        {"wr:/x", "the mode 'wr' is neither ro nor rw"},
        {"RW:/x", "the mode 'RW' is neither ro nor rw"},
        {":/x", "the mode '' is neither ro nor rw"},
        {"file:3", "the mode 'file' is neither ro nor rw"},
        {"rw /x:y", "the mode 'rw /x' is neither ro nor rw"},
        {"rw:", "the path is empty"},
        {"ro,direct:", "the path is empty"},
        {"rw", "there is no ':' before a path"},
        {"rw,create", "there is no ':' before a path"},
        {"rw=/x", "there is no ':' before a path"},
        {std::string("rw:/a\0b", 7), "there is a zero byte in the path"},
    };
    for (const auto &[text, why] : faults) {
        const auto file = parseFilePath(text);
        EXPECT_EQ(file.code(), NIXL_ERR_INVALID_PARAM) << text;
        EXPECT_THAT(file.message(), HasSubstr(why)) << text;
        EXPECT_THAT(file.message(), HasSubstr("<ro|rw>[,direct|sync|noatime|create|atomic]:<path>")) << text;
    }
}

} // namespace
} // namespace nx::kit
