// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "support/faulty_s3.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <random>
#include <stdexcept>
#include <string_view>

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

namespace nx::test {

namespace {

using Texts = std::map<std::string, std::string>;

std::string
lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
    return text;
}

std::string
unescaped(std::string_view text) {
    std::string result;
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '%' && i + 2 < text.size()) {
            result += static_cast<char>(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16));
            i += 2;
        } else {
            result += text[i];
        }
    }
    return result;
}

std::string
valueOf(const Texts &texts, const std::string &name) {
    const auto found = texts.find(name);
    return found == texts.end() ? "" : found->second;
}

const char *
reason(int status) {
    switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 206: return "Partial Content";
    default: return "An Error";
    }
}

std::string
now() {
    const std::time_t seconds = std::time(nullptr);
    std::tm parts{};
    gmtime_r(&seconds, &parts);
    char text[64];
    std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &parts);
    return text;
}

/// A reflected CRC with all bits set at the start and inverted at the end, in base 64, as S3's headers have it.
template<class Word>
std::string
crcText(std::string_view bytes, Word polynomial) {
    std::array<Word, 256> table;
    for (size_t i = 0; i < table.size(); ++i) {
        Word word = static_cast<Word>(i);
        for (int bit = 0; bit < 8; ++bit) word = (word & 1) ? (word >> 1) ^ polynomial : word >> 1;
        table[i] = word;
    }
    Word crc = static_cast<Word>(~Word(0));
    for (const unsigned char byte : bytes) crc = table[(crc ^ byte) & 255] ^ (crc >> 8);
    crc = static_cast<Word>(~crc);

    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string text;
    uint32_t bits = 0;
    int held = 0;
    for (int shift = 8 * static_cast<int>(sizeof(Word)) - 8; shift >= 0; shift -= 8) {
        bits = bits << 8 | ((crc >> shift) & 255);
        for (held += 8; held >= 6; held -= 6) text += digits[(bits >> (held - 6)) & 63];
    }
    if (held > 0) text += digits[(bits << (6 - held)) & 63];
    while (text.size() % 4 != 0) text += '=';
    return text;
}

/// What the header `name` has to say about `bytes`; empty: a kind of checksum that this server does not know.
std::string
checksumOf(const std::string &name, std::string_view bytes) {
    if (name == "x-amz-checksum-crc32") return crcText<uint32_t>(bytes, 0xEDB88320u);
    if (name == "x-amz-checksum-crc32c") return crcText<uint32_t>(bytes, 0x82F63B78u);
    if (name == "x-amz-checksum-crc64nvme") return crcText<uint64_t>(bytes, 0x9A6C9329AC4BC9B5u);
    return "";
}

/// Takes the frames of `aws-chunked` off `body` and adds the trailers to `headers`.
std::string
unchunked(const std::string &body, Texts &headers) {
    std::string result;
    size_t at = 0;
    const auto line = [&] {
        const size_t end = std::min(body.find("\r\n", at), body.size());
        std::string text = body.substr(at, end - at);
        at = std::min(end + 2, body.size());
        return text;
    };
    for (;;) {
        const std::string head = line();
        const size_t size = head.empty() ? 0 : std::stoul(head, nullptr, 16);
        if (size == 0) break;
        result.append(body, at, size);
        at = std::min(at + size + 2, body.size());
    }
    for (std::string text = line(); !text.empty(); text = line()) {
        const size_t colon = text.find(':');
        if (colon == std::string::npos) continue;
        headers[lower(text.substr(0, colon))] = text.substr(text.find_first_not_of(' ', colon + 1));
    }
    return result;
}

FaultyS3::Kind
kindOf(const std::string &method, const Texts &query) {
    using Kind = FaultyS3::Kind;
    const bool upload = query.contains("uploadId");
    if (method == "GET" && query.empty()) return Kind::kGet;
    if (method == "HEAD") return Kind::kHead;
    if (method == "PUT") return upload ? Kind::kPart : Kind::kPut;
    if (method == "DELETE") return upload ? Kind::kAbort : Kind::kDelete;
    if (method == "POST") return upload ? Kind::kComplete : Kind::kCreateUpload;
    return Kind::kOther;
}

} // namespace

