// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Memory for transfers, filled with a pattern that tells every byte's place and every seed from others. Owned.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <sys/mman.h>

#include "nixl_descriptors.h"

namespace nx::test {

class Buffer {
public:
    /// Zeroed, on pages of its own. `offset` moves the first byte off the page's start.
    explicit Buffer(size_t size, size_t offset = 0) : size_(size), mapped_(size + offset + 1), offset_(offset) {
        void *address = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (address == MAP_FAILED) throw std::bad_alloc();
        base_ = static_cast<unsigned char *>(address);
    }
    ~Buffer() {
        munmap(base_, mapped_);
    }
    Buffer(const Buffer &) = delete;
    Buffer &
    operator=(const Buffer &) = delete;

    unsigned char *
    data() const noexcept {
        return base_ + offset_;
    }

    size_t
    size() const noexcept {
        return size_;
    }

    uintptr_t
    address() const noexcept {
        return reinterpret_cast<uintptr_t>(data());
    }

    nixlBasicDesc
    desc(size_t offset, size_t length, uint64_t device = 0) const {
        return {address() + offset, length, device};
    }

    nixlBasicDesc
    desc() const {
        return desc(0, size_);
    }

    void
    fill(uint64_t seed) const {
        for (size_t i = 0; i < size_; i += sizeof(uint64_t)) {
            const uint64_t word = wordAt(i, seed);
            std::memcpy(data() + i, &word, std::min(sizeof(word), size_ - i));
        }
    }

    void
    clear() const {
        std::memset(data(), 0, size_);
    }

    /// Offset of the first byte that differs from what fill(seed) wrote; size() if there is none.
    size_t
    firstDifference(uint64_t seed) const {
        for (size_t i = 0; i < size_; i += sizeof(uint64_t)) {
            const uint64_t word = wordAt(i, seed);
            if (std::memcmp(data() + i, &word, std::min(sizeof(word), size_ - i)) == 0) continue;
            const auto *expected = reinterpret_cast<const unsigned char *>(&word);
            for (size_t j = 0;; ++j) {
                if (data()[i + j] != expected[j]) return i + j;
            }
        }
        return size_;
    }

    bool
    holds(uint64_t seed) const {
        return firstDifference(seed) == size_;
    }

    bool
    isZero() const {
        for (size_t i = 0; i < size_; ++i) {
            if (data()[i]) return false;
        }
        return true;
    }

private:
    static uint64_t
    wordAt(size_t offset, uint64_t seed) {
        uint64_t x = (offset / sizeof(uint64_t) + 1) * 0x9e3779b97f4a7c15u + seed * 0xbf58476d1ce4e5b9u;
        return x ^ x >> 29;
    }

    const size_t size_;
    const size_t mapped_;
    const size_t offset_;
    unsigned char *base_;
};

} // namespace nx::test
