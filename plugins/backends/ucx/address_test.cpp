// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: every address and key that some UCX made passes, nothing that is cut, longer or impossible does. Method:
// recorded ones of ten versions (tests/golden/ucx_blobs.txt). hostile_test.cpp hands what passes to UCX.
#include "ucx/address.h"

#include <arpa/inet.h>
#include <bit>
#include <limits>
#include <netinet/in.h>
#include <sstream>

#include <gtest/gtest.h>

#include "golden/golden.h"

namespace nx::ucx {
namespace {

struct Blob {
    std::string name; ///< version and configuration
    std::string kind;
    std::string bytes;
};

std::vector<Blob>
recorded(const std::string &kind) {
    std::vector<Blob> blobs;
    std::istringstream lines(nx::test::golden("ucx_blobs.txt"));
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with('#')) continue;
        std::istringstream words(line);
        std::string version, configuration, hex;
        Blob blob;
        words >> version >> configuration >> blob.kind >> hex;
        blob.name = version + " " + configuration;
        for (size_t i = 0; i + 1 < hex.size(); i += 2) {
            blob.bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
        }
        if (blob.kind == kind) blobs.push_back(blob);
    }
    return blobs;
}

std::string
genuine(const std::string &name) {
    for (const Blob &blob : recorded("address")) {
        if (blob.name == name) return blob.bytes;
    }
    throw std::runtime_error("not recorded: " + name);
}

// In the address "1.13.1 tcp" and its like.
constexpr size_t kHeader = 0, kFirstDevice = 9;

TEST(CheckAddress, TakesWhatEveryVersionMakes) {
    const auto blobs = recorded("address");
    ASSERT_GT(blobs.size(), 30u);
    for (const Blob &blob : blobs) {
        const auto status = checkAddress(blob.bytes);
        EXPECT_TRUE(status.ok()) << blob.name << ": " << status.message();
    }
}

TEST(CheckAddress, RefusesEveryTruncationAndEveryByteMore) {
    for (const Blob &blob : recorded("address")) {
        for (size_t length = 0; length < blob.bytes.size(); ++length) {
            const auto status = checkAddress(blob.bytes.substr(0, length));
            ASSERT_EQ(status.code(), NIXL_ERR_INVALID_PARAM) << blob.name << ", " << length << " bytes";
            ASSERT_NE(status.message().find("worker address of UCX"), std::string::npos) << status.message();
        }
        EXPECT_FALSE(checkAddress(blob.bytes + '\0').ok()) << blob.name;
    }
}

TEST(CheckAddress, TakesOneWithAClientIdentifier) {
    std::string address = genuine("1.22.0 named");
    address[kHeader] = static_cast<char>(address[kHeader] | 0x40);
    EXPECT_FALSE(checkAddress(address).ok());
    EXPECT_TRUE(checkAddress(address.insert(kFirstDevice, 8, 'c')).ok());
}

TEST(CheckAddress, TakesOneWithoutDevicesThatEndsThere) {
    const std::string header = genuine("1.13.1 tcp").substr(0, kFirstDevice);
    EXPECT_TRUE(checkAddress(header + '\xff').ok());
    EXPECT_FALSE(checkAddress(header + '\xff' + '\x80').ok());
}

TEST(CheckAddress, RefusesAFormatOfAnotherVersion) {
    std::string address = genuine("1.13.1 tcp");
    address[kHeader] = '\x2f';
    EXPECT_NE(checkAddress(address).message().find("unknown version"), std::string::npos);
    EXPECT_FALSE(checkAddress(std::string(kAddressBytesMax + 1, '\x20')).ok());
}

TEST(TcpListeners, AreThoseOfTheAddress) {
    const std::string address = genuine("1.13.1 tcp"), elsewhere = genuine("1.22.0 tcp");
    const auto from_elsewhere = tcpListeners(address, elsewhere);
    EXPECT_EQ(textOf(from_elsewhere), "192.0.2.2:58217") << "the loopback device is another host's";
    EXPECT_EQ(textOf(tcpListeners(address, address)), "127.0.0.1:36713, 192.0.2.2:58217");
    EXPECT_EQ(tcpListeners(genuine("1.22.0 v2"), address).size(), 1u);
    EXPECT_TRUE(tcpListeners(genuine("1.22.0 self"), elsewhere).empty());
}

TEST(TcpListeners, AreAmbiguousWhereAnotherHostHasTheSameAddress) {
    const std::string address = genuine("1.13.1 tcp");
    for (const TcpListener &listener : tcpListeners(address, address)) EXPECT_FALSE(listener.ambiguous);
    const auto from_elsewhere = tcpListeners(address, genuine("1.22.0 tcp")); // has 192.0.2.2 as well
    ASSERT_EQ(from_elsewhere.size(), 1u);
    EXPECT_TRUE(from_elsewhere[0].ambiguous);
}

TEST(WithoutListeners, LeavesTheOthersInAnAddressThatIsWhole) {
    for (const char *name : {"1.13.1 tcp", "1.22.0 tcp"}) {
        const std::string address = genuine(name);
        const auto listeners = tcpListeners(address, address);
        ASSERT_EQ(listeners.size(), 2u);
        for (size_t i = 0; i < 2; ++i) { // the first and the last of the devices
            const std::string rest = withoutListeners(address, address, {listeners[i]});
            EXPECT_TRUE(checkAddress(rest).ok()) << name;
            EXPECT_EQ(textOf(tcpListeners(rest, address)), textOf({listeners[1 - i]})) << name;
        }
        EXPECT_EQ(withoutListeners(address, address, {}), address);
    }
}

