// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// nixlSerDes as callers of the API use it, and on hostile bytes. The log is checked where programs match it.
#include "utils/serdes/serdes.h"

#include <algorithm>

#include <gtest/gtest.h>

namespace {

const std::string kPrefix = "nixlSerDes|";

std::string
lengthBytes(uint64_t length) {
    return {reinterpret_cast<const char *>(&length), sizeof length};
}

nixlSerDes
reading(const std::string &fields) {
    nixlSerDes serdes;
    EXPECT_EQ(serdes.importStr(kPrefix + fields), NIXL_SUCCESS);
    return serdes;
}

class Serdes : public testing::Test {
protected:
    void
    SetUp() override {
        testing::internal::CaptureStderr();
    }

    /// What was logged since the last call.
    std::string
    logged() {
        auto text = testing::internal::GetCapturedStderr();
        testing::internal::CaptureStderr();
        return text;
    }

    void
    TearDown() override {
        testing::internal::GetCapturedStderr();
    }
};

TEST_F(Serdes, StartsWithThePrefix) {
    EXPECT_EQ(nixlSerDes().exportStr(), kPrefix);
}

TEST_F(Serdes, WritesTagLengthPayloadSeparator) {
    nixlSerDes serdes;
    const uint32_t value = 0x01020304;
    EXPECT_EQ(serdes.addStr("tag", "text"), NIXL_SUCCESS);
    EXPECT_EQ(serdes.addBuf("n", &value, sizeof value), NIXL_SUCCESS);
    EXPECT_EQ(serdes.exportStr(),
              kPrefix + "tag" + lengthBytes(4) + "text|n" + lengthBytes(4) + std::string("\4\3\2\1|"));
}

TEST_F(Serdes, ReadsBackWhatWasWritten) {
    nixlSerDes writer;
    const std::string binary("a\0|b", 4);
    const uint64_t number = 42;
    writer.addStr("s", binary);
    writer.addStr("", "untagged");
    writer.addBuf("n", &number, sizeof number);

    nixlSerDes reader;
    ASSERT_EQ(reader.importStr(writer.exportStr()), NIXL_SUCCESS);
    EXPECT_EQ(reader.getStr("s"), binary);
    EXPECT_EQ(reader.getStr(""), "untagged");
    EXPECT_EQ(reader.getBufLen("n"), 8);
    uint64_t found = 0;
    EXPECT_EQ(reader.getBuf("n", &found, sizeof found), NIXL_SUCCESS);
    EXPECT_EQ(found, number);
    EXPECT_EQ(reader.exportStr(), writer.exportStr());
    EXPECT_EQ(logged(), "");
}

TEST_F(Serdes, ReadsWhatTheSameObjectWrote) {
    nixlSerDes serdes;
    serdes.addStr("tag", "text");
    EXPECT_EQ(serdes.getStr("tag"), "text");
}

TEST_F(Serdes, EmptyValuesAreReadWithoutComplaint) {
    nixlSerDes serdes;
    serdes.addStr("msg", "");
    serdes.addStr("other", "");
    serdes.addBuf("b", nullptr, 0);
    EXPECT_EQ(serdes.getStr("msg"), "");
    EXPECT_EQ(serdes.getStr("other"), "");
    EXPECT_EQ(serdes.getBufLen("b"), 0);
    EXPECT_EQ(serdes.getBuf("b", nullptr, 0), NIXL_SUCCESS);
    EXPECT_EQ(logged(), "");
}

TEST_F(Serdes, WrongTagGivesEmptyLogsOnceAndKeepsTheCursor) {
    nixlSerDes serdes;
    serdes.addStr("tag", "text");
    EXPECT_EQ(serdes.getStr("gat"), "");
    const std::string log = logged();
    EXPECT_NE(log.find("Deserialization failed, missing nixlSerDes tag 'gat' at byte 11"), std::string::npos) << log;
    EXPECT_EQ(log.front(), 'E');
    EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1);
    EXPECT_LT(serdes.getBufLen("gat"), 0);
    char buffer[4];
    EXPECT_EQ(serdes.getBuf("gat", buffer, sizeof buffer), NIXL_ERR_MISMATCH);
    EXPECT_EQ(serdes.getStr("tag"), "text");
}