struct FaultyS3::Answer {
    int status = 200;
    Texts headers{};
    std::shared_ptr<const std::string> bytes{}; ///< of which the body is a part
    size_t begin = 0, size = 0;

    static Answer
    text(int status, std::string body) {
        Answer answer{status, {{"content-type", "application/xml"}}};
        answer.size = body.size();
        answer.bytes = std::make_shared<const std::string>(std::move(body));
        return answer;
    }

    static Answer
    error(int status, const std::string &code, uint64_t number, const std::string &details = "") {
        const std::string id = "REQUEST" + std::to_string(number);
        return text(status,
                    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>" + code + "</Code><Message>" + code +
                        " by a test</Message>" + details + "<RequestId>" + id +
                        "</RequestId><HostId>HOST</HostId></Error>");
    }
};

class FaultyS3::Connection {
public:
    explicit Connection(int fd) : fd(fd) {}

    /// Up to and with the next empty line; false at the end.
    bool
    readHead(std::string &head) {
        for (;;) {
            const size_t end = held_.find("\r\n\r\n");
            if (end != std::string::npos) {
                head = held_.substr(0, end + 2);
                held_.erase(0, end + 4);
                return true;
            }
            if (!more()) return false;
        }
    }

    bool
    readBody(size_t size, std::string &body) {
        body = held_.substr(0, size);
        held_.erase(0, body.size());
        const size_t have = body.size();
        body.resize(size);
        for (size_t done = have; done < size;) {
            const ssize_t count = ::recv(fd, body.data() + done, size - done, 0);
            if (count <= 0) return false;
            done += static_cast<size_t>(count);
        }
        return true;
    }

    bool
    write(const char *bytes, size_t size) const {
        while (size > 0) {
            const ssize_t count = ::send(fd, bytes, size, MSG_NOSIGNAL);
            if (count <= 0) return false;
            bytes += count;
            size -= static_cast<size_t>(count);
        }
        return true;
    }

    bool
    write(const std::string &bytes) const {
        return write(bytes.data(), bytes.size());
    }

    bool
    reset() const {
        const linger now{1, 0};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        return false;
    }

    const int fd;

private:
    bool
    more() {
        char part[16 << 10];
        const ssize_t count = ::recv(fd, part, sizeof part, 0);
        if (count > 0) held_.append(part, static_cast<size_t>(count));
        return count > 0;
    }

    std::string held_;
};

FaultyS3::Script
FaultyS3::mixed(uint64_t seed, double share, std::vector<Fault> faults) {
    return [random = std::mt19937_64(seed), share, faults = std::move(faults)](const Request &) mutable -> Fault {
        const bool fails = std::uniform_real_distribution<>(0, 1)(random) < share;
        const size_t which = std::uniform_int_distribution<size_t>(0, faults.size() - 1)(random);
        return fails ? faults[which] : Fault{};
    };
}

FaultyS3::FaultyS3() {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto *const generic = reinterpret_cast<sockaddr *>(&address);
    if (listener_ < 0 || ::bind(listener_, generic, size) != 0 || ::listen(listener_, SOMAXCONN) != 0 ||
        ::getsockname(listener_, generic, &size) != 0) {
        const std::string why = std::strerror(errno);
        ::close(listener_);
        throw std::runtime_error("faulty S3 server: listening on 127.0.0.1: " + why);
    }
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { accept(); });
}

FaultyS3::~FaultyS3() {
    std::unique_lock lock(mutex_);
    ending_ = true;
    closed_.notify_all(); // who stalls waits for it
    ::shutdown(listener_, SHUT_RDWR);
    for (const int fd : open_) ::shutdown(fd, SHUT_RDWR);
    closed_.wait(lock, [this] { return open_.empty(); });
    lock.unlock();
    thread_.join();
    ::close(listener_);
}

void
FaultyS3::setScript(Script script) {
    std::lock_guard lock(mutex_);
    script_ = std::move(script);
}

void
FaultyS3::put(const std::string &bucket, const std::string &key, std::string bytes) {
    std::lock_guard lock(mutex_);
    objects_[{bucket, key}] = {std::make_shared<const std::string>(std::move(bytes)), newEtagLocked(), {}};
}

