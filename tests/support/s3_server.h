// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A real S3 server on loopback: versitygw (tools/extras) over a folder of its own, with keys of its own, which it
// checks. A bucket is a folder, an object is a file. Ends with its owner. Owned; the thread that starts the server has
// to live as long.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include <sys/types.h>

#include "support/temp_dir.h"

namespace nx::test {

class S3Server {
public:
    struct Options {
        bool tls = false;           ///< with a certificate that only ca() vouches for
        std::string virtual_domain; ///< also takes BUCKET.virtual_domain as the host
    };

    /// Why there can be no server here; empty if there can.
    static std::string
    whyNot();

    /// Listens on a port of 127.0.0.1 that the system chooses. Throws std::runtime_error.
    S3Server() : S3Server(Options{}) {}
    explicit S3Server(const Options &options);
    ~S3Server();
    S3Server(const S3Server &) = delete;
    S3Server &
    operator=(const S3Server &) = delete;

    uint16_t
    port() const noexcept {
        return port_;
    }
    /// As the parameter endpoint_override takes it.
    std::string
    endpoint() const;
    const std::string &
    accessKey() const noexcept {
        return access_key_;
    }
    const std::string &
    secretKey() const noexcept {
        return secret_key_;
    }
    /// The file with the certificate that vouches for the server's.
    std::string
    ca() const {
        return folder_ / "certificate.pem";
    }

    /// The folder of a bucket, which is made if there is none.
    std::filesystem::path
    bucket(const std::string &name) const;
    /// Files of uploads in parts that were neither completed nor aborted.
    size_t
    leftovers(const std::string &bucket) const;

    /// Says nothing from now on, but keeps its connections.
    void
    pause();
    void
    goOn();
    /// At once, in the middle of what it does.
    void
    kill();
    /// After kill(): again on the same port, with what it had stored.
    void
    restart();

private:
    void
    start();

    const Options options_;
    TempDir folder_;
    std::string access_key_, secret_key_;
    uint16_t port_ = 0;
    pid_t pid_ = -1;
};

} // namespace nx::test
