// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "memory/registration.h"

#include <gtest/gtest.h>

namespace nx::memory {
namespace {

std::shared_ptr<MappingOwner>
counting(int &let_go) {
    return std::make_shared<MappingOwner>(
        std::make_shared<Mapping>(nullptr, nullptr, "", [&](nixlBackendMD *, nixlBackendMD *) { ++let_go; }));
}

TEST(Window, LetsGoWhenItGoes) {
    int let_go = 0;
    {
        Window window({0, 1, 0}, counting(let_go));
        EXPECT_EQ(let_go, 0);
    }
    EXPECT_EQ(let_go, 1);
}

TEST(Window, RemovedIsRevokedAtOnceAndLetsGoWithTheLastWhoUsesIt) {
    int let_go = 0;
    auto window = std::make_shared<Window>(nixlBasicDesc(0, 1, 0), counting(let_go));
    auto removed = std::make_shared<const RemovedWindows>(std::vector{window});
    auto user = removed;
    EXPECT_TRUE(window->revoked());
    removed.reset();
    EXPECT_EQ(let_go, 0);
    user.reset();
    EXPECT_EQ(let_go, 1);
    window.reset();
    EXPECT_EQ(let_go, 1);
}

TEST(Window, TakenBackIsAsItWas) {
    int let_go = 0;
    auto window = std::make_shared<Window>(nixlBasicDesc(0, 1, 0), counting(let_go));
    {
        const auto removed = std::make_shared<RemovedWindows>(std::vector{window});
        const std::shared_ptr<const RemovedWindows> user = removed;
        removed->takeBack();
        EXPECT_FALSE(window->revoked());
    }
    EXPECT_EQ(let_go, 0);
    RemovedWindows({window});
    EXPECT_TRUE(window->revoked());
    EXPECT_EQ(let_go, 1);
}

TEST(Window, TheLastOfAMappingTakeItAlong) {
    int let_go = 0;
    auto owner = counting(let_go);
    const auto a = std::make_shared<Window>(nixlBasicDesc(0, 1, 0), owner);
    const auto b = std::make_shared<Window>(nixlBasicDesc(1, 1, 0), owner);
    owner.reset();
    EXPECT_EQ(lastRegistrations(std::vector{a}).size(), 0u);
    EXPECT_EQ(lastRegistrations(std::vector{a, b}).size(), 1u);
    RemovedWindows({a});
    EXPECT_EQ(lastRegistrations(std::vector{b}).size(), 1u);
}

TEST(Window, SharedMappingGoesWithTheLastWindow) {
    int let_go = 0;
    auto owner = counting(let_go);
    auto a = std::make_shared<Window>(nixlBasicDesc(0, 1, 0), owner);
    auto b = std::make_shared<Window>(nixlBasicDesc(1, 1, 0), owner);
    owner.reset();
    RemovedWindows({a});
    EXPECT_TRUE(a->revoked());
    EXPECT_FALSE(b->revoked());
    EXPECT_EQ(let_go, 0);
    RemovedWindows({b});
    EXPECT_EQ(let_go, 1);
}

} // namespace
} // namespace nx::memory