std::optional<std::string>
FaultyS3::get(const std::string &bucket, const std::string &key) const {
    std::lock_guard lock(mutex_);
    const auto found = objects_.find({bucket, key});
    return found == objects_.end() ? std::nullopt : std::optional(*found->second.bytes);
}

uint64_t
FaultyS3::count(Kind kind) const {
    std::lock_guard lock(mutex_);
    const auto found = counts_.find(kind);
    return found == counts_.end() ? 0 : found->second;
}

uint64_t
FaultyS3::count() const {
    std::lock_guard lock(mutex_);
    return requests_;
}

uint64_t
FaultyS3::bytesSent() const {
    std::lock_guard lock(mutex_);
    return bytes_sent_;
}

size_t
FaultyS3::openUploads() const {
    std::lock_guard lock(mutex_);
    return uploads_.size();
}

uint64_t
FaultyS3::connections() const {
    std::lock_guard lock(mutex_);
    return connections_;
}

std::string
FaultyS3::newEtagLocked() {
    return "\"etag" + std::to_string(++etags_) + "\"";
}

void
FaultyS3::accept() {
    for (;;) {
        const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
        std::lock_guard lock(mutex_);
        if (ending_ && fd >= 0) ::close(fd);
        if (ending_) return;
        if (fd < 0) continue;
        const int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        open_.insert(fd);
        ++connections_;
        std::thread([this, fd] { serve(fd); }).detach(); // the destructor waits until it is not in open_
    }
}

void
FaultyS3::serve(int fd) {
    Connection connection(fd);
    while (serveOne(connection)) {}
    std::lock_guard lock(mutex_);
    ::close(fd);
    open_.erase(fd);
    closed_.notify_all(); // under the lock: afterwards the server may be gone
}

/// Silence until the client or this server ends the connection.
void
FaultyS3::waitForEnd(int fd) {
    char rest[4096];
    while (::recv(fd, rest, sizeof rest, 0) > 0) {}
}

