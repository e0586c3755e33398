// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The double of libhf3fs_api_shared.so (double.h). Functions are found by their names, as in the real one. I/Os happen
// while somebody waits for them, in any order.
#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

#include "base/mutex.h"
#include "hf3fs/abi.h"
#include "hf3fs/double.h"

#define NX_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using nx::hf3fs::abi::Completion;
using nx::hf3fs::abi::Ior;
using nx::hf3fs::abi::Iov;
using nx::hf3fs::test::Counts;
using nx::hf3fs::test::Faults;

struct Io {
    char *memory; // as 3FS has mapped it
    int fd;
    ino_t inode;
    size_t offset, length;
    const void *userdata;
};

struct Ring {
    size_t entry_count;
    bool for_read;
    std::vector<Io> ios;
    bool submitted; // the last that was prepared
    bool lost;      // it has failed, so that it may go with what is in it
};

struct Memory {
    char *mapped;
    bool is_wrapped;
};

nx::Mutex mutex;
nx::CondVar changed;
Faults faults NX_GUARDED_BY(mutex);
Counts counts NX_GUARDED_BY(mutex);
std::mt19937_64 random_bits NX_GUARDED_BY(mutex);
std::map<int, ino_t> files NX_GUARDED_BY(mutex);
std::vector<std::unique_ptr<Memory>> wrapped NX_GUARDED_BY(mutex); // nothing ends them

bool
chance(unsigned percent) NX_REQUIRES(mutex) {
    return random_bits() % 100 < percent;
}

void
violation(const std::string &what) NX_REQUIRES(mutex) {
    if (!counts.violation[0]) std::snprintf(counts.violation, sizeof counts.violation, "%s", what.c_str());
}

ino_t
inodeOf(int fd) {
    struct stat info{};
    return ::fstat(fd, &info) == 0 ? info.st_ino : 0;
}

std::string
textOf(const uint8_t *id) {
    char text[37];
    char *end = text;
    for (int i = 0; i < 16; ++i)
        end += std::snprintf(end, 4, i == 3 || i == 5 || i == 7 || i == 9 ? "%02x-" : "%02x", id[i]);
    return text;
}

/// Bytes, or the negative of an errno.
int64_t
perform(const Io &io, bool reads) NX_REQUIRES(mutex) {
    if (inodeOf(io.fd) != io.inode) violation("the descriptor of a registered file was closed");
    size_t length = io.length;
    if (faults.only_inode == 0 || faults.only_inode == io.inode) {
        if (chance(faults.error_percent)) {
            ++counts.failed;
            return -faults.io_error;
        }
        if (length > 1 && chance(faults.short_percent)) length = 1 + random_bits() % (length - 1);
    }
    const auto offset = static_cast<off_t>(io.offset);
    const ssize_t result =
        reads ? ::pread(io.fd, io.memory, length, offset) : ::pwrite(io.fd, io.memory, length, offset);
    return result < 0 ? -errno : result;
}

} // namespace

NX_EXPORT void
nxTestSetFaults(const Faults &wanted) {
    {
        const nx::MutexLock lock(mutex);
        faults = wanted;
        random_bits.seed(wanted.seed);
    }
    changed.notifyAll();
}

NX_EXPORT Counts
nxTestCounts() {
    const nx::MutexLock lock(mutex);
    counts.files = static_cast<int>(files.size());
    return counts;
}

NX_EXPORT bool
hf3fs_is_hf3fs(int) {
    const nx::MutexLock lock(mutex);
    return !faults.foreign;
}

NX_EXPORT int
hf3fs_extract_mount_point(char *out, int size, const char *path) {
    char whole[PATH_MAX];
    if (!::realpath(path, whole)) std::abort(); // an exception that nobody catches, in the real one
    if (::access((std::string(whole) + "/3fs-virt/iovs").c_str(), F_OK) != 0) return -1;
    return std::snprintf(out, static_cast<size_t>(size), "%s", whole) + 1;
}

// ---- Memory --------------------------------------------------------------------------------------------------------

NX_EXPORT int
hf3fs_iovcreate(Iov *iov, const char *mount_point, size_t size, size_t, int) {
    const nx::MutexLock lock(mutex);
    if (faults.room_error) return -faults.room_error;
    auto memory = std::make_unique<Memory>(Memory{new char[size], false});
    *iov = {};
    iov->base = reinterpret_cast<uint8_t *>(memory->mapped);
    iov->handle = memory.get();
    iov->size = size;
    std::snprintf(iov->mount_point, sizeof iov->mount_point, "%s", mount_point);
    static_cast<void>(memory.release()); // until it is destroyed
    ++counts.rooms;
    return 0;
}

NX_EXPORT void
hf3fs_iovdestroy(Iov *iov) {
    const std::unique_ptr<Memory> memory(static_cast<Memory *>(iov->handle));
    const nx::MutexLock lock(mutex);
    if (memory->is_wrapped) violation("memory that was wrapped was destroyed");
    delete[] memory->mapped;
    --counts.rooms;
}

