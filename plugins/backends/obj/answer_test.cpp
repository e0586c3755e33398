// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: what a server says is understood, and nothing else is. Method: answers as servers give them, and others.
#include "obj/answer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "obj/driver.h"
#include "obj/memory.h"

namespace nx::obj {
namespace {

TEST(ContentRange, IsReadWholeOrNotAtAll) {
    EXPECT_EQ(parseContentRange("bytes 0-9/10"), (ContentRange{0, 9, 10}));
    EXPECT_EQ(parseContentRange("bytes 5-5/*"), (ContentRange{5, 5, {}}));
    for (const char *wrong : {"", "bytes", "bytes 0-9", "bytes 9-0/10", "bytes 0-10/10", "bytes */10", "bytes 0-9/",
                              "bytes -9/10", "bytes 0-9/10x", "items 0-9/10", "bytes 0-18446744073709551616/*"}) {
        EXPECT_FALSE(parseContentRange(wrong)) << wrong;
    }
}

TEST(Xml, TheRootAndTheTextOfAnElementAreFound) {
    const std::string text =
        "<?xml version=\"1.0\"?>\n<!-- x -->\n<s3:Error xmlns:s3=\"u\"><Codes>no</Codes><Code>A</Code>"
        "<Message lang=\"en\">a &lt;b&gt; &amp;amp; &quot;c&#39;&#x21;</Message><Empty/></s3:Error>";
    EXPECT_EQ(xmlRoot(text), "Error");
    EXPECT_EQ(xmlText(text, "Code"), "A");
    EXPECT_EQ(xmlText(text, "Message"), "a <b> &amp; \"c'!");
    EXPECT_EQ(xmlText(text, "Empty"), "");
    EXPECT_EQ(xmlText(text, "s3:Error"), "") << "there are others in it";
    EXPECT_EQ(xmlText("<Code>cut off", "Code"), "");
    EXPECT_EQ(xmlRoot("  \n no"), "");
    EXPECT_EQ(xmlRoot("<?xml"), "");
    EXPECT_EQ(xmlEscaped("a\"<&>'"), "a&quot;&lt;&amp;&gt;&apos;");
}

TEST(Verdicts, GoByTheCodeAndOtherwiseByTheNumber) {
    const auto verdictOf = [](int http, const std::string &code) {
        Answer answer;
        answer.http = http;
        if (!code.empty()) answer.text = "<Error><Code>" + code + "</Code></Error>";
        return judge(answer);
    };
    using Next = Verdict::Next;
    EXPECT_EQ(verdictOf(500, "").next, Next::kRetry);
    EXPECT_EQ(verdictOf(503, "").next, Next::kSlower);
    EXPECT_EQ(verdictOf(429, "TooManyRequests").next, Next::kSlower);
    EXPECT_EQ(verdictOf(400, "RequestTimeout").next, Next::kRetry);
    EXPECT_EQ(verdictOf(200, "InternalError").next, Next::kRetry);
    EXPECT_EQ(verdictOf(403, "RequestTimeTooSkewed").next, Next::kClock);
    EXPECT_EQ(verdictOf(400, "ExpiredToken").next, Next::kCredentials);
    for (const auto &[http, code, status] : {std::tuple{404, "NoSuchKey", NIXL_ERR_NOT_FOUND},
                                             {404, "", NIXL_ERR_NOT_FOUND},
                                             {403, "", NIXL_ERR_NOT_ALLOWED},
                                             {412, "PreconditionFailed", NIXL_ERR_MISMATCH},
                                             {400, "NobodyKnows", NIXL_ERR_BACKEND}}) {
        EXPECT_EQ(verdictOf(http, code).next, Next::kFail) << http << code;
        EXPECT_EQ(verdictOf(http, code).status, status) << http << code;
    }
}

TEST(Checksums, AreWrittenAsS3WritesThem) {
    EXPECT_EQ(base64Of(crc32c("123456789", 9, 0)), "4waSgw==");
    EXPECT_EQ(base64Of(0), "AAAAAA==");
    EXPECT_EQ(crc32c("6789", 4, crc32c("12345", 5, 0)), crc32c("123456789", 9, 0));
}

TEST(Names, AreEncodedByteByByte) {
    EXPECT_EQ(encodePath("a/b c+\xc3\xbc~-_.%"), "a/b%20c%2B%C3%BC~-_.%25");
    EXPECT_EQ(encodeQuery("a/b=&"), "a%2Fb%3D%26");
}

TEST(OptionTable, SaysWhereToConnect) {
    const auto endpointOf = [](const nixl_b_params_t &more) {
        nixl_b_params_t params = {{"bucket", "bucket"}, {"region", "eu-west-1"}};
        for (const auto &[name, value] : more) params[name] = value;
        const auto options = readOptions(&params);
        return options.ok() ? options->endpoint() : options.message();
    };
    EXPECT_EQ(endpointOf({}), "https://s3.eu-west-1.amazonaws.com");
    EXPECT_EQ(endpointOf({{"region", "cn-north-1"}}), "https://s3.cn-north-1.amazonaws.com.cn");
    EXPECT_EQ(endpointOf({{"use_virtual_addressing", "true"}}), "https://bucket.s3.eu-west-1.amazonaws.com");
    EXPECT_EQ(endpointOf({{"endpoint_override", "127.0.0.1:9000"}, {"scheme", "http"}}), "http://127.0.0.1:9000");
    EXPECT_EQ(endpointOf({{"endpoint_override", "http://minio:80/"}}), "http://minio");
    EXPECT_EQ(endpointOf({{"endpoint_override", "https://[::1]:8443"}}), "https://[::1]:8443");
    for (const char *wrong : {"http://a/b", "http://", "a:0", "a:65536", "a:9x", "::1:9", "[::1", "a b"}) {
        EXPECT_THAT(endpointOf({{"endpoint_override", wrong}}), testing::HasSubstr("is not [http")) << wrong;
    }
}

TEST(OptionTable, ReadsSizesAndCounts) {
    const auto read = [](const nixl_b_params_t &more) {
        nixl_b_params_t params = {{"bucket", "bucket"}};
        for (const auto &[name, value] : more) params[name] = value;
        return readOptions(&params);
    };
    EXPECT_EQ(read({})->part_bytes, uint64_t{8} << 20);
    EXPECT_EQ(read({{"crtMinLimit", "0x1000000"}})->part_bytes, uint64_t{16} << 20);
    EXPECT_EQ(read({{"crtMinLimit", "1"}})->part_bytes, uint64_t{8} << 20) << "1.4's word for all objects";
    EXPECT_EQ(read({{"crtMinLimit", "0x1000000"}, {"part_size", "65536"}})->part_bytes, 65536u);
    EXPECT_EQ(read({{"throughput_target_gbps", "100"}})->connection_count, 250u);
    EXPECT_EQ(read({{"throughput_target_gbps", "0.1"}})->connection_count, 8u);
    EXPECT_FALSE(read({{"req_checksum", "required"}})->checks_requests);
    EXPECT_TRUE(read({{"req_checksum", "supported"}})->checks_requests);
    for (const char *name : {"part_size", "num_threads", "stall_ms", "retries", "throughput_target_gbps",
                             "req_checksum", "scheme", "use_virtual_addressing"}) {
        EXPECT_EQ(read({{name, "x"}}).code(), NIXL_ERR_INVALID_PARAM) << name;
    }
}

} // namespace
} // namespace nx::obj
