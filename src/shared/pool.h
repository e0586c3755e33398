// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Memory for programs that other processes can map: blocks, each a sealed file in memory, cut into pieces of whole
// pages. Blocks grow with what is there, so that their descriptors stay few. Guarded by a mutex, also across fork.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/fd.h"
#include "base/mutex.h"
#include "nixlx/memory.h"

namespace nx::shared {

/// Whether memory is refused when it is allocated and not when it is touched (vm.overcommit_memory 2). Pages of files
/// in memory count when they are touched, and then their lack would be SIGBUS. False if the file cannot be read.
bool
memoryIsCommitted(const std::string &file = "/proc/sys/vm/overcommit_memory");

/// Mapped pages, given back when it goes. Owned.
class Mapping {
public:
    Mapping() noexcept = default;
    Mapping(uintptr_t base, size_t bytes) noexcept : base_(base), bytes_(bytes) {}
    Mapping(Mapping &&other) noexcept : base_(other.base_), bytes_(std::exchange(other.bytes_, 0)) {}
    Mapping &
    operator=(Mapping &&other) noexcept;
    ~Mapping();

    uintptr_t
    base() const noexcept {
        return base_;
    }

    size_t
    bytes() const noexcept {
        return bytes_;
    }

private:
    uintptr_t base_ = 0;
    size_t bytes_ = 0;
};

class Pool {
public:
    /// `smallest_block`: bytes, a multiple of the page size. `shareable`: false makes all of it ordinary memory.
    explicit Pool(size_t smallest_block = size_t{64} << 20, bool shareable = !memoryIsCommitted());
    /// What was not freed goes with it.
    ~Pool() = default;
    Pool(const Pool &) = delete;
    Pool &
    operator=(const Pool &) = delete;

    /// Whole pages, zeroed. NO_MEMORY.
    Result<void *>
    allocate(size_t bytes);

    /// INVALID_PARAM: `memory` is no allocation of this pool; nothing changed.
    Status
    free(void *memory);

    std::optional<nixlx::SharedBlock>
    find(uint64_t address, uint64_t length) const noexcept;

    /// For fork, which must not happen while somebody holds it.
    Mutex &
    mutex() noexcept NX_RETURN_CAPABILITY(mutex_) {
        return mutex_;
    }

    /// In the child of a fork: leaves its parent's blocks as they are. It cuts nothing from them, changes no page when
    /// it frees, and lets go of a block with the last allocation in it.
    void
    inheritLocked() noexcept NX_REQUIRES(mutex_);

private:
    struct Block {
        uint64_t id = 0;
        Mapping memory = {};
        Fd file = {};      ///< none: ordinary memory
        size_t in_use = 0; ///< its pieces that are not free
        bool inherited = false;
    };
    using Blocks = std::map<uintptr_t, Block>;            ///< by their base
    using Holes = std::set<std::pair<size_t, uintptr_t>>; ///< size and address of free pieces: the best fit is taken
    enum class State { kFree, kUsed, kBeingFreed };
    struct Piece {
        size_t bytes = 0;
        Block *block = nullptr;
        State state = State::kFree;
        Holes::node_type hole = {}; ///< its entry while it is in use, so that to free needs no memory
    };
    using Pieces = std::map<uintptr_t, Piece>; ///< of all blocks, without gaps

    Result<Holes::iterator>
    addBlockLocked(size_t bytes) NX_REQUIRES(mutex_);
    Holes::iterator
    addFreeLocked(uintptr_t address, size_t bytes, Block &block) NX_REQUIRES(mutex_);
    void
    cutLocked(Pieces::iterator piece, size_t bytes) NX_REQUIRES(mutex_);
    void
    joinLocked(Pieces::iterator piece) NX_REQUIRES(mutex_);
    Blocks::node_type
    letGoLocked(Pieces::iterator piece) NX_REQUIRES(mutex_);

    const size_t page_bytes_;
    const size_t smallest_block_;
    const bool shareable_;

    mutable Mutex mutex_;
    Blocks blocks_ NX_GUARDED_BY(mutex_);
    Pieces pieces_ NX_GUARDED_BY(mutex_);
    Holes holes_ NX_GUARDED_BY(mutex_);
    size_t total_bytes_ NX_GUARDED_BY(mutex_) = 0; ///< of all blocks
    uint64_t last_id_ NX_GUARDED_BY(mutex_) = 0;
    bool has_told_ NX_GUARDED_BY(mutex_) = false; ///< that there is ordinary memory
};

} // namespace nx::shared
