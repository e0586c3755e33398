// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "support/io_faults.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

namespace nx::test {
namespace {

std::atomic<bool> armed{false};
std::atomic<uint64_t> seed{0}, calls{0}, interrupted{0}, cut{0}, failed{0};
std::atomic<ino_t> failing_inode{0};

uint64_t
mixed(uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

ssize_t
faulted(long call, int fd, const iovec *vectors, int count, off_t offset) {
    if (!armed) return ::syscall(call, fd, vectors, count, offset, 0);
    const uint64_t random = mixed(seed + ++calls * 0x9e3779b97f4a7c15u);
    struct stat status{};
    const auto refuse = [](std::atomic<uint64_t> &counter, int error) {
        ++counter;
        errno = error;
        return ssize_t{-1};
    };
    if (random % 100 < 15) return refuse(interrupted, EINTR);
    if (random % 100 < 20 && ::fstat(fd, &status) == 0 && status.st_ino == failing_inode) return refuse(failed, EIO);
    if (random % 100 < 60) { // a part of the first of them
        ++cut;
        const iovec first{vectors->iov_base, std::max<size_t>(1, (random >> 32) % (vectors->iov_len + 1))};
        return ::syscall(call, fd, &first, 1, offset, 0);
    }
    return ::syscall(call, fd, vectors, count, offset, 0);
}

} // namespace

IoFaults::IoFaults(uint64_t with_seed, ino_t failing) {
    seed = with_seed;
    failing_inode = failing;
    calls = interrupted = cut = failed = 0;
    armed = true;
}

IoFaults::~IoFaults() {
    armed = false;
}

IoFaults::Counts
IoFaults::counts() const {
    return {calls, interrupted, cut, failed};
}

} // namespace nx::test

/// Instead of the C library's.
extern "C" __attribute__((visibility("default"))) ssize_t
preadv(int fd, const iovec *vectors, int count, off_t offset) {
    return nx::test::faulted(SYS_preadv, fd, vectors, count, offset);
}

/// Likewise.
extern "C" __attribute__((visibility("default"))) ssize_t
pwritev(int fd, const iovec *vectors, int count, off_t offset) {
    return nx::test::faulted(SYS_pwritev, fd, vectors, count, offset);
}
