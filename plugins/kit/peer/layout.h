// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Where the bytes of a transfer lie on one side, and the windows that a peer may reach. Plain values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/error.h"

namespace nx::kit {

/// Names a window to the peer: an id that may be used again, with another generation.
struct WindowKey {
    uint32_t id = 0;
    uint32_t generation = 0;

    bool
    operator==(const WindowKey &) const = default;
};

/// What a peer may do with a window; bits.
inline constexpr uint32_t kMayRead = 1;
inline constexpr uint32_t kMayWrite = 2;
/// The peer may copy by itself (process_vm_readv, a mapping): it checks the window, and closing it needs its answer.
inline constexpr uint32_t kMayCopy = 4;

/// Memory of an agent that its peer may reach.
struct Window {
    WindowKey key{};
    uint32_t rights = 0;
    nixl_mem_t memory = DRAM_SEG;
    uint64_t device = 0;
    uint64_t address = 0;
    uint64_t length = 0;
};

/// `count` blocks of `length` bytes; block i lies at address + i * stride modulo 2^64 (strides may step backwards).
struct Blocks {
    uint64_t address = 0;
    uint64_t length = 0;
    uint64_t stride = 0;
    uint64_t count = 1;
    WindowKey window{};           ///< of the remote side
    nixl_mem_t memory = DRAM_SEG; ///< of the side where they lie, like `device`
    uint64_t device = 0;
    uint64_t start = 0; ///< set by Layout: bytes before them
};

/// Bytes in a row that a carrier moves next.
struct Piece {
    char *address;
    size_t bytes;
    nixl_mem_t memory = DRAM_SEG;
    uint64_t device = 0;
};

/// Whether every byte of `blocks` lies in the window and all of `rights` are given. NOT_FOUND, NOT_ALLOWED: no.
Status
checkAccess(const Window &window, const Blocks &blocks, uint32_t rights);

/// Blocks in the order in which their bytes are counted.
class Layout {
public:
    /// False: empty blocks, or more than 2^63 bytes in all; nothing changed.
    bool
    add(Blocks blocks);

    /// Memory for a few blocks is kept.
    void
    clear();

    uint64_t
    totalBytes() const noexcept {
        return total_bytes_;
    }

    std::span<Blocks>
    blocks() noexcept {
        return blocks_;
    }

    std::span<const Blocks>
    blocks() const noexcept {
        return blocks_;
    }

    /// The first pieces of the `bytes` bytes from `offset` on, as many as `out` holds. They must be in the layout.
    size_t
    pieces(uint64_t offset, uint64_t bytes, std::span<Piece> out) const;

private:
    std::vector<Blocks> blocks_;
    uint64_t total_bytes_ = 0;
};

} // namespace nx::kit
