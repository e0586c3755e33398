// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "rendezvous/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nx::rendezvous {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

TEST(RendezvousSettings, AddressesHaveAHostAndAPort) {
    const auto endpoints = endpointsIn("10.0.0.1:7000,[::1]:7001,node7:7002");
    ASSERT_TRUE(endpoints.ok()) << endpoints.message();
    ASSERT_EQ(endpoints->size(), 3u);
    EXPECT_EQ((*endpoints)[0].text(), "10.0.0.1:7000");
    EXPECT_EQ((*endpoints)[1].text(), "[::1]:7001");
    EXPECT_EQ((*endpoints)[2].text(), "node7:7002");
    for (const char *bad : {"", "node7", "node7:", ":7000", "node7:0", "node7:65536", "node 7:1", "a:1,", "a:1,,b:2"}) {
        const auto refused = endpointsIn(bad);
        EXPECT_EQ(refused.code(), NIXL_ERR_INVALID_PARAM) << bad;
        EXPECT_THAT(refused.message(), HasSubstr("is no address of a rendezvous; write for example")) << bad;
    }
}

TEST(RendezvousSettings, WithoutTheOptionNobodyListens) {
    const auto place = placeFor("");
    ASSERT_TRUE(place.ok());
    EXPECT_FALSE(place->socket);
}

TEST(RendezvousSettings, APortThatIsTakenIsReplaced) {
    const auto first = placeFor("127.0.0.1:0");
    ASSERT_TRUE(first.ok()) << first.message();
    EXPECT_THAT(first->address, StartsWith("127.0.0.1:"));
    const auto second = placeFor(first->address);
    ASSERT_TRUE(second.ok()) << second.message();
    EXPECT_THAT(second->address, StartsWith("127.0.0.1:"));
    EXPECT_NE(second->address, first->address);
    const auto everywhere = placeFor("0");
    ASSERT_TRUE(everywhere.ok()) << everywhere.message();
    EXPECT_THAT(everywhere->address, StartsWith(":"));
    const auto bound = placeFor("0", "127.0.0.1");
    ASSERT_TRUE(bound.ok()) << bound.message();
    EXPECT_THAT(bound->address, StartsWith("127.0.0.1:")) << "NIXL_LISTEN_ADDRESS counts";
}

TEST(RendezvousSettings, WhatCannotBeIsNamed) {
    for (const char *bad : {"x", "node7:7000", ":7000", "65536", "127.0.0.1:", "127.0.0.1:x"}) {
        const auto place = placeFor(bad);
        EXPECT_EQ(place.code(), NIXL_ERR_INVALID_PARAM) << bad;
        EXPECT_THAT(place.message(), HasSubstr("NIXL_RENDEZVOUS_LISTEN is '" + std::string(bad) + "'"));
    }
    const auto foreign = placeFor("192.0.2.1:0"); // of nobody
    EXPECT_EQ(foreign.code(), NIXL_ERR_BACKEND);
    EXPECT_THAT(foreign.message(), HasSubstr("Cannot assign requested address"));
}

} // namespace
} // namespace nx::rendezvous
