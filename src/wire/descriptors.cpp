// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "wire/descriptors.h"

#include <type_traits>

namespace nx::wire {

static_assert(sizeof(nixlBasicDesc) == 24 && std::is_trivially_copyable_v<nixlBasicDesc>);

namespace {

constexpr std::string_view kListTag = "nixlDList";
constexpr std::string_view kBasicKind = "nixlBDList";
constexpr std::string_view kBlobKind = "nixlSDList";
constexpr std::string_view kMemoryTag = "t";
constexpr std::string_view kCountTag = "n";
constexpr std::string_view kElementTag = "";
constexpr size_t kRangeBytes = sizeof(nixlBasicDesc);

static_assert(kBasicKind.size() == kBlobKind.size());
constexpr size_t kHeadBytes = fieldSize(kListTag, kBasicKind.size()) + fieldSize(kMemoryTag, sizeof(uint32_t)) +
    fieldSize(kCountTag, sizeof(uint64_t));

void
encodeHead(Writer &writer, std::string_view kind, nixl_mem_t memory, size_t count) {
    writer.field(kListTag, kind);
    writer.integer(kMemoryTag, static_cast<uint32_t>(memory));
    writer.integer(kCountTag, static_cast<uint64_t>(count));
}

nixl_mem_t
decodeHead(Reader &reader, std::string_view kind) {
    const size_t start = reader.position();
    reader.expect(kListTag, kind);
    const auto memory = reader.takeInteger<uint32_t>(kMemoryTag);
    // FILE_SEG is the last. A value outside the enum must never become one: it would index tables.
    if (memory > FILE_SEG) {
        reader.fail("descriptor list at byte " + std::to_string(start) + " has memory type " + std::to_string(memory) +
                    "; the types are 0 to " + std::to_string(FILE_SEG));
        return DRAM_SEG;
    }
    return static_cast<nixl_mem_t>(memory);
}

} // namespace

std::string_view
rangeBytes(const nixlBasicDesc &desc) {
    return {reinterpret_cast<const char *>(&desc), kRangeBytes};
}

nixlBasicDesc
rangeFromBytes(std::string_view bytes) {
    nixlBasicDesc desc;
    std::memcpy(&desc, bytes.data(), kRangeBytes);
    return desc;
}

size_t
encodedSize(std::span<const nixlBasicDesc> descs) {
    return kHeadBytes + (descs.empty() ? 0 : fieldSize(kElementTag, descs.size_bytes()));
}

size_t
encodedSize(std::span<const nixlBlobDesc> descs) {
    size_t size = kHeadBytes;
    for (const auto &desc : descs) size += fieldSize(kElementTag, kRangeBytes + desc.metaInfo.size());
    return size;
}

void
encodeList(Writer &writer, nixl_mem_t memory, std::span<const nixlBasicDesc> descs) {
    encodeHead(writer, kBasicKind, memory, descs.size());
    if (descs.empty()) return;
    writer.field(kElementTag, {reinterpret_cast<const char *>(descs.data()), descs.size_bytes()});
}

void
encodeList(Writer &writer, nixl_mem_t memory, std::span<const nixlBlobDesc> descs) {
    encodeHead(writer, kBlobKind, memory, descs.size());
    for (const auto &desc : descs) writer.field(kElementTag, rangeBytes(desc), desc.metaInfo);
}

List<nixlBasicDesc>
decodeBasicList(Reader &reader) {
    List<nixlBasicDesc> list;
    const auto memory = decodeHead(reader, kBasicKind);
    const size_t count = reader.takeCount(kCountTag, kRangeBytes);
    const std::string_view ranges = count == 0 ? "" : reader.takeExactly(kElementTag, count * kRangeBytes);
    if (!reader.ok()) return {};
    list.memory = memory;
    list.descs.resize(count);
    if (count > 0) std::memcpy(list.descs.data(), ranges.data(), ranges.size());
    return list;
}

List<nixlBlobDesc>
decodeBlobList(Reader &reader, size_t count_max) {
    List<nixlBlobDesc> list;
    list.memory = decodeHead(reader, kBlobKind);
    const size_t count = reader.takeCount(kCountTag, fieldSize(kElementTag, kRangeBytes), count_max);
    list.descs.reserve(count);
    for (size_t i = 0; i < count && reader.ok(); ++i) {
        const size_t start = reader.position();
        const std::string_view element = reader.take(kElementTag);
        if (element.size() < kRangeBytes) {
            reader.fail("descriptor " + std::to_string(i) + " at byte " + std::to_string(start) + " has " +
                        std::to_string(element.size()) + " bytes; a descriptor has at least " +
                        std::to_string(kRangeBytes));
            break;
        }
        list.descs.emplace_back(rangeFromBytes(element), nixl_blob_t(element.substr(kRangeBytes)));
    }
    if (!reader.ok()) return {};
    return list;
}

} // namespace nx::wire