/// False: the connection is over.
bool
FaultyS3::serveOne(Connection &connection) {
    std::string head;
    if (!connection.readHead(head)) return false;
    const size_t first_blank = head.find(' '), second_blank = head.find(' ', first_blank + 1);
    if (second_blank == std::string::npos) return false;
    const std::string method = head.substr(0, first_blank);
    std::string target = head.substr(first_blank + 1, second_blank - first_blank - 1);

    Request request;
    for (size_t at = head.find("\r\n") + 2; at < head.size();) {
        const size_t end = head.find("\r\n", at), colon = head.find(':', at);
        if (colon > end) break;
        const size_t value = std::min(head.find_first_not_of(' ', colon + 1), end);
        request.headers[lower(head.substr(at, colon - at))] = head.substr(value, end - value);
        at = end + 2;
    }
    if (const size_t mark = target.find('?'); mark != std::string::npos) {
        for (size_t at = mark + 1; at < target.size();) {
            const size_t end = std::min(target.find('&', at), target.size()),
                         equals = std::min(target.find('=', at), end);
            request.query[unescaped(target.substr(at, equals - at))] =
                unescaped(target.substr(std::min(equals + 1, end), end - std::min(equals + 1, end)));
            at = end + 1;
        }
        target.resize(mark);
    }
    request.query.erase("x-id"); // some clients name the operation in it
    request.kind = kindOf(method, request.query);
    const std::string host = valueOf(request.headers, "host");
    std::string path = unescaped(target).substr(1);
    if (const size_t domain = host.find(".localhost"); domain != std::string::npos) {
        request.bucket = host.substr(0, domain);
    } else {
        request.bucket = path.substr(0, path.find('/'));
        path.erase(0, request.bucket.size() + 1);
    }
    request.key = path;

    Fault fault;
    {
        std::lock_guard lock(mutex_);
        request.number = requests_++;
        ++counts_[request.kind];
        if (script_) fault = script_(request);
        const auto found = objects_.find({request.bucket, request.key});
        if (fault.way == Way::kChanged && found != objects_.end()) found->second.etag = newEtagLocked();
    }

    const std::string length = valueOf(request.headers, "content-length");
    const size_t size = length.empty() ? 0 : std::stoul(length);
    const auto stall = [&] {
        waitForEnd(connection.fd);
        return false;
    };
    if (fault.way == Way::kReset) return connection.reset();
    if (fault.way == Way::kStall) return stall();
    if (lower(valueOf(request.headers, "expect")) == "100-continue" &&
        !connection.write("HTTP/1.1 100 Continue\r\n\r\n")) {
        return false;
    }
    std::string body;
    if (size > 0 && (fault.way == Way::kResetInBody || fault.way == Way::kStallInBody)) {
        if (!connection.readBody(size / 2, body)) return false;
        if (fault.way == Way::kResetInBody) return connection.reset();
        std::unique_lock lock(mutex_); // it reads no more: the client cannot even send
        closed_.wait(lock, [this] { return ending_; });
        return false;
    }
    if (!connection.readBody(size, body)) return false;
    if (valueOf(request.headers, "content-encoding").find("aws-chunked") != std::string::npos) {
        body = unchunked(body, request.headers);
    }
    if (fault.way == Way::kCorrupted && !body.empty()) body[body.size() / 2] ^= 1;

    const Answer answer = fault.way == Way::kAnswer
        ? Answer::error(fault.status, fault.code, request.number, fault.details)
        : this->answer(request, std::move(body), fault);
    if (fault.way == Way::kLostAnswer) return connection.reset();

    const bool close = lower(valueOf(request.headers, "connection")) == "close";
    std::string said = "HTTP/1.1 " + std::to_string(answer.status) + " " + reason(answer.status) +
        "\r\ndate: " + now() + "\r\nx-amz-request-id: REQUEST" + std::to_string(request.number) +
        "\r\nx-amz-id-2: HOST\r\nserver: nixl-test\r\n";
    Texts headers = answer.headers;
    headers.insert(fault.headers.begin(), fault.headers.end());
    for (const auto &[name, value] : headers) said += name + ": " + value + "\r\n";
    if (answer.status != 204) said += "content-length: " + std::to_string(answer.size) + "\r\n";
    if (close) said += "connection: close\r\n";
    if (!connection.write(said + "\r\n")) return false;
    if (method == "HEAD") return !close;

    const bool whole = fault.way != Way::kResetInBody && fault.way != Way::kStallInBody && fault.way != Way::kShortBody;
    const size_t sent = whole ? answer.size : answer.size / 2;
    if (request.kind == Kind::kGet && answer.status < 300) {
        std::lock_guard lock(mutex_);
        bytes_sent_ += sent;
    }
    if (answer.bytes && !connection.write(answer.bytes->data() + answer.begin, sent)) return false;
    if (fault.way == Way::kResetInBody) return connection.reset();
    if (fault.way == Way::kStallInBody) return stall();
    return whole && !close;
}

FaultyS3::Answer
FaultyS3::answer(const Request &request, std::string body, const Fault &fault) {
    const auto error = [&](int status, const char *code) { return Answer::error(status, code, request.number); };
    if (request.kind == Kind::kGet || request.kind == Kind::kHead) return read(request, fault);
    if (request.kind == Kind::kComplete) return complete(request, body);
    const std::string upload_id = valueOf(request.query, "uploadId");
    if (request.kind == Kind::kPut || request.kind == Kind::kPart) {
        Object object;
        for (const auto &[name, value] : request.headers) {
            const std::string right = checksumOf(name, body);
            if (right.empty()) continue;
            if (right != value) return error(400, "BadDigest");
            object.checksums[name] = value;
        }
        object.bytes = std::make_shared<const std::string>(std::move(body));
        std::lock_guard lock(mutex_);
        object.etag = newEtagLocked();
        Answer answer{200, {{"etag", object.etag}}};
        answer.headers.insert(object.checksums.begin(), object.checksums.end());
        if (request.kind == Kind::kPut) {
            objects_[{request.bucket, request.key}] = std::move(object);
            return answer;
        }
        const auto upload = uploads_.find(upload_id);
        if (upload == uploads_.end()) return error(404, "NoSuchUpload");
        upload->second.parts[std::stoi(valueOf(request.query, "partNumber"))] = std::move(object);
        return answer;
    }
    std::lock_guard lock(mutex_);
    switch (request.kind) {
    case Kind::kDelete: objects_.erase({request.bucket, request.key}); return {204};
    case Kind::kAbort: return uploads_.erase(upload_id) ? Answer{204} : error(404, "NoSuchUpload");
    case Kind::kCreateUpload: {
        const std::string id = "upload" + std::to_string(request.number);
        uploads_[id] = {request.bucket, request.key, {}};
        return Answer::text(200,
                            "<InitiateMultipartUploadResult><Bucket>" + request.bucket + "</Bucket><UploadId>" + id +
                                "</UploadId></InitiateMultipartUploadResult>");
    }
    default: return error(501, "NotImplemented");
    }
}

