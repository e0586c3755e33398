// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Memory that processes share, mapped here for as long as the object exists. Owned by one caller.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace nx::shm {

/// Memory of `bytes` bytes that nobody can make shorter or longer. BACKEND: the system refuses.
Result<Fd>
createShared(const char *name, size_t bytes);

/// Nobody can make it shorter, so that none of its first `bytes` bytes can go away under whoever maps them. MISMATCH:
/// not so.
Status
checkShared(const Fd &memory, size_t bytes);

class Mapping {
public:
    enum class Access { kRead, kReadWrite };

    /// NO_MEMORY: the system refuses.
    static Result<Mapping>
    map(const Fd &memory, size_t bytes, Access access);

    /// Memory of this process alone, its children do not get it, at just this address. NO_MEMORY: it is not free.
    static Result<Mapping>
    mapAlone(uint64_t address, size_t bytes);

    Mapping() noexcept = default;
    Mapping(Mapping &&other) noexcept
        : data_(std::exchange(other.data_, nullptr)),
          bytes_(std::exchange(other.bytes_, 0)) {}
    Mapping &
    operator=(Mapping &&other) noexcept {
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    ~Mapping();

    std::byte *
    data() const noexcept {
        return data_;
    }

    size_t
    bytes() const noexcept {
        return bytes_;
    }

private:
    Mapping(std::byte *data, size_t bytes) noexcept : data_(data), bytes_(bytes) {}

    std::byte *data_ = nullptr;
    size_t bytes_ = 0;
};

/// Memory of a peer that is mapped here. A fault for each page costs more than to copy it: whoever copies says before
/// where. Any thread.
class PeerBlock {
public:
    explicit PeerBlock(Mapping mapping)
        : mapping_(std::move(mapping)),
          expected_((mapping_.bytes() + kPartBytes - 1) / kPartBytes / 64 + 1) {}

    std::byte *
    data() const noexcept {
        return mapping_.data();
    }

    size_t
    bytes() const noexcept {
        return mapping_.bytes();
    }

    /// The bytes from `at` on, which lie in it, are about to be touched. A few nanoseconds, but for the first time.
    void
    expect(const std::byte *at, size_t bytes) const noexcept {
        const auto offset = static_cast<size_t>(at - data());
        for (size_t part = offset / kPartBytes; part * kPartBytes < offset + bytes; ++part) {
            if (!(expected_[part / 64].load(std::memory_order_relaxed) >> part % 64 & 1))
                return prepare(part, offset + bytes);
        }
    }

private:
    static constexpr size_t kPartBytes = size_t{64} << 10;

    void
    prepare(size_t part, size_t end) const noexcept;

    const Mapping mapping_;
    mutable std::vector<std::atomic<uint64_t>> expected_; ///< a bit for each part
};

} // namespace nx::shm
