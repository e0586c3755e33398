// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The vendor's library, for one mount of 3FS, and what it gives: memory that 3FS knows, and rings. Immutable.
#pragma once

#include <memory>
#include <string>

#include "base/error.h"
#include "hf3fs/abi.h"

namespace nx::hf3fs {

/// The status for an errno, as the library's functions and completions have it.
nixl_status_t
statusOf(int code) noexcept;

/// "the system says: ..."; of a code that no system has, "3FS says 7001".
std::string
textOf(int code);

class Driver {
public:
    /// For the mount that `path` lies in. BACKEND: the sentence says what is missing, and what serves instead.
    static Result<std::unique_ptr<Driver>>
    open(const std::string &path);

    const abi::Api &
    api() const noexcept {
        return api_;
    }

    const std::string &
    mountPoint() const noexcept {
        return mount_point_;
    }

private:
    Driver() = default;
    Status
    load();
    Status
    findMount(const std::string &path);

    abi::Api api_{};
    std::string mount_point_;
};

/// Memory that the library has made.
class Room {
public:
    /// An errno, or 0 and the room.
    static int
    create(const Driver &driver, size_t size, std::unique_ptr<Room> &out);
    ~Room();
    Room(const Room &) = delete;

    const abi::Iov &
    iov() const noexcept {
        return iov_;
    }

private:
    explicit Room(const Driver &driver) noexcept : driver_(driver) {}

    const Driver &driver_;
    abi::Iov iov_{};
};

/// A ring for one direction. Confined to a thread, but for its making.
class Ring {
public:
    /// An errno, or 0 and the ring.
    static int
    create(const Driver &driver, bool for_read, int entry_count, std::unique_ptr<Ring> &out);
    ~Ring();
    Ring(const Ring &) = delete;

    const abi::Ior &
    ior() const noexcept {
        return ior_;
    }

private:
    explicit Ring(const Driver &driver) noexcept : driver_(driver) {}

    const Driver &driver_;
    abi::Ior ior_{};
};

} // namespace nx::hf3fs
