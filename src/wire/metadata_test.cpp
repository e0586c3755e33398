// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Metadata blobs: recorded ones of NIXL both ways, the trailer, the limits, and hostile bytes of every kind.
#include "wire/metadata.h"

#include <gtest/gtest.h>

#include "golden/golden.h"
#include "utils/serdes/serdes.h"
#include "wire/limits.h"
#include "wire/writer.h"

namespace nx::wire {
namespace {

std::string
fromHex(std::string_view hex) {
    std::string bytes;
    for (size_t i = 0; i + 1 < hex.size();) {
        if (hex[i] == ' ') {
            ++i;
            continue;
        }
        bytes.push_back(static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16)));
        i += 2;
    }
    return bytes;
}

/// Agent "A", a UCX connection aa bb, a DRAM section with one descriptor and the key "KEY".
Metadata
smallMetadata() {
    return {"A", {{"UCX", "\xaa\xbb"}}, {{"UCX", DRAM_SEG, {{0x1000, 0x40, 0, "KEY"}}}}, std::nullopt};
}

Trailer
sampleTrailer() {
    Trailer trailer;
    for (size_t i = 0; i < trailer.incarnation.size(); ++i) trailer.incarnation[i] = static_cast<uint8_t>(0xf0 + i);
    trailer.features = 0x8000000000000001;
    trailer.peer_info = {{"UCX", "other address"}, {"SHM", std::string("\0x", 2)}};
    return trailer;
}

Metadata
fullMetadata() {
    Metadata metadata = smallMetadata();
    metadata.connections.push_back({"POSIX", ""});
    metadata.sections.push_back({"UCX", VRAM_SEG, {}});
    metadata.sections.push_back({"OBJ", FILE_SEG, {{1, 2, 3, "NIXLCOMM:SEND"}, {~uintptr_t{0}, ~size_t{0}, 4, ""}}});
    metadata.trailer = sampleTrailer();
    return metadata;
}

void
expectEqual(const std::vector<Connection> &a, const std::vector<Connection> &b) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) {
        EXPECT_EQ(a[i].backend, b[i].backend);
        EXPECT_EQ(a[i].info, b[i].info);
    }
}

void
expectEqual(const Metadata &a, const Metadata &b) {
    EXPECT_EQ(a.agent, b.agent);
    expectEqual(a.connections, b.connections);
    ASSERT_EQ(a.sections.size(), b.sections.size());
    for (size_t i = 0; i < a.sections.size(); ++i) {
        EXPECT_EQ(a.sections[i].backend, b.sections[i].backend);
        EXPECT_EQ(a.sections[i].memory, b.sections[i].memory);
        EXPECT_EQ(a.sections[i].descs, b.sections[i].descs);
    }
    ASSERT_EQ(a.trailer.has_value(), b.trailer.has_value());
    if (!a.trailer) return;
    EXPECT_EQ(a.trailer->version, b.trailer->version);
    EXPECT_EQ(a.trailer->incarnation, b.trailer->incarnation);
    EXPECT_EQ(a.trailer->features, b.trailer->features);
    expectEqual(a.trailer->peer_info, b.trailer->peer_info);
}

/// `blob` with `count` connections claimed, as anyone could send it.
std::string
blobUpToConnections(std::string_view agent, uint64_t count) {
    std::string blob;
    Writer writer(blob);
    writer.prefix();
    writer.field("Agent", agent);
    writer.integer("Conns", count);
    return blob;
}

