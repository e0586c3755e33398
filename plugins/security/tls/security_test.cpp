// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "tls/security.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "support/temp_dir.h"

namespace nx::tls {
namespace {

class Signatures : public ::testing::Test {
protected:
    std::unique_ptr<Security>
    with(const std::string &key) {
        const auto path = folder.write("key", key);
        EXPECT_EQ(::chmod(path.c_str(), 0600), 0);
        auto made = Security::create({"A", path});
        EXPECT_TRUE(made.ok()) << made.message();
        return *std::move(made);
    }

    static std::string
    sign(Security &security, std::string_view bytes) {
        std::string signature;
        EXPECT_EQ(security.sign(bytes, signature), NIXL_SUCCESS);
        return signature;
    }

    test::TempDir folder;
    const std::unique_ptr<Security> ours = with("qL3vN8xT2mZ7rB5cY0wK9dF4hJ6gS1pA");
    const std::unique_ptr<Security> same = with("qL3vN8xT2mZ7rB5cY0wK9dF4hJ6gS1pA");
    const std::unique_ptr<Security> other = with("AqL3vN8xT2mZ7rB5cY0wK9dF4hJ6gS1p");
};

TEST_F(Signatures, AreTakenByWhoHasTheKey) {
    for (const std::string &text : {std::string(), std::string("x"), std::string(1 << 20, '\0')}) {
        EXPECT_EQ(same->verify("A", text, sign(*ours, text)), NIXL_SUCCESS);
    }
}

TEST_F(Signatures, OfAnotherKeyAreAStrangers) {
    EXPECT_EQ(ours->verify("A", "text", sign(*other, "text")), NIXL_ERR_NOT_ALLOWED);
}

TEST_F(Signatures, EveryBitCounts) {
    const std::string text = "some text", signature = sign(*ours, text);
    for (size_t bit = 0; bit < 8 * signature.size(); ++bit) {
        std::string changed = signature;
        changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ (1 << bit % 8));
        EXPECT_LT(ours->verify("A", text, changed), 0) << bit;
    }
    for (size_t bit = 0; bit < 8 * text.size(); ++bit) {
        std::string changed = text;
        changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ (1 << bit % 8));
        EXPECT_EQ(ours->verify("A", changed, signature), NIXL_ERR_MISMATCH) << bit;
    }
}

TEST_F(Signatures, OfAnotherLengthAreNone) {
    const std::string signature = sign(*ours, "text");
    for (size_t size = 0; size < signature.size(); ++size) {
        EXPECT_EQ(ours->verify("A", "text", signature.substr(0, size)), NIXL_ERR_MISMATCH) << size;
    }
    EXPECT_EQ(ours->verify("A", "text", signature + '\0'), NIXL_ERR_MISMATCH);
}

} // namespace
} // namespace nx::tls
