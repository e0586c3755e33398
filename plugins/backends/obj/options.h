// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What a program may set, read from the parameters of createBackend and from the environment. Values.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "base/error.h"
#include "nixlx/engine.h"

namespace nx::obj {

inline constexpr size_t kOptionCount = 19;
extern const nixlx_option kOptions[kOptionCount];

struct Credentials {
    std::string access_key;
    std::string secret_key;
    std::string session_token; ///< may be empty
};

struct Options {
    bool tls = true;
    std::string host; ///< where to connect to: with the bucket in front, if that is how buckets are addressed
    uint16_t port = 443;
    std::string bucket;
    bool bucket_in_host = false;
    std::string region;
    std::optional<Credentials> credentials; ///< nothing: the default chain's
    std::string ca_bundle;                  ///< path; empty: the system's
    bool checks_requests = true;
    bool checks_responses = true;
    uint16_t thread_count = 1;
    size_t connection_count = 25;
    uint64_t part_bytes = uint64_t{8} << 20;
    std::chrono::milliseconds stall{5000}; ///< a connection on which nothing moves for so long is given up
    unsigned retry_count = 8;              ///< of one part

    /// "http://127.0.0.1:9000"
    std::string
    endpoint() const;
};

/// INVALID_PARAM, or BACKEND for what 1.4 has and this backend has not.
Result<Options>
readOptions(const nixl_b_params_t *params);

} // namespace nx::obj
