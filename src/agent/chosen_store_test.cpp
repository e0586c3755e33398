// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: the store that is meant is chosen, and a choice that cannot be read is refused with what is wrong. Method: the
// options, set.
#include "agent/chosen_store.h"

#include <cstdlib>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nx::agent {
namespace {

using testing::HasSubstr;

class ChosenStoreTest : public testing::Test {
protected:
    ~ChosenStoreTest() override {
        for (const char *option : {"NIXL_METADATA_STORE", "NIXL_ONE_ENDPOINTS", "NIXL_TWO_ENDPOINT"})
            ::unsetenv(option);
    }

    static std::string
    chosen() {
        const auto store = chosenStore({"one", "two"});
        if (!store.ok()) return store.message();
        return *store ? (*store)->store + "|" + (*store)->address : "none";
    }
};

TEST_F(ChosenStoreTest, IsNoneUnlessOneIsSet) {
    EXPECT_EQ(chosen(), "none");
    ::setenv("NIXL_METADATA_STORE", "", 1);
    ::setenv("NIXL_ONE_ENDPOINTS", "", 1);
    EXPECT_EQ(chosen(), "none");
}

TEST_F(ChosenStoreTest, IsThatOfTheUrl) {
    ::setenv("NIXL_METADATA_STORE", "file:///run/nixl", 1);
    EXPECT_EQ(chosen(), "file|/run/nixl");
    ::setenv("NIXL_METADATA_STORE", "one://https://a:1,b:2", 1);
    EXPECT_EQ(chosen(), "one|https://a:1,b:2");
}

TEST_F(ChosenStoreTest, IsThatOfTheOptionsOfNixl) {
    ::setenv("NIXL_ONE_ENDPOINTS", "http://a:1", 1);
    EXPECT_EQ(chosen(), "one|http://a:1");
    ::setenv("NIXL_METADATA_STORE", "file:///run/nixl", 1);
    EXPECT_EQ(chosen(), "one|http://a:1") << "they come first";
    ::unsetenv("NIXL_ONE_ENDPOINTS");
    ::setenv("NIXL_TWO_ENDPOINT", "b:2", 1);
    EXPECT_EQ(chosen(), "two|b:2");
}

TEST_F(ChosenStoreTest, MustBeClear) {
    ::setenv("NIXL_ONE_ENDPOINTS", "a:1", 1);
    ::setenv("NIXL_TWO_ENDPOINT", "b:2", 1);
    EXPECT_EQ(chosen(), "NIXL_ONE_ENDPOINTS is 'a:1', and NIXL_TWO_ENDPOINT is 'b:2'; set one of them only");
    ::unsetenv("NIXL_ONE_ENDPOINTS");
    ::unsetenv("NIXL_TWO_ENDPOINT");
    for (const char *bad : {"nonsense", "file:/run", "://x"}) {
        ::setenv("NIXL_METADATA_STORE", bad, 1);
        EXPECT_THAT(chosen(), HasSubstr("which is not <store>://<address>")) << bad;
    }
}

} // namespace
} // namespace nx::agent
