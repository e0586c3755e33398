// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "memory/registration.h"

#include <gtest/gtest.h>
#include <thread>
#include <vector>

namespace nx::memory {
namespace {

std::shared_ptr<Mapping>
counting(int &let_go) {
    return std::make_shared<Mapping>(nullptr, nullptr, "", [&](nixlBackendMD *, nixlBackendMD *) { ++let_go; });
}

TEST(Mapping, LetsGoAtOnceWhenUnused) {
    int let_go = 0;
    auto mapping = counting(let_go);
    mapping->revoke();
    EXPECT_EQ(let_go, 1);
    EXPECT_FALSE(mapping->acquire());
    mapping.reset();
    EXPECT_EQ(let_go, 1);
}

TEST(Mapping, LetsGoWithTheLastUser) {
    int let_go = 0;
    auto mapping = counting(let_go);
    ASSERT_TRUE(mapping->acquire());
    ASSERT_TRUE(mapping->acquire());
    mapping->revoke();
    mapping->release();
    EXPECT_EQ(let_go, 0);
    mapping->release();
    EXPECT_EQ(let_go, 1);
}

TEST(Mapping, LetsGoInItsDestructorIfNeverRevoked) {
    int let_go = 0;
    counting(let_go).reset();
    EXPECT_EQ(let_go, 1);
}

TEST(Window, SharedMappingGoesWithTheLastWindow) {
    int let_go = 0;
    auto owner = std::make_shared<MappingOwner>(counting(let_go));
    Window a({0, 1, 0}, owner), b({1, 1, 0}, owner);
    owner.reset();
    a.revoke();
    EXPECT_TRUE(a.revoked());
    EXPECT_FALSE(b.revoked());
    EXPECT_EQ(let_go, 0);
    b.revoke();
    EXPECT_EQ(let_go, 1);
}

TEST(Mapping, LetsGoOnceUnderContention) {
    for (int round = 0; round < 200; ++round) {
        std::atomic<int> let_go{0};
        std::atomic<int> in_use{0};
        Mapping mapping(nullptr, nullptr, "", [&](nixlBackendMD *, nixlBackendMD *) {
            EXPECT_EQ(in_use.load(), 0);
            ++let_go;
        });
        std::vector<std::thread> users;
        for (int i = 0; i < 4; ++i) {
            users.emplace_back([&] {
                while (mapping.acquire()) {
                    ++in_use;
                    --in_use;
                    mapping.release();
                }
            });
        }
        mapping.revoke();
        for (auto &user : users) user.join();
        EXPECT_EQ(let_go.load(), 1);
    }
}

} // namespace
} // namespace nx::memory
