// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "shared/pool.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "utils/common/nixl_log.h"

namespace nx::shared {

namespace {

constexpr size_t kHugePage = size_t{2} << 20;
// A new block is at least this part of all: 1 TiB in small allocations takes 70 descriptors, not 16,384.
constexpr size_t kGrowth = 8;
constexpr unsigned kNoExecute = 8; // MFD_NOEXEC_SEAL, which some systems ask for; Linux before 6.3 does not know it

std::string
counted(size_t bytes) {
    return std::to_string(bytes) + " bytes";
}

/// Ordinary memory, which begins where a large page does if it can hold one. The kernel judges whether there is so
/// much; it does not look again when a file in memory is put in its place.
Result<Mapping>
mapOrdinary(size_t bytes) {
    const size_t slack = bytes >= kHugePage ? kHugePage : 0;
    void *mapped = bytes <= SIZE_MAX - slack
        ? ::mmap(nullptr, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        : MAP_FAILED;
    if (mapped == MAP_FAILED) {
        return {NIXL_ERR_NO_MEMORY,
                "the system refuses " + counted(bytes) + " of memory, or of address space (ulimit -v)"};
    }
    const auto start = reinterpret_cast<uintptr_t>(mapped);
    if (slack == 0) return Mapping(start, bytes);
    const uintptr_t base = (start + kHugePage - 1) / kHugePage * kHugePage;
    const Mapping before(start, base - start), behind(base + bytes, start + slack - base);
    return Mapping(base, bytes);
}

/// A file in memory whose size nobody can change.
Result<Fd>
sealedFile(size_t bytes) {
    rlimit limit{};
    if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && bytes > limit.rlim_cur) { // else: SIGXFSZ
        return {NIXL_ERR_NOT_SUPPORTED, "files may have " + counted(limit.rlim_cur) + " only (ulimit -f)"};
    }
    constexpr unsigned kFlags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    Fd file(::memfd_create("nixl", kFlags | kNoExecute));
    if (!file && errno == EINVAL) file = Fd(::memfd_create("nixl", kFlags));
    if (!file) return {NIXL_ERR_NOT_SUPPORTED, withErrno("memfd_create", errno)};
    if (::ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) {
        return {NIXL_ERR_NO_MEMORY, withErrno("ftruncate of a memfd to " + counted(bytes), errno)};
    }
    if (::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        return {NIXL_ERR_NOT_SUPPORTED, withErrno("sealing a memfd", errno)};
    }
    return file;
}

struct Shareable {
    Mapping memory;
    Fd file;
};

Result<Shareable>
mapShareable(size_t bytes) {
    auto memory = mapOrdinary(bytes);
    if (!memory.ok()) return std::move(memory).status();
    auto file = sealedFile(bytes);
    if (!file.ok()) return std::move(file).status();
    void *const place = reinterpret_cast<void *>(memory->base());
    if (::mmap(place, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file->get(), 0) == MAP_FAILED) {
        return {NIXL_ERR_NO_MEMORY, withErrno("mmap of a memfd", errno)};
    }
    // Where an administrator lets files in memory have large pages on advice; elsewhere it changes nothing.
    if (bytes >= kHugePage) ::madvise(place, bytes, MADV_HUGEPAGE);
    return Shareable{*std::move(memory), *std::move(file)};
}

/// Zeros where there was something, and the pages go back to the system.
void
empty(int file, size_t offset, void *memory, size_t bytes) noexcept {
    const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (::fallocate(file, mode, static_cast<off_t>(offset), static_cast<off_t>(bytes)) == 0) return;
    std::memset(memory, 0, bytes);
}

} // namespace

bool
memoryIsCommitted(const std::string &file) {
    int policy = 0;
    std::ifstream(file) >> policy;
    return policy == 2;
}

Pool::Pool(size_t smallest_block, bool shareable)
    : page_bytes_(static_cast<size_t>(::sysconf(_SC_PAGESIZE))),
      smallest_block_(smallest_block),
      shareable_(shareable) {}

Mapping &
Mapping::operator=(Mapping &&other) noexcept {
    std::swap(base_, other.base_);
    std::swap(bytes_, other.bytes_);
    return *this;
}

Mapping::~Mapping() {
    if (bytes_ > 0) ::munmap(reinterpret_cast<void *>(base_), bytes_);
}

Result<void *>
Pool::allocate(size_t bytes) {
    if (bytes > SIZE_MAX - page_bytes_) {
        return {NIXL_ERR_NO_MEMORY, counted(bytes) + " are more than a process can have"};
    }
    const size_t size = (std::max<size_t>(bytes, 1) + page_bytes_ - 1) / page_bytes_ * page_bytes_;
    const MutexLock lock(mutex_);
    auto hole = holes_.lower_bound({size, 0});
    if (hole == holes_.end()) {
        auto added = addBlockLocked(size);
        if (!added.ok()) return std::move(added).status();
        hole = *added;
    }
    const uintptr_t address = hole->second;
    cutLocked(pieces_.find(address), size);
    return reinterpret_cast<void *>(address);
}

/// A block with one free piece, for `bytes` or more.
Result<Pool::Holes::iterator>
Pool::addBlockLocked(size_t bytes) {
    const size_t size = std::max({bytes, smallest_block_, total_bytes_ / kGrowth / page_bytes_ * page_bytes_});
    auto shareable =
        shareable_ ? mapShareable(size) : Result<Shareable>{NIXL_ERR_NOT_SUPPORTED, "vm.overcommit_memory is 2"};
    Blocks made;
    Block block{.id = last_id_ + 1};
    if (shareable.ok()) {
        block.memory = std::move(shareable->memory);
        block.file = std::move(shareable->file);
    } else {
        auto ordinary = mapOrdinary(bytes);
        if (!ordinary.ok()) return std::move(ordinary).status();
        block.memory = *std::move(ordinary);
        if (!std::exchange(has_told_, true)) {
            NIXL_INFO << "allocShared: " << counted(bytes)
                      << ", and perhaps more after them, are ordinary memory, which "
                      << "peers of this host cannot map: " << shareable.message();
        }
    }
    const uintptr_t base = block.memory.base();
    Block &added = made.emplace(base, std::move(block)).first->second;
    const auto hole = addFreeLocked(base, added.memory.bytes(), added);
    blocks_.insert(made.extract(base));
    ++last_id_;
    total_bytes_ += hole->first;
    return hole;
}

/// In both tables, or in neither if it throws.
Pool::Holes::iterator
Pool::addFreeLocked(uintptr_t address, size_t bytes, Block &block) {
    Holes made{{bytes, address}};
    pieces_.emplace(address, Piece{bytes, &block});
    return holes_.insert(made.extract(made.begin())).position;
}

/// Takes the first `bytes` of a free piece.
void
Pool::cutLocked(Pieces::iterator piece, size_t bytes) {
    auto &[address, cut] = *piece;
    if (cut.bytes > bytes) addFreeLocked(address + bytes, cut.bytes - bytes, *cut.block);
    cut.hole = holes_.extract({cut.bytes, address});
    cut.bytes = bytes;
    cut.state = State::kUsed;
    ++cut.block->in_use;
}

/// Makes a piece free, one with its free neighbours.
void
Pool::joinLocked(Pieces::iterator piece) {
    const auto isPartner = [&](Pieces::iterator other) {
        return other->second.block == piece->second.block && other->second.state == State::kFree;
    };
    auto hole = std::move(piece->second.hole);
    piece->second.state = State::kFree;
    if (const auto next = std::next(piece); next != pieces_.end() && isPartner(next)) {
        holes_.erase({next->second.bytes, next->first});
        piece->second.bytes += next->second.bytes;
        pieces_.erase(next);
    }
    if (piece != pieces_.begin() && isPartner(std::prev(piece))) {
        const auto before = std::prev(piece);
        holes_.erase({before->second.bytes, before->first});
        before->second.bytes += piece->second.bytes;
        pieces_.erase(piece);
        piece = before;
    }
    hole.value() = {piece->second.bytes, piece->first};
    holes_.insert(std::move(hole));
}

/// The piece is not in use any more. Returns its block if that has no other, out of the tables and still mapped.
Pool::Blocks::node_type
Pool::letGoLocked(Pieces::iterator piece) {
    Block &block = *piece->second.block;
    if (--block.in_use > 0) {
        if (block.inherited) {
            piece->second.state = State::kFree;
        } else {
            joinLocked(piece);
        }
        return {};
    }
    const uintptr_t base = block.memory.base(), end = base + block.memory.bytes();
    for (auto at = pieces_.find(base); at != pieces_.end() && at->first < end; at = pieces_.erase(at)) {
        holes_.erase({at->second.bytes, at->first});
    }
    total_bytes_ -= block.memory.bytes();
    return blocks_.extract(base);
}

Status
Pool::free(void *memory) {
    const auto address = reinterpret_cast<uintptr_t>(memory);
    Blocks::node_type gone; // unmapped when no lock is held
    Pieces::iterator piece;
    {
        const MutexLock lock(mutex_);
        piece = pieces_.find(address);
        if (piece == pieces_.end() || piece->second.state != State::kUsed) {
            return {NIXL_ERR_INVALID_PARAM,
                    "there is no allocation at this address: it was freed before, or is not of allocShared"};
        }
        if (const Block &block = *piece->second.block; block.inherited || !block.file) {
            gone = letGoLocked(piece);
            return {};
        }
        piece->second.state = State::kBeingFreed; // by this call, and its block stays
    }
    // To give pages back takes about as long as to touch them did. Of a block that goes, too: peers may have mapped it.
    const auto &[bytes, block, state, hole] = piece->second;
    empty(block->file.get(), address - block->memory.base(), memory, bytes);
    const MutexLock lock(mutex_);
    gone = letGoLocked(piece);
    return {};
}

std::optional<nixlx::SharedBlock>
Pool::find(uint64_t address, uint64_t length) const noexcept {
    const MutexLock lock(mutex_);
    const auto after = blocks_.upper_bound(address);
    if (after == blocks_.begin()) return {};
    const auto &[base, block] = *std::prev(after);
    const uint64_t offset = address - base;
    const uint64_t bytes = block.memory.bytes();
    if (!block.file || offset >= bytes || length > bytes - offset) return {};
    return nixlx::SharedBlock{block.id, base, bytes, block.file.get()};
}

void
Pool::inheritLocked() noexcept {
    holes_.clear();
    for (auto &[base, block] : blocks_) block.inherited = true;
}

} // namespace nx::shared
