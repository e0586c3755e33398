// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Memory for pieces that direct I/O cannot do in the program's memory: a few buffers, aligned, made when they are first
// used. Owned by one caller at a time.
#pragma once

#include <cstddef>
#include <vector>

namespace nx::posix {

class BouncePool {
public:
    /// Throws std::bad_alloc.
    BouncePool(size_t count, size_t bytes);
    ~BouncePool();
    BouncePool(const BouncePool &) = delete;
    BouncePool &
    operator=(const BouncePool &) = delete;

    /// Null: all are in use.
    std::byte *
    take() noexcept;
    void
    give(std::byte *buffer) noexcept;

private:
    const size_t mapped_bytes_;
    std::byte *base_;
    std::vector<std::byte *> free_;
};

} // namespace nx::posix
