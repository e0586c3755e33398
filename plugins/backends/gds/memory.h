// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What is registered: memory of the host, of which there is nothing to know, memory of a GPU, and files. cuFile takes a
// file or a range once only, so that registrations share: the last that goes deregisters. Metadata is immutable, the
// ledger self-synchronised.
#pragma once

#include <list>
#include <memory>

#include "backend/backend_aux.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/mutex.h"
#include "gds/driver.h"
#include "kit/files.h"

namespace nx::gds {

/// A file that cuFile knows. Its descriptor is our own: a program may close the one it has registered at any time.
struct KnownFile {
    uint64_t device = 0;
    uint64_t inode = 0;
    int flags = 0; ///< how it is opened
    Fd fd;
    abi::FileHandle handle = nullptr;
    size_t uses = 0;
};

/// Memory of a GPU that cuFile knows.
struct KnownRange {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    Device device;
    size_t uses = 0;
};

/// What cuFile knows by one engine.
class Ledger {
public:
    explicit Ledger(Driver &driver) : driver_(driver) {}

    /// One use of it. NOT_ALLOWED: cuFile has this file in a way that does not do. Else as File::use(), and what cuFile
    /// says.
    Result<KnownFile *>
    use(kit::File &file);
    void
    done(KnownFile &file) noexcept;

    /// One use of a range that has it all. NOT_ALLOWED: it overlaps another one in part. INVALID_PARAM: it is no memory
    /// of that GPU. Else what cuFile says.
    Result<KnownRange *>
    use(const nixlBasicDesc &range);
    void
    done(KnownRange &range) noexcept;

private:
    Result<KnownFile *>
    addLocked(KnownFile fresh, const kit::File &file) NX_REQUIRES(mutex_);

    Driver &driver_;
    Mutex mutex_; ///< held across cuFile's calls: what goes has to be gone before it can come again
    std::list<KnownFile> files_ NX_GUARDED_BY(mutex_);
    std::list<KnownRange> ranges_ NX_GUARDED_BY(mutex_);
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
    VramMemory(Ledger &ledger, KnownRange &range) : Memory(range.device.context), ledger_(ledger), range_(range) {}
    ~VramMemory() override {
        ledger_.done(range_);
    }

private:
    Ledger &ledger_;
    KnownRange &range_;
};

class FileMemory final : public nixlBackendMD {
public:
    FileMemory(Ledger &ledger, KnownFile &known, std::shared_ptr<kit::File> file)
        : nixlBackendMD(true),
          file(std::move(file)),
          handle(known.handle),
          ledger_(ledger),
          known_(known) {}
    ~FileMemory() override {
        ledger_.done(known_);
    }

    const std::shared_ptr<kit::File> file;
    const abi::FileHandle handle;

private:
    Ledger &ledger_;
    KnownFile &known_;
};

} // namespace nx::gds
