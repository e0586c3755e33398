// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What is registered: memory of the host, which 3FS knows or which is copied, and files. Metadata is immutable.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/mutex.h"
#include "hf3fs/driver.h"
#include "kit/files/file_transfer.h"

namespace nx::hf3fs {

/// What a registration of memory is to be (mem_config).
enum class Copying {
    kWhereNeeded, ///< memory that 3FS can map as it is is not copied
    kAlways,
    kNever, ///< its pages are exchanged for such that 3FS can map
};

/// Memory of the program's that 3FS has mapped. Immutable.
class Lent {
public:
    Lent(const Driver &driver, uintptr_t begin, size_t size) : driver_(driver), begin_(begin), size_(size) {}
    ~Lent();
    Lent(const Lent &) = delete;

    const abi::Iov &
    iov() const noexcept {
        return iov_;
    }

    bool
    has(uintptr_t begin, size_t size) const noexcept {
        return begin >= begin_ && size <= size_ && begin - begin_ <= size_ - size;
    }

    /// Tells 3FS where `file` in /dev/shm is mapped.
    Status
    lend(const std::string &file);

    /// Lends new pages and puts them, with the same bytes, where the program's were. NO_MEMORY: /dev/shm is full.
    Status
    exchange();

private:
    const Driver &driver_;
    const uintptr_t begin_;
    const size_t size_;
    std::string file_; ///< that exchange() has made
    bool exchanged_ = false;
    std::string link_; ///< that 3FS knows it by
    abi::Iov iov_{};
};

/// All that one engine has lent. Self-synchronised.
class Lender {
public:
    Lender(const Driver &driver, Copying copying) : driver_(driver), copying_(copying) {}

    /// Null: it has to be copied. INVALID_PARAM: that is not wanted, and it cannot be lent.
    Result<std::shared_ptr<Lent>>
    lend(uintptr_t begin, size_t size);

private:
    const Driver &driver_;
    const Copying copying_;
    Mutex mutex_;
    std::vector<std::weak_ptr<Lent>> all_ NX_GUARDED_BY(mutex_);
};

class HostMemory final : public nixlBackendMD {
public:
    explicit HostMemory(std::shared_ptr<Lent> lent) : nixlBackendMD(true), lent(std::move(lent)) {}

    const std::shared_ptr<Lent> lent; ///< null: it is copied
};

/// A file that the library knows by a descriptor of our own.
class FileMemory final : public kit::FileMemory {
public:
    /// INVALID_PARAM: it is not on 3FS. Else as File::use(), and what the library says.
    static Result<std::unique_ptr<FileMemory>>
    create(const Driver &driver, std::shared_ptr<kit::File> file);
    ~FileMemory() override;

    int
    descriptor() const noexcept {
        return fd_.get();
    }

private:
    FileMemory(const Driver &driver, std::shared_ptr<kit::File> file, Fd fd)
        : kit::FileMemory(std::move(file)),
          driver_(driver),
          fd_(std::move(fd)) {}

    const Driver &driver_;
    const Fd fd_;
    bool known_ = false;
};

} // namespace nx::hf3fs
