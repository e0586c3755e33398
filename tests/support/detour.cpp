// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "support/detour.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string_view>

#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace nx::test {

namespace {

std::atomic<uint32_t> detour{0}; ///< from (16 bits) | to (16)

} // namespace

Detour::Detour(const Relay &relay) {
    detour = uint32_t{relay.targetPort()} << 16 | relay.port();
}

Detour::~Detour() {
    detour = 0;
}

uint16_t
ucxPort(const nixl_blob_t &metadata) {
    // A transport in an address (docs/wire.md): a checksum of its name, attributes, then the length of its own part,
    // which for TCP is the port.
    constexpr std::string_view kTcp("\xcf\x19", 2);
    constexpr size_t kAttributes[] = {16, 8}; // in the two versions of the format
    constexpr char kLengthMask = 0x3f;
    uint16_t port = 0;
    for (size_t at = metadata.find(kTcp); at != std::string::npos; at = metadata.find(kTcp, at + 1)) {
        for (const size_t attributes : kAttributes) {
            const size_t length = at + kTcp.size() + attributes;
            if (length + 2 >= metadata.size() || (metadata[length] & kLengthMask) != 2) continue;
            if (port != 0) throw std::runtime_error("the metadata has two ports of UCX");
            port = static_cast<uint16_t>(static_cast<uint8_t>(metadata[length + 1]) << 8 |
                                         static_cast<uint8_t>(metadata[length + 2]));
        }
    }
    if (port == 0) throw std::runtime_error("the metadata has no port of UCX over TCP");
    return port;
}

nixl_blob_t
forTheNetwork(nixl_blob_t metadata) {
    metadata.resize(std::min(metadata.size(), metadata.rfind("nixlxTrailer")));
    return metadata;
}

} // namespace nx::test

/// Instead of the C library's.
extern "C" __attribute__((visibility("default"))) int
connect(int fd, const sockaddr *address, socklen_t size) {
    sockaddr_in led{};
    const uint32_t detour = nx::test::detour;
    if (detour != 0 && address->sa_family == AF_INET && size >= sizeof led) {
        led = *reinterpret_cast<const sockaddr_in *>(address);
        if (led.sin_addr.s_addr == htonl(INADDR_LOOPBACK) && led.sin_port == htons(detour >> 16)) {
            led.sin_port = htons(detour & 0xffff);
            address = reinterpret_cast<const sockaddr *>(&led);
        }
    }
    return static_cast<int>(syscall(SYS_connect, fd, address, size));
}
