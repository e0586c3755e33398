// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "shm/board.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <random>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

namespace nx::shm {

namespace {

constexpr uint32_t kMagic = 0x4253584e; // "NXSB"
constexpr uint32_t kVersion = 1;
constexpr size_t kPageBytes = 4096;
constexpr size_t kBoardBytes = kPageBytes + kWindowsMax * sizeof(BoardEntry);
constexpr int kGuardTries = 64;
#if defined(__SANITIZE_THREAD__)
constexpr int kAddressBits = 39; // the thread sanitizer ends the process at most addresses beyond
#else
constexpr int kAddressBits = 46;
#endif
constexpr uint32_t kOpen = 1, kNextGeneration = 2; // in BoardEntry::state
constexpr size_t kClosedMax = 4096;                // windows that are kept to be opened again
constexpr uint32_t kLastGeneration = UINT32_MAX / kNextGeneration;

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

} // namespace

Result<std::unique_ptr<Board>>
Board::create() {
    Fd memory(::memfd_create("nixl-shm-board", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!memory || ::ftruncate(memory.get(), kBoardBytes) != 0) {
        return {NIXL_ERR_BACKEND, withErrno("making memory that peers read", errno)};
    }
    auto mapping = Mapping::map(memory, kBoardBytes, Mapping::Access::kReadWrite);
    if (!mapping.ok()) return std::move(mapping).status();
    // The mapping stays; nobody gets another one that can write.
    if (::fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) != 0) {
        return {NIXL_ERR_BACKEND, withErrno("sealing memory that peers read (Linux before 5.1 cannot)", errno)};
    }
    std::random_device random;
    const auto number = [&random] { return uint64_t{random()} << 32 | random(); };
    for (int i = 0; i < kGuardTries; ++i) {
        // Anywhere in 64 TiB, then in half of that and so on: some systems give a process half a terabyte.
        auto guard = Mapping::mapAlone(number() >> (64 - kAddressBits + i / 8) & ~(kPageBytes - 1), kPageBytes);
        if (!guard.ok()) continue;
        std::unique_ptr<Board> board(new Board(std::move(memory), *std::move(mapping), *std::move(guard)));
        BoardInfo info{.magic = kMagic,
                       .version = kVersion,
                       .guard = reinterpret_cast<uint64_t>(board->guard_.data()),
                       .token = reinterpret_cast<uint64_t>(board->guard_.data() + kPageBytes / 2),
                       .token_bytes = {}};
        for (char &byte : info.token_bytes) byte = static_cast<char>(random());
        std::memcpy(board->guard_.data() + kPageBytes / 2, info.token_bytes.data(), kTokenBytes);
        std::memcpy(board->mapping_.data(), &info, sizeof info);
        return board;
    }
    return {NIXL_ERR_NO_MEMORY, "there is no page left in the address space"};
}

Board::Board(Fd memory, Mapping mapping, Mapping guard)
    : memory_(std::move(memory)),
      mapping_(std::move(mapping)),
      guard_(std::move(guard)) {}

Board::~Board() = default;

BoardEntry &
Board::entry(uint32_t index) const noexcept {
    return reinterpret_cast<BoardEntry *>(mapping_.data() + kPageBytes)[index];
}

WindowInfo
Board::windowAt(uint32_t index) const noexcept {
    const BoardEntry &entry = this->entry(index);
    return {.address = entry.address.load(std::memory_order_relaxed),
            .length = entry.length.load(std::memory_order_relaxed),
            .device = entry.device.load(std::memory_order_relaxed),
            .block = entry.block.load(std::memory_order_relaxed),
            .offset = entry.offset.load(std::memory_order_relaxed)};
}

/// The place that the window had before, a new one, or another's that is closed; empty: there is none.
Board::Places::node_type
Board::takePlaceLocked(const WindowInfo &window) {
    if (const auto same = closed_.find(window); same != closed_.end()) return closed_.extract(same);
    if (closed_.size() < kClosedMax && ever_used_ < kWindowsMax) {
        auto fresh = closed_.extract(closed_.emplace(window, Place{ever_used_}).first);
        ++ever_used_;
        return fresh;
    }
    return closed_.extract(closed_.begin());
}

Result<kit::WindowKey>
Board::open(const WindowInfo &window) {
    const MutexLock lock(mutex_);
    if (const auto found = open_.find(window); found != open_.end()) {
        ++found->second.users;
        std::atomic<uint32_t> &state = entry(found->second.index).state;
        return kit::WindowKey{found->second.index, state.fetch_or(kOpen, std::memory_order_release) / kNextGeneration};
    }
    if (closed_.empty() && ever_used_ == kWindowsMax) {
        return {NIXL_ERR_NO_MEMORY, std::to_string(kWindowsMax) + " ranges are registered already"};
    }
    auto place = takePlaceLocked(window);
    const uint32_t index = place.mapped().index;
    BoardEntry &entry = this->entry(index);
    uint32_t state = entry.state.load(std::memory_order_relaxed);
    if (state == 0 || place.key() != window) {
        state += kNextGeneration;
        // Whoever reads one of these also sees that the window before it is closed.
        entry.address.store(window.address, std::memory_order_release);
        entry.length.store(window.length, std::memory_order_release);
        entry.device.store(window.device, std::memory_order_release);
        entry.block.store(window.block, std::memory_order_release);
        entry.offset.store(window.offset, std::memory_order_release);
    }
    place.key() = window;
    place.mapped() = {.index = index, .users = 1};
    open_.insert(std::move(place));
    entry.state.store(state | kOpen, std::memory_order_release);
    return kit::WindowKey{index, state / kNextGeneration};
}

Board::Places::iterator
Board::findLocked(kit::WindowKey key) noexcept {
    const auto found = open_.find(windowAt(key.id));
    return found == open_.end() || found->second.index != key.id ? open_.end() : found;
}

bool
Board::shut(kit::WindowKey key) noexcept {
    const MutexLock lock(mutex_);
    const auto found = findLocked(key);
    if (found == open_.end() || found->second.users == 0) return false;
    ++found->second.shut;
    if (--found->second.users > 0) return false;
    // Sequentially consistent, as are Marker::enter, then look(), and MarkWatch::snapshot after this.
    entry(key.id).state.store(key.generation * kNextGeneration, std::memory_order_seq_cst);
    return true;
}

void
Board::forget(kit::WindowKey key) noexcept {
    const MutexLock lock(mutex_);
    const auto found = findLocked(key);
    if (found == open_.end() || found->second.shut == 0 || --found->second.shut > 0 || found->second.users > 0) return;
    Places::node_type place = open_.extract(found);
    // After its last generation an entry is never used again: no key comes twice.
    if (key.generation < kLastGeneration) closed_.insert(std::move(place));
}

void
Board::reopen(kit::WindowKey key) noexcept {
    const MutexLock lock(mutex_);
    const auto found = findLocked(key);
    if (found == open_.end() || found->second.shut == 0) return;
    --found->second.shut;
    ++found->second.users;
    entry(key.id).state.fetch_or(kOpen, std::memory_order_release);
}

void
Board::closeAll() noexcept {
    const MutexLock lock(mutex_);
    for (const auto &[window, place] : open_) {
        std::atomic<uint32_t> &state = entry(place.index).state;
        state.store(state.load(std::memory_order_relaxed) & ~kOpen, std::memory_order_seq_cst);
    }
    closed_.merge(open_);
}

std::optional<WindowInfo>
BoardView::look(kit::WindowKey key) const noexcept {
    if (key.id >= kWindowsMax) return {};
    const auto &entry = reinterpret_cast<const BoardEntry *>(memory_ + kPageBytes)[key.id];
    const uint32_t wanted = key.generation * kNextGeneration | kOpen;
    if (entry.state.load(std::memory_order_seq_cst) != wanted) return {};
    const WindowInfo window{.address = entry.address.load(std::memory_order_acquire),
                            .length = entry.length.load(std::memory_order_acquire),
                            .device = entry.device.load(std::memory_order_acquire),
                            .block = entry.block.load(std::memory_order_acquire),
                            .offset = entry.offset.load(std::memory_order_acquire)};
    // All of this generation, or the second look sees another.
    if (entry.state.load(std::memory_order_relaxed) != wanted) return {};
    return window;
}

Result<std::unique_ptr<PeerBoard>>
PeerBoard::map(Fd descriptor) {
    if (Status shared = checkShared(descriptor, kBoardBytes); !shared.ok()) return shared;
    auto mapping = Mapping::map(descriptor, kBoardBytes, Mapping::Access::kRead);
    if (!mapping.ok()) return std::move(mapping).status();
    std::unique_ptr<PeerBoard> board(new PeerBoard(*std::move(mapping)));
    if (board->info_.magic != kMagic || board->info_.version != kVersion) {
        return {NIXL_ERR_MISMATCH, "what a peer gave is no board of this version"};
    }
    return board;
}

PeerBoard::PeerBoard(Mapping mapping) noexcept : BoardView(mapping.data()), mapping_(std::move(mapping)) {
    std::memcpy(&info_, mapping_.data(), sizeof info_);
}

} // namespace nx::shm
