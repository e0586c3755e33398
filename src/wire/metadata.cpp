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
constexpr std::string_view kEpochTag = "epoch";
constexpr std::string_view kStartedTag = "started";
constexpr std::string_view kWholeTag = "whole";
constexpr uint32_t kTrailerVersion = 1;

constexpr std::string_view kSignatureTag = "nixlxSignature";
constexpr std::string_view kSignedTag = "nixlxSigned";
constexpr size_t kSignedFieldBytes = fieldSize(kSignedTag, sizeof(uint64_t));
constexpr size_t kSignatureBytesMax = 64 << 10; // room for certificates

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
    if (trailer.edition) {
        writer.integer(kEpochTag, trailer.edition->epoch);
        writer.integer(kStartedTag, trailer.edition->started_ms);
        writer.integer(kWholeTag, static_cast<uint32_t>(trailer.edition->whole));
    }
    return bytes;
}

Status
checkSize(std::string_view blob) {
    if (blob.size() <= kBlobBytesMax) return {};
    return {NIXL_ERR_MISMATCH,
            "metadata blob: it has " + std::to_string(blob.size()) + " bytes; at most " +
                std::to_string(kBlobBytesMax) + " are accepted"};
}

/// Absent, or not as it should be: nothing.
std::optional<Edition>
decodeEdition(Reader &reader) {
    Edition edition;
    edition.epoch = reader.takeInteger<uint64_t>(kEpochTag);
    edition.started_ms = reader.takeInteger<uint64_t>(kStartedTag);
    edition.whole = reader.takeInteger<uint32_t>(kWholeTag) != 0;
    if (!reader.ok()) return std::nullopt;
    return edition;
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
    trailer.edition = decodeEdition(reader);
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
    if (auto status = checkSize(blob); !status.ok()) return status;
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

void
appendSignature(std::string &blob, std::string_view signature) {
    const uint64_t signed_bytes = blob.size();
    Writer writer(blob);
    writer.field(kSignatureTag, signature);
    writer.integer(kSignedTag, signed_bytes);
}

// The last field has a fixed size and says where the one before it begins, so that nothing else has to be read first.
Result<std::optional<Signed>>
findSignature(std::string_view blob) {
    if (auto status = checkSize(blob); !status.ok()) return status;
    Reader start(blob);
    Signed found;
    start.takePrefix();
    found.agent = start.takeName(kAgentTag, kNameBytesMax);
    if (!start.ok()) return std::move(start).status().withContext("metadata blob");
    const size_t here = blob.size() - std::min(blob.size(), kSignedFieldBytes);
    Reader end(blob, here);
    const auto signed_bytes = end.takeInteger<uint64_t>(kSignedTag);
    if (!end.ok()) return std::optional<Signed>();
    if (signed_bytes < start.position() || signed_bytes > here) {
        return {NIXL_ERR_MISMATCH, "metadata blob: its signature is not where it says"};
    }
    Reader signature(blob.substr(0, here), signed_bytes);
    found.signature = signature.takeName(kSignatureTag, kSignatureBytesMax);
    if (!signature.ok()) return std::move(signature).status().withContext("metadata blob: signature");
    if (signature.remaining() > 0) {
        return {NIXL_ERR_MISMATCH, "metadata blob: there is something behind its signature"};
    }
    found.content = blob.substr(0, signed_bytes);
    return std::optional(found);
}

} // namespace nx::wire
