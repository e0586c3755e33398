// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Descriptor lists as bytes: round trips, sizes, and hostile bytes of every kind.
#include "wire/descriptors.h"

#include <gtest/gtest.h>

namespace nx::wire {
namespace {

const std::vector<nixlBasicDesc> kRanges = {{0x1000, 0x40, 0}, {0x2000, ~size_t{0} - 3, 3}};
const std::vector<nixlBlobDesc> kBlobs = {{0x1000, 0x40, 0, "KEY"}, {0x2000, 0x80, 3, ""}, {0, 0, 9, "longer key"}};

template<class Descriptor>
std::string
encoded(nixl_mem_t memory, const std::vector<Descriptor> &descs) {
    std::string bytes;
    Writer writer(bytes);
    encodeList(writer, memory, std::span<const Descriptor>(descs));
    return bytes;
}

/// The bytes of a blob list that claims `memory` and `count` and holds one descriptor.
std::string
claiming(std::string_view kind, uint32_t memory, uint64_t count, size_t payload_bytes = sizeof(nixlBasicDesc)) {
    std::string bytes;
    Writer writer(bytes);
    writer.field("nixlDList", kind);
    writer.integer("t", memory);
    writer.integer("n", count);
    writer.field("", std::string(payload_bytes, 'd'));
    return bytes;
}

std::string
failureOf(Reader reader) {
    return std::move(reader).status().message();
}

TEST(WireDescriptors, BasicListComesBack) {
    for (const auto &descs : {kRanges, std::vector<nixlBasicDesc>()}) {
        const std::string bytes = encoded(VRAM_SEG, descs);
        EXPECT_EQ(bytes.size(), encodedSize(std::span<const nixlBasicDesc>(descs)));
        Reader reader(bytes);
        const auto list = decodeBasicList(reader);
        ASSERT_TRUE(reader.ok());
        EXPECT_EQ(list.memory, VRAM_SEG);
        EXPECT_EQ(list.descs, descs);
        EXPECT_EQ(reader.remaining(), 0u);
    }
}

TEST(WireDescriptors, BlobListComesBack) {
    for (const auto &descs : {kBlobs, std::vector<nixlBlobDesc>()}) {
        const std::string bytes = encoded(FILE_SEG, descs);
        EXPECT_EQ(bytes.size(), encodedSize(std::span<const nixlBlobDesc>(descs)));
        Reader reader(bytes);
        const auto list = decodeBlobList(reader);
        ASSERT_TRUE(reader.ok());
        EXPECT_EQ(list.memory, FILE_SEG);
        EXPECT_EQ(list.descs, descs);
        EXPECT_EQ(reader.remaining(), 0u);
    }
}

TEST(WireDescriptors, OneKindIsNotReadAsTheOther) {
    const std::string basic = encoded(DRAM_SEG, kRanges);
    const std::string blob = encoded(DRAM_SEG, kBlobs);
    Reader basic_reader(basic);
    EXPECT_TRUE(decodeBlobList(basic_reader).descs.empty());
    EXPECT_EQ(failureOf(std::move(basic_reader)),
              "nixlSerDes field 'nixlDList' at byte 0 holds 'nixlBDList' instead of 'nixlSDList'");
    Reader blob_reader(blob);
    EXPECT_TRUE(decodeBasicList(blob_reader).descs.empty());
    EXPECT_FALSE(blob_reader.ok());
}

TEST(WireDescriptors, MemoryTypesOutsideTheEnumAreRefused) {
    for (const uint32_t memory : {5u, 6u, 0x7fffffffu, 0x80000000u, 0xffffffffu}) {
        for (const std::string_view kind : {"nixlBDList", "nixlSDList"}) {
            const std::string bytes = claiming(kind, memory, 1);
            Reader reader(bytes);
            if (kind == "nixlBDList") {
                EXPECT_TRUE(decodeBasicList(reader).descs.empty());
            } else {
                EXPECT_TRUE(decodeBlobList(reader).descs.empty());
            }
            EXPECT_EQ(failureOf(std::move(reader)),
                      "descriptor list at byte 0 has memory type " + std::to_string(memory) + "; the types are 0 to 4");
        }
    }
}

TEST(WireDescriptors, CountsThatTheBytesCannotHoldAreRefusedBeforeAllocating) {
    for (const uint64_t count : {uint64_t{2}, uint64_t{1} << 31, uint64_t{1} << 40, (~uint64_t{0}) / 24,
                                 (~uint64_t{0}) / 24 + 1, ~uint64_t{0}}) {
        const std::string basic = claiming("nixlBDList", 0, count);
        Reader basic_reader(basic);
        EXPECT_TRUE(decodeBasicList(basic_reader).descs.empty());
        EXPECT_FALSE(basic_reader.ok()) << count;
        const std::string blob = claiming("nixlSDList", 0, count);
        Reader blob_reader(blob);
        EXPECT_TRUE(decodeBlobList(blob_reader).descs.empty());
        EXPECT_FALSE(blob_reader.ok()) << count;
    }
}

TEST(WireDescriptors, CountAndBytesOfABasicListMustAgree) {
    for (const size_t payload_bytes : {size_t{23}, size_t{25}, size_t{47}, size_t{49}, size_t{72}}) {
        const std::string bytes = claiming("nixlBDList", 0, 2, payload_bytes);
        Reader reader(bytes);
        EXPECT_TRUE(decodeBasicList(reader).descs.empty());
        EXPECT_FALSE(reader.ok()) << payload_bytes;
    }
}

TEST(WireDescriptors, BlobDescriptorsShorterThanARangeAreRefused) {
    std::string bytes = claiming("nixlSDList", 0, 1, 23);
    bytes.append(16, 'x'); // enough for the count to be plausible
    Reader reader(bytes);
    EXPECT_TRUE(decodeBlobList(reader).descs.empty());
    EXPECT_EQ(failureOf(std::move(reader)), "descriptor 0 at byte 60 has 23 bytes; a descriptor has at least 24");
}

TEST(WireDescriptors, MoreThanTheCallerAllowsIsRefused) {
    const std::string bytes = encoded(DRAM_SEG, kBlobs);
    Reader enough(bytes);
    EXPECT_EQ(decodeBlobList(enough, 3).descs.size(), 3u);
    Reader too_many(bytes);
    EXPECT_TRUE(decodeBlobList(too_many, 2).descs.empty());
    EXPECT_FALSE(too_many.ok());
}

TEST(WireDescriptors, EveryTruncationIsRefused) {
    for (const std::string &bytes : {encoded(DRAM_SEG, kBlobs), encoded(DRAM_SEG, kRanges)}) {
        for (size_t size = 0; size < bytes.size(); ++size) {
            Reader basic(std::string_view(bytes).substr(0, size));
            EXPECT_TRUE(decodeBasicList(basic).descs.empty());
            EXPECT_FALSE(basic.ok()) << size;
            Reader blob(std::string_view(bytes).substr(0, size));
            EXPECT_TRUE(decodeBlobList(blob).descs.empty());
            EXPECT_FALSE(blob.ok()) << size;
        }
    }
}

} // namespace
} // namespace nx::wire
