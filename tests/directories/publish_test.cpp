// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: what one agent publishes is what others find, whole, under its name and no other. Method: two sides of one
// place.
#include <atomic>
#include <gmock/gmock.h>
#include <thread>

#include "directories/contract.h"
#include "support/eventually.h"

namespace nx::test {

constexpr size_t kLargest = size_t{64} << 20;

TEST_P(DirectoryContract, WhatIsPublishedIsFound) {
    const auto a = start("a"), b = start("b");
    const std::string blob("md\0\xff\n|", 6);
    ASSERT_EQ(publish(*a, "metadata", blob), NIXL_SUCCESS) << takeSentence();
    EXPECT_EQ(found(*b, "a", "metadata"), blob);
    EXPECT_EQ(found(*a, "a", "metadata"), blob) << "by itself, too";
}

TEST_P(DirectoryContract, ALaterPublicationReplacesAnEarlierOne) {
    const auto a = start("a"), b = start("b");
    ASSERT_EQ(publish(*a, "metadata", "a long first one"), NIXL_SUCCESS);
    ASSERT_EQ(publish(*a, "metadata", "2"), NIXL_SUCCESS);
    EXPECT_EQ(found(*b, "a", "metadata"), "2");
}

TEST_P(DirectoryContract, LabelsAreKeptApart) {
    const auto a = start("a"), b = start("b");
    ASSERT_EQ(publish(*a, "one", "1"), NIXL_SUCCESS);
    ASSERT_EQ(publish(*a, "two", "2"), NIXL_SUCCESS);
    EXPECT_EQ(found(*b, "a", "one"), "1");
    EXPECT_EQ(found(*b, "a", "two"), "2");
    EXPECT_EQ(found(*b, "a", "three"), "NIXL_ERR_NOT_FOUND");
}

TEST_P(DirectoryContract, NobodyIsFoundBeforePublishing) {
    const auto a = start("a"), b = start("b");
    EXPECT_EQ(found(*b, "a", "metadata"), "NIXL_ERR_NOT_FOUND");
}

TEST_P(DirectoryContract, BlobsHaveOneByteTo64MiB) {
    const auto a = start("a"), b = start("b");
    EXPECT_EQ(publish(*a, "metadata", ""), NIXL_ERR_INVALID_PARAM);
    std::string blob(kLargest, 'x');
    blob.back() = 'y';
    ASSERT_EQ(publish(*a, "metadata", blob), NIXL_SUCCESS) << takeSentence();
    EXPECT_TRUE(found(*b, "a", "metadata") == blob) << "not printed: it is large";
    blob += 'z';
    EXPECT_EQ(publish(*a, "metadata", blob), NIXL_ERR_INVALID_PARAM);
    EXPECT_EQ(found(*b, "a", "metadata").size(), kLargest) << "what was there stays";
}

TEST_P(DirectoryContract, NamesHaveNoMeaningToTheStore) {
    const std::string names[] = {".",        "..",       "../a",       "/", "//", "a/b",      "a%2Fb",
                                 "a",        "A",        "*",          " ", "\n", "metadata", std::string("a\0b", 3),
                                 "\xff\xfe", "\xc3\xa9", "a/metadata", "0"};
    std::vector<std::unique_ptr<nixlx::Directory>> agents;
    for (const auto &name : names) {
        agents.push_back(start(name));
        ASSERT_TRUE(agents.back()) << testing::PrintToString(name) << ": " << takeSentence();
        for (const auto &label : names) {
            ASSERT_EQ(publish(*agents.back(), label, "<" + name + "><" + label + ">"), NIXL_SUCCESS)
                << testing::PrintToString(label) << ": " << takeSentence();
        }
    }
    const auto reader = start("reader");
    for (const auto &name : names) {
        for (const auto &label : names) EXPECT_EQ(found(*reader, name, label), "<" + name + "><" + label + ">");
    }
}

TEST_P(DirectoryContract, ALongNameIsHeldOrRefused) {
    const std::string longest(4096, '/');
    const auto reader = start("reader");
    auto agent = start(longest);
    if (!agent) {
        EXPECT_NE(takeSentence(), "");
        EXPECT_EQ(found(*reader, longest, "metadata"), "NIXL_ERR_INVALID_PARAM");
        agent = start("a");
    } else {
        ASSERT_EQ(publish(*agent, "metadata", "1"), NIXL_SUCCESS);
        EXPECT_EQ(found(*reader, longest, "metadata"), "1");
    }
    if (publish(*agent, longest, "1") != NIXL_SUCCESS) {
        EXPECT_EQ(publish(*agent, longest, "1"), NIXL_ERR_INVALID_PARAM);
        EXPECT_NE(takeSentence(), "");
    }
}

TEST_P(DirectoryContract, WithdrawingTakesBackAllLabels) {
    const auto a = start("a"), b = start("b");
    ASSERT_EQ(a->withdraw(soon()), NIXL_SUCCESS) << "of nothing";
    ASSERT_EQ(publish(*a, "one", "1"), NIXL_SUCCESS);
    ASSERT_EQ(publish(*a, "two", "2"), NIXL_SUCCESS);
    ASSERT_EQ(publish(*b, "one", "b"), NIXL_SUCCESS);
    ASSERT_EQ(a->withdraw(soon()), NIXL_SUCCESS);
    EXPECT_EQ(found(*b, "a", "one"), "NIXL_ERR_NOT_FOUND");
    EXPECT_EQ(found(*b, "a", "two"), "NIXL_ERR_NOT_FOUND");
    EXPECT_EQ(found(*a, "b", "one"), "b");
    ASSERT_EQ(publish(*a, "two", "again"), NIXL_SUCCESS) << takeSentence();
    EXPECT_EQ(found(*b, "a", "two"), "again");
    EXPECT_EQ(found(*b, "a", "one"), "NIXL_ERR_NOT_FOUND");
}

TEST_P(DirectoryContract, ALaterStartTakesTheNameOfAnEarlierOne) {
    const auto reader = start("reader");
    auto first = start("a");
    ASSERT_EQ(publish(*first, "metadata", "first"), NIXL_SUCCESS);
    ASSERT_EQ(publish(*first, "more", "first"), NIXL_SUCCESS);
    const auto second = start("a");
    EXPECT_EQ(found(*reader, "a", "metadata"), "first") << "it has not published yet";
    ASSERT_EQ(publish(*second, "metadata", "second"), NIXL_SUCCESS) << takeSentence();
    EXPECT_EQ(found(*reader, "a", "metadata"), "second");
    EXPECT_EQ(found(*reader, "a", "more"), "NIXL_ERR_NOT_FOUND") << "of one start only";
    EXPECT_EQ(publish(*first, "metadata", "first again"), NIXL_ERR_NOT_ALLOWED);
    EXPECT_NE(takeSentence(), "");
    EXPECT_EQ(first->withdraw(soon()), NIXL_SUCCESS);
    EXPECT_EQ(publish(*first, "metadata", "first again"), NIXL_ERR_NOT_ALLOWED);
    first.reset();
    EXPECT_EQ(found(*reader, "a", "metadata"), "second");
}

TEST_P(DirectoryContract, AReaderNeverSeesHalfABlob) {
    const auto a = start("a"), b = start("b");
    const std::string blobs[] = {std::string(100'000, 'x'), std::string(30, 'y'), std::string(3'000'000, 'z')};
    ASSERT_EQ(publish(*a, "metadata", blobs[0]), NIXL_SUCCESS);
    std::atomic<bool> stop = false;
    std::thread writer([&] {
        for (size_t i = 0; !stop; ++i) EXPECT_EQ(publish(*a, "metadata", blobs[i % 3]), NIXL_SUCCESS);
    });
    for (int i = 0; i < 300; ++i) {
        const auto blob = found(*b, "a", "metadata");
        EXPECT_TRUE(blob == blobs[0] || blob == blobs[1] || blob == blobs[2]) << blob.size() << " " << blob[0];
    }
    stop = true;
    writer.join();
}

TEST_P(DirectoryContract, TwoStartsThatPublishAtOnceLeaveOneWhole) {
    const auto reader = start("reader");
    for (int round = 0; round < 30; ++round) {
        const auto first = start("a"), second = start("a");
        const auto both = [&](nixlx::Directory &directory, const std::string &blob) {
            if (directory.publish("one", blob, soon()) == NIXL_SUCCESS) (void)directory.publish("two", blob, soon());
        };
        std::thread other([&] { both(*first, "first"); });
        both(*second, "second");
        other.join();
        const auto one = found(*reader, "a", "one"), two = found(*reader, "a", "two");
        EXPECT_TRUE(one == "first" || one == "second") << one;
        EXPECT_EQ(one, two);
    }
}

TEST_P(DirectoryContract, AStoreThatWasAwayServesAgain) {
    const auto a = start("a"), b = start("b");
    ASSERT_EQ(publish(*a, "metadata", "1"), NIXL_SUCCESS);
    place_->lose();
    std::string blob;
    const auto failing = [](nixl_status_t status) { return status < 0 && !takeSentence().empty(); };
    EXPECT_TRUE(failing(publish(*a, "metadata", "2")));
    EXPECT_TRUE(failing(b->fetch("a", "metadata", blob, soon())));
    place_->restore();
    EXPECT_TRUE(eventually([&] { return publish(*a, "metadata", "3") == NIXL_SUCCESS; })) << takeSentence();
    EXPECT_EQ(found(*b, "a", "metadata"), "3");
}

} // namespace nx::test
