// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: answers of all versions of etcd are understood, and whatever else comes is refused. Method: answers as they
// were recorded, and spoilt ones.
#include "etcd/answers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nx::etcd {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(EtcdBase64, IsTheStandardOne) {
    const std::pair<std::string, std::string> known[] = {
        {"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"}, {"foob", "Zm9vYg=="}, {"\xff\xfe\xfb", "//77"}};
    for (const auto &[bytes, text] : known) {
        EXPECT_EQ(toBase64(bytes), text);
        EXPECT_EQ(fromBase64(text), bytes);
    }
    for (const char *bad : {"Z", "Zg", "Zg=", "Zg==Zg==", "Zm9v!m9v", "====", "Zm 9v==="}) {
        EXPECT_TRUE(!fromBase64(bad) || *fromBase64(bad) == "") << bad;
    }
}

TEST(EtcdAnswers, OfATransaction) {
    const auto txn = txnIn(R"({"header":{"revision":"7"},"succeeded":true,"responses":[
        {"response_range":{"kvs":[{"key":"YQ==","value":"MQ==","lease":"4390624974516384774","mod_revision":"3"}],
                           "count":"1"}},
        {"response_range":{}}, {"response_put":{"header":{}}}]})");
    ASSERT_TRUE(txn.ok()) << txn.message();
    EXPECT_TRUE(txn->succeeded);
    ASSERT_EQ(txn->found.size(), 3u);
    ASSERT_EQ(txn->found[0].size(), 1u);
    EXPECT_EQ(txn->found[0][0].key, "a");
    EXPECT_EQ(txn->found[0][0].value, "1");
    EXPECT_EQ(txn->found[0][0].lease, 4390624974516384774);
    EXPECT_EQ(txn->found[0][0].changed, 3);
    EXPECT_THAT(txn->found[1], IsEmpty());
    EXPECT_FALSE(txnIn("{}")->succeeded) << "what is false is left out";
}

TEST(EtcdAnswers, OfALease) {
    EXPECT_EQ(leaseIn(R"({"header":{},"ID":"12","TTL":"10"})")->id, 12);
    EXPECT_EQ(leaseIn(R"({"result":{"ID":"12","TTL":"10"}})"
                      "\n")
                  ->seconds,
              10)
        << "a keepalive's is wrapped";
    EXPECT_EQ(leaseIn(R"({"result":{"ID":"12"}})")->seconds, 0) << "it is over";
}

TEST(EtcdAnswers, OfAWatch) {
    EXPECT_TRUE(noticeIn(R"({"result":{"header":{},"created":true}})")->created);
    const auto events = noticeIn(R"({"result":{"events":[{"kv":{"key":"YQ=="}},{"type":"DELETE","kv":{"key":"Yg=="}},
                                    {"type":"DELETE","kv":{"key":"Yw=="}}]}})");
    ASSERT_TRUE(events.ok()) << events.message();
    EXPECT_THAT(events->deleted, ElementsAre("b", "c"));
    EXPECT_EQ(events->failure, "");
    EXPECT_EQ(noticeIn(R"({"result":{"created":true,"canceled":true,"cancel_reason":"no permission"}})")->failure,
              "no permission");
    EXPECT_EQ(noticeIn(R"({"result":{"canceled":true,"compact_revision":"7"}})")->failure, "the watch was cancelled");
    EXPECT_EQ(noticeIn(R"({"error":{"grpc_code":14,"http_code":503,"message":"gone"}})")->failure, "gone");
    EXPECT_EQ(noticeIn(R"({"error":{"code":14,"message":"gone"}})")->failure, "gone");
    EXPECT_EQ(noticeIn(R"({"error":{}})")->failure, "it gives no reason");
}

TEST(EtcdAnswers, OfARefusal) {
    for (const char *body : {R"({"error":"text","message":"text","code":3})", R"({"code":3,"message":"text"})",
                             R"({"error":"text","code":3})", R"({"error":{"code":3,"message":"text"}})"}) {
        const auto refusal = refusalIn(body);
        ASSERT_TRUE(refusal) << body;
        EXPECT_EQ(refusal->code, 3) << body;
        EXPECT_EQ(refusal->text, "text") << body;
    }
    for (const char *body : {"", "<html>", "{}", "[]", R"({"code":"x"})"}) EXPECT_FALSE(refusalIn(body)) << body;
}

TEST(EtcdAnswers, ATokenIsALineOfAHeader) {
    EXPECT_EQ(*tokenIn(R"({"token":"abc.1"})"), "abc.1");
    for (const char *body : {"{}", R"({"token":""})", R"({"token":"a\r\nHost: b"})"}) {
        EXPECT_EQ(tokenIn(body).code(), NIXL_ERR_MISMATCH) << body;
    }
}

TEST(EtcdAnswers, WhatIsNoneIsRefused) {
    const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
    std::string wide = "[0";
    for (int i = 0; i < 200'000; ++i) wide += ",0";
    for (const std::string &body :
         {std::string(), std::string("{"), std::string("[]"), std::string("1"), std::string("\xff"), deep, wide + "]",
          std::string(R"({"responses":1})"), std::string(R"({"responses":[1]})"),
          std::string(R"({"succeeded":"true"})"), std::string(R"({"responses":[{"response_range":{"kvs":{}}}]})"),
          std::string(R"({"responses":[{"response_range":{"kvs":[{"key":"!"}]}}]})"),
          std::string(R"({"responses":[{"response_range":{"kvs":[{"lease":"12x"}]}}]})"),
          std::string(R"({"responses":[{"response_range":{"kvs":[{"lease":"99999999999999999999"}]}}]})")}) {
        const auto txn = txnIn(body);
        EXPECT_EQ(txn.code(), NIXL_ERR_MISMATCH) << body.substr(0, 100);
        EXPECT_THAT(txn.message(), HasSubstr("the answer is not etcd's")) << body.substr(0, 100);
    }
}

} // namespace
} // namespace nx::etcd
