// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/peer_info.h"

#include <cstring>

#include "ucx/address.h"
#include "wire/writer.h"

namespace nx::ucx {

namespace {

constexpr uint32_t kFormat = 1;
constexpr size_t kHostBytesMax = 512, kLinkBytesMax = 64;
constexpr std::string_view kKeyMagic{"\x8bnxkeys\x01", 8};
constexpr size_t kTailBytes = 2 * sizeof(uint32_t) + kKeyMagic.size();

} // namespace

std::string
encodePeerInfo(const PeerInfo &info) {
    std::string bytes;
    wire::Writer writer(bytes);
    writer.prefix();
    writer.integer("version", kFormat);
    writer.field("host", info.host);
    writer.field("link", info.link);
    writer.integer("features", info.features);
    return bytes;
}

Result<PeerInfo>
decodePeerInfo(std::string_view bytes) {
    wire::Reader reader(bytes);
    PeerInfo info;
    reader.takePrefix();
    // Later formats append fields.
    if (reader.takeInteger<uint32_t>("version") < kFormat) reader.fail("format 0");
    info.host = reader.takeName("host", kHostBytesMax);
    info.link = reader.take("link");
    if (info.link.size() > kLinkBytesMax) reader.fail("the name for links is too long");
    if (reader.ok() && reader.remaining() > 0) info.features = reader.takeInteger<uint64_t>("features");
    if (!reader.ok()) return std::move(reader).status().withContext("peer info");
    return info;
}

std::string
encodeOffer(const std::vector<std::string> &addresses) {
    std::string bytes;
    wire::Writer writer(bytes);
    writer.prefix();
    writer.integer("version", kFormat);
    writer.integer("workers", static_cast<uint64_t>(addresses.size()));
    for (const std::string &address : addresses) writer.field("address", address);
    return bytes;
}

Result<std::vector<std::string>>
decodeOffer(std::string_view bytes) {
    wire::Reader reader(bytes);
    reader.takePrefix();
    if (reader.takeInteger<uint32_t>("version") < kFormat) reader.fail("format 0");
    const size_t count = reader.takeCount("workers", wire::fieldSize("address", kAddressBytesMin), kOfferWorkersMax);
    std::vector<std::string> addresses;
    for (size_t i = 0; i < count && reader.ok(); ++i) {
        const std::string_view address = reader.takeName("address", kAddressBytesMax);
        if (!reader.ok()) break;
        if (auto status = checkAddress(address); !status.ok()) {
            reader.fail(status.message());
        } else {
            addresses.emplace_back(address);
        }
    }
    if (!reader.ok()) return std::move(reader).status().withContext("offer of a link");
    return addresses;
}

std::string
encodeKeys(const Keys &keys) {
    std::string bytes = keys.plain;
    if (keys.local.empty()) return bytes;
    const uint32_t lengths[] = {static_cast<uint32_t>(keys.plain.size()), static_cast<uint32_t>(keys.local.size())};
    bytes += keys.local;
    bytes.append(reinterpret_cast<const char *>(lengths), sizeof lengths);
    bytes += kKeyMagic;
    return bytes;
}

Result<Keys>
decodeKeys(std::string_view bytes, uint64_t refused_domains) {
    Keys keys;
    if (bytes.size() > kTailBytes && bytes.ends_with(kKeyMagic)) {
        uint32_t lengths[2];
        std::memcpy(lengths, bytes.data() + bytes.size() - kTailBytes, sizeof lengths);
        const size_t body = bytes.size() - kTailBytes;
        if (lengths[0] <= body && lengths[1] == body - lengths[0] && lengths[1] >= kKeyBytesMin) {
            keys.local = bytes.substr(lengths[0], lengths[1]);
            bytes = bytes.substr(0, lengths[0]);
        }
    }
    if (auto status = checkKey(bytes, refused_domains); !status.ok()) return status;
    if (!keys.local.empty()) {
        auto status = checkKey(keys.local, 0);
        if (!status.ok()) return std::move(status).withContext("same-host key");
    }
    keys.plain = bytes;
    return keys;
}

} // namespace nx::ucx
