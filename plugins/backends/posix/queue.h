// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The seam to the system: operations on files go in, completions come out, in any order. One caller at a time, whatever
// threads a queue has inside; tests put a double in its place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <sys/uio.h>

#include "base/error.h"
#include "base/fd.h"

namespace nx::posix {

struct Operation {
    enum class Kind : uint8_t {
        kRead,
        kWrite,
        kSync,       ///< what was written is on the device, as fdatasync(2)
        kSyncFolder, ///< likewise the names in a folder, as fsync(2)
    };
    Kind kind = Kind::kRead;
    int fd = -1;
    bool cached = false;            ///< a read or write by way of the page cache
    const iovec *vectors = nullptr; ///< stay as they are until the operation is reaped
    uint32_t vector_count = 0;      ///< at most kVectorsMax
    uint64_t offset = 0;
    uint64_t tag = 0; ///< below depth(), of one operation at a time
};

/// By a system call, which waits. Its result is as that of a Completion.
int64_t
perform(const Operation &operation) noexcept;

/// Readable if one of the two is. Throws std::runtime_error with a sentence if the system refuses a descriptor.
Fd
either(int first, int second);

struct Completion {
    uint64_t tag;
    int64_t result; ///< bytes, maybe fewer than asked for, or -errno
};

inline constexpr uint32_t kVectorsMax = 1024; ///< IOV_MAX

class Queue {
public:
    /// Waits for what is in flight.
    virtual ~Queue() = default;

    /// "io_uring", for people.
    virtual const char *
    name() const noexcept = 0;

    /// Operations in flight, at most.
    virtual size_t
    depth() const noexcept = 0;

    /// Takes as many as it can, from the first on, and returns how many. Each of them is reaped later, once. Does not
    /// wait for a device if the kernel can help it, but may copy what is in the page cache.
    virtual size_t
    submit(std::span<const Operation> operations) noexcept = 0;

    /// Fills as many as have completed and returns how many. Does not wait.
    virtual size_t
    reap(std::span<Completion> completions) noexcept = 0;

    /// Becomes readable, after an arm() that was true, when there is something to reap.
    virtual int
    descriptor() const noexcept = 0;
    /// False: there is something to reap.
    virtual bool
    arm() noexcept = 0;
};

} // namespace nx::posix
