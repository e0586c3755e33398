// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What is registered: memory of the host, of which there is nothing to know, memory of a GPU, and files. cuFile takes a
// file or a range once only, so that registrations share: the last that goes deregisters. Metadata is immutable, the
// ledger self-synchronised.
#pragma once

#include <map>
#include <memory>
#include <utility>

#include "backend/backend_aux.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/mutex.h"
#include "gds/driver.h"
#include "kit/files/file_transfer.h"
#include "kit/files/files.h"

namespace nx::gds {

/// A file that cuFile knows. Its descriptor is our own: a program may close the one it has registered at any time.
struct KnownFile {
    int flags = 0; ///< how it is opened
    Fd fd;
    abi::FileHandle handle = nullptr;
    size_t uses = 0;
};

/// Memory of a GPU that cuFile knows.
struct KnownRange {
    uintptr_t end = 0;
    Device device;
    size_t uses = 0;
};

/// What cuFile knows by this plugin, in the whole process, as cuFile itself has one memory of it.
class Ledger {
public:
    using Files = std::multimap<std::pair<uint64_t, uint64_t>, KnownFile>; ///< by device and inode
    using Ranges = std::map<uintptr_t, KnownRange>;                        ///< by their beginning

    struct Release {
        void
        operator()(Ledger *) const noexcept;
    };
    using Use = std::unique_ptr<Ledger, Release>;

    /// That of the process, made for the first who uses it, gone with the last. As Driver::open().
    static Result<Use>
    open();
    explicit Ledger(std::unique_ptr<Driver> driver) : driver_(std::move(driver)) {}

    const Driver &
    driver() const noexcept {
        return *driver_;
    }

    /// One use of a file. NOT_ALLOWED: cuFile has it in a way that does not do. Else as File::use(), and what cuFile
    /// says.
    Result<Files::iterator>
    use(kit::File &file);
    void
    done(Files::iterator file) noexcept;

    /// One use of a range that has it all. NOT_ALLOWED: it overlaps another one in part. INVALID_PARAM: it is no memory
    /// of that GPU. Else what cuFile says.
    Result<Ranges::iterator>
    use(const nixlBasicDesc &range);
    void
    done(Ranges::iterator range) noexcept;

private:
    const std::unique_ptr<Driver> driver_;
    Mutex mutex_; ///< held across cuFile's calls: what goes has to be gone before it can come again
    Files files_ NX_GUARDED_BY(mutex_);
    Ranges ranges_ NX_GUARDED_BY(mutex_);
};

/// Memory on one side of a plan.
class Memory : public nixlBackendMD {
public:
    /// `context`: of the GPU that it is on, null for the host's.
    explicit Memory(abi::Context context) : nixlBackendMD(true), context(context) {}

    const abi::Context context;
};

class HostMemory final : public Memory {
public:
    HostMemory() : Memory(nullptr) {}
};

class VramMemory final : public Memory {
public:
    VramMemory(Ledger &ledger, Ledger::Ranges::iterator range)
        : Memory(range->second.device.context),
          ledger_(ledger),
          range_(range) {}
    ~VramMemory() override {
        ledger_.done(range_);
    }

private:
    Ledger &ledger_;
    const Ledger::Ranges::iterator range_;
};

class FileMemory final : public kit::FileMemory {
public:
    FileMemory(Ledger &ledger, Ledger::Files::iterator known, std::shared_ptr<kit::File> file)
        : kit::FileMemory(std::move(file)),
          handle(known->second.handle),
          ledger_(ledger),
          known_(known) {}
    ~FileMemory() override {
        ledger_.done(known_);
    }

    const abi::FileHandle handle;

private:
    Ledger &ledger_;
    const Ledger::Files::iterator known_;
};

} // namespace nx::gds