/// smallMetadata() with a trailer of this payload and the check that docs/wire.md describes.
std::string
withTrailer(const std::string &payload) {
    uint64_t check = 0xcbf29ce484222325;
    for (const char byte : payload) check = (check ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
    std::string blob = encodeMetadata(smallMetadata());
    Writer writer(blob);
    writer.field("nixlxTrailer", payload);
    writer.integer("nixlxCheck", check);
    return blob;
}

TEST(Metadata, HasTheBytesOfNixl) {
    EXPECT_EQ(encodeMetadata(smallMetadata()),
              fromHex("6e69786c5365724465737c 4167656e74 0100000000000000 41 7c 436f6e6e73 0800000000000000"
                      "0100000000000000 7c 74 0300000000000000 554358 7c 63 0200000000000000 aabb 7c"
                      "0a00000000000000 4d656d53656374696f6e 7c 6e69786c536563456c6d73 0800000000000000"
                      "0100000000000000 7c 626b6e64 0300000000000000 554358 7c 6e69786c444c697374 0a00000000000000"
                      "6e69786c53444c697374 7c 74 0400000000000000 00000000 7c 6e 0800000000000000"
                      "0100000000000000 7c 1b00000000000000 0010000000000000 4000000000000000 0000000000000000"
                      "4b4559 7c"));
}

TEST(Metadata, RecordedFullBlobDecodesAndEncodesToItself) {
    const std::string blob = test::golden("metadata_full.bin");
    const auto decoded = decodeMetadata(blob);
    ASSERT_TRUE(decoded.ok()) << decoded.message();
    const Metadata &metadata = *decoded;
    EXPECT_EQ(metadata.agent, "golden-agent");
    ASSERT_EQ(metadata.connections.size(), 1u);
    EXPECT_EQ(metadata.connections[0].backend, "UCX");
    EXPECT_EQ(metadata.connections[0].info.size(), 213u);
    ASSERT_EQ(metadata.sections.size(), 1u);
    EXPECT_EQ(metadata.sections[0].backend, "UCX");
    EXPECT_EQ(metadata.sections[0].memory, DRAM_SEG);
    ASSERT_EQ(metadata.sections[0].descs.size(), 2u);
    EXPECT_EQ(metadata.sections[0].descs[0], nixlBlobDesc(0x598dd10, 4096, 0, fromHex("01000000000000000000ff")));
    EXPECT_EQ(metadata.sections[0].descs[1], nixlBlobDesc(0x598fd10, 4096, 0, fromHex("01000000000000000000ff")));
    EXPECT_FALSE(metadata.trailer);
    EXPECT_EQ(encodeMetadata(metadata), blob);
}

TEST(Metadata, RecordedPartialBlobsDecodeAndEncodeToThemselves) {
    for (const auto &[name, connections] : {std::pair("metadata_partial.bin", 0u), {"metadata_partial_conn.bin", 1u}}) {
        const std::string blob = test::golden(name);
        const auto decoded = decodeMetadata(blob);
        ASSERT_TRUE(decoded.ok()) << decoded.message();
        EXPECT_EQ((*decoded).agent, "golden-agent");
        EXPECT_EQ((*decoded).connections.size(), connections);
        ASSERT_EQ((*decoded).sections.size(), 1u);
        ASSERT_EQ((*decoded).sections[0].descs.size(), 1u);
        EXPECT_EQ((*decoded).sections[0].descs[0].addr, 0x598dd10u);
        EXPECT_EQ(encodeMetadata(*decoded), blob);
    }
}

TEST(Metadata, EverythingComesBack) {
    for (const Metadata &metadata : {smallMetadata(), fullMetadata(), Metadata{"nothing else", {}, {}, {}}}) {
        const auto decoded = decodeMetadata(encodeMetadata(metadata));
        ASSERT_TRUE(decoded.ok()) << decoded.message();
        expectEqual(*decoded, metadata);
    }
}

TEST(Metadata, EncodingAllocatesItsExactSize) {
    const std::string blob = encodeMetadata(fullMetadata());
    EXPECT_EQ(blob.capacity(), blob.size());
}

TEST(Metadata, TrailerStandsBehindAllFieldsOfNixl) {
    Metadata metadata = fullMetadata();
    const std::string with_trailer = encodeMetadata(metadata);
    metadata.trailer.reset();
    const std::string without = encodeMetadata(metadata);
    EXPECT_TRUE(with_trailer.starts_with(without + "nixlxTrailer"));
}

TEST(Metadata, TrailerHasTheDocumentedBytes) {
    Metadata metadata = smallMetadata();
    const std::string without = encodeMetadata(metadata);
    metadata.trailer = Trailer{};
    for (size_t i = 0; i < 16; ++i) metadata.trailer->incarnation[i] = static_cast<uint8_t>(i);
    metadata.trailer->features = 5;
    EXPECT_EQ(encodeMetadata(metadata).substr(without.size()),
              fromHex("6e69786c78547261696c6572 6700000000000000 76657273696f6e 0400000000000000 01000000 7c"
                      "696e6361726e6174696f6e 1000000000000000 000102030405060708090a0b0c0d0e0f 7c"
                      "6665617475726573 0800000000000000 0500000000000000 7c"
                      "436f6e6e73 0800000000000000 0000000000000000 7c 7c"
                      "6e69786c78436865636b 0800000000000000 21d33d689bcf7819 7c"));
}

TEST(Metadata, BytesBehindTheLastFieldAreIgnored) {
    for (const std::string_view behind : {"x", "nixlxTrailer", "anything else, for example of a later NIXL"}) {
        const auto decoded = decodeMetadata(encodeMetadata(smallMetadata()).append(behind));
        ASSERT_TRUE(decoded.ok()) << decoded.message();
        expectEqual(*decoded, smallMetadata());
    }
}

TEST(Metadata, BytesBehindTheTrailerAreIgnored) {
    const auto decoded = decodeMetadata(encodeMetadata(fullMetadata()) + "what a later version appends");
    ASSERT_TRUE(decoded.ok());
    expectEqual(*decoded, fullMetadata());
}

TEST(Metadata, TrailerOfALaterVersionIsAbsent) {
    Metadata metadata = fullMetadata();
    metadata.trailer->version = 2;
    const auto decoded = decodeMetadata(encodeMetadata(metadata));
    ASSERT_TRUE(decoded.ok());
    metadata.trailer.reset();
    expectEqual(*decoded, metadata);
}

TEST(Metadata, TrailerWithFieldsOfALaterWriterIsRead) {
    Metadata metadata = smallMetadata();
    metadata.trailer = sampleTrailer();
    const std::string blob = encodeMetadata(metadata);
    const size_t begin = blob.find("nixlxTrailer") + std::string_view("nixlxTrailer").size() + 8;
    const size_t end = blob.rfind("|nixlxCheck");
    std::string payload = blob.substr(begin, end - begin);
    Writer(payload).field("limits", "added later");
    const auto decoded = decodeMetadata(withTrailer(payload));
    ASSERT_TRUE(decoded.ok());
    expectEqual(*decoded, metadata);
}

TEST(Metadata, WellFramedTrailerWithWrongFieldsIsAbsent) {
    std::string payload;
    Writer(payload).integer("version", uint32_t{1});
    const auto decoded = decodeMetadata(withTrailer(payload));
    ASSERT_TRUE(decoded.ok());
    expectEqual(*decoded, smallMetadata());
}

TEST(Metadata, EveryDamageToTheTrailerMakesItAbsentAndNothingElse) {
    Metadata metadata = fullMetadata();
    const std::string blob = encodeMetadata(metadata);
    metadata.trailer.reset();
    const size_t start = encodeMetadata(metadata).size();
    for (size_t i = start; i < blob.size(); ++i) {
        const auto truncated = decodeMetadata(std::string_view(blob).substr(0, i));
        ASSERT_TRUE(truncated.ok()) << i;
        expectEqual(*truncated, metadata);
        for (int bit = 0; bit < 8; ++bit) {
            std::string damaged = blob;
            damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
            const auto decoded = decodeMetadata(damaged);
            ASSERT_TRUE(decoded.ok()) << i;
            EXPECT_FALSE((*decoded).trailer) << i << " bit " << bit;
        }
    }
}

TEST(Metadata, EveryTruncationBeforeTheTrailerIsAMismatch) {
    Metadata metadata = fullMetadata();
    metadata.trailer.reset();
    const std::string blob = encodeMetadata(metadata);
    for (size_t size = 0; size < blob.size(); ++size) {
        const auto decoded = decodeMetadata(std::string_view(blob).substr(0, size));
        EXPECT_EQ(decoded.code(), NIXL_ERR_MISMATCH) << size;
        EXPECT_TRUE(decoded.message().starts_with("metadata blob: ")) << decoded.message();
        EXPECT_NE(decoded.message().find("byte "), std::string::npos) << decoded.message();
    }
}

TEST(Metadata, EverySingleByteChangeIsRefusedOrStaysWithinItsField) {
    Metadata metadata = fullMetadata();
    metadata.trailer.reset();
    const std::string blob = encodeMetadata(metadata);
    size_t accepted = 0;
    for (size_t i = 0; i < blob.size(); ++i) {
        for (int value = 0; value < 256; ++value) {
            std::string damaged = blob;
            damaged[i] = static_cast<char>(value);
            const auto decoded = decodeMetadata(damaged);
            if (!decoded.ok()) {
                EXPECT_EQ(decoded.code(), NIXL_ERR_MISMATCH);
                continue;
            }
            ++accepted;
            // What is accepted is exactly what was sent: nothing was skipped, guessed or made up.
            EXPECT_TRUE(damaged.starts_with(encodeMetadata(*decoded))) << i << " " << value;
        }
    }
    EXPECT_GE(accepted, blob.size()); // the unchanged byte at each position
}

TEST(Metadata, MemoryTypeOutsideTheEnumIsRefused) {
    // NIXL 1.4 indexes an array of five with it.
    std::string blob = encodeMetadata(smallMetadata());
    const size_t memory = blob.find("nixlSDList|t") + std::string_view("nixlSDList|t").size() + 8;
    for (const uint32_t value : {5u, 255u, 0x7fffffffu, 0x80000000u, 0xffffffffu}) {
        std::memcpy(blob.data() + memory, &value, sizeof value);
        const auto decoded = decodeMetadata(blob);
        EXPECT_EQ(decoded.code(), NIXL_ERR_MISMATCH);
        EXPECT_NE(decoded.message().find("memory type " + std::to_string(value)), std::string::npos);
    }
}

TEST(Metadata, LengthThatWouldMoveTheCursorBackIsRefused) {
    // NIXL 1.4 adds the length to its cursor, arrives at the same field again and loops as often as the count says.
    const uint64_t count = 3;
    for (uint64_t back = 1; back <= 32; ++back) {
        std::string blob = blobUpToConnections("A", count) + "t";
        const uint64_t length = uint64_t{0} - back;
        blob.append(reinterpret_cast<const char *>(&length), sizeof length).append(64, '|');
        EXPECT_EQ(decodeMetadata(blob).code(), NIXL_ERR_MISMATCH) << back;
    }
}

TEST(Metadata, CountsBeyondTheRemainingBytesAreRefused) {
    for (const uint64_t count : {uint64_t{1}, uint64_t{1} << 32, uint64_t{1} << 63, ~uint64_t{0}}) {
        const auto decoded = decodeMetadata(blobUpToConnections("A", count));
        EXPECT_EQ(decoded.message(),
                  "metadata blob: nixlSerDes field 'Conns' at byte 26 counts " + std::to_string(count) +
                      " elements; at most 1024 are allowed and 0 bytes remain for them");
    }
    for (const uint64_t count : {uint64_t{1}, uint64_t{1} << 32, ~uint64_t{0}}) {
        std::string blob = blobUpToConnections("A", 0);
        Writer writer(blob);
        writer.field("", "MemSection");
        writer.integer("nixlSecElms", count);
        EXPECT_EQ(decodeMetadata(blob).code(), NIXL_ERR_MISMATCH) << count;
    }
}

TEST(Metadata, EmptyNamesAreRefused) {
    Metadata metadata = smallMetadata();
    metadata.agent.clear();
    EXPECT_EQ(decodeMetadata(encodeMetadata(metadata)).code(), NIXL_ERR_MISMATCH);
    metadata = smallMetadata();
    metadata.connections[0].backend.clear();
    EXPECT_EQ(decodeMetadata(encodeMetadata(metadata)).code(), NIXL_ERR_MISMATCH);
    metadata = smallMetadata();
    metadata.sections[0].backend.clear();
    EXPECT_EQ(decodeMetadata(encodeMetadata(metadata)).code(), NIXL_ERR_MISMATCH);
}

TEST(Metadata, NamesUpToTheLimitAreAccepted) {
    Metadata metadata = smallMetadata();
    metadata.agent.assign(kNameBytesMax, 'a');
    EXPECT_TRUE(decodeMetadata(encodeMetadata(metadata)).ok());
    metadata.agent.push_back('a');
    EXPECT_EQ(decodeMetadata(encodeMetadata(metadata)).code(), NIXL_ERR_MISMATCH);
}

TEST(Metadata, ConnectionsUpToTheLimitAreAccepted) {
    Metadata metadata{"A", {}, {}, {}};
    metadata.connections.assign(kConnectionsMax, {"B", ""});
    EXPECT_TRUE(decodeMetadata(encodeMetadata(metadata)).ok());
    metadata.connections.push_back({"B", ""});
    EXPECT_EQ(decodeMetadata(encodeMetadata(metadata)).code(), NIXL_ERR_MISMATCH);
}

TEST(Metadata, SectionsUpToTheLimitAreAccepted) {
    Metadata metadata{"A", {}, {}, {}};
    metadata.sections.assign(kSectionsMax, {"B", DRAM_SEG, {}});
    EXPECT_TRUE(decodeMetadata(encodeMetadata(metadata)).ok());
    metadata.sections.push_back({"B", DRAM_SEG, {}});
    EXPECT_EQ(decodeMetadata(encodeMetadata(metadata)).code(), NIXL_ERR_MISMATCH);
}

TEST(Metadata, DescriptorsOfAllSectionsTogetherStayWithinTheLimit) {
    Metadata metadata{"A", {}, {{"B", DRAM_SEG, {}}, {"B", VRAM_SEG, {}}}, {}};
    metadata.sections[0].descs.assign(kDescriptorsMax / 2, {1, 1, 1, ""});
    metadata.sections[1].descs.assign(kDescriptorsMax / 2, {2, 2, 2, ""});
    EXPECT_TRUE(decodeMetadata(encodeMetadata(metadata)).ok());
    metadata.sections[1].descs.emplace_back(2, 2, 2);
    const auto decoded = decodeMetadata(encodeMetadata(metadata));
    EXPECT_NE(decoded.message().find("at most 524288 are allowed"), std::string::npos) << decoded.message();
}

TEST(Metadata, BlobsBeyondTheLimitAreRefusedUnread) {
    std::string blob = encodeMetadata(smallMetadata());
    blob.resize(kBlobBytesMax, 'x');
    EXPECT_TRUE(decodeMetadata(blob).ok());
    blob.push_back('x');
    EXPECT_EQ(decodeMetadata(blob).message(), "metadata blob: it has 67108865 bytes; at most 67108864 are accepted");
}

TEST(Metadata, TextOfTheListenerProtocolIsOrdinaryData) {
    Metadata metadata{"NIXLCOMM:INVLother", {{"NIXLCOMM:SEND", "NIXLCOMM:LOAD"}}, {}, {}};
    const auto decoded = decodeMetadata(encodeMetadata(metadata));
    ASSERT_TRUE(decoded.ok());
    expectEqual(*decoded, metadata);
}

TEST(Metadata, IsReadableThroughThePublicClasses) {
    nixlSerDes serdes;
    ASSERT_EQ(serdes.importStr(encodeMetadata(smallMetadata())), NIXL_SUCCESS);
    size_t count = 0;
    EXPECT_EQ(serdes.getStr("Agent"), "A");
    EXPECT_EQ(serdes.getBuf("Conns", &count, sizeof count), NIXL_SUCCESS);
    EXPECT_EQ(serdes.getStr("t"), "UCX");
    EXPECT_EQ(serdes.getStr("c"), "\xaa\xbb");
    EXPECT_EQ(serdes.getStr(""), "MemSection");
    EXPECT_EQ(serdes.getBuf("nixlSecElms", &count, sizeof count), NIXL_SUCCESS);
    EXPECT_EQ(serdes.getStr("bknd"), "UCX");
    const nixl_reg_dlist_t list(&serdes);
    ASSERT_EQ(list.descCount(), 1);
    EXPECT_EQ(list[0], nixlBlobDesc(0x1000, 0x40, 0, "KEY"));
}

TEST(Metadata, ATrailerMaySayWhichEditionItIs) {
    Metadata metadata = fullMetadata();
    metadata.trailer->edition = {7, 1'700'000'000'000, false};
    const auto decoded = decodeMetadata(encodeMetadata(metadata));
    ASSERT_TRUE(decoded.ok() && decoded->trailer && decoded->trailer->edition);
    EXPECT_EQ(decoded->trailer->edition->epoch, 7u);
    EXPECT_EQ(decoded->trailer->edition->started_ms, 1'700'000'000'000u);
    EXPECT_FALSE(decoded->trailer->edition->whole);
    EXPECT_FALSE(decodeMetadata(encodeMetadata(fullMetadata()))->trailer->edition);
}

TEST(Signature, IsFoundWithWhatItSignsAndWhoIsSaidToHaveSigned) {
    const std::string content = encodeMetadata(fullMetadata());
    std::string blob = content;
    appendSignature(blob, "signature");
    const auto found = findSignature(blob);
    ASSERT_TRUE(found.ok() && *found);
    EXPECT_EQ((*found)->agent, "A");
    EXPECT_EQ((*found)->content, content);
    EXPECT_EQ((*found)->signature, "signature");
    const auto decoded = decodeMetadata(blob);
    ASSERT_TRUE(decoded.ok()) << "who does not look for it is not disturbed";
    expectEqual(*decoded, fullMetadata());
}

TEST(Signature, IsAbsentFromWhatWasCut) {
    std::string blob = encodeMetadata(smallMetadata());
    EXPECT_FALSE(*findSignature(blob));
    appendSignature(blob, "signature");
    const size_t first_field = kPrefix.size() + fieldSize("Agent", 1);
    for (size_t size = 0; size < blob.size(); ++size) {
        const auto found = findSignature(std::string_view(blob).substr(0, size));
        if (size < first_field) {
            EXPECT_EQ(found.code(), NIXL_ERR_MISMATCH) << size;
        } else {
            EXPECT_TRUE(found.ok() && !*found) << size;
        }
    }
    EXPECT_FALSE(*findSignature(blob + "|")) << "nothing may follow it";
}

TEST(Signature, StandsWhereItSaysOrIsRefused) {
    const std::string content = encodeMetadata(smallMetadata());
    const auto pointing = [&](uint64_t to, const std::string &signature = "signature") {
        std::string blob = content;
        Writer writer(blob);
        writer.field("nixlxSignature", signature);
        writer.integer("nixlxSigned", to);
        return findSignature(blob).code();
    };
    EXPECT_EQ(pointing(content.size()), NIXL_SUCCESS);
    for (const uint64_t to : {uint64_t{0}, uint64_t{11}, content.size() - 1, content.size() + 1, content.size() + 30,
                              uint64_t{1} << 40, ~uint64_t{0}}) {
        EXPECT_EQ(pointing(to), NIXL_ERR_MISMATCH) << to;
    }
    EXPECT_EQ(pointing(content.size(), ""), NIXL_ERR_MISMATCH);
    EXPECT_EQ(pointing(content.size(), std::string(100'000, 'x')), NIXL_ERR_MISMATCH);
    std::string blob = content;
    Writer writer(blob);
    writer.field("nixlxSignature", "signature");
    writer.field("nixlxSignature", "another");
    writer.integer("nixlxSigned", static_cast<uint64_t>(content.size()));
    EXPECT_EQ(findSignature(blob).code(), NIXL_ERR_MISMATCH);
}

} // namespace
} // namespace nx::wire
