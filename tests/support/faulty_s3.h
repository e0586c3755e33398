// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// An S3 server in memory that fails as it is told, on a port of 127.0.0.1. It checks no signatures, for which there is
// S3Server. Self-synchronised: a thread for each connection.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace nx::test {

class FaultyS3 {
public:
    enum class Kind { kGet, kHead, kPut, kDelete, kCreateUpload, kPart, kComplete, kAbort, kOther };

    struct Request {
        Kind kind = Kind::kOther;
        std::string bucket, key;
        std::map<std::string, std::string> query, headers; ///< decoded; names of headers in lower case
        uint64_t number = 0;                               ///< of all requests, from 0
    };

    enum class Way {
        kNone,
        kAnswer,      ///< the error below, after the request's body
        kReset,       ///< of the connection, before anything is done
        kLostAnswer,  ///< the same after everything was done
        kResetInBody, ///< in the middle of the body, whichever way it goes; without one like kReset
        kStall,       ///< silence, before anything is done
        kStallInBody, ///< likewise
        kShortBody,   ///< the connection ends in the middle of the answer's body
        kShortObject, ///< an answer for half of the bytes, well formed
        kLongBody,    ///< an answer for more bytes than were asked for, well formed
        kChanged,     ///< the object is another before this request is served: same bytes, new ETag
        kCorrupted    ///< a byte of the body is another; the checksum, if there is one, is that of the right bytes
    };

    struct Fault {
        Way way = Way::kNone;
        int status = 0;     ///< of kAnswer
        std::string code{}; ///< S3's
        std::map<std::string, std::string> headers{};
        std::string details{}; ///< more of the error's XML
    };

    /// Called for each request, in one thread at a time, before it is served.
    using Script = std::function<Fault(const Request &)>;

    static Fault
    internalError() {
        return {Way::kAnswer, 500, "InternalError"};
    }
    static Fault
    slowDown() {
        return {Way::kAnswer, 503, "SlowDown"};
    }
    static Fault
    tooMany() {
        return {Way::kAnswer, 429, "TooManyRequests"};
    }
    /// The client's clock is wrong.
    static Fault
    skewed() {
        return {Way::kAnswer, 403, "RequestTimeTooSkewed"};
    }
    /// The bucket is elsewhere.
    static Fault
    moved(const std::string &region) {
        return {Way::kAnswer,
                301,
                "PermanentRedirect",
                {{"x-amz-bucket-region", region}},
                "<Endpoint>s3." + region + ".example</Endpoint>"};
    }

    /// One of `faults`, each as likely, for this share of the requests; the same for the same seed.
    static Script
    mixed(uint64_t seed, double share, std::vector<Fault> faults);

    /// Throws std::runtime_error.
    FaultyS3();
    ~FaultyS3();
    FaultyS3(const FaultyS3 &) = delete;
    FaultyS3 &
    operator=(const FaultyS3 &) = delete;

    uint16_t
    port() const noexcept {
        return port_;
    }
    std::string
    endpoint() const {
        return "http://127.0.0.1:" + std::to_string(port_);
    }

    void
    setScript(Script script);

    /// Every bucket exists; objects appear here as PUT makes them.
    void
    put(const std::string &bucket, const std::string &key, std::string bytes);
    std::optional<std::string>
    get(const std::string &bucket, const std::string &key) const;

    /// Requests of a kind, failed ones included.
    uint64_t
    count(Kind kind) const;
    uint64_t
    count() const;
    /// Of objects, in all answers; those that were sent before a fault included.
    uint64_t
    bytesSent() const;
    /// Uploads in parts that were neither completed nor aborted.
    size_t
    openUploads() const;
    /// Connections taken so far.
    uint64_t
    connections() const;

private:
    struct Object {
        std::shared_ptr<const std::string> bytes;
        std::string etag;
        std::map<std::string, std::string> checksums; ///< headers
    };
    struct Upload {
        std::string bucket, key;
        std::map<int, Object> parts;
    };
    struct Answer;
    class Connection;

    void
    accept();
    void
    serve(int fd);
    bool
    serveOne(Connection &connection);
    Answer
    answer(const Request &request, std::string body, const Fault &fault);
    Answer
    read(const Request &request, const Fault &fault);
    Answer
    complete(const Request &request, const std::string &body);
    void
    waitForEnd(int fd);
    std::string
    newEtagLocked();

    int listener_ = -1;
    uint16_t port_ = 0;

    mutable std::mutex mutex_;
    // Guarded by mutex_:
    Script script_;
    std::map<std::pair<std::string, std::string>, Object> objects_; ///< by bucket and key
    std::map<std::string, Upload> uploads_;
    std::map<Kind, uint64_t> counts_;
    uint64_t requests_ = 0, etags_ = 0, bytes_sent_ = 0, connections_ = 0;
    std::set<int> open_; ///< connections
    bool ending_ = false;
    std::condition_variable closed_; ///< one of them is

    std::thread thread_; ///< last: it uses the others
};

} // namespace nx::test
