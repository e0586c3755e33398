// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Frames: NIXL's bytes both ways, cut anywhere; what is no frame is refused as early as it shows.
#include "wire/frame.h"

#include <cstring>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "golden/golden.h"
#include "wire/limits.h"
#include "wire/metadata.h"

namespace nx::wire {
namespace {

using ::testing::HasSubstr;

std::string
lengthOf(uint64_t length) {
    return {reinterpret_cast<const char *>(&length), sizeof length};
}

/// The refusal of a reader that gets these bytes.
std::string
refusal(std::string_view bytes) {
    FrameReader reader;
    reader.add(bytes);
    const auto message = reader.next();
    if (message.ok()) return *message ? "a message" : "more bytes are needed";
    EXPECT_EQ(message.code(), NIXL_ERR_MISMATCH);
    return message.message();
}

TEST(Frame, HasTheBytesOfNixl) {
    const std::string asked = test::golden("frame_send.bin");
    EXPECT_EQ(encodeFrame(Verb::kSend, ""), asked);
    const std::string forget = test::golden("frame_invl.bin");
    EXPECT_EQ(encodeFrame(Verb::kInvalidate, "golden-agent"), forget);
    const std::string load = test::golden("frame_load.bin");
    EXPECT_EQ(encodeFrame(Verb::kLoad, test::golden("metadata_full.bin")), load);
}

TEST(Frame, ReadsNixlsFramesOneByteAtATime) {
    const std::string stream =
        test::golden("frame_send.bin") + test::golden("frame_load.bin") + test::golden("frame_invl.bin");
    FrameReader reader;
    std::vector<std::pair<Verb, std::string>> messages;
    for (const char byte : stream) {
        reader.add({&byte, 1});
        const auto message = reader.next();
        ASSERT_TRUE(message.ok()) << message.message();
        if (*message) messages.emplace_back((*message)->verb, (*message)->payload);
    }
    ASSERT_EQ(messages.size(), 3u);
    EXPECT_EQ(messages[0], std::pair(Verb::kSend, std::string()));
    EXPECT_EQ(messages[1], std::pair(Verb::kLoad, test::golden("metadata_full.bin")));
    EXPECT_TRUE(decodeMetadata(messages[1].second).ok());
    EXPECT_EQ(messages[2], std::pair(Verb::kInvalidate, std::string("golden-agent")));
    EXPECT_FALSE(reader.midFrame());
}

TEST(Frame, GivesOutSeveralMessagesThatCameTogether) {
    FrameReader reader;
    reader.add(encodeFrame(Verb::kInvalidate, "a") + encodeFrame(Verb::kInvalidate, "b") + "\x0e");
    EXPECT_EQ((**reader.next()).payload, "a");
    EXPECT_EQ((**reader.next()).payload, "b");
    EXPECT_FALSE(*reader.next());
    EXPECT_TRUE(reader.midFrame());
}

TEST(Frame, ThePayloadIsPayloadWhateverItContains) {
    const std::string trap = "xNIXLCOMM:INVLvictim";
    FrameReader reader;
    reader.add(encodeFrame(Verb::kLoad, trap));
    const auto message = reader.next();
    ASSERT_TRUE(message.ok());
    EXPECT_EQ((**message).payload, trap);
    EXPECT_FALSE(*reader.next());
}

TEST(Frame, RefusesWhatIsNoFrameAsEarlyAsItShows) {
    EXPECT_THAT(refusal("GET / HTTP/1.1\r\n"), HasSubstr("declares"));
    EXPECT_THAT(refusal(lengthOf(12)), HasSubstr("declares 12 bytes"));
    EXPECT_THAT(refusal(lengthOf(0)), HasSubstr("declares 0 bytes"));
    EXPECT_THAT(refusal(lengthOf(UINT64_MAX)), HasSubstr("declares"));
    EXPECT_THAT(refusal(lengthOf(13 + kBlobBytesMax + 1)), HasSubstr("declares"));
    EXPECT_THAT(refusal(lengthOf(13) + "NIXLCOMX"), HasSubstr("NIXLCOMM"));
    EXPECT_THAT(refusal(lengthOf(100) + "N\x00"), HasSubstr("more bytes")) << "one byte so far";
    EXPECT_THAT(refusal(lengthOf(100) + std::string("N\x00", 2)), HasSubstr("NIXLCOMM"));
    EXPECT_THAT(refusal(lengthOf(100) + "NIXLCOMM:EVIL"), HasSubstr("no verb 'EVIL'"));
    EXPECT_THAT(refusal(lengthOf(14) + "NIXLCOMM:SEND"), HasSubstr("SEND of 1 bytes"));
    EXPECT_THAT(refusal(lengthOf(13) + "NIXLCOMM:INVL"), HasSubstr("INVL of 0 bytes"));
    EXPECT_THAT(refusal(lengthOf(13 + kNameBytesMax + 89) + "NIXLCOMM:INVL"), HasSubstr("INVL of 4185 bytes"));
    EXPECT_EQ(refusal(lengthOf(13 + kBlobBytesMax) + "NIXLCOMM:LOAD"), "more bytes are needed");
}

TEST(Frame, HoldsWhatArrivedNotWhatWasDeclared) {
    FrameReader reader;
    reader.add(lengthOf(13 + kBlobBytesMax) + "NIXLCOMM:LOAD" + std::string(1000, 'x'));
    ASSERT_TRUE(reader.next().ok());
    EXPECT_LT(reader.capacity(), 4096u);
}

TEST(Frame, GivesALargeBufferBack) {
    FrameReader reader;
    reader.add(encodeFrame(Verb::kLoad, std::string(1 << 20, 'x')));
    ASSERT_TRUE(*reader.next());
    EXPECT_FALSE(*reader.next());
    EXPECT_LT(reader.capacity(), 4096u);
}

TEST(Invalidation, SaysWhichStartAndIsOneOfNixlToItsReaders) {
    Incarnation start{};
    for (size_t i = 0; i < start.size(); ++i) start[i] = static_cast<uint8_t>(0xf0 + i);
    const std::string payload = encodeInvalidation("agent", start);
    const auto decoded = decodeInvalidation(payload);
    EXPECT_EQ(decoded.agent, "agent");
    EXPECT_EQ(decoded.start, start);
    // NIXL cuts at each mark; what has fewer than 4 bytes it ignores.
    std::string rest = "NIXLCOMM:INVL" + payload;
    std::vector<std::string> pieces;
    while (!rest.empty()) {
        ASSERT_TRUE(rest.starts_with("NIXLCOMM:"));
        const auto next = rest.find("NIXLCOMM:", 9);
        pieces.push_back(rest.substr(9, next == std::string::npos ? next : next - 9));
        rest = next == std::string::npos ? "" : rest.substr(next);
    }
    EXPECT_EQ(pieces.front(), "INVLagent");
    for (size_t i = 1; i < pieces.size(); ++i) EXPECT_LT(pieces[i].size(), 4u);
}

TEST(Invalidation, OfNixlIsAName) {
    Incarnation start{};
    const std::string ours = encodeInvalidation("x", start);
    for (const std::string &name : {std::string("agent"), std::string("x"), ours.substr(1), ours.substr(0, 80),
                                    ours + "y", "NIXLCOMM:" + std::string(100, 'x')}) {
        EXPECT_EQ(decodeInvalidation(name).agent, name);
        EXPECT_FALSE(decodeInvalidation(name).start);
    }
}

TEST(Answer, ComesBackAsItWas) {
    const auto answer = decodeAnswer(encodeAnswer({NIXL_ERR_NOT_ALLOWED, "because"}));
    ASSERT_TRUE(answer.ok());
    EXPECT_EQ(answer->status, NIXL_ERR_NOT_ALLOWED);
    EXPECT_EQ(answer->sentence, "because");
    FrameReader reader;
    reader.add(encodeFrame(Verb::kAnswer, encodeAnswer({NIXL_ERR_BACKEND, std::string(100'000, 'y')})));
    EXPECT_TRUE(*reader.next()) << "a long sentence is cut to what a frame may hold";
}

TEST(Answer, RefusesEveryPartOfOne) {
    const std::string whole = encodeAnswer({NIXL_SUCCESS, "x"});
    for (size_t size = 0; size < whole.size(); ++size) {
        EXPECT_EQ(decodeAnswer(whole.substr(0, size)).code(), NIXL_ERR_MISMATCH) << size << " bytes";
    }
}

} // namespace
} // namespace nx::wire
