// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: the S3 servers for tests do what they are told. Method: plain HTTP over a socket of this test.
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <stdexcept>

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "support/faulty_s3.h"
#include "support/s3_server.h"

namespace nx::test {
namespace {

using Way = FaultyS3::Way;
using Kind = FaultyS3::Kind;
using testing::Test;

/// One exchange on a connection of its own: all that the server says, and how the connection ended.
struct Exchange {
    Exchange(uint16_t port, const std::string &request, const std::string &headers = "", const std::string &body = "") {
        const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (::connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0) {
            error = errno;
            ::close(fd);
            return;
        }
        const std::string text = request + " HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n" + headers +
            (body.empty() ? "" : "Content-Length: " + std::to_string(body.size()) + "\r\n") + "\r\n" + body;
        if (::send(fd, text.data(), text.size(), MSG_NOSIGNAL) < 0) error = errno;
        char part[4096];
        ssize_t count;
        while ((count = ::recv(fd, part, sizeof part, 0)) > 0) said.append(part, static_cast<size_t>(count));
        if (count < 0) error = errno;
        ::close(fd);
    }

    int
    status() const {
        return said.size() > 12 ? std::stoi(said.substr(9, 3)) : 0;
    }

    std::string
    body() const {
        const size_t head = said.find("\r\n\r\n");
        return head == std::string::npos ? "" : said.substr(head + 4);
    }

