// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: what peers send is read back exactly or refused, whatever the bytes; UCX itself would end the process.
#include "ucx/peer_info.h"

#include <random>

#include <gtest/gtest.h>

namespace nx::ucx {
namespace {

const std::string kAddress = std::string("\x20", 1) + std::string(99, 'a');

PeerInfo
sample() {
    return {hostIdentity(), "lighthouse", {kAddress, kAddress + "b"}};
}

TEST(PeerInfo, SurvivesTheWire) {
    const auto read = decodePeerInfo(encodePeerInfo(sample()));
    ASSERT_TRUE(read.ok()) << read.message();
    EXPECT_EQ(read->host, sample().host);
    EXPECT_EQ(read->beacon, "lighthouse");
    EXPECT_EQ(read->local_addresses, sample().local_addresses);
}

TEST(PeerInfo, ReadsWhatALaterVersionAppended) {
    EXPECT_TRUE(decodePeerInfo(encodePeerInfo(sample()) + "more").ok());
}

TEST(PeerInfo, RefusesEveryTruncation) {
    const std::string bytes = encodePeerInfo(sample());
    for (size_t length = 0; length < bytes.size(); ++length) {
        EXPECT_EQ(decodePeerInfo(bytes.substr(0, length)).code(), NIXL_ERR_MISMATCH) << length;
    }
}

TEST(PeerInfo, NeverGivesAnAddressThatCannotBeOne) {
    const std::string good = encodePeerInfo(sample());
    std::mt19937 random(42);
    for (int i = 0; i < 20000; ++i) {
        std::string bytes = good;
        for (int flips = 0; flips < 3; ++flips) bytes[random() % bytes.size()] = static_cast<char>(random());
        const auto read = decodePeerInfo(bytes);
        if (!read.ok()) continue;
        ASSERT_LE(read->local_addresses.size(), kPeerWorkersMax);
        for (const std::string &address : read->local_addresses) ASSERT_TRUE(checkAddress(address).ok());
    }
}

TEST(PeerInfo, RefusesTooManyWorkersAndShortAddresses) {
    PeerInfo many = sample();
    many.local_addresses.assign(kPeerWorkersMax + 1, kAddress);
    EXPECT_FALSE(decodePeerInfo(encodePeerInfo(many)).ok());
    PeerInfo brief = sample();
    brief.local_addresses = {std::string("\x20", 1)};
    EXPECT_FALSE(decodePeerInfo(encodePeerInfo(brief)).ok());
}

TEST(CheckAddress, RefusesWhatUcxWouldDieOf) {
    EXPECT_FALSE(checkAddress("").ok());
    EXPECT_FALSE(checkAddress("x").ok());
    EXPECT_FALSE(checkAddress(std::string(kAddressBytesMax + 1, ' ')).ok());
    EXPECT_FALSE(checkAddress(std::string(100, '\x0f')).ok());
    EXPECT_TRUE(checkAddress(kAddress).ok());
}

TEST(HostIdentity, IsStableAndNotEmpty) {
    EXPECT_FALSE(hostIdentity().empty());
    EXPECT_EQ(hostIdentity(), hostIdentity());
}

TEST(Keys, SurviveTheWire) {
    const Keys keys{"plain key", "local key of ours"};
    const auto read = decodeKeys(encodeKeys(keys));
    ASSERT_TRUE(read.ok());
    EXPECT_EQ(read->plain, keys.plain);
    EXPECT_EQ(read->local, keys.local);
}

TEST(Keys, BeginWithThePlainKeyForReadersOfNixl) {
    EXPECT_TRUE(encodeKeys({"plain key", "local key"}).starts_with("plain key"));
    EXPECT_EQ(encodeKeys({"plain key", ""}), "plain key");
}

TEST(Keys, OfNixlAreReadAsPlain) {
    const auto read = decodeKeys("0123456789ab");
    ASSERT_TRUE(read.ok());
    EXPECT_EQ(read->plain, "0123456789ab");
    EXPECT_EQ(read->local, "");
}

TEST(Keys, WithADamagedTailAreReadAsPlain) {
    std::string bytes = encodeKeys({"plain key", "local key"});
    bytes[bytes.size() - 9] = '\x7f'; // a length
    const auto read = decodeKeys(bytes);
    ASSERT_TRUE(read.ok());
    EXPECT_EQ(read->plain, bytes);
    EXPECT_EQ(read->local, "");
}

TEST(Keys, OfImpossibleLengthAreRefused) {
    EXPECT_EQ(decodeKeys("").code(), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(decodeKeys("1234567").code(), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(decodeKeys(std::string(kKeyBytesMax + 1, 'x')).code(), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(decodeKeys(encodeKeys({"short", "local key"})).code(), NIXL_ERR_INVALID_PARAM);
}

} // namespace
} // namespace nx::ucx
