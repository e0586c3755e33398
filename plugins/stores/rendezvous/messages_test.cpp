// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "rendezvous/messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nx::rendezvous {
namespace {

using testing::HasSubstr;

std::string
bytesOf(const Message &message) {
    const auto frame = encode(message);
    return frame.head + (frame.blob ? *frame.blob : "");
}

Message
hello() {
    Message message;
    message.type = Type::kHello;
    message.role = Role::kDeputy;
    message.start = {1, 2, 3};
    message.name = std::string("a\0b", 3);
    message.text = ":7000";
    message.host = "10.0.0.1:7000";
    return message;
}

std::vector<Message>
allKinds() {
    std::vector<Message> all{hello()};
    const auto add = [&](Type type, auto fill) {
        Message message;
        message.type = type;
        fill(message);
        all.push_back(std::move(message));
    };
    const auto blob = std::make_shared<const std::string>("md\0|", 4);
    add(Type::kJoin, [](Message &) {});
    add(Type::kAlive, [](Message &) {});
    add(Type::kPublish, [&](Message &m) {
        m.id = 7;
        m.flag = true;
        m.text = "metadata";
        m.blob = blob;
    });
    add(Type::kWithdraw, [](Message &m) { m.id = 8; });
    add(Type::kFetch, [](Message &m) {
        m.id = 9;
        m.name = "b";
        m.text = "metadata";
    });
    add(Type::kFollow, [](Message &m) {
        m.start = {4};
        m.name = "b";
    });
    add(Type::kForget, [](Message &m) { m.name = "b"; });
    add(Type::kAnswer, [](Message &m) {
        m.id = 9;
        m.status = NIXL_ERR_NOT_FOUND;
        m.text = "nothing";
    });
    add(Type::kFound, [&](Message &m) {
        m.id = 9;
        m.start = {4};
        m.blob = blob;
    });
    add(Type::kGone, [](Message &m) {
        m.flag = true;
        m.start = {4};
        m.name = "b";
    });
    add(Type::kRoster, [](Message &m) { m.roster = {{"a", "10.0.0.1:7000"}, {"b", "[::1]:7001"}}; });
    return all;
}

TEST(RendezvousMessages, AreReadAsTheyWereWrittenHoweverTheyAreCut) {
    const auto all = allKinds();
    std::string bytes;
    for (const auto &message : all) bytes += bytesOf(message);
    for (const size_t piece : {size_t{1}, size_t{7}, bytes.size()}) {
        Reader reader;
        std::vector<Message> read;
        for (size_t at = 0; at < bytes.size(); at += piece) {
            reader.add(std::string_view(bytes).substr(at, piece));
            for (;;) {
                auto message = reader.next();
                ASSERT_TRUE(message.ok()) << message.message();
                if (!*message) break;
                read.push_back(**message);
            }
        }
        EXPECT_TRUE(read == all) << piece;
    }
}

std::string
refusalOf(const std::string &bytes) {
    Reader reader;
    reader.add(bytes);
    for (;;) {
        auto message = reader.next();
        if (!message.ok()) return message.message();
        if (!*message) return "";
    }
}

TEST(RendezvousMessages, OfStrangersAreRefusedAsSoonAsTheyShowIt) {
    EXPECT_THAT(refusalOf("GET / HTTP/1.1\r\n"), HasSubstr("there is no message of type 47"));
    EXPECT_THAT(refusalOf(std::string("\x0d\0\0\0\0\0\0\0NIXLCOMM:SEND", 21)), HasSubstr("no message of type 0"));
    EXPECT_THAT(refusalOf(std::string("\xff\xff\xff\x7f\x01", 5)), HasSubstr("declares 2147483647 bytes"));
    EXPECT_THAT(refusalOf(bytesOf(allKinds()[2])), HasSubstr("it does not greet"));
    EXPECT_THAT(refusalOf(bytesOf(hello()) + bytesOf(hello())), HasSubstr("it greets again"));
    auto other = bytesOf(hello());
    other[5 + 8] = 2;
    EXPECT_THAT(refusalOf(other), HasSubstr("it speaks version 2, not 1"));
    auto nameless = hello();
    nameless.name.clear();
    EXPECT_THAT(refusalOf(bytesOf(nameless)), HasSubstr("'name' has 0 bytes"));
}

} // namespace
} // namespace nx::rendezvous
