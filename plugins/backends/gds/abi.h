// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What is used of the interfaces of libcufile.so.0 and libcuda.so.1, declared here because neither has its headers on
// a machine without NVIDIA's software. Neither has a version in its structs: layouts are exact. Pure declarations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <sys/types.h>

namespace nx::gds::abi {

// ---- cuFile

/// Returned by value. `err`: 0, or a code of 5000 and above; `cu_err` says more where that is kCudaDriverError.
struct FileError {
    int err;
    int cu_err;
};
static_assert(sizeof(FileError) == 8);

inline constexpr int kCudaDriverError = 5011, kMemoryAlreadyRegistered = 5023, kDriverAlreadyOpen = 5026,
                     kHandleNotRegistered = 5027, kHandleAlreadyRegistered = 5028;

struct FileDescription {
    int type;
    union {
        int fd;
        void *handle;
    };
    const void *operations; ///< null for descriptors of the system
};
static_assert(sizeof(FileDescription) == 24 && offsetof(FileDescription, fd) == 8);
inline constexpr int kOpaqueFd = 1;

using FileHandle = void *;
using BatchHandle = void *;

struct BatchEntry {
    int mode;
    void *memory; ///< and an offset from it, which we leave at 0
    off_t file_offset;
    off_t memory_offset;
    size_t size;
    FileHandle file;
    int operation;
    void *cookie;
};
static_assert(sizeof(BatchEntry) == 64 && offsetof(BatchEntry, memory) == 8 && offsetof(BatchEntry, file) == 40 &&
              offsetof(BatchEntry, cookie) == 56);
inline constexpr int kBatchMode = 1, kBatchRead = 0, kBatchWrite = 1;

struct BatchEvent {
    void *cookie;
    int status;
    size_t bytes; ///< a negative code after a failure
};
static_assert(sizeof(BatchEvent) == 24 && offsetof(BatchEvent, bytes) == 16);
inline constexpr int kWaiting = 0x01, kPending = 0x02, kInvalid = 0x04, kCanceled = 0x08, kComplete = 0x10,
                     kTimeout = 0x20, kFailed = 0x40;

struct FileApi {
    FileError (*cuFileDriverOpen)();
    FileError (*cuFileDriverClose_v2)();
    FileError (*cuFileDriverClose)(); ///< its earlier name
    FileError (*cuFileGetVersion)(int *version);
    FileError (*cuFileHandleRegister)(FileHandle *file, FileDescription *description);
    void (*cuFileHandleDeregister)(FileHandle file);
    FileError (*cuFileBufRegister)(const void *memory, size_t length, int flags);
    FileError (*cuFileBufDeregister)(const void *memory);
    ssize_t (*cuFileRead)(FileHandle file, void *memory, size_t size, off_t file_offset, off_t memory_offset);
    ssize_t (*cuFileWrite)(FileHandle file, const void *memory, size_t size, off_t file_offset, off_t memory_offset);
    FileError (*cuFileBatchIOSetUp)(BatchHandle *batch, unsigned entries);
    FileError (*cuFileBatchIOSubmit)(BatchHandle batch, unsigned count, BatchEntry *entries, unsigned flags);
    FileError (*cuFileBatchIOGetStatus)(BatchHandle batch,
                                        unsigned count_min,
                                        unsigned *count,
                                        BatchEvent *events,
                                        timespec *timeout);
    FileError (*cuFileBatchIOCancel)(BatchHandle batch);
    void (*cuFileBatchIODestroy)(BatchHandle batch);
};

// ---- The CUDA driver

using Context = void *;
inline constexpr int kAttributeMemoryType = 2, kAttributeDevice = 9, kMemoryOfDevice = 2;

struct CudaApi {
    int (*cuInit)(unsigned flags);
    int (*cuGetErrorName)(int error, const char **name);
    int (*cuDeviceGetCount)(int *count);
    int (*cuDeviceGet)(int *device, int ordinal);
    int (*cuDevicePrimaryCtxRetain)(Context *context, int device);
    int (*cuDevicePrimaryCtxRelease_v2)(int device);
    int (*cuCtxSetCurrent)(Context context);
    int (*cuCtxPushCurrent_v2)(Context context);
    int (*cuCtxPopCurrent_v2)(Context *context);
    int (*cuPointerGetAttribute)(void *data, int attribute, uint64_t pointer);
};

} // namespace nx::gds::abi
