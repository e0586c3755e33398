// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The windows of one engine, in memory that its owner alone can write and all its peers read. A window is open or
// closed; its key names it to peers as long as the engine lives. The same range in the same place has the same key when
// it is opened again, so that metadata of before and after agree.
//
//     page 0          BoardInfo
//     from page 1 on  BoardEntry, one for each window; what was never used takes no memory
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/fd.h"
#include "base/mutex.h"
#include "kit/peer/layout.h"
#include "shm/mapping.h"

namespace nx::shm {

inline constexpr uint32_t kWindowsMax = uint32_t{1} << 20;
inline constexpr size_t kTokenBytes = 16;

/// What peers have to know of the process, see copy.h.
struct BoardInfo {
    uint32_t magic;
    uint32_t version;
    uint64_t guard; ///< address of a page that is there as long as the engine's program runs
    uint64_t token; ///< address of the bytes below in that process
    std::array<char, kTokenBytes> token_bytes;
};

/// A registered range, and where it lies in shareable memory (nixlx/memory.h).
struct WindowInfo {
    uint64_t address = 0;
    uint64_t length = 0;
    uint64_t device = 0;
    uint64_t block = 0;  ///< 0: it does not
    uint64_t offset = 0; ///< of its first byte in the block

    auto
    operator<=>(const WindowInfo &) const = default;
};

struct BoardEntry {
    std::atomic<uint32_t> state; ///< twice the generation, and 1 while it is open
    uint32_t unused;
    std::atomic<uint64_t> address, length, device, block, offset;
    uint64_t more_unused[2];
};
static_assert(sizeof(BoardEntry) == 64);

/// What a board shows, as it lies in memory. Any thread.
class BoardView {
public:
    explicit BoardView(const std::byte *memory) noexcept : memory_(memory) {}

    /// The window is open, and the range lies in it. A few nanoseconds.
    bool
    allows(kit::WindowKey key, uint64_t address, uint64_t length) const noexcept {
        const auto window = look(key);
        return window && address >= window->address && length <= window->length &&
            address - window->address <= window->length - length;
    }

    /// Nothing: it is not open.
    std::optional<WindowInfo>
    look(kit::WindowKey key) const noexcept;

private:
    const std::byte *memory_;
};

/// The owner's. Self-synchronised.
class Board {
public:
    /// BACKEND, NO_MEMORY: the system refuses.
    static Result<std::unique_ptr<Board>>
    create();
    ~Board();

    /// The same range again is the same window, which is closed as often. NO_MEMORY: kWindowsMax are open.
    Result<kit::WindowKey>
    open(const WindowInfo &window);

    /// Whoever looks from now on is refused; who has looked before is shown by a mark (marks.h). False: the window was
    /// opened more often, and stays open.
    bool
    close(kit::WindowKey key) noexcept {
        const bool closed = shut(key);
        forget(key);
        return closed;
    }

    // ---- The same in two steps, in between which nobody else gets the window's place

    bool
    shut(kit::WindowKey key) noexcept;
    /// It stays closed. Once for each shut(), or reopen().
    void
    forget(kit::WindowKey key) noexcept;
    void
    reopen(kit::WindowKey key) noexcept;

    void
    closeAll() noexcept;

    /// What peers see.
    const BoardView &
    view() const noexcept {
        return view_;
    }

    /// For peers, who can map it for reading only. The board's.
    int
    descriptor() const noexcept {
        return memory_.get();
    }

private:
    struct Place {
        uint32_t index = 0;
        size_t users = 0; ///< it is open if there are any
        size_t shut = 0;  ///< that have shut it, and may reopen it
    };
    using Places = std::map<WindowInfo, Place>;

    Board(Fd memory, Mapping mapping, Mapping guard);

    BoardEntry &
    entry(uint32_t index) const noexcept;
    WindowInfo
    windowAt(uint32_t index) const noexcept;
    Places::iterator
    findLocked(kit::WindowKey key) noexcept NX_REQUIRES(mutex_);
    Places::node_type
    takePlaceLocked(const WindowInfo &window) NX_REQUIRES(mutex_);

    const Fd memory_;
    const Mapping mapping_;
    const Mapping guard_;
    const BoardView view_{mapping_.data()};
    Mutex mutex_;
    uint32_t ever_used_ NX_GUARDED_BY(mutex_) = 0;
    Places open_ NX_GUARDED_BY(mutex_);   ///< or shut
    Places closed_ NX_GUARDED_BY(mutex_); ///< those that can be opened again as they were
};

/// A peer's, read only. What it holds may change at any instant. Any thread.
class PeerBoard : public BoardView {
public:
    /// MISMATCH: not a board.
    static Result<std::unique_ptr<PeerBoard>>
    map(Fd descriptor);

    /// As it was when it was mapped.
    const BoardInfo &
    info() const noexcept {
        return info_;
    }

private:
    explicit PeerBoard(Mapping mapping) noexcept;

    const Mapping mapping_;
    BoardInfo info_;
};

} // namespace nx::shm
