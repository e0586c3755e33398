// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Status and Result: success, or a NIXL status code with one sentence. Used on control paths; data paths return the
// plain code. Success is one null pointer. Values, not shared between threads.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "nixl_types.h"

namespace nx {

struct Error {
    nixl_status_t code;
    std::string message; ///< what failed, on which object, why, what to do; no trailing period
};

class [[nodiscard]] Status {
public:
    Status() noexcept = default;
    Status(nixl_status_t code, std::string message)
        : error_(std::make_unique<Error>(Error{code, std::move(message)})) {}
    Status(Error error) : error_(std::make_unique<Error>(std::move(error))) {}

    bool
    ok() const noexcept {
        return !error_;
    }

    nixl_status_t
    code() const noexcept {
        return error_ ? error_->code : NIXL_SUCCESS;
    }

    /// Empty on success.
    const std::string &
    message() const noexcept;

    /// Requires !ok().
    Error
    error() && {
        return std::move(*error_);
    }

    /// The same failure with "`context`: " before its sentence. No effect on success.
    Status
    withContext(const std::string &context) &&;

private:
    std::unique_ptr<Error> error_;
};

template<class T> class [[nodiscard]] Result {
public:
    Result(T value) : value_(std::move(value)) {}
    Result(Status status) : status_(std::move(status)) {}
    Result(nixl_status_t code, std::string message) : status_(code, std::move(message)) {}

    bool
    ok() const noexcept {
        return status_.ok();
    }

    const Status &
    status() const & noexcept {
        return status_;
    }

    Status
    status() && {
        return std::move(status_);
    }

    nixl_status_t
    code() const noexcept {
        return status_.code();
    }

    const std::string &
    message() const noexcept {
        return status_.message();
    }

    /// Requires ok().
    T &
    operator*() & {
        return *value_;
    }

    const T &
    operator*() const & {
        return *value_;
    }

    /// A value, not a reference: `for (auto &x : *f())` lives as long as it has to.
    T
    operator*() && {
        return std::move(*value_);
    }

    T *
    operator->() {
        return &*value_;
    }

    const T *
    operator->() const {
        return &*value_;
    }

private:
    Status status_;
    std::optional<T> value_;
};

/// "open /x" and ENOENT -> "open /x: No such file or directory (errno 2)".
std::string
withErrno(const std::string &what, int errnum);

struct Quoted {
    std::string
    operator()(std::string_view text, size_t limit = 80) const;
};

/// `text` between single quotes, control and non-ASCII bytes escaped, cut after `limit` bytes: for names that may come
/// from strangers. An object: beside a function, std::quoted would be found, too, and fit a string better; <chrono> of
/// GCC 13 brings it.
inline constexpr Quoted quoted;

} // namespace nx
