// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What a server has answered, and what follows from it: bytes of strangers. Pure functions; an Answer is owned by the
// exchange that it belongs to.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "nixl_types.h"

namespace nx::obj {

/// Of a body that is not the object's: errors, and what multipart uploads say.
inline constexpr size_t kTextBytesMax = size_t{64} << 10;

/// "bytes 5-9/100"
struct ContentRange {
    uint64_t first = 0;
    uint64_t last = 0;
    std::optional<uint64_t> total;

    bool
    operator==(const ContentRange &) const = default;
};

struct Answer {
    int http = 0; ///< the status; 0: there is none
    std::string etag, checksum, request_id, region, location, date;
    std::optional<ContentRange> range;
    std::optional<uint64_t> length; ///< of the body, as it was announced
    std::chrono::milliseconds retry_after{0};
    uint64_t received = 0; ///< bytes of the object
    uint32_t crc = 0;      ///< of them
    std::string text;      ///< the body, if it is not the object's

    /// Keeps what is of use of a header.
    void
    take(std::string_view name, std::string_view value);

    /// 200 or 206, so that the body of a GET is the object's.
    bool
    good() const noexcept {
        return http >= 200 && http < 300;
    }
};

std::optional<ContentRange>
parseContentRange(std::string_view value) noexcept;

/// The name of the first element, without its namespace; empty: there is none.
std::string_view
xmlRoot(std::string_view text) noexcept;

/// What stands in the first element of that name that has no others in it, its entities resolved; empty: nothing.
std::string
xmlText(std::string_view text, std::string_view element);

/// Every character that XML gives a meaning to, escaped.
std::string
xmlEscaped(std::string_view text);

struct Verdict {
    enum class Next : uint8_t {
        kRetry,       ///< it may do next time
        kSlower,      ///< likewise, and there is too much at once
        kClock,       ///< likewise, with the server's time
        kCredentials, ///< likewise, with new ones
        kFail,
    };
    Next next;
    nixl_status_t status;
    std::string reason; ///< "the server says NoSuchKey (404): ..., request id ..."
};

/// Of an answer that is not good().
Verdict
judge(const Answer &answer);

} // namespace nx::obj
