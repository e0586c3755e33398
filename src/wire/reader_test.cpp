// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The reader takes what the writer wrote and refuses everything else without moving.
#include "wire/reader.h"

#include <gtest/gtest.h>

#include "wire/writer.h"

namespace nx::wire {
namespace {

std::string
fieldBytes(std::string_view tag, uint64_t claimed_length, std::string_view behind) {
    std::string bytes(tag);
    bytes.append(reinterpret_cast<const char *>(&claimed_length), sizeof claimed_length);
    return bytes.append(behind);
}

std::string
failureOf(Reader reader) {
    return std::move(reader).status().message();
}

TEST(Reader, TakesFieldsInOrder) {
    std::string bytes;
    Writer writer(bytes);
    writer.prefix();
    writer.field("tag", "head", "tail");
    writer.field("", "");
    writer.integer("n", uint32_t{7});

    Reader reader(bytes);
    reader.takePrefix();
    EXPECT_EQ(reader.take("tag"), "headtail");
    EXPECT_EQ(reader.take(""), "");
    EXPECT_EQ(reader.takeInteger<uint32_t>("n"), 7u);
    EXPECT_TRUE(reader.ok());
    EXPECT_EQ(reader.remaining(), 0u);
}

TEST(Reader, TakesRawBytesAndNumbersAndNothingBeyondTheEnd) {
    std::string bytes;
    Writer writer(bytes);
    writer.rawInteger(uint32_t{7});
    writer.raw("abc");
    Reader reader(bytes);
    EXPECT_EQ(reader.takeRawInteger<uint32_t>("n"), 7u);
    EXPECT_EQ(reader.takeRaw("text", 3), "abc");
    EXPECT_EQ(reader.takeRaw("nothing", 0), "");
    EXPECT_TRUE(reader.ok());

    Reader cut(bytes, 4);
    EXPECT_EQ(cut.takeRawInteger<uint32_t>("n"), 0u);
    EXPECT_FALSE(cut.ok());
    EXPECT_EQ(cut.position(), 4u);
    EXPECT_EQ(failureOf(std::move(cut)), "'n' at byte 4 takes 4 bytes, but 3 remain");

    Reader wrapping(bytes, 4);
    EXPECT_EQ(wrapping.takeRaw("text", ~size_t{0}), "");
    EXPECT_FALSE(wrapping.ok());
}

TEST(Reader, FieldSizeIsWhatTheWriterWrites) {
    std::string bytes;
    Writer(bytes).field("tag", "payload");
    EXPECT_EQ(bytes.size(), fieldSize("tag", 7));
}

TEST(Reader, RefusesEveryLengthThatDoesNotFit) {
    const std::string_view behind = "abc|";
    for (const uint64_t length : {uint64_t{4}, uint64_t{5}, uint64_t{1} << 32, uint64_t{1} << 63, ~uint64_t{0},
                                  ~uint64_t{0} - 1, ~uint64_t{0} - 8, ~uint64_t{0} - 12, ~uint64_t{0} - 23}) {
        const std::string bytes = std::string(kPrefix) + fieldBytes("tag", length, behind);
        Reader reader(bytes);
        reader.takePrefix();
        EXPECT_EQ(reader.take("tag"), "");
        EXPECT_FALSE(reader.ok()) << length;
        EXPECT_EQ(reader.position(), kPrefix.size()) << length;
        EXPECT_EQ(failureOf(std::move(reader)),
                  "nixlSerDes field 'tag' at byte 11 claims " + std::to_string(length) +
                      " bytes and a separator, but 4 remain");
    }
}

TEST(Reader, RefusesEveryTruncation) {
    std::string bytes;
    Writer(bytes).field("tag", "payload");
    for (size_t size = 0; size < bytes.size(); ++size) {
        Reader reader(std::string_view(bytes).substr(0, size));
        EXPECT_EQ(reader.take("tag"), "");
        EXPECT_FALSE(reader.ok()) << size;
        EXPECT_EQ(reader.position(), 0u);
    }
}

TEST(Reader, RefusesAFieldWithoutSeparator) {
    const std::string bytes = fieldBytes("tag", 3, "abcX");
    Reader reader(bytes);
    reader.take("tag");
    EXPECT_EQ(failureOf(std::move(reader)), "nixlSerDes field 'tag' at byte 0 does not end with a separator");
}

TEST(Reader, NamesTheMissingTagAndItsOffset) {
    std::string bytes;
    Writer(bytes).field("tag", "x");
    Reader reader(bytes);
    reader.take("tag");
    reader.take("other");
    EXPECT_EQ(failureOf(std::move(reader)), "missing nixlSerDes tag 'other' at byte 13");
}

TEST(Reader, RefusesAMissingPrefix) {
    for (const std::string_view bytes : {"", "nixlSerDes", "nixlSerDes ", "nixlserdes|"}) {
        Reader reader(bytes);
        reader.takePrefix();
        EXPECT_FALSE(reader.ok()) << bytes;
        EXPECT_EQ(reader.position(), 0u);
    }
}

TEST(Reader, KeepsTheFirstFailureAndReadsNothingAfterIt) {
    std::string bytes(kPrefix);
    Writer(bytes).field("tag", "x");
    Reader reader(bytes, kPrefix.size());
    reader.fail("first");
    reader.fail("second");
    reader.takePrefix();
    EXPECT_EQ(reader.take("tag"), "");
    EXPECT_EQ(reader.takeExactly("tag", 1), "");
    EXPECT_EQ(reader.takeName("tag", 1), "");
    EXPECT_EQ(reader.takeInteger<uint8_t>("tag"), 0);
    EXPECT_EQ(reader.takeCount("tag", 1), 0u);
    reader.expect("tag", "y");
    EXPECT_EQ(reader.position(), kPrefix.size());
    const Status status = std::move(reader).status();
    EXPECT_EQ(status.code(), NIXL_ERR_MISMATCH);
    EXPECT_EQ(status.message(), "first");
}

TEST(Reader, RefusesAnIntegerOfAnotherSize) {
    std::string bytes;
    Writer(bytes).integer("n", uint32_t{1});
    Reader reader(bytes);
    EXPECT_EQ(reader.takeInteger<uint64_t>("n"), 0u);
    EXPECT_EQ(failureOf(std::move(reader)), "nixlSerDes field 'n' at byte 0 holds 4 bytes instead of 8");
}

TEST(Reader, RefusesNamesThatAreEmptyOrTooLong) {
    for (const std::string_view name : {"", "12345"}) {
        std::string bytes;
        Writer(bytes).field("name", name);
        Reader reader(bytes);
        EXPECT_EQ(reader.takeName("name", 4), "");
        EXPECT_EQ(failureOf(std::move(reader)),
                  "nixlSerDes field 'name' at byte 0 holds a name of " + std::to_string(name.size()) +
                      " bytes; a name has 1 to 4");
    }
}

TEST(Reader, TakesACountThatTheRemainingBytesCanHold) {
    std::string bytes;
    Writer writer(bytes);
    writer.integer("n", uint64_t{3});
    bytes.append(30, 'x');
    Reader exact(bytes);
    EXPECT_EQ(exact.takeCount("n", 10), 3u);
    EXPECT_TRUE(exact.ok());
    Reader one_byte_short(std::string_view(bytes).substr(0, bytes.size() - 1));
    EXPECT_EQ(one_byte_short.takeCount("n", 10), 0u);
    EXPECT_EQ(failureOf(std::move(one_byte_short)),
              "nixlSerDes field 'n' at byte 0 counts 3 elements; at most "
              "2147483647 are allowed and 29 bytes remain for them");
    Reader beyond_limit(bytes);
    EXPECT_EQ(beyond_limit.takeCount("n", 10, 2), 0u);
    EXPECT_FALSE(beyond_limit.ok());
}

TEST(Reader, RefusesCountsWhoseProductWouldWrap) {
    for (const uint64_t count : {uint64_t{1} << 61, (uint64_t{1} << 61) + 1, ~uint64_t{0}}) {
        std::string bytes;
        Writer(bytes).integer("n", count);
        bytes.append(64, 'x');
        Reader reader(bytes);
        EXPECT_EQ(reader.takeCount("n", 8, ~size_t{0}), 0u);
        EXPECT_FALSE(reader.ok()) << count;
    }
}

TEST(Reader, ExpectsExactlyThePayload) {
    std::string bytes;
    Writer(bytes).field("", "MemSection");
    Reader good(bytes);
    good.expect("", "MemSection");
    EXPECT_TRUE(good.ok());
    Reader bad(bytes);
    bad.expect("", "MemSections");
    EXPECT_EQ(failureOf(std::move(bad)), "nixlSerDes field '' at byte 0 holds 'MemSection' instead of 'MemSections'");
}

} // namespace
} // namespace nx::wire
