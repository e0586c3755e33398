// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The keys that are made of the shared secret in a file. They and the secret lie in memory that core dumps leave out
// and that is wiped before it is freed. Immutable.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"

namespace nx::tls {

/// Memory for secrets. Owned by one caller at a time.
class HiddenPage {
public:
    static constexpr size_t kBytes = 4096;

    /// NO_MEMORY: there is none.
    static Result<HiddenPage>
    make();
    HiddenPage(HiddenPage &&other) noexcept;
    HiddenPage &
    operator=(HiddenPage &&) = delete;
    ~HiddenPage();

    std::span<unsigned char, kBytes>
    bytes() const noexcept {
        return std::span<unsigned char, kBytes>(bytes_, kBytes);
    }

private:
    explicit HiddenPage(unsigned char *bytes) noexcept : bytes_(bytes) {}

    unsigned char *bytes_;
};

class Secret {
public:
    static constexpr size_t kSecretBytesMax = 1024;
    static constexpr size_t kKeyBytes = 32;
    using Key = std::span<const unsigned char, kKeyBytes>;
    using Id = std::array<char, 8>;

    /// NOT_FOUND: there is no such file. NOT_ALLOWED: others can read or change it. INVALID_PARAM: it holds no key, or
    /// a weak one. No sentence shows what is in it.
    static Result<std::unique_ptr<Secret>>
    read(const std::string &path);

    Key
    channel() const noexcept {
        return Key(page_.bytes().data(), kKeyBytes);
    }

    Key
    signing() const noexcept {
        return Key(page_.bytes().data() + kKeyBytes, kKeyBytes);
    }

    /// Tells keys apart and may be shown: it is made of the secret in one direction.
    std::string_view
    id() const noexcept {
        return {id_.data(), id_.size()};
    }

private:
    Secret(HiddenPage page, const Id &id) noexcept : page_(std::move(page)), id_(id) {}

    HiddenPage page_;
    const Id id_;
};

} // namespace nx::tls
