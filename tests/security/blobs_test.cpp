// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: an agent with a key takes metadata only of those who have it, as they made it last, whichever way it comes.
// Method: blobs that the test carries, changes, keeps and hands out again; a directory that does the same.
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <random>
#include <sstream>

#include "security/keyed.h"

namespace nx::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class SignedBlobs : public ::testing::Test {
protected:
    void
    expectRefused(const nixl_blob_t &blob, nixl_status_t status, const std::string &why) {
        EXPECT_EQ(load(b, blob), status) << nixlx::lastError();
        EXPECT_THAT(nixlx::lastError(), HasSubstr(why));
    }

    Keys keys;
    Buffer x{4096}, y{4096}, z{4096}; // behind the agents
    PairedAgent a = keys.agent("A", "ours"), b = keys.agent("B", "ours");
};

TEST_F(SignedBlobs, AgentsWithOneKeyTakeEachOther) {
    require(a->registerMem(registrationOf({x.desc()})), "register");
    ASSERT_EQ(load(b, a.metadata()), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_EQ(load(a, b.metadata()), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(knows(b, "A", listOf({x.desc()})));
    EXPECT_EQ(load(b, a.metadata()), NIXL_SUCCESS) << "the same once more";
}

TEST_F(SignedBlobs, AnAgentWithoutAKeyReadsThem) {
    auto plain = keys.agent("plain", "");
    EXPECT_EQ(load(plain, a.metadata()), NIXL_SUCCESS) << nixlx::lastError();
}

TEST_F(SignedBlobs, WhatIsNotSignedIsRefused) {
    auto plain = keys.agent("plain", "");
    expectRefused(plain.metadata(), NIXL_ERR_NOT_ALLOWED, "not signed");
    EXPECT_FALSE(knows(b, "plain"));
}

TEST_F(SignedBlobs, AnotherKeysAreRefused) {
    auto stranger = keys.agent("A", "theirs");
    expectRefused(stranger.metadata(), NIXL_ERR_NOT_ALLOWED, "another key");
    require(a->registerMem(registrationOf({x.desc()})), "register");
    require(load(b, a.metadata()), "load");
    expectRefused(stranger.metadata(), NIXL_ERR_NOT_ALLOWED, "another key");
    EXPECT_TRUE(knows(b, "A", listOf({x.desc()}))) << "the genuine one stays";
}

TEST_F(SignedBlobs, NoChangeGoesUnnoticedAndNoneChangesAnything) { // P16
    require(a->registerMem(registrationOf({x.desc()})), "register");
    const auto blob = a.metadata();
    require(load(b, blob), "load");
    std::mt19937 random(29);
    for (int round = 0; round < 2000; ++round) {
        auto changed = blob;
        switch (round % 4) {
        case 0: changed[random() % changed.size()] ^= static_cast<char>(1 << random() % 8); break;
        case 1: changed.resize(random() % changed.size()); break;
        case 2: changed.erase(random() % changed.size(), 1 + random() % 40); break;
        default: changed.insert(random() % (changed.size() + 1), 1 + random() % 40, static_cast<char>(random())); break;
        }
        if (changed == blob) continue;
        const auto status = load(b, changed);
        ASSERT_TRUE(status == NIXL_ERR_MISMATCH || status == NIXL_ERR_NOT_ALLOWED) << round << nixlx::lastError();
        ASSERT_TRUE(knows(b, "A", listOf({x.desc()}))) << round;
        ASSERT_FALSE(knows(b, "A", listOf({y.desc()}))) << round;
    }
    EXPECT_EQ(load(b, blob), NIXL_SUCCESS) << "it is still taken";
}

TEST_F(SignedBlobs, ASignatureIsOfOneBlobOnly) {
    require(a->registerMem(registrationOf({x.desc()})), "register");
    const auto one = a.metadata();
    require(a->registerMem(registrationOf({y.desc()})), "register");
    const auto other = a.metadata();
    const auto cut = [](const nixl_blob_t &blob) { return blob.rfind("nixlxSignature"); };
    expectRefused(other.substr(0, cut(other)) + one.substr(cut(one)), NIXL_ERR_MISMATCH, "");
    expectRefused(one + other.substr(cut(other)), NIXL_ERR_MISMATCH, "");
}

TEST_F(SignedBlobs, WhatIsOlderThanWhatIsLoadedIsRefused) { // W: a store that returns old data
    require(a->registerMem(registrationOf({x.desc(), y.desc()})), "register");
    const auto old = a.metadata();
    nixl_blob_t old_part;
    require(a->getLocalPartialMD(registrationOf({y.desc()}), old_part), "part");
    require(a->deregisterMem(registrationOf({y.desc()})), "deregister");
    require(load(b, a.metadata()), "load");
    expectRefused(old, NIXL_ERR_NOT_ALLOWED, "it is old: its epoch is ");
    expectRefused(old_part, NIXL_ERR_NOT_ALLOWED, "old");
    EXPECT_FALSE(knows(b, "A", listOf({y.desc()})));
    require(b->invalidateRemoteMD("A"), "invalidate");
    expectRefused(old, NIXL_ERR_NOT_ALLOWED, "old");
}

TEST_F(SignedBlobs, AStartThatWasReplacedDoesNotReturn) {
    const auto earlier = a.metadata();
    require(load(b, earlier), "load");
    auto later = keys.agent("A", "ours");
    require(load(b, later.metadata()), "load");
    expectRefused(earlier, NIXL_ERR_NOT_ALLOWED, "a later one has replaced");
    require(b->invalidateRemoteMD("A"), "invalidate");
    expectRefused(a.metadata(), NIXL_ERR_NOT_ALLOWED, "a later one has replaced");
    EXPECT_EQ(load(b, later.metadata()), NIXL_SUCCESS);
}

TEST_F(SignedBlobs, PartsGrowAPeer) {
    require(a->registerMem(registrationOf({x.desc(), y.desc(), z.desc()})), "register");
    nixl_opt_args_t with_connection;
    with_connection.includeConnInfo = true;
    nixl_blob_t first, second;
    require(a->getLocalPartialMD(registrationOf({x.desc()}), first, &with_connection), "part");
    require(a->getLocalPartialMD(registrationOf({y.desc()}), second, &with_connection), "part");
    require(load(b, second), "load");
    require(load(b, first), "load the earlier one");
    EXPECT_TRUE(knows(b, "A", listOf({x.desc(), y.desc()})));
    EXPECT_FALSE(knows(b, "A", listOf({z.desc()})));
}

TEST_F(SignedBlobs, ADirectoryCannotSpeakForAnAgent) {
    const TempDir folder;
    ::setenv("NIXL_METADATA_STORE", ("file://" + folder.path().string()).c_str(), 1);
    auto stranger = keys.agent("C", "theirs");
    for (auto *agent : {&a, &stranger}) {
        require((*agent)->sendLocalMD(), "send");
        require((*agent)->waitMetadata(kPatience), "wait");
    }
    require(b->fetchRemoteMD("A"), "fetch");
    EXPECT_EQ(b->waitMetadata(kPatience), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(knows(b, "A"));
    require(b->fetchRemoteMD("C"), "fetch");
    EXPECT_EQ(b->waitMetadata(kPatience), NIXL_ERR_NOT_ALLOWED);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("another key"));
    ::unsetenv("NIXL_METADATA_STORE");
}

class BrokenKey : public ::testing::Test {
protected:
    /// All that an agent can say or hear is refused with the sentence.
    static void
    expectSilence(const std::string &why) {
        PairedAgent agent("A", {});
        nixl_blob_t blob = "untouched";
        std::string name;
        nixl_opt_args_t to;
        to.ipAddr = "127.0.0.1";
        to.port = 1;
        const auto refused = [&](nixl_status_t status) {
            EXPECT_LT(status, 0);
            EXPECT_THAT(nixlx::lastError(), AllOf(HasSubstr("NIXL_SECRET_FILE"), HasSubstr(why)));
        };
        refused(agent->getLocalMD(blob));
        EXPECT_EQ(blob, "untouched");
        refused(agent->getLocalPartialMD({DRAM_SEG}, blob));
        refused(agent->loadRemoteMD("nixlSerDes|", name));
        refused(agent->sendLocalMD(&to));
        refused(agent->fetchRemoteMD("B", &to));
        refused(agent->invalidateLocalMD(&to));
        refused(agent->sendLocalMD());
        refused(agent->fetchRemoteMD("B"));
        PairOptions listening;
        listening.listen = true;
        try {
            PairedAgent("L", listening);
            FAIL() << "it listens";
        }
        catch (const std::runtime_error &error) {
            EXPECT_THAT(error.what(), AllOf(HasSubstr("NIXL_SECRET_FILE"), HasSubstr(why)));
        }
    }

    Keys keys;
};

TEST_F(BrokenKey, LetsNothingPass) {
    ::setenv("NIXL_SECRET_FILE", "/nonexistent/key", 1);
    expectSilence("No such file");
    ::setenv("NIXL_SECRET_FILE", "", 1);
    expectSilence("unset it");
    const auto path = keys.file("ours");
    ASSERT_EQ(::chmod(path.c_str(), 0644), 0);
    ::setenv("NIXL_SECRET_FILE", path.c_str(), 1);
    expectSilence("read by others (mode 0644)");
    EXPECT_THAT(nixlx::lastError(), Not(HasSubstr("qL3v")));
}

TEST_F(BrokenKey, ExactlyOnePluginHasToBeThere) {
    GTEST_FLAG_SET(death_test_style, "threadsafe"); // a process in which no plugin has been looked for yet
    const auto silenceWith = [&](const std::vector<std::string> &names, const std::string &why) {
        const TempDir folder;
        std::filesystem::copy_file(NX_PLUGIN_DIR "/libplugin_LOOPBACK.so", folder / "libplugin_LOOPBACK.so");
        for (const auto &name : names) {
            std::filesystem::copy_file(NX_PLUGIN_DIR "/libsecurity_tls.so", folder / ("libsecurity_" + name + ".so"));
        }
        ::setenv("NIXL_PLUGIN_DIR", folder.path().c_str(), 1);
        keys.use("ours");
        expectSilence(why);
        std::_Exit(HasFailure() ? 1 : 0);
    };
    using Names = std::vector<std::string>;
    EXPECT_EXIT(silenceWith(Names{}, "no security plugin"), testing::ExitedWithCode(0), "");
    EXPECT_EXIT(silenceWith((Names{"tls", "other"}), "there are several security plugins, 'other' and 'tls'"),
                testing::ExitedWithCode(0), "");
    EXPECT_EXIT(silenceWith(Names{"other"}, "name is 'tls', expected 'other'"), testing::ExitedWithCode(0), "");
}

} // namespace
} // namespace nx::test