TEST(WithoutListeners, LeavesEveryAddressAsItIsOfWhichNothingGoes) {
    for (const Blob &blob : recorded("address")) EXPECT_EQ(withoutListeners(blob.bytes, blob.bytes, {}), blob.bytes);
}

TEST(TcpListeners, AreNoProofWhereAnotherNetworkLeadsToTheWorker) {
    std::string address = genuine("1.13.1 tcp");
    const std::string tcp("\xcf\x19", 2);
    address.replace(address.rfind(tcp), 2, "\x12\x34"); // a transport that nobody knows
    ASSERT_TRUE(checkAddress(address).ok());
    EXPECT_TRUE(tcpListeners(address, address).empty());
}

TEST(CheckAddress, RefusesATransportWithoutWhatItNeeds) {
    std::string address = genuine("1.22.0 self");
    ASSERT_TRUE(checkAddress(address).ok());
    const size_t checksum = kFirstDevice + 2;
    address.replace(checksum, 2, "\xcf\x19"); // "tcp" instead, whose device must have an address
    EXPECT_NE(checkAddress(address).message().find("too short for its transport"), std::string::npos);
    address[kFirstDevice + 1] = static_cast<char>(address[kFirstDevice + 1] | 6);
    address.insert(checksum, 6, '\1');
    EXPECT_TRUE(checkAddress(address).ok());
}

TEST(CheckAddress, RefusesNumbersThatUcxCannotComputeWith) {
    const std::string address = genuine("1.13.1 self");
    const auto with = [&](size_t at, float value) {
        return std::string(address).replace(at, sizeof value, reinterpret_cast<const char *>(&value), sizeof value);
    };
    const size_t overhead = kFirstDevice + 4, bandwidth = overhead + 4, latency = overhead + 8;
    EXPECT_TRUE(checkAddress(with(overhead, 0)).ok());
    EXPECT_TRUE(checkAddress(with(bandwidth, 1e9F)).ok());
    for (const float bad : {-1.0F, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
        for (const size_t at : {overhead, bandwidth, latency}) EXPECT_FALSE(checkAddress(with(at, bad)).ok()) << at;
    }
    EXPECT_FALSE(checkAddress(with(bandwidth, 0)).ok());
}

TEST(CheckAddress, RefusesShortNumbersThatAreNone) {
    std::string address = genuine("1.22.0 v2");
    const size_t bandwidth = 10 + 4 + 1; // header and identifier, the first device and its transport, the overhead
    for (const char bad : {'\x0f', '\xff', '\x10'}) {
        address[bandwidth] = bad;
        EXPECT_NE(checkAddress(address).message().find("bandwidth is impossible"), std::string::npos);
    }
}

TEST(CheckAddress, RefusesSegmentsTooSmallForAMessage) {
    std::string address = genuine("1.22.0 v2");
    const size_t segment_size = 10 + 4 + 4;
    address[segment_size] = '\1';
    EXPECT_NE(checkAddress(address).message().find("segments are too small"), std::string::npos);
}

TEST(CheckAddress, RefusesASharedMemorySegmentWithoutAPlace) {
    std::string address = genuine("1.22.0 shm");
    const size_t posix = address.find("\xa7\xd3");
    const size_t flags = posix + 2 + 16 + 1 + 7; // transport, attributes, length, the segment's other bytes
    ASSERT_EQ(address.at(flags), '\xc0');
    address[flags] = '\0';
    EXPECT_NE(checkAddress(address).message().find("has no place"), std::string::npos);
}

TEST(CheckKey, TakesWhatEveryVersionMakes) {
    const auto blobs = recorded("key");
    ASSERT_GT(blobs.size(), 3u);
    for (const Blob &blob : blobs) {
        const auto status = checkKey(blob.bytes);
        EXPECT_TRUE(status.ok()) << blob.name << ": " << status.message();
    }
    EXPECT_TRUE(checkKey(std::string(16, '\0')).ok()) << "what we give away for a range without bytes";
}

TEST(CheckKey, RefusesWhatEndsBeforeItsLastDomain) {
    // Two domains with keys of 12 and 0 bytes; a system device and the distance to another behind them.
    const std::string domains("\x06\0\0\0\0\0\0\0", 8);
    const std::string key = domains + '\0' + '\x0c' + std::string(12, 'k') + '\0';
    for (size_t length = 0; length < key.size(); ++length) {
        const auto status = checkKey(key.substr(0, length));
        EXPECT_EQ(status.code(), NIXL_ERR_INVALID_PARAM) << length;
        EXPECT_NE(status.message().find("memory key of UCX"), std::string::npos);
    }
    EXPECT_TRUE(checkKey(key).ok());
    EXPECT_TRUE(checkKey(key + "d123").ok());
    EXPECT_FALSE(checkKey(key + std::string(2000, 'd')).ok());
}

TEST(CheckKey, RefusesUnknownMemoryTypes) {
    std::string key = recorded("key").front().bytes;
    key[8] = '\x20';
    EXPECT_NE(checkKey(key).message().find("memory type"), std::string::npos);
}

TEST(CheckKey, RefusesKeysThatWouldMapSegmentsOfThePeer) {
    const uint64_t refused = segmentDomains(genuine("1.22.0 shm"));
    EXPECT_EQ(refused, 0x6u) << "sysv and posix are domains 1 and 2 there";
    EXPECT_EQ(segmentDomains(genuine("1.22.0 tcp")), 0u);
    std::string key = recorded("key").back().bytes;
    EXPECT_TRUE(checkKey(key, refused).ok());
    key[0] = '\x02';
    EXPECT_TRUE(checkKey(key).ok());
    EXPECT_FALSE(checkKey(key, refused).ok());
}

} // namespace
} // namespace nx::ucx
