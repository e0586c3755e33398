// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The notification message, byte by byte and on hostile bytes.
#include "wire/notification.h"

#include <gtest/gtest.h>

#include "utils/serdes/serdes.h"

namespace nx::wire {
namespace {

TEST(Notification, HasTheBytesOfNixl) {
    EXPECT_EQ(encodeNotification("A", "hi"),
              std::string("nixlSerDes|name\1\0\0\0\0\0\0\0A|msg\2\0\0\0\0\0\0\0hi|", 39));
}

TEST(Notification, IsReadableThroughThePublicClass) {
    nixlSerDes serdes;
    ASSERT_EQ(serdes.importStr(encodeNotification("agent", "message")), NIXL_SUCCESS);
    EXPECT_EQ(serdes.getStr("name"), "agent");
    EXPECT_EQ(serdes.getStr("msg"), "message");
}

TEST(Notification, ComesBackAsSent) {
    const std::string binary("\0|NIXLCOMM:SEND\xff", 16);
    for (const std::string &message : {std::string(), binary, std::string(100000, 'm')}) {
        const auto decoded = decodeNotification(encodeNotification("agent", message));
        ASSERT_TRUE(decoded.ok()) << decoded.message();
        EXPECT_EQ((*decoded).sender, "agent");
        EXPECT_EQ((*decoded).message, message);
    }
}

TEST(Notification, BytesBehindTheLastFieldAreIgnored) {
    const auto decoded = decodeNotification(encodeNotification("agent", "message") + "later");
    ASSERT_TRUE(decoded.ok());
    EXPECT_EQ((*decoded).message, "message");
}

TEST(Notification, EveryTruncationIsAMismatch) {
    const std::string bytes = encodeNotification("agent", "message");
    for (size_t size = 0; size < bytes.size(); ++size) {
        const auto decoded = decodeNotification(std::string_view(bytes).substr(0, size));
        EXPECT_EQ(decoded.code(), NIXL_ERR_MISMATCH) << size;
        EXPECT_TRUE(decoded.message().starts_with("notification: ")) << decoded.message();
    }
}

TEST(Notification, NoChangedByteOutsideTheTextsIsAccepted) {
    const std::string bytes = encodeNotification("agent", "message");
    const size_t sender = bytes.find("agent");
    const size_t message = bytes.find("message");
    for (size_t i = 0; i < bytes.size(); ++i) {
        const bool is_text = (i >= sender && i < sender + 5) || (i >= message && i < message + 7);
        for (int value = 0; value < 256; ++value) {
            std::string damaged = bytes;
            damaged[i] = static_cast<char>(value);
            EXPECT_EQ(decodeNotification(damaged).ok(), is_text || damaged == bytes) << i << " " << value;
        }
    }
}

} // namespace
} // namespace nx::wire