    std::string said;
    int error = 0;
};

/// The next requests fail so; those after them do not.
FaultyS3::Script
once(FaultyS3::Fault fault) {
    return [fault, first = true](const FaultyS3::Request &) mutable {
        return std::exchange(first, false) ? fault : FaultyS3::Fault{};
    };
}

TEST(FaultyS3, KeepsObjects) {
    FaultyS3 server;
    EXPECT_EQ(Exchange(server.port(), "GET /b/k").status(), 404);
    EXPECT_EQ(Exchange(server.port(), "PUT /b/a%20k", "", "0123456789").status(), 200);
    EXPECT_EQ(server.get("b", "a k"), "0123456789");
    EXPECT_EQ(Exchange(server.port(), "GET /b/a%20k").body(), "0123456789");
    const Exchange part(server.port(), "GET /b/a%20k", "Range: bytes=2-4\r\n");
    EXPECT_EQ(part.status(), 206);
    EXPECT_EQ(part.body(), "234");
    EXPECT_NE(part.said.find("content-range: bytes 2-4/10\r\n"), std::string::npos) << part.said;
    EXPECT_EQ(Exchange(server.port(), "GET /b/a%20k", "Range: bytes=10-12\r\n").status(), 416);
    EXPECT_EQ(Exchange(server.port(), "GET /b/a%20k", "If-Match: \"other\"\r\n").status(), 412);
    EXPECT_EQ(Exchange(server.port(), "HEAD /b/a%20k").body(), "");
    EXPECT_EQ(Exchange(server.port(), "DELETE /b/a%20k").status(), 204);
    EXPECT_EQ(server.get("b", "a k"), std::nullopt);
    EXPECT_EQ(server.count(Kind::kGet), 5u);
    EXPECT_EQ(server.bytesSent(), 13u);
}

TEST(FaultyS3, ChecksTheChecksumsOfWhatItTakes) {
    FaultyS3 server;
    const std::array<std::pair<std::string, std::string>, 3> right{{{"x-amz-checksum-crc32: ", "y/Q5Jg=="},
                                                                    {"x-amz-checksum-crc32c: ", "4waSgw=="},
                                                                    {"x-amz-checksum-crc64nvme: ", "rosUhgp5mIg="}}};
    for (const auto &[name, value] : right) {
        EXPECT_EQ(Exchange(server.port(), "PUT /b/k", name + value + "\r\n", "123456789").status(), 200) << name;
        EXPECT_EQ(Exchange(server.port(), "PUT /b/k", name + value + "\r\n", "123456788").status(), 400) << name;
        const Exchange again(server.port(), "GET /b/k", "x-amz-checksum-mode: ENABLED\r\n");
        EXPECT_NE(again.said.find(name + value), std::string::npos) << again.said;
    }
    const std::string chunked = "4\r\n1234\r\n5\r\n56789\r\n0\r\nx-amz-checksum-crc32c:4waSgw==\r\n\r\n";
    EXPECT_EQ(Exchange(server.port(), "PUT /b/k", "Content-Encoding: aws-chunked\r\n", chunked).status(), 200);
    EXPECT_EQ(server.get("b", "k"), "123456789");
}

TEST(FaultyS3, TakesAnObjectInParts) {
    FaultyS3 server;
    const Exchange created(server.port(), "POST /b/k?uploads=", "Content-Length: 0\r\n");
    const size_t begin = created.said.find("<UploadId>") + 10;
    const std::string upload = "uploadId=" + created.said.substr(begin, created.said.find('<', begin) - begin);
    EXPECT_EQ(Exchange(server.port(), "PUT /b/k?partNumber=2&" + upload, "", "two").status(), 200);
    EXPECT_EQ(Exchange(server.port(), "PUT /b/k?partNumber=1&" + upload, "", "one").status(), 200);
    EXPECT_EQ(server.openUploads(), 1u);
    EXPECT_EQ(server.get("b", "k"), std::nullopt);
    const std::string list = "<Part><PartNumber>1</PartNumber></Part><Part><PartNumber>2</PartNumber></Part>";
    EXPECT_EQ(Exchange(server.port(), "POST /b/k?" + upload, "", list).status(), 200);
    EXPECT_EQ(server.get("b", "k"), "onetwo");
    EXPECT_EQ(server.openUploads(), 0u);
    EXPECT_EQ(Exchange(server.port(), "DELETE /b/k?" + upload).status(), 404);
}

TEST(FaultyS3, FailsAsItIsTold) {
    FaultyS3 server;
    server.put("b", "k", "0123456789");
    const auto get = [&](const FaultyS3::Fault &fault, const std::string &headers = "") {
        server.setScript(once(fault));
        return Exchange(server.port(), "GET /b/k", headers);
    };
    const Exchange slow = get(FaultyS3::slowDown());
    EXPECT_EQ(slow.status(), 503);
    EXPECT_NE(slow.body().find("<Code>SlowDown</Code>"), std::string::npos);
    EXPECT_NE(slow.body().find("<RequestId>REQUEST0</RequestId>"), std::string::npos);
    EXPECT_NE(get(FaultyS3::moved("eu-1")).said.find("x-amz-bucket-region: eu-1"), std::string::npos);
    const Exchange reset = get({Way::kReset});
    EXPECT_EQ(reset.error, ECONNRESET);
    EXPECT_EQ(reset.said, "");
    EXPECT_EQ(get({Way::kResetInBody}).error, ECONNRESET);
    const Exchange cut = get({Way::kShortBody});
    EXPECT_EQ(cut.error, 0);
    EXPECT_NE(cut.said.find("content-length: 10\r\n"), std::string::npos);
    EXPECT_EQ(cut.body(), "01234");
    EXPECT_NE(get({Way::kShortObject}).said.find("content-length: 5\r\n"), std::string::npos);
    EXPECT_EQ(get({Way::kLongBody}).body().size(), 1010u);
    EXPECT_EQ(get({Way::kCorrupted}).body(), "0123446789");
    const Exchange before = get({});
    const size_t etag = before.said.find("\"etag");
    const std::string condition =
        "If-Match: " + before.said.substr(etag, before.said.find("\r\n", etag) - etag) + "\r\n";
    EXPECT_EQ(get({}, condition).status(), 200);
    EXPECT_EQ(get({Way::kChanged}, condition).status(), 412);
    server.setScript(once({Way::kLostAnswer}));
    EXPECT_EQ(Exchange(server.port(), "PUT /b/lost", "", "x").error, ECONNRESET);
    EXPECT_EQ(server.get("b", "lost"), "x");
}

TEST(FaultyS3, MixesTheSameFaultsForTheSameSeed) {
    const auto failed = [](uint64_t seed) {
        auto script = FaultyS3::mixed(seed, 0.1, {FaultyS3::slowDown(), {Way::kReset}});
        std::string result;
        for (int i = 0; i < 1000; ++i) result += static_cast<char>('0' + static_cast<int>(script({}).way));
        return result;
    };
    const std::string faults = failed(1);
    EXPECT_EQ(failed(1), faults);
    EXPECT_NE(failed(2), faults);
    EXPECT_NEAR(static_cast<double>(std::count(faults.begin(), faults.end(), '0')), 900, 50);
}

class RealS3 : public Test {
protected:
    void
    SetUp() override {
        if (const std::string reason = S3Server::whyNot(); !reason.empty()) GTEST_SKIP() << reason;
    }
};

TEST_F(RealS3, RefusesWhoDoesNotSign) {
    const S3Server server;
    std::ofstream(server.bucket("bucket") / "k") << "bytes";
    const Exchange unsigned_one(server.port(), "GET /bucket/k");
    EXPECT_EQ(unsigned_one.status(), 403);
    EXPECT_NE(unsigned_one.body().find("AccessDenied"), std::string::npos) << unsigned_one.said;
    EXPECT_EQ(server.leftovers("bucket"), 0u);
}

TEST_F(RealS3, ReturnsOnItsPort) {
    S3Server server;
    const uint16_t port = server.port();
    server.kill();
    EXPECT_EQ(Exchange(port, "GET /b/k").error, ECONNREFUSED);
    server.restart();
    EXPECT_EQ(server.port(), port);
    EXPECT_NE(Exchange(port, "GET /b/k").status(), 0);
}

TEST_F(RealS3, HasACertificate) {
    S3Server::Options options;
    options.tls = true;
    const S3Server server(options);
    EXPECT_TRUE(std::filesystem::exists(server.ca()));
    EXPECT_EQ(Exchange(server.port(), "GET /b/k").said.find("HTTP/1.1 200"), std::string::npos);
    EXPECT_TRUE(server.endpoint().starts_with("https://"));
}

} // namespace
} // namespace nx::test
