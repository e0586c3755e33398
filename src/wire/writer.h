// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Appends nixlSerDes fields, or raw numbers, to a string: the counterpart of Reader. Owned by one caller.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

#include "wire/reader.h"

namespace nx::wire {

class Writer {
public:
    /// `out` must outlive the writer.
    explicit Writer(std::string &out) noexcept : out_(out) {}

    void
    prefix() {
        out_.append(kPrefix);
    }

    /// The payload is `head` followed by `tail`.
    void
    field(std::string_view tag, std::string_view head, std::string_view tail = {}) {
        out_.append(tag);
        const uint64_t length = head.size() + tail.size();
        out_.append(reinterpret_cast<const char *>(&length), sizeof length);
        out_.append(head);
        out_.append(tail);
        out_.push_back(kSeparator);
    }

    template<std::integral Integer>
    void
    integer(std::string_view tag, Integer value) {
        field(tag, {reinterpret_cast<const char *>(&value), sizeof value});
    }

    /// Bytes of a format without tags.
    void
    raw(std::string_view bytes) {
        out_.append(bytes);
    }

    template<std::integral Integer>
    void
    rawInteger(Integer value) {
        out_.append(reinterpret_cast<const char *>(&value), sizeof value);
    }

private:
    std::string &out_;
};

} // namespace nx::wire
