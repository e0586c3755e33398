// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The one reader of bytes from strangers: nixlSerDes fields and, for frames that have none, raw numbers
// (docs/wire.md). It knows how many bytes remain, compares without adding, and so
// cannot wrap or read past the end whatever lengths the bytes claim. The first failure is kept and everything read
// after it is empty or zero: a decoder reads straight through and asks ok() once per loop and at its end.
// Owned by one caller; views given out point into the bytes given in.
#pragma once

#include <concepts>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>

#include "base/error.h"

namespace nx::wire {

inline constexpr std::string_view kPrefix = "nixlSerDes|";
inline constexpr char kSeparator = '|';

/// Bytes of a field: tag, 8 bytes of length, payload, separator.
constexpr size_t
fieldSize(std::string_view tag, size_t payload_bytes) {
    return tag.size() + sizeof(uint64_t) + payload_bytes + 1;
}

class Reader {
public:
    /// Starts at `position`, which is at most bytes.size().
    explicit Reader(std::string_view bytes, size_t position = 0) noexcept : bytes_(bytes), position_(position) {}

    bool
    ok() const noexcept {
        return failure_.ok();
    }

    /// The first failure, always MISMATCH, naming field and offset.
    Status
    status() && {
        return std::move(failure_);
    }

    /// Offset of the next unread byte; it does not move over what could not be read.
    size_t
    position() const noexcept {
        return position_;
    }

    size_t
    remaining() const noexcept {
        return bytes_.size() - position_;
    }

    /// Steps over kPrefix.
    void
    takePrefix();

    /// Payload of the next field, which must carry `tag`.
    std::string_view
    take(std::string_view tag);

    /// The same for a payload of exactly `payload_bytes` bytes.
    std::string_view
    takeExactly(std::string_view tag, size_t payload_bytes);

    /// The same for a payload of 1 to `bytes_max` bytes.
    std::string_view
    takeName(std::string_view tag, size_t bytes_max);

    template<std::integral Integer>
    Integer
    takeInteger(std::string_view tag) {
        Integer value = 0;
        const std::string_view payload = takeExactly(tag, sizeof value);
        if (ok()) std::memcpy(&value, payload.data(), sizeof value);
        return value;
    }

    /// An 8-byte number of elements that follow, each of at least `element_bytes` bytes: never more than `count_max`
    /// and never more than the remaining bytes can hold, so that memory may be reserved for them.
    size_t
    takeCount(std::string_view tag, size_t element_bytes, size_t count_max = std::numeric_limits<int>::max());

    /// Steps over a field that must be `tag` with exactly this payload.
    void
    expect(std::string_view tag, std::string_view payload);

    /// The next `bytes` bytes of a format without tags; `what` names them in the sentence.
    std::string_view
    takeRaw(std::string_view what, size_t bytes);

    template<std::integral Integer>
    Integer
    takeRawInteger(std::string_view what) {
        Integer value = 0;
        const std::string_view raw = takeRaw(what, sizeof value);
        if (ok()) std::memcpy(&value, raw.data(), sizeof value);
        return value;
    }

    /// Records a failure of what the caller read, unless one is recorded already.
    void
    fail(std::string message);

private:
    std::string_view bytes_;
    size_t position_;
    Status failure_;
};

} // namespace nx::wire
