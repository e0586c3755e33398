// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The descriptor classes and lists of the API: arithmetic at the edges, recorded bytes of NIXL both ways, hostile
// bytes.
#include "nixl_descriptors.h"

#include <limits>
#include <stdexcept>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backend/backend_aux.h"
#include "golden/golden.h"
#include "utils/serdes/serdes.h"

namespace {

using nx::test::golden;
using testing::HasSubstr;

constexpr uintptr_t kLast = std::numeric_limits<uintptr_t>::max();

template<class List>
std::string
serialized(const List &list) {
    nixlSerDes serdes;
    EXPECT_EQ(list.serialize(&serdes), NIXL_SUCCESS);
    return serdes.exportStr();
}

template<class List>
List
deserialized(const std::string &bytes) {
    nixlSerDes serdes;
    EXPECT_EQ(serdes.importStr(bytes), NIXL_SUCCESS);
    return List(&serdes);
}

nixl_xfer_dlist_t
goldenXferList() {
    nixl_xfer_dlist_t list(DRAM_SEG);
    list.addDesc({0x1000, 0x40, 0});
    list.addDesc({0x2000, 0x80, 3});
    return list;
}

nixl_reg_dlist_t
goldenRegList() {
    nixl_reg_dlist_t list(FILE_SEG);
    list.emplace(0, 4096, 7, "rw:/x");
    list.emplace(4096, 10, 8, "");
    return list;
}

TEST(BasicDesc, CoversRangesInsideIt) {
    const nixlBasicDesc whole(0x1000, 0x100, 1);
    EXPECT_TRUE(whole.covers(whole));
    EXPECT_TRUE(whole.covers({0x1000, 1, 1}));
    EXPECT_TRUE(whole.covers({0x10ff, 1, 1}));
    EXPECT_TRUE(whole.covers({0x1000, 0, 1}));
    EXPECT_TRUE(whole.covers({0x1100, 0, 1}));
    EXPECT_FALSE(whole.covers({0x1101, 0, 1}));
    EXPECT_FALSE(whole.covers({0xfff, 1, 1}));
    EXPECT_FALSE(whole.covers({0x10ff, 2, 1}));
    EXPECT_FALSE(whole.covers({0x1000, 0x100, 2}));
}

TEST(BasicDesc, CoversNothingThatWraps) {
    const nixlBasicDesc registered(0x1000, 4096, 0);
    EXPECT_FALSE(registered.covers({0x1004, kLast - 3, 0}));
    EXPECT_FALSE(registered.covers({0x1000, kLast, 0}));
    const nixlBasicDesc at_the_end(kLast - 15, 16, 0);
    EXPECT_TRUE(at_the_end.covers({kLast, 1, 0}));
    EXPECT_TRUE(at_the_end.covers(at_the_end));
    const nixlBasicDesc impossible(kLast - 15, 64, 0);
    EXPECT_TRUE(impossible.covers({kLast - 15, 16, 0}));
    EXPECT_FALSE(impossible.covers({kLast - 15, 17, 0}));
    EXPECT_FALSE(impossible.covers({kLast, 2, 0}));
}

TEST(BasicDesc, OverlapsWhenAByteIsShared) {
    const nixlBasicDesc range(0x1000, 0x100, 1);
    EXPECT_TRUE(range.overlaps({0x10ff, 10, 1}));
    EXPECT_TRUE(range.overlaps({0xfff, 2, 1}));
    EXPECT_TRUE(range.overlaps({0, kLast, 1}));
    EXPECT_TRUE(range.overlaps({0x10ff, kLast, 1}));
    EXPECT_FALSE(range.overlaps({0x1100, 10, 1}));
    EXPECT_FALSE(range.overlaps({0xfff, 1, 1}));
    EXPECT_FALSE(range.overlaps({0x1000, 0x100, 2}));
    EXPECT_FALSE(range.overlaps({0x1010, 0, 1}));
    EXPECT_FALSE(nixlBasicDesc(0x1010, 0, 1).overlaps(range));
    EXPECT_FALSE(nixlBasicDesc(kLast, 1, 1).overlaps({0, 16, 1}));
}

TEST(BasicDesc, OrdersByDeviceAddressLength) {
    EXPECT_LT(nixlBasicDesc(9, 9, 0), nixlBasicDesc(1, 1, 1));
    EXPECT_LT(nixlBasicDesc(1, 9, 1), nixlBasicDesc(2, 1, 1));
    EXPECT_LT(nixlBasicDesc(1, 1, 1), nixlBasicDesc(1, 2, 1));
    EXPECT_FALSE(nixlBasicDesc(1, 1, 1) < nixlBasicDesc(1, 1, 1));
    EXPECT_NE(nixlBasicDesc(1, 1, 1), nixlBasicDesc(1, 1, 2));
}

TEST(BasicDesc, SerializesToItsMemoryAndBack) {
    const nixlBasicDesc desc(0x1000, 0x40, 3);
    EXPECT_EQ(desc.serialize(), std::string("\0\x10\0\0\0\0\0\0\x40\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0", 24));
    EXPECT_EQ(nixlBasicDesc(desc.serialize()), desc);
    EXPECT_EQ(nixlBasicDesc(desc.serialize() + "x"), nixlBasicDesc(0, 0, 0));
    EXPECT_EQ(nixlBasicDesc(nixl_blob_t("short")), nixlBasicDesc(0, 0, 0));
}

TEST(BlobDesc, SerializesRangeThenMeta) {
    const nixlBlobDesc desc(1, 2, 3, "meta");
    EXPECT_EQ(desc.serialize(), nixlBasicDesc(1, 2, 3).serialize() + "meta");
    EXPECT_EQ(nixlBlobDesc(desc.serialize()), desc);
    EXPECT_EQ(nixlBlobDesc(nixlBasicDesc(1, 2, 3).serialize()), nixlBlobDesc(1, 2, 3, ""));
    EXPECT_EQ(nixlBlobDesc(nixl_blob_t(23, 'x')), nixlBlobDesc(0, 0, 0, ""));
    EXPECT_FALSE(desc == nixlBlobDesc(1, 2, 3, "other"));
}

TEST(RemoteDesc, SerializesRangeThenAgent) {
    const nixlRemoteDesc desc(1, 2, 3, "agent");
    EXPECT_EQ(desc.serialize(), nixlBasicDesc(1, 2, 3).serialize() + "agent");
    EXPECT_EQ(nixlRemoteDesc(desc.serialize()), desc);
    EXPECT_EQ(nixlRemoteDesc(nixl_blob_t("short")), nixlRemoteDesc(0, 0, 0, ""));
}

TEST(DescList, WritesTheBytesOfNixl) {
    EXPECT_EQ(serialized(goldenXferList()), golden("xfer_dlist.serdes.bin"));
    EXPECT_EQ(serialized(goldenRegList()), golden("reg_dlist.serdes.bin"));
    EXPECT_EQ(serialized(nixl_xfer_dlist_t(DRAM_SEG)), golden("empty_xfer_dlist.serdes.bin"));
}

TEST(DescList, ReadsTheBytesOfNixl) {
    EXPECT_EQ(deserialized<nixl_xfer_dlist_t>(golden("xfer_dlist.serdes.bin")), goldenXferList());
    EXPECT_EQ(deserialized<nixl_reg_dlist_t>(golden("reg_dlist.serdes.bin")), goldenRegList());
    EXPECT_EQ(deserialized<nixl_xfer_dlist_t>(golden("empty_xfer_dlist.serdes.bin")), nixl_xfer_dlist_t(DRAM_SEG));
}

TEST(DescList, RecordedPicklesHoldTheseBytes) {
    EXPECT_THAT(golden("xfer_dlist.pickle"), HasSubstr(serialized(goldenXferList())));
    EXPECT_THAT(golden("reg_dlist.pickle"), HasSubstr(serialized(goldenRegList())));
}

TEST(DescList, OneDescriptorHasTheBytesComputedByHand) {
    nixl_xfer_dlist_t list(DRAM_SEG);
    list.addDesc({0x1000, 0x40, 0});
    const std::string expected("nixlSerDes|nixlDList\x0a\0\0\0\0\0\0\0nixlBDList|t\4\0\0\0\0\0\0\0\0\0\0\0|n"
                               "\x08\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0|\x18\0\0\0\0\0\0\0"
                               "\0\x10\0\0\0\0\0\0\x40\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0|",
                               104);
    EXPECT_EQ(serialized(list), expected);
}

TEST(DescList, ListsStandOneBehindTheOtherInOneSerDes) {
    nixlSerDes writer;
    writer.addStr("before", "x");
    goldenXferList().serialize(&writer);
    goldenRegList().serialize(&writer);
    writer.addStr("behind", "y");

    nixlSerDes reader;
    ASSERT_EQ(reader.importStr(writer.exportStr()), NIXL_SUCCESS);
    EXPECT_EQ(reader.getStr("before"), "x");
    EXPECT_EQ(nixl_xfer_dlist_t(&reader), goldenXferList());
    EXPECT_EQ(nixl_reg_dlist_t(&reader), goldenRegList());
    EXPECT_EQ(reader.getStr("behind"), "y");
}

TEST(DescList, WrongBytesGiveAnEmptyListAndOneLogLine) {
    testing::internal::CaptureStderr();
    const auto list = deserialized<nixl_xfer_dlist_t>(golden("reg_dlist.serdes.bin"));
    const std::string log = testing::internal::GetCapturedStderr();
    EXPECT_EQ(list, nixl_xfer_dlist_t(DRAM_SEG));
    EXPECT_THAT(log, HasSubstr("Deserialization failed, nixlSerDes field 'nixlDList' at byte 11 holds 'nixlSDList'"));
    EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1);
}

