// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: endpoints are read as programs write them for NIXL 1.4, and what is none is refused with the word that is
// wrong.
#include "etcd/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nx::etcd {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(EtcdSettings, ReadsEndpoints) {
    EXPECT_THAT(settingsFor("http://127.0.0.1:2379")->endpoints, ElementsAre("http://127.0.0.1:2379"));
    EXPECT_THAT(settingsFor("a:2379,https://b:2380/;http://[::1]:2379")->endpoints,
                ElementsAre("http://a:2379", "https://b:2380", "http://[::1]:2379"));
    EXPECT_EQ(settingsFor("a")->space, "/nixl/agents/");
}

TEST(EtcdSettings, RefusesWhatIsNoEndpoint) {
    for (const char *bad : {"ftp://a:1", "http://", "http://user:pw@a:1", "http://a/b", "http://:2379", "a b", "a\nb",
                            "http://a?b", "\xc3\xa9:1"}) {
        const auto settings = settingsFor(bad);
        EXPECT_EQ(settings.code(), NIXL_ERR_INVALID_PARAM) << bad;
        EXPECT_THAT(settings.message(), HasSubstr("is no endpoint of etcd")) << bad;
    }
    for (const char *none : {"", ",", ";;"}) {
        EXPECT_THAT(settingsFor(none).message(), HasSubstr("no endpoint of etcd is given")) << none;
    }
}

} // namespace
} // namespace nx::etcd
