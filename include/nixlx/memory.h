// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What we add for clients: memory that agents of the same host can map, so that transfers with them become copies in
// user space (docs/memory.md). Every function may be called from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#pragma GCC visibility push(default)

namespace nixlx {

/// `bytes` of zeroed memory, aligned to a page. Null: there is none, and lastError() says why; nothing is logged. 0
/// bytes are memory, too. Pages count as used when they are first touched. After fork parent and child see each other's
/// writes, unlike in other memory. Where the system gives no descriptor for it the memory is ordinary: peers reach it
/// as they reach any other (one INFO line).
void *
allocShared(std::size_t bytes) noexcept;

/// Gives back what allocShared returned; null is fine. Deregister it first. Anything else is left alone, with an ERROR
/// line: a pointer from elsewhere, into the middle, or freed before and not handed out again. In a child of fork, what
/// the parent allocated stays as it is for the parent.
void
freeShared(void *memory) noexcept;

/// A file in memory that holds one or many allocations. Whoever is given the descriptor can map all of it, and never
/// get SIGBUS from it: its size is sealed.
struct SharedBlock {
    uint64_t id;    ///< not 0, and of no other block in the life of this process
    uint64_t base;  ///< where it is mapped here
    uint64_t bytes; ///< a multiple of the page size
    int descriptor; ///< of this library: do not close it. Gone, like the block, with its last allocation
};

/// For backends: the block that covers `length` bytes from `address`. Nothing: there is none, the memory is ordinary.
/// The answer is good as long as an allocation in the range is not freed.
std::optional<SharedBlock>
findShared(uint64_t address, uint64_t length) noexcept;

} // namespace nixlx

#pragma GCC visibility pop
