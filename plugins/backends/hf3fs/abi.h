// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What is used of the interface of libhf3fs_api_shared.so (USRBIO), declared here because its header is on no machine
// without 3FS. Its structs have no version: layouts are exact. Pure declarations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>

namespace nx::hf3fs::abi {

/// Memory that the 3FS client on this host maps, too.
struct Iov {
    uint8_t *base;
    void *handle;
    uint8_t id[16];
    char mount_point[256];
    size_t size;
    size_t block_size; ///< which no I/O may cross; 0: all is one
    int numa;
};
static_assert(sizeof(Iov) == 312 && offsetof(Iov, id) == 16 && offsetof(Iov, size) == 288 &&
              offsetof(Iov, numa) == 304);

/// A ring of I/Os in one direction.
struct Ior {
    Iov iov;
    void *handle;
    char mount_point[256];
    bool for_read;
    int io_depth;
    int priority;
    int timeout;
    uint64_t flags;
};
static_assert(sizeof(Ior) == 600 && offsetof(Ior, handle) == 312 && offsetof(Ior, for_read) == 576 &&
              offsetof(Ior, flags) == 592);

struct Completion {
    int32_t index;
    int32_t reserved;
    int64_t result; ///< bytes, or the negative of an error
    const void *userdata;
};
static_assert(sizeof(Completion) == 24 && offsetof(Completion, result) == 8 && offsetof(Completion, userdata) == 16);

/// Functions that answer with an int: not negative, or the negative of an errno, but for hf3fs_reg_fd, where a positive
/// one is an errno and all others are success.
struct Api {
    bool (*hf3fs_is_hf3fs)(int fd);
    int (*hf3fs_extract_mount_point)(char *out, int size, const char *path); ///< throws if the path does not exist
    int (*hf3fs_iovcreate)(Iov *iov, const char *mount_point, size_t size, size_t block_size, int numa);
    void (*hf3fs_iovdestroy)(Iov *iov); ///< not of a wrapped one
    int (*hf3fs_iovwrap)(Iov *iov,
                         void *base,
                         const uint8_t id[16],
                         const char *mount_point,
                         size_t size,
                         size_t block_size,
                         int numa);
    int (*hf3fs_iorcreate)(Ior *ior, const char *mount_point, int entries, bool for_read, int io_depth, int numa);
    void (*hf3fs_iordestroy)(Ior *ior);
    int (*hf3fs_reg_fd)(int fd, uint64_t flags);
    void (*hf3fs_dereg_fd)(int fd); ///< before it is closed
    int (*hf3fs_prep_io)(const Ior *ior,
                         const Iov *iov,
                         bool read,
                         void *memory,
                         int fd,
                         size_t offset,
                         uint64_t length,
                         const void *userdata);
    int (*hf3fs_submit_ios)(const Ior *ior);
    /// Waits for `min_results`, until CLOCK_REALTIME says `until`.
    int (*hf3fs_wait_for_ios)(const Ior *ior,
                              Completion *completions,
                              int count_max,
                              int min_results,
                              const timespec *until);
};

} // namespace nx::hf3fs::abi
