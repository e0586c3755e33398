// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: what peers send is read back exactly or refused, whatever the bytes; UCX itself would end the process.
#include "ucx/peer_info.h"

#include <random>

#include <gtest/gtest.h>

#include "ucx/address.h"
#include "wire/reader.h"

namespace nx::ucx {
namespace {

// The smallest: without devices.
const std::string kAddress = "\x20"
                             "12345678\xff";
// One memory domain, number 0 or 1, whose key has no bytes or three.
const std::string kPlainKey = std::string("\x01\0\0\0\0\0\0\0\0\0", 10);
const std::string kLocalKey = std::string("\x02\0\0\0\0\0\0\0\0\3abc", 13);

const PeerInfo kInfo{"a host", "a name", PeerInfo::kKeepsCredits};
const size_t kBytesWithoutFeatures =
    encodePeerInfo(kInfo).size() - wire::fieldSize("features", sizeof(PeerInfo::features));
const std::vector<std::string> kOffer{kAddress,
                                      "\x20"
                                      "abcdefgh\xff"};

TEST(PeerInfo, SurvivesTheWire) {
    const auto read = decodePeerInfo(encodePeerInfo(kInfo));
    ASSERT_TRUE(read.ok()) << read.message();
    EXPECT_EQ(read->host, kInfo.host);
    EXPECT_EQ(read->link, kInfo.link);
    EXPECT_EQ(read->features, kInfo.features);
}

TEST(PeerInfo, HasNoFeaturesBeforeThereWereAny) {
    const auto read = decodePeerInfo(encodePeerInfo(kInfo).substr(0, kBytesWithoutFeatures));
    ASSERT_TRUE(read.ok()) << read.message();
    EXPECT_EQ(read->features, 0u);
}

TEST(PeerInfo, ReadsWhatALaterVersionAppended) {
    EXPECT_TRUE(decodePeerInfo(encodePeerInfo(kInfo) + "more").ok());
}

TEST(PeerInfo, RefusesEveryTruncation) {
    const std::string bytes = encodePeerInfo(kInfo);
    for (size_t length = 0; length < bytes.size(); ++length) {
        if (length == kBytesWithoutFeatures) continue;
        EXPECT_EQ(decodePeerInfo(bytes.substr(0, length)).code(), NIXL_ERR_MISMATCH) << length;
    }
}

TEST(PeerInfo, RefusesNamesThatAreTooLong) {
    EXPECT_EQ(decodePeerInfo(encodePeerInfo({std::string(513, 'h'), "a name"})).code(), NIXL_ERR_MISMATCH);
    EXPECT_EQ(decodePeerInfo(encodePeerInfo({"", "a name"})).code(), NIXL_ERR_MISMATCH);
    EXPECT_EQ(decodePeerInfo(encodePeerInfo({"a host", std::string(65, 'n')})).code(), NIXL_ERR_MISMATCH);
}

TEST(Offer, SurvivesTheWire) {
    for (const auto &offer : {kOffer, std::vector<std::string>{}}) {
        const auto read = decodeOffer(encodeOffer(offer));
        ASSERT_TRUE(read.ok()) << read.message();
        EXPECT_EQ(*read, offer);
    }
}

TEST(Offer, RefusesEveryTruncation) {
    const std::string bytes = encodeOffer(kOffer);
    for (size_t length = 0; length < bytes.size(); ++length) {
        EXPECT_EQ(decodeOffer(bytes.substr(0, length)).code(), NIXL_ERR_MISMATCH) << length;
    }
}

TEST(Offer, NeverGivesAnAddressThatCannotBeOne) {
    const std::string good = encodeOffer(kOffer);
    std::mt19937 random(42);
    for (int i = 0; i < 20000; ++i) {
        std::string bytes = good;
        for (int flips = 0; flips < 3; ++flips) bytes[random() % bytes.size()] = static_cast<char>(random());
        const auto read = decodeOffer(bytes);
        if (!read.ok()) continue;
        ASSERT_LE(read->size(), kOfferWorkersMax);
        for (const std::string &address : *read) ASSERT_TRUE(checkAddress(address).ok());
    }
}

TEST(Offer, RefusesTooManyWorkersAndShortAddresses) {
    EXPECT_FALSE(decodeOffer(encodeOffer(std::vector<std::string>(kOfferWorkersMax + 1, kAddress))).ok());
    EXPECT_FALSE(decodeOffer(encodeOffer({std::string("\x20", 1)})).ok());
}

TEST(Keys, SurviveTheWire) {
    const Keys keys{kPlainKey, kLocalKey};
    const auto read = decodeKeys(encodeKeys(keys));
    ASSERT_TRUE(read.ok());
    EXPECT_EQ(read->plain, keys.plain);
    EXPECT_EQ(read->local, keys.local);
}

TEST(Keys, BeginWithThePlainKeyForReadersOfNixl) {
    EXPECT_TRUE(encodeKeys({kPlainKey, kLocalKey}).starts_with(kPlainKey));
    EXPECT_EQ(encodeKeys({kPlainKey, ""}), kPlainKey);
}

TEST(Keys, OfNixlAreReadAsPlain) {
    const auto read = decodeKeys(kPlainKey);
    ASSERT_TRUE(read.ok());
    EXPECT_EQ(read->plain, kPlainKey);
    EXPECT_EQ(read->local, "");
}

TEST(Keys, WithADamagedTailAreReadAsPlain) {
    std::string bytes = encodeKeys({kPlainKey, kLocalKey});
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
    EXPECT_EQ(decodeKeys(encodeKeys({"short", kLocalKey})).code(), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(decodeKeys(encodeKeys({kPlainKey, kLocalKey.substr(0, 12)})).code(), NIXL_ERR_INVALID_PARAM);
}

TEST(Keys, OfRefusedDomainsAreRefused) {
    const std::string bytes = encodeKeys({kPlainKey, kLocalKey});
    EXPECT_TRUE(decodeKeys(bytes, 2).ok());
    EXPECT_EQ(decodeKeys(bytes, 1).code(), NIXL_ERR_INVALID_PARAM);
}

} // namespace
} // namespace nx::ucx