NX_EXPORT int
hf3fs_iovwrap(Iov *iov, void *base, const uint8_t *id, const char *mount_point, size_t size, size_t block_size, int) {
    const nx::MutexLock lock(mutex);
    if (faults.wrap_error) return -faults.wrap_error;
    const std::string link = std::string(mount_point) + "/3fs-virt/iovs/" + textOf(id);
    char target[PATH_MAX] = {};
    if (::readlink(link.c_str(), target, sizeof target - 1) < 0 || !std::string(target).starts_with("/dev/shm/")) {
        violation(link + " does not lead to shared memory");
        return -ENOENT;
    }
    const int fd = ::open(target, O_RDWR | O_CLOEXEC);
    struct stat info{};
    if (::fstat(fd, &info) != 0 || static_cast<size_t>(info.st_size) < size) violation("lent memory is too short");
    void *const mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ::close(fd);
    if (mapped == MAP_FAILED) return -errno;
    wrapped.push_back(std::make_unique<Memory>(Memory{static_cast<char *>(mapped), true}));
    *iov = {};
    iov->base = static_cast<uint8_t *>(base);
    iov->handle = wrapped.back().get();
    iov->size = size;
    iov->block_size = block_size;
    std::memcpy(iov->id, id, sizeof iov->id);
    ++counts.lent;
    return 0;
}

// ---- Files ---------------------------------------------------------------------------------------------------------

NX_EXPORT int
hf3fs_reg_fd(int fd, uint64_t) {
    const nx::MutexLock lock(mutex);
    if (faults.file_error) return faults.file_error;
    const ino_t inode = inodeOf(fd);
    if (inode == 0) return EBADF;
    return files.emplace(fd, inode).second ? -fd : EINVAL;
}

NX_EXPORT void
hf3fs_dereg_fd(int fd) {
    const nx::MutexLock lock(mutex);
    const auto file = files.find(fd);
    if (file == files.end() || inodeOf(fd) != file->second) violation("a descriptor was closed before it was let go");
    if (file != files.end()) files.erase(file);
}

// ---- Rings ---------------------------------------------------------------------------------------------------------

NX_EXPORT int
hf3fs_iorcreate(Ior *ior, const char *, int entries, bool for_read, int, int) {
    const nx::MutexLock lock(mutex);
    if (faults.ring_error) return -faults.ring_error;
    if (entries <= 0) return -EINVAL;
    *ior = {};
    ior->handle = new Ring{static_cast<size_t>(entries), for_read, {}, false, false};
    ior->for_read = for_read;
    ++counts.rings;
    return 0;
}

NX_EXPORT void
hf3fs_iordestroy(Ior *ior) {
    const std::unique_ptr<Ring> ring(static_cast<Ring *>(ior->handle));
    const nx::MutexLock lock(mutex);
    if (!ring->ios.empty() && !ring->lost) violation("a ring was destroyed with I/Os in it");
    --counts.rings;
}

NX_EXPORT int
hf3fs_prep_io(const Ior *ior,
              const Iov *iov,
              bool read,
              void *memory,
              int fd,
              size_t offset,
              uint64_t length,
              const void *userdata) {
    auto &ring = *static_cast<Ring *>(ior->handle);
    const auto &home = *static_cast<const Memory *>(iov->handle);
    const nx::MutexLock lock(mutex);
    if (faults.prep_error && chance(faults.prep_percent)) {
        if (faults.prep_error != EAGAIN) ++counts.failed;
        return -faults.prep_error;
    }
    const auto place = static_cast<size_t>(static_cast<uint8_t *>(memory) - iov->base);
    if (read != ring.for_read || length == 0 || place > iov->size || length > iov->size - place) {
        violation("an I/O outside its memory, or against its ring");
        return -EINVAL;
    }
    const auto file = files.find(fd);
    if (file == files.end()) return -EBADF;
    if ((::fcntl(fd, F_GETFL) & O_ACCMODE) == (read ? O_WRONLY : O_RDONLY)) return -EACCES;
    if (ring.ios.size() >= ring.entry_count) return -EAGAIN;
    ++(home.is_wrapped ? counts.straight : counts.copied);
    ring.ios.push_back({home.mapped + place, fd, file->second, offset, length, userdata});
    ring.submitted = false;
    counts.in_flight_max = std::max(counts.in_flight_max, static_cast<unsigned>(ring.ios.size()));
    return static_cast<int>(ring.ios.size()) - 1;
}

NX_EXPORT int
hf3fs_submit_ios(const Ior *ior) {
    auto &ring = *static_cast<Ring *>(ior->handle);
    const nx::MutexLock lock(mutex);
    if (faults.submit_error) {
        ring.lost = true;
        return -faults.submit_error;
    }
    ring.submitted = true;
    return 0;
}

NX_EXPORT int
hf3fs_wait_for_ios(const Ior *ior, Completion *completions, int count_max, int, const timespec *until) {
    auto &ring = *static_cast<Ring *>(ior->handle);
    const nx::MutexLock lock(mutex);
    if (faults.wait_error) {
        ring.lost = true;
        return -faults.wait_error;
    }
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    if (until->tv_sec < now.tv_sec - 3600) violation("a time that is not CLOCK_REALTIME's");
    if (faults.held && until->tv_sec > now.tv_sec) {
        const auto held = static_cast<unsigned>(ring.ios.size());
        counts.waiting += held;
        while (faults.held) changed.wait(mutex);
        counts.waiting -= held;
    }
    if (!ring.submitted) return 0;
    std::shuffle(ring.ios.begin(), ring.ios.end(), random_bits);
    int count = 0;
    while (!ring.ios.empty() && count < (faults.few ? 1 : count_max)) {
        completions[count] = {.index = count,
                              .reserved = 0,
                              .result = perform(ring.ios.back(), ring.for_read),
                              .userdata = ring.ios.back().userdata};
        ring.ios.pop_back();
        ++count;
    }
    return count;
}
