// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "wire/metadata.h"

#include <algorithm>

#include "wire/descriptors.h"
#include "wire/limits.h"

namespace nx::wire {

namespace {

constexpr std::string_view kAgentTag = "Agent";
constexpr std::string_view kConnectionsTag = "Conns";
constexpr std::string_view kTypeTag = "t";
constexpr std::string_view kInfoTag = "c";
constexpr std::string_view kSectionsMark = "MemSection";
constexpr std::string_view kSectionsTag = "nixlSecElms";
constexpr std::string_view kBackendTag = "bknd";

constexpr std::string_view kTrailerTag = "nixlxTrailer";
constexpr std::string_view kCheckTag = "nixlxCheck";
constexpr std::string_view kVersionTag = "version";
constexpr std::string_view kIncarnationTag = "incarnation";
constexpr std::string_view kFeaturesTag = "features";
constexpr uint32_t kTrailerVersion = 1;

constexpr size_t kCountBytes = sizeof(uint64_t);
constexpr size_t kConnectionBytesMin = fieldSize(kTypeTag, 1) + fieldSize(kInfoTag, 0);

size_t
encodedSize(const std::vector<Connection> &connections) {
    size_t size = fieldSize(kConnectionsTag, kCountBytes);
    for (const auto &connection : connections) {
        size += fieldSize(kTypeTag, connection.backend.size()) + fieldSize(kInfoTag, connection.info.size());
    }
    return size;
}

void
encodeConnections(Writer &writer, const std::vector<Connection> &connections) {
    writer.integer(kConnectionsTag, static_cast<uint64_t>(connections.size()));
    for (const auto &connection : connections) {
        writer.field(kTypeTag, connection.backend);
        writer.field(kInfoTag, connection.info);
    }
}

std::vector<Connection>
decodeConnections(Reader &reader) {
    std::vector<Connection> connections;
    const size_t count = reader.takeCount(kConnectionsTag, kConnectionBytesMin, kConnectionsMax);
    connections.reserve(count);
    for (size_t i = 0; i < count && reader.ok(); ++i) {
        const std::string_view backend = reader.takeName(kTypeTag, kNameBytesMax);
        const std::string_view info = reader.take(kInfoTag);
        connections.push_back({std::string(backend), std::string(info)});
    }
    return connections;
}

/// 64-bit FNV-1a: finds accidental damage; it is no protection against intent.
uint64_t
checkValue(std::string_view bytes) {
    uint64_t hash = 0xcbf29ce484222325;
    for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
    return hash;
}

std::string
encodeTrailer(const Trailer &trailer) {
    std::string bytes;
    Writer writer(bytes);
    writer.integer(kVersionTag, trailer.version);
    writer.field(kIncarnationTag,
                 {reinterpret_cast<const char *>(trailer.incarnation.data()), trailer.incarnation.size()});
    writer.integer(kFeaturesTag, trailer.features);
    encodeConnections(writer, trailer.peer_info);
    return bytes;
}

std::optional<Trailer>
decodeTrailer(Reader &blob) {
    const std::string_view bytes = blob.take(kTrailerTag);
    const auto check = blob.takeInteger<uint64_t>(kCheckTag);
    if (!blob.ok() || check != checkValue(bytes)) return std::nullopt;

    // Fields that a later writer of this version adds stand behind those read here.
    Reader reader(bytes);
    Trailer trailer;
    trailer.version = reader.takeInteger<uint32_t>(kVersionTag);
    if (trailer.version != kTrailerVersion) return std::nullopt;
    const std::string_view incarnation = reader.takeExactly(kIncarnationTag, trailer.incarnation.size());
    std::copy(incarnation.begin(), incarnation.end(), trailer.incarnation.begin());
    trailer.features = reader.takeInteger<uint64_t>(kFeaturesTag);
    trailer.peer_info = decodeConnections(reader);
    if (!reader.ok()) return std::nullopt;
    return trailer;
}

} // namespace

std::string
encodeMetadata(const Metadata &metadata) {
    const std::string trailer = metadata.trailer ? encodeTrailer(*metadata.trailer) : "";
    size_t size = kPrefix.size() + fieldSize(kAgentTag, metadata.agent.size()) + encodedSize(metadata.connections) +
        fieldSize("", kSectionsMark.size()) + fieldSize(kSectionsTag, kCountBytes);
    for (const auto &section : metadata.sections) {
        size += fieldSize(kBackendTag, section.backend.size()) + encodedSize(section.descs);
    }
    if (metadata.trailer) size += fieldSize(kTrailerTag, trailer.size()) + fieldSize(kCheckTag, sizeof(uint64_t));

    std::string blob;
    blob.reserve(size);
    Writer writer(blob);
    writer.prefix();
    writer.field(kAgentTag, metadata.agent);
    encodeConnections(writer, metadata.connections);
    writer.field("", kSectionsMark);
    writer.integer(kSectionsTag, static_cast<uint64_t>(metadata.sections.size()));
    for (const auto &section : metadata.sections) {
        writer.field(kBackendTag, section.backend);
        encodeList(writer, section.memory, section.descs);
    }
    if (metadata.trailer) {
        writer.field(kTrailerTag, trailer);
        writer.integer(kCheckTag, checkValue(trailer));
    }
    return blob;
}

Status
checkLimits(const Metadata &metadata) {
    const auto within = [](const char *what, size_t count, size_t limit) -> Status {
        if (count <= limit) return {};
        return {NIXL_ERR_NOT_SUPPORTED,
                "the metadata has " + std::to_string(count) + " " + what + ", and peers take at most " +
                    std::to_string(limit) +
                    "; publish it in parts (getLocalPartialMD) or register fewer, larger ranges"};
    };
    size_t ranges = 0;
    for (const auto &section : metadata.sections) ranges += section.descs.size();
    auto status = within("ranges", ranges, kDescriptorsMax);
    if (status.ok()) status = within("sections", metadata.sections.size(), kSectionsMax);
    if (status.ok()) status = within("connections", metadata.connections.size(), kConnectionsMax);
    for (const auto &connection : metadata.connections) {
        if (status.ok()) status = within("bytes in the name of a backend", connection.backend.size(), kNameBytesMax);
    }
    return status;
}

bool
startsAsMetadata(std::string_view blob) noexcept {
    return blob.starts_with(kPrefix);
}

Result<Metadata>
decodeMetadata(std::string_view blob) {
    if (blob.size() > kBlobBytesMax) {
        return {NIXL_ERR_MISMATCH,
                "metadata blob: it has " + std::to_string(blob.size()) + " bytes; at most " +
                    std::to_string(kBlobBytesMax) + " are accepted"};
    }
    Reader reader(blob);
    Metadata metadata;
    reader.takePrefix();
    metadata.agent = reader.takeName(kAgentTag, kNameBytesMax);
    metadata.connections = decodeConnections(reader);
    reader.expect("", kSectionsMark);
    const size_t count = reader.takeCount(
        kSectionsTag, fieldSize(kBackendTag, 1) + encodedSize(std::span<const nixlBlobDesc>()), kSectionsMax);
    metadata.sections.reserve(count);
    size_t descriptors_left = kDescriptorsMax;
    for (size_t i = 0; i < count && reader.ok(); ++i) {
        const std::string_view backend = reader.takeName(kBackendTag, kNameBytesMax);
        auto list = decodeBlobList(reader, descriptors_left);
        descriptors_left -= list.descs.size();
        metadata.sections.push_back({std::string(backend), list.memory, std::move(list.descs)});
    }
    if (!reader.ok()) return std::move(reader).status().withContext("metadata blob");
    metadata.trailer = decodeTrailer(reader);
    return metadata;
}

} // namespace nx::wire