TEST_F(Serdes, AnotherLengthIsAMismatchAndKeepsBufferAndCursor) {
    nixlSerDes serdes;
    serdes.addStr("tag", "text");
    char buffer[8] = "before";
    EXPECT_EQ(serdes.getBuf("tag", buffer, 3), NIXL_ERR_MISMATCH);
    EXPECT_EQ(serdes.getBuf("tag", buffer, 5), NIXL_ERR_MISMATCH);
    EXPECT_STREQ(buffer, "before");
    EXPECT_EQ(serdes.getBuf("tag", buffer, 4), NIXL_SUCCESS);
    EXPECT_EQ(std::string(buffer, 4), "text");
}

TEST_F(Serdes, ImpossibleArgumentsAreInvalid) {
    nixlSerDes serdes;
    char byte = 0;
    EXPECT_EQ(serdes.addBuf("b", &byte, -1), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(serdes.addBuf("b", nullptr, 1), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(serdes.getBuf("b", &byte, -1), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(serdes.getBuf("b", nullptr, 1), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(serdes.exportStr(), kPrefix);
}

TEST_F(Serdes, HostileLengthsNeitherWrapNorReadPastTheEnd) {
    for (uint64_t back = 0; back < 64; ++back) {
        auto serdes = reading("tag" + lengthBytes(~uint64_t{0} - back) + "payload|");
        char buffer[64];
        EXPECT_EQ(serdes.getStr("tag"), "");
        EXPECT_LT(serdes.getBufLen("tag"), 0);
        EXPECT_EQ(serdes.getBuf("tag", buffer, sizeof buffer), NIXL_ERR_MISMATCH);
    }
    EXPECT_NE(logged().find("Deserialization failed, nixlSerDes field 'tag' at byte 11 claims"), std::string::npos);
}

TEST_F(Serdes, EveryTruncationIsRefused) {
    nixlSerDes writer;
    writer.addStr("a", "text");
    const std::string whole = writer.exportStr();
    for (size_t size = 0; size < whole.size(); ++size) {
        nixlSerDes reader;
        const auto status = reader.importStr(whole.substr(0, size));
        EXPECT_EQ(status, size < kPrefix.size() ? NIXL_ERR_MISMATCH : NIXL_SUCCESS) << size;
        EXPECT_EQ(reader.getStr("a"), "") << size;
    }
}

TEST_F(Serdes, ImportWithoutPrefixIsAMismatchAndChangesNothing) {
    nixlSerDes serdes;
    serdes.addStr("tag", "text");
    EXPECT_EQ(serdes.importStr("nixlserdes|tag"), NIXL_ERR_MISMATCH);
    EXPECT_NE(logged().find("Deserialization failed, missing nixlSerDes tag"), std::string::npos);
    EXPECT_EQ(serdes.getStr("tag"), "text");
}

TEST_F(Serdes, ImportStartsReadingAtTheBeginning) {
    nixlSerDes serdes;
    serdes.addStr("tag", "text");
    EXPECT_EQ(serdes.getStr("tag"), "text");
    ASSERT_EQ(serdes.importStr(serdes.exportStr()), NIXL_SUCCESS);
    EXPECT_EQ(serdes.getStr("tag"), "text");
}

TEST_F(Serdes, BytesAndStringsConvertWithoutReadingPastEither) {
    const char bytes[3] = {'a', '\0', 'b'};
    EXPECT_EQ(nixlSerDes::_bytesToString(bytes, 3), std::string("a\0b", 3));
    EXPECT_EQ(nixlSerDes::_bytesToString(bytes, -1), "");
    EXPECT_EQ(nixlSerDes::_bytesToString(nullptr, 3), "");
    char out[5] = {'x', 'x', 'x', 'x', 'x'};
    nixlSerDes::_stringToBytes(out, "ab", 4);
    EXPECT_EQ(std::string(out, 5), std::string("ab\0\0x", 5));
    nixlSerDes::_stringToBytes(out, "zzzz", 2);
    EXPECT_EQ(std::string(out, 5), std::string("zz\0\0x", 5));
    nixlSerDes::_stringToBytes(out, "yyyy", -1);
    nixlSerDes::_stringToBytes(nullptr, "yyyy", 4);
    EXPECT_EQ(out[0], 'z');
}

} // namespace