TEST(DescList, AFailedReadKeepsTheCursor) {
    nixlSerDes serdes;
    goldenRegList().serialize(&serdes);
    testing::internal::CaptureStderr();
    EXPECT_TRUE(nixl_xfer_dlist_t(&serdes).isEmpty());
    testing::internal::GetCapturedStderr();
    EXPECT_EQ(nixl_reg_dlist_t(&serdes), goldenRegList());
}

TEST(DescList, EveryTruncationGivesAnEmptyList) {
    testing::internal::CaptureStderr();
    const std::string bytes = golden("reg_dlist.serdes.bin");
    for (size_t size = 11; size < bytes.size(); ++size) {
        const auto list = deserialized<nixl_reg_dlist_t>(bytes.substr(0, size));
        EXPECT_TRUE(list.isEmpty()) << size;
        EXPECT_EQ(list.getType(), DRAM_SEG) << size;
    }
    testing::internal::GetCapturedStderr();
}

TEST(DescList, EverySingleByteChangeGivesAnEmptyListOrAnotherValidOne) {
    testing::internal::CaptureStderr();
    const std::string bytes = golden("reg_dlist.serdes.bin");
    for (size_t i = 11; i < bytes.size(); ++i) {
        for (int value = 0; value < 256; ++value) {
            std::string damaged = bytes;
            damaged[i] = static_cast<char>(value);
            const auto list = deserialized<nixl_reg_dlist_t>(damaged);
            if (list.isEmpty()) continue;
            EXPECT_LE(list.getType(), FILE_SEG);
            EXPECT_TRUE(damaged.starts_with(serialized(list))) << i << " " << value;
        }
    }
    testing::internal::GetCapturedStderr();
}

