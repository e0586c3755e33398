// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: keys are those of NIXL 1.4, and never one for two. Method: names with a meaning in keys.
#include "etcd/keys.h"

#include <map>

#include <gtest/gtest.h>

namespace nx::etcd {
namespace {

TEST(EtcdKeys, AreThoseOfNixl) {
    const Keys keys("/nixl/agents/");
    EXPECT_EQ(keys.entry("decode-3", "metadata"), "/nixl/agents//decode-3/metadata");
    EXPECT_EQ(keys.entry("100% \xc3\xa9", "a/b"), "/nixl/agents//100% \xc3\xa9/a/b");
    EXPECT_EQ(keys.anchor("decode-3"), "/nixl/agents//decode-3/");
    EXPECT_EQ(keys.start("00ff"), "/nixl/agents///00ff");
}

TEST(EtcdKeys, TellNamesApart) {
    const Keys keys("/n");
    const std::string agents[] = {"a",  "/",   "//", "a/",  "/a",  "a/b", "a%2Fb", "a%252Fb",  "%",
                                  "%2", "%2/", "%/", "%25", "%2F", "25",  "2F",    "metadata", std::string(1, '\0')};
    const std::string labels[] = {"a", "b", "b/c", "/", "metadata", "%2F", std::string(1, '\0')};
    std::map<std::string, std::string> seen;
    for (const auto &agent : agents) {
        EXPECT_TRUE(seen.emplace(keys.anchor(agent), agent).second) << agent;
        for (const auto &label : labels) {
            const auto [there, fresh] = seen.emplace(keys.entry(agent, label), agent + " " + label);
            EXPECT_TRUE(fresh) << agent << " " << label << " is " << there->second;
        }
        EXPECT_TRUE(seen.emplace(keys.start(agent + "x"), "start " + agent).second) << agent;
    }
}

TEST(EtcdKeys, ARangeEndsBehindAllThatBeginSo) {
    EXPECT_EQ(endOf("/n/"), "/n0");
    EXPECT_EQ(endOf("a\xff\xff"), "b");
    EXPECT_EQ(endOf("\xff"), std::string(1, '\0'));
    EXPECT_EQ(endOf(""), std::string(1, '\0'));
}

} // namespace
} // namespace nx::etcd