FaultyS3::Answer
FaultyS3::read(const Request &request, const Fault &fault) {
    const auto error = [&](int status, const char *code) { return Answer::error(status, code, request.number); };
    Object object;
    {
        std::lock_guard lock(mutex_);
        const auto found = objects_.find({request.bucket, request.key});
        if (found == objects_.end()) return error(404, "NoSuchKey");
        object = found->second;
    }
    const std::string wanted = valueOf(request.headers, "if-match");
    if (!wanted.empty() && wanted != object.etag) return error(412, "PreconditionFailed");

    const size_t total = object.bytes->size();
    Answer answer{200, {{"etag", object.etag}, {"accept-ranges", "bytes"}, {"last-modified", now()}}, object.bytes};
    size_t end = total;
    const std::string range = valueOf(request.headers, "range");
    if (range.starts_with("bytes=") && request.kind == Kind::kGet) {
        const size_t dash = range.find('-');
        answer.begin = std::stoul(range.substr(6, dash - 6));
        if (dash + 1 < range.size()) end = std::min(std::stoul(range.substr(dash + 1)) + 1, total);
        if (answer.begin >= end) return error(416, "InvalidRange");
        answer.status = 206;
    }
    answer.size = end - answer.begin;
    if (answer.size == total && valueOf(request.headers, "x-amz-checksum-mode") == "ENABLED") {
        answer.headers.insert(object.checksums.begin(), object.checksums.end());
    }
    if (fault.way == Way::kShortObject) answer.size = (answer.size + 1) / 2;
    if (fault.way == Way::kLongBody || fault.way == Way::kCorrupted) {
        std::string bytes = object.bytes->substr(answer.begin, answer.size);
        if (fault.way == Way::kLongBody) bytes += std::string(1000, '!');
        if (fault.way == Way::kCorrupted && !bytes.empty()) bytes[bytes.size() / 2] ^= 1;
        answer.size = bytes.size();
        end = answer.begin + answer.size;
        if (answer.status == 206) {
            answer.headers["content-range"] = "bytes " + std::to_string(answer.begin) + "-" + std::to_string(end - 1) +
                "/" + std::to_string(std::max(total, end));
        }
        answer.begin = 0;
        answer.bytes = std::make_shared<const std::string>(std::move(bytes));
        return answer;
    }
    if (answer.status == 206) {
        answer.headers["content-range"] = "bytes " + std::to_string(answer.begin) + "-" +
            std::to_string(answer.begin + answer.size - 1) + "/" + std::to_string(total);
    }
    return answer;
}

FaultyS3::Answer
FaultyS3::complete(const Request &request, const std::string &body) {
    const auto error = [&](int status, const char *code) { return Answer::error(status, code, request.number); };
    std::lock_guard lock(mutex_);
    const auto found = uploads_.find(valueOf(request.query, "uploadId"));
    if (found == uploads_.end()) return error(404, "NoSuchUpload");
    std::string bytes;
    int last = 0;
    for (size_t at = 0; (at = body.find("<PartNumber>", at)) != std::string::npos; ++at) {
        const int number = std::stoi(body.substr(at + 12));
        const auto part = found->second.parts.find(number);
        if (part == found->second.parts.end()) return error(400, "InvalidPart");
        if (number <= last) return error(400, "InvalidPartOrder");
        last = number;
        bytes += *part->second.bytes;
    }
    const std::string etag = newEtagLocked();
    objects_[{request.bucket, request.key}] = {std::make_shared<const std::string>(std::move(bytes)), etag, {}};
    uploads_.erase(found);
    return Answer::text(200,
                        "<CompleteMultipartUploadResult><Bucket>" + request.bucket + "</Bucket><ETag>" + etag +
                            "</ETag></CompleteMultipartUploadResult>");
}

} // namespace nx::test
