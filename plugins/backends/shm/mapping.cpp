// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "shm/mapping.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace nx::shm {

Result<Fd>
createShared(const char *name, size_t bytes) {
    Fd memory(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!memory || ::ftruncate(memory.get(), static_cast<off_t>(bytes)) != 0 ||
        ::fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        return {NIXL_ERR_BACKEND, withErrno("making memory to share with a peer", errno)};
    }
    return memory;
}

Status
checkShared(const Fd &memory, size_t bytes) {
    struct stat status{};
    struct statfs system{};
    const int seals = ::fcntl(memory.get(), F_GET_SEALS);
    // Of tmpfs: huge pages can be sealed, too, but run out when they are touched (SIGBUS).
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || ::fstatfs(memory.get(), &system) != 0 ||
        system.f_type != TMPFS_MAGIC || ::fstat(memory.get(), &status) != 0 ||
        static_cast<uint64_t>(status.st_size) < bytes) {
        return {NIXL_ERR_MISMATCH, "what a peer gave is no memory that can be shared safely"};
    }
    return {};
}

Result<Mapping>
Mapping::map(const Fd &memory, size_t bytes, Access access) {
    const int protection = access == Access::kRead ? PROT_READ : PROT_READ | PROT_WRITE;
    void *const data = ::mmap(nullptr, bytes, protection, MAP_SHARED, memory.get(), 0);
    if (data == MAP_FAILED) return {NIXL_ERR_NO_MEMORY, withErrno("mapping memory shared with a peer", errno)};
    return Mapping(static_cast<std::byte *>(data), bytes);
}

Result<Mapping>
Mapping::mapAlone(uint64_t address, size_t bytes) {
    void *const data = ::mmap(reinterpret_cast<void *>(address), bytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (data == MAP_FAILED) return {NIXL_ERR_NO_MEMORY, withErrno("mapping a page at a given address", errno)};
    Mapping mapping(static_cast<std::byte *>(data), bytes);
    if (data != reinterpret_cast<void *>(address)) return {NIXL_ERR_NO_MEMORY, "the system maps elsewhere"};
    ::madvise(data, bytes, MADV_DONTFORK);
    return mapping;
}

/// From this part on, what must come up to `end`.
void
PeerBlock::prepare(size_t part, size_t end) const noexcept {
    const size_t first = part * kPartBytes;
    for (; part * kPartBytes < end; ++part) {
        expected_[part / 64].fetch_or(uint64_t{1} << part % 64, std::memory_order_relaxed);
    }
    // Linux before 5.14 cannot: then the pages come one by one.
    static_cast<void>(::madvise(data() + first, std::min(part * kPartBytes, bytes()) - first, MADV_POPULATE_WRITE));
}

Mapping::~Mapping() {
    if (data_) ::munmap(data_, bytes_);
}

} // namespace nx::shm
