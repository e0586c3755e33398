// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Frames come back as they were written; what is cut, or claims what cannot be, is refused with a sentence.
#include "kit/peer/frames.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>

namespace nx::kit {
namespace {

std::string_view
bodyOf(const std::string &frame, FrameType type) {
    const auto head = decodeHead(std::string_view(frame).substr(0, kHeadBytes));
    EXPECT_TRUE(head.ok()) << head.message();
    EXPECT_EQ(head->type, type);
    EXPECT_EQ(head->body_bytes, frame.size() - kHeadBytes);
    return std::string_view(frame).substr(kHeadBytes);
}

std::string
headOf(uint32_t body_bytes, uint32_t type) {
    std::string head(8, '\0');
    std::memcpy(head.data(), &body_bytes, 4);
    std::memcpy(head.data() + 4, &type, 4);
    return head;
}

TEST(Frames, GreetingComesBack) {
    Hello hello;
    hello.features = 5;
    hello.incarnation.fill(7);
    hello.name = "agent";
    std::string frame;
    encodeHello(frame, hello);
    const auto again = decodeHello(bodyOf(frame, FrameType::kHello));
    ASSERT_TRUE(again.ok()) << again.message();
    EXPECT_EQ(again->major, kProtocolMajor);
    EXPECT_EQ(again->features, 5u);
    EXPECT_EQ(again->incarnation, hello.incarnation);
    EXPECT_EQ(again->name, "agent");
}

TEST(Frames, RequestComesBackWithAllItsRuns) {
    Layout remote;
    for (uint64_t i = 0; i < kRunsPerFrameMax + 10; ++i) {
        ASSERT_TRUE(remote.add({.address = i, .length = 2, .stride = 3, .count = 4, .window = {5, 6}}));
    }
    std::string first;
    EXPECT_EQ(encodeRequest(first, 77, NIXL_WRITE, true, remote), kRunsPerFrameMax);
    EXPECT_LE(first.size(), kFrameBytesMax);
    std::string second;
    EXPECT_EQ(encodeRuns(second, 77, remote, kRunsPerFrameMax), 10u);

    const auto request = decodeRequest(bodyOf(first, FrameType::kRequest));
    const auto runs = decodeRuns(bodyOf(second, FrameType::kRuns));
    ASSERT_TRUE(request.ok() && runs.ok());
    EXPECT_EQ(request->id, 77u);
    EXPECT_EQ(request->operation, NIXL_WRITE);
    EXPECT_TRUE(request->has_note);
    EXPECT_EQ(request->total_bytes, remote.totalBytes());
    EXPECT_EQ(request->run_count, kRunsPerFrameMax + 10);
    Layout again;
    ASSERT_TRUE(addRuns(request->runs, again).ok());
    ASSERT_TRUE(addRuns(runs->runs, again).ok());
    ASSERT_EQ(again.blocks().size(), remote.blocks().size());
    EXPECT_EQ(again.blocks().back().address, kRunsPerFrameMax + 9);
    EXPECT_EQ(again.blocks().back().window, (WindowKey{5, 6}));
    EXPECT_EQ(again.totalBytes(), remote.totalBytes());
}

TEST(Frames, EveryOneIsRefusedCutAtEveryLength) {
    std::string hello, window, key, request, runs, note, cancel, done;
    Layout remote;
    ASSERT_TRUE(remote.add({.address = 1, .length = 2}));
    encodeHello(hello, {.name = "a"});
    encodeWindow(window, {.key = {1, 1}, .length = 1});
    encodeKey(key, FrameType::kRevoke, {1, 1});
    encodeRequest(request, 1, NIXL_READ, false, remote);
    encodeRuns(runs, 1, remote, 0);
    encodeNote(note, {1, 3, "abc"});
    encodeCancel(cancel, 1);
    encodeDone(done, FrameType::kDone, {1, NIXL_ERR_NOT_FOUND, "why"});
    const std::vector<std::pair<std::string, std::function<Status(std::string_view)>>> frames = {
        {hello, [](auto body) { return decodeHello(body).status(); }},
        {window, [](auto body) { return decodeWindow(body).status(); }},
        {key, [](auto body) { return decodeKey(body).status(); }},
        {request, [](auto body) { return decodeRequest(body).status(); }},
        {runs, [](auto body) { return decodeRuns(body).status(); }},
        {note, [](auto body) { return decodeNote(body).status(); }},
        {cancel, [](auto body) { return decodeCancel(body).status(); }},
        {done, [](auto body) { return decodeDone(body).status(); }},
    };
    for (const auto &[frame, decode] : frames) {
        const std::string_view body = std::string_view(frame).substr(kHeadBytes);
        EXPECT_TRUE(decode(body).ok()) << decode(body).message();
        for (size_t size = 0; size < body.size(); ++size) {
            const Status refused = decode(body.substr(0, size));
            EXPECT_EQ(refused.code(), NIXL_ERR_MISMATCH) << size;
            EXPECT_FALSE(refused.message().empty());
        }
        EXPECT_TRUE(decode(std::string(body) + "later versions").ok());
    }
}

TEST(Frames, HeadsThatNoPeerSendsAreRefused) {
    EXPECT_EQ(decodeHead(headOf(0, 0)).code(), NIXL_ERR_MISMATCH);
    EXPECT_EQ(decodeHead(headOf(0, 99)).message(), "not a frame of a peer: there is no frame of type 99");
    EXPECT_FALSE(decodeHead(headOf(kFrameBytesMax - kHeadBytes + 1, 1)).ok());
    EXPECT_FALSE(decodeHead(headOf(~uint32_t{0}, 1)).ok());
    const auto data = static_cast<uint32_t>(FrameType::kWriteData);
    EXPECT_TRUE(decodeHead(headOf(kDataHeadBytes - kHeadBytes + kPayloadBytesMax, data)).ok());
    EXPECT_FALSE(decodeHead(headOf(kDataHeadBytes - kHeadBytes + kPayloadBytesMax + 1, data)).ok());
    EXPECT_FALSE(decodeHead(headOf(kDataHeadBytes - kHeadBytes, data)).ok());
}

TEST(Frames, DataHeadComesBack) {
    const auto bytes = encodeDataHead({FrameType::kReadData, 12, 34, 56});
    ASSERT_TRUE(decodeHead({bytes.data(), kHeadBytes}).ok());
    const auto head = decodeDataHead({bytes.data(), bytes.size()});
    ASSERT_TRUE(head.ok());
    EXPECT_EQ(head->type, FrameType::kReadData);
    EXPECT_EQ(head->id, 12u);
    EXPECT_EQ(head->offset, 34u);
    EXPECT_EQ(head->bytes, 56u);
}

TEST(Frames, ValuesOutsideTheirRangeAreRefused) {
    std::string window;
    encodeWindow(window, {.memory = static_cast<nixl_mem_t>(5), .length = 1});
    EXPECT_FALSE(decodeWindow(std::string_view(window).substr(kHeadBytes)).ok());
    window.clear();
    encodeWindow(window, {.address = ~uint64_t{0}, .length = 1});
    EXPECT_FALSE(decodeWindow(std::string_view(window).substr(kHeadBytes)).ok());
    std::string done;
    encodeDone(done, FrameType::kDone, {1, NIXL_IN_PROG, ""});
    EXPECT_FALSE(decodeDone(std::string_view(done).substr(kHeadBytes)).ok());
    std::string hello;
    encodeHello(hello, {.name = ""});
    EXPECT_FALSE(decodeHello(std::string_view(hello).substr(kHeadBytes)).ok());
    Layout layout;
    EXPECT_EQ(addRuns(std::string(kRunBytes, '\0'), layout).code(), NIXL_ERR_MISMATCH);
}

} // namespace
} // namespace nx::kit
