// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "wire/reader.h"

#include <bit>

namespace nx::wire {

// The format is that of 64-bit little-endian machines, as they hold numbers in memory.
static_assert(std::endian::native == std::endian::little && sizeof(size_t) == sizeof(uint64_t));

namespace {

std::string
fieldAt(std::string_view tag, size_t offset) {
    return "nixlSerDes field " + quoted(tag) + " at byte " + std::to_string(offset);
}

} // namespace

void
Reader::takePrefix() {
    if (!ok()) return;
    if (!bytes_.substr(position_).starts_with(kPrefix)) {
        fail("missing nixlSerDes tag at byte " + std::to_string(position_));
        return;
    }
    position_ += kPrefix.size();
}

std::string_view
Reader::take(std::string_view tag) {
    if (!ok()) return {};
    std::string_view rest = bytes_.substr(position_);
    if (!rest.starts_with(tag)) {
        fail("missing nixlSerDes tag " + quoted(tag) + " at byte " + std::to_string(position_));
        return {};
    }
    rest.remove_prefix(tag.size());
    uint64_t length;
    if (rest.size() < sizeof length) {
        fail(fieldAt(tag, position_) + " ends within its length");
        return {};
    }
    std::memcpy(&length, rest.data(), sizeof length);
    rest.remove_prefix(sizeof length);
    if (length >= rest.size()) {
        fail(fieldAt(tag, position_) + " claims " + std::to_string(length) + " bytes and a separator, but " +
             std::to_string(rest.size()) + " remain");
        return {};
    }
    if (rest[length] != kSeparator) {
        fail(fieldAt(tag, position_) + " does not end with a separator");
        return {};
    }
    position_ += fieldSize(tag, length);
    return rest.substr(0, length);
}

std::string_view
Reader::takeExactly(std::string_view tag, size_t payload_bytes) {
    const size_t start = position_;
    const std::string_view payload = take(tag);
    if (ok() && payload.size() != payload_bytes) {
        fail(fieldAt(tag, start) + " holds " + std::to_string(payload.size()) + " bytes instead of " +
             std::to_string(payload_bytes));
        return {};
    }
    return payload;
}

std::string_view
Reader::takeName(std::string_view tag, size_t bytes_max) {
    const size_t start = position_;
    const std::string_view payload = take(tag);
    if (ok() && (payload.empty() || payload.size() > bytes_max)) {
        fail(fieldAt(tag, start) + " holds a name of " + std::to_string(payload.size()) + " bytes; a name has 1 to " +
             std::to_string(bytes_max));
        return {};
    }
    return payload;
}

size_t
Reader::takeCount(std::string_view tag, size_t element_bytes, size_t count_max) {
    const size_t start = position_;
    const auto count = takeInteger<uint64_t>(tag);
    if (count > count_max || count > remaining() / element_bytes) {
        fail(fieldAt(tag, start) + " counts " + std::to_string(count) + " elements; at most " +
             std::to_string(count_max) + " are allowed and " + std::to_string(remaining()) + " bytes remain for them");
        return 0;
    }
    return count;
}

void
Reader::expect(std::string_view tag, std::string_view payload) {
    const size_t start = position_;
    const std::string_view found = take(tag);
    if (ok() && found != payload) {
        fail(fieldAt(tag, start) + " holds " + quoted(found) + " instead of " + quoted(payload));
    }
}

std::string_view
Reader::takeRaw(std::string_view what, size_t bytes) {
    if (!ok()) return {};
    if (bytes > remaining()) {
        fail(quoted(what) + " at byte " + std::to_string(position_) + " takes " + std::to_string(bytes) +
             " bytes, but " + std::to_string(remaining()) + " remain");
        return {};
    }
    const std::string_view raw = bytes_.substr(position_, bytes);
    position_ += bytes;
    return raw;
}

void
Reader::fail(std::string message) {
    if (ok()) failure_ = Status(NIXL_ERR_MISMATCH, std::move(message));
}

} // namespace nx::wire