TEST(DescList, NullSerDesIsAnEmptyListOrInvalid) {
    nixlSerDes *const none = nullptr;
    EXPECT_TRUE(nixl_xfer_dlist_t(none).isEmpty());
    EXPECT_EQ(goldenXferList().serialize(nullptr), NIXL_ERR_INVALID_PARAM);
}

TEST(DescList, OnlyBasicAndBlobListsHaveAWireForm) {
    nixlSerDes serdes;
    EXPECT_EQ(nixl_remote_dlist_t(DRAM_SEG, 1).serialize(&serdes), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(nixlDescList<nixlStrideDesc>(DRAM_SEG, 1).serialize(&serdes), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(nixl_meta_dlist_t(DRAM_SEG, 1).serialize(&serdes), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(nixl_stride_dlist_t(DRAM_SEG, 1).serialize(&serdes), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(nixl_remote_meta_dlist_t(DRAM_SEG, 1).serialize(&serdes), NIXL_ERR_NOT_SUPPORTED);
    EXPECT_EQ(serdes.exportStr(), "nixlSerDes|");
    goldenXferList().serialize(&serdes);
    EXPECT_TRUE(nixl_remote_dlist_t(&serdes).isEmpty());
}

TEST(DescList, SecondArgumentIsANumberOfElements) {
    EXPECT_EQ(nixl_xfer_dlist_t(VRAM_SEG, 3).descCount(), 3);
    EXPECT_EQ(nixl_xfer_dlist_t(VRAM_SEG, true).descCount(), 1);
    EXPECT_THROW(nixl_xfer_dlist_t(VRAM_SEG, -1), std::length_error);
}

TEST(DescList, ElementsAreAddedChangedAndRemoved) {
    nixl_xfer_dlist_t list = goldenXferList();
    list.resize(3);
    list[2] = nixlBasicDesc(7, 8, 9);
    EXPECT_EQ(list.descCount(), 3);
    list.remDesc(0);
    EXPECT_EQ(list[0], nixlBasicDesc(0x2000, 0x80, 3));
    EXPECT_EQ(list[1], nixlBasicDesc(7, 8, 9));
    EXPECT_THROW(list.remDesc(2), std::out_of_range);
    EXPECT_THROW(list.remDesc(-1), std::out_of_range);
    list.clear();
    EXPECT_TRUE(list.isEmpty());
}

TEST(DescList, IndexIsThatOfTheFirstEqualRange) {
    nixl_reg_dlist_t list = goldenRegList();
    list.emplace(4096, 10, 8, "twice");
    EXPECT_EQ(list.getIndex({4096, 10, 8}), 1);
    EXPECT_EQ(list.getIndex({4096, 11, 8}), NIXL_ERR_NOT_FOUND);
}

TEST(DescList, TrimKeepsTypeAndRanges) {
    const auto trimmed = goldenRegList().trim();
    EXPECT_EQ(trimmed.getType(), FILE_SEG);
    ASSERT_EQ(trimmed.descCount(), 2);
    EXPECT_EQ(trimmed[0], nixlBasicDesc(0, 4096, 7));
    EXPECT_EQ(trimmed[1], nixlBasicDesc(4096, 10, 8));
}

TEST(DescList, EqualityIncludesTypeAndExtras) {
    EXPECT_TRUE(goldenRegList() == goldenRegList());
    nixl_reg_dlist_t other_meta = goldenRegList();
    other_meta[1].metaInfo = "x";
    EXPECT_FALSE(goldenRegList() == other_meta);
    EXPECT_FALSE(nixl_reg_dlist_t(DRAM_SEG) == nixl_reg_dlist_t(VRAM_SEG));
}

TEST(DescList, TextNamesTypeAndCountsLengths) {
    nixl_xfer_dlist_t list = goldenXferList();
    list.emplace(0x3000, 0x40, 0);
    EXPECT_EQ(list.to_string(), "DescList of mem type 0");
    EXPECT_EQ(list.to_string(true), "DescList of mem type 0 with 3 descs, len:count 64:2 128:1");
}

TEST(DescList, PrintGoesToStandardOutput) {
    testing::internal::CaptureStdout();
    goldenXferList().print();
    EXPECT_EQ(testing::internal::GetCapturedStdout(),
              "DescList of mem type 0 with 2 descs, len:count 64:1 128:1\n"
              "    address 0x1000, length 64, device 0\n"
              "    address 0x2000, length 128, device 3\n");
}

TEST(MetaStrideDesc, ConsecutiveBlocksAreOneRange) {
    const nixlMetaStrideDesc desc(0x1000, 16, 2, nullptr, 64, 4);
    EXPECT_EQ(desc.getMetaDesc(2), nixlMetaDesc(0x1080, 16, 2, nullptr));
    EXPECT_EQ(nixlMetaStrideDesc(0x1000, 64, 2, nullptr, 64, 4).getMetaDesc(1, 3),
              nixlMetaDesc(0x1040, 192, 2, nullptr));
}

TEST(MetaStrideDescList, FindsTheElementOfABlock) {
    nixl_stride_dlist_t list(DRAM_SEG);
    EXPECT_EQ(list.flatSize(), 0u);
    list.emplace(0x1000, 16, 0, nullptr, 64, 4, 0);
    list.emplace(0x9000, 16, 0, nullptr, 32, 1, 4);
    list.emplace(0xa000, 16, 0, nullptr, 32, 3, 5);
    EXPECT_EQ(list.flatSize(), 8u);
    size_t run = 0;
    EXPECT_EQ(list.find(0, run).addr, 0x1000u);
    EXPECT_EQ(run, 4u);
    EXPECT_EQ(list.find(3, run).addr, 0x1000u);
    EXPECT_EQ(run, 1u);
    EXPECT_EQ(list.find(4, run).addr, 0x9000u);
    EXPECT_EQ(run, 1u);
    EXPECT_EQ(list.find(6, run).addr, 0xa000u);
    EXPECT_EQ(run, 2u);
    EXPECT_THROW(list.find(8, run), std::out_of_range);
    EXPECT_THROW(nixl_stride_dlist_t(DRAM_SEG).find(0, run), std::out_of_range);
    EXPECT_EQ(run, 2u);
}

} // namespace
