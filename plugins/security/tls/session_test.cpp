// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Both ends in one process; the test carries the bytes, and changes them.
#include "tls/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <random>
#include <sys/stat.h>

#include "base/last_error.h"
#include "support/temp_dir.h"

namespace nx::tls {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<Security>
with(const test::TempDir &folder, const std::string &key) {
    const auto path = folder.write("key", key);
    EXPECT_EQ(::chmod(path.c_str(), 0600), 0);
    auto made = Security::create({"A", path});
    EXPECT_TRUE(made.ok()) << made.message();
    return *std::move(made);
}

/// One end, what it has to send, what it was told, and how it ended.
struct End {
    End(Security &security, bool accepts) : session(security.open(accepts)) {
        status = session->begin(out);
    }

    void
    take(std::string_view bytes) {
        clearBackendSentence();
        status = session->receive(bytes, plain, out);
        if (status < 0) why = takeBackendSentence("no reason");
    }

    std::string
    say(std::string_view text) {
        EXPECT_EQ(session->send(text, out), NIXL_SUCCESS);
        return std::exchange(out, {});
    }

    std::unique_ptr<nixlx::SecureSession> session;
    std::string out, plain, why;
    nixl_status_t status;
};

class Sessions : public ::testing::Test {
protected:
    /// Carries bytes between both, `piece` at a time, until neither has any or one has failed.
    static void
    carry(End &one, End &other, size_t piece = SIZE_MAX) {
        while ((!one.out.empty() || !other.out.empty()) && one.status >= 0 && other.status >= 0) {
            for (auto [from, to] : {std::pair{&one, &other}, std::pair{&other, &one}}) {
                const std::string bytes = std::exchange(from->out, {});
                for (size_t at = 0; at < bytes.size() && to->status >= 0; at += std::min(piece, bytes.size() - at)) {
                    to->take(std::string_view(bytes).substr(at, piece));
                }
            }
        }
    }

    test::TempDir folder;
    const std::unique_ptr<Security> ours = with(folder, "qL3vN8xT2mZ7rB5cY0wK9dF4hJ6gS1pA");
    const std::unique_ptr<Security> other = with(folder, "AqL3vN8xT2mZ7rB5cY0wK9dF4hJ6gS1p");
};

TEST_F(Sessions, TwoWithTheKeyProveThemselvesAndTalk) {
    for (const size_t piece : {SIZE_MAX, size_t{7}, size_t{1}}) {
        End client(*ours, false), server(*ours, true);
        EXPECT_FALSE(client.session->proven());
        carry(client, server, piece);
        ASSERT_TRUE(client.session->proven() && server.session->proven()) << client.why << server.why;
        const std::string text(100'000, 'x');
        const auto carried = client.say(text);
        EXPECT_EQ(carried.find("xxxx"), std::string::npos);
        server.take(carried);
        EXPECT_EQ(server.plain, text);
        client.take(server.say("yes"));
        EXPECT_EQ(client.plain, "yes");
    }
}

TEST_F(Sessions, AnotherKeyIsRefusedOnBothSides) {
    End client(*other, false), server(*ours, true);
    carry(client, server);
    EXPECT_FALSE(server.session->proven());
    EXPECT_EQ(server.status, NIXL_ERR_NOT_ALLOWED);
    EXPECT_THAT(server.why, HasSubstr("another key"));
    EXPECT_EQ(client.status, NIXL_ERR_NOT_ALLOWED);
    EXPECT_THAT(client.why, HasSubstr("another key"));
    EXPECT_EQ(client.plain + server.plain, "");
}

TEST_F(Sessions, WhoSpeaksPlainlyIsRefusedAtTheFirstByteThatShowsIt) {
    for (const std::string &words :
         {std::string("\x0d\0\0\0\0\0\0\0NIXLCOMM:SEND", 21), std::string("GET / HTTP/1.1\r\n"), std::string(1, '\0'),
          std::string("\x16\x04", 2), std::string(70'000, '\x16')}) {
        End server(*ours, true);
        server.take(words);
        EXPECT_EQ(server.status, NIXL_ERR_NOT_ALLOWED) << words.substr(0, 20);
        EXPECT_THAT(server.why, HasSubstr("without a key"));
        EXPECT_EQ(server.out, "");
    }
    End client(*ours, false);
    client.take("\x0d NIXLCOMM:LOAD");
    EXPECT_EQ(client.status, NIXL_ERR_NOT_ALLOWED);
    EXPECT_THAT(client.why, HasSubstr("without a key"));
}

TEST_F(Sessions, WhatIsReplayedProvesNothing) {
    End client(*ours, false), server(*ours, true);
    const std::string hello = client.out;
    server.take(hello);
    const std::string answer = std::exchange(server.out, {});
    client.take(answer);
    const std::string finished = client.out + client.say("forget agent B");
    End again(*ours, true);
    again.take(hello);
    again.take(finished);
    EXPECT_FALSE(again.session->proven());
    EXPECT_LT(again.status, 0);
    EXPECT_EQ(again.plain, "");
}

TEST_F(Sessions, AChangedByteEndsTheConnection) {
    std::mt19937 random(17);
    for (int round = 0; round < 200; ++round) {
        End client(*ours, false), server(*ours, true);
        // Of the three flights and what is said after them, one byte is changed.
        const int flight = round % 4;
        std::string carried;
        const auto change = [&](std::string bytes, int now) {
            if (now == flight) bytes[random() % bytes.size()] ^= static_cast<char>(1 << random() % 8);
            return bytes;
        };
        server.take(change(std::exchange(client.out, {}), 0));
        if (server.status >= 0) client.take(change(std::exchange(server.out, {}), 1));
        if (server.status >= 0 && client.status >= 0) server.take(change(std::exchange(client.out, {}), 2));
        if (server.status >= 0 && client.session->proven()) server.take(change(client.say("forget agent B"), 3));
        // Of a handshake's records the version in their heads means nothing, so that it may change.
        EXPECT_TRUE(server.plain.empty() || (flight < 3 && server.plain == "forget agent B")) << round;
    }
}

TEST_F(Sessions, NoiseNeverGetsAWordIn) {
    std::mt19937 random(23);
    for (int round = 0; round < 500; ++round) {
        End server(*ours, true);
        std::string noise = "\x16\x03\x01";
        const size_t size = random() % 3000;
        noise.push_back(static_cast<char>(size >> 8));
        noise.push_back(static_cast<char>(size));
        for (size_t i = 0; i < size; ++i) noise.push_back(static_cast<char>(random()));
        server.take(noise);
        EXPECT_FALSE(server.session->proven());
        EXPECT_EQ(server.plain, "");
    }
}

TEST_F(Sessions, NothingIsSaidBeforeTheProof) {
    End client(*ours, false);
    EXPECT_EQ(client.session->send("secret", client.out), NIXL_ERR_BACKEND);
    EXPECT_EQ(client.out.find("secret"), std::string::npos);
}

} // namespace
} // namespace nx::tls
