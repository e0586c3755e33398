// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "gds/memory.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <utility>

namespace nx::gds {

namespace {

/// `opened` can do what `wanted` is registered for.
bool
suffices(int opened, int wanted) noexcept {
    const int access = opened & O_ACCMODE;
    return access == O_RDWR || access == (wanted & O_ACCMODE);
}

} // namespace

// ---- Files ---------------------------------------------------------------------------------------------------------

Result<KnownFile *>
Ledger::use(kit::File &file) {
    Result<int> fd = file.use();
    if (!fd.ok()) return std::move(fd).status();
    KnownFile fresh{.flags = ::fcntl(*fd, F_GETFL), .fd = Fd(::fcntl(*fd, F_DUPFD_CLOEXEC, 0))};
    const int error = errno;
    file.done();
    struct stat info;
    if (!fresh.fd || ::fstat(fresh.fd.get(), &info) != 0) {
        return {error == EMFILE ? NIXL_ERR_NO_MEMORY : NIXL_ERR_BACKEND,
                withErrno(file.name() + ": no second descriptor can be had", error)};
    }
    fresh.device = info.st_dev;
    fresh.inode = info.st_ino;
    const MutexLock lock(mutex_);
    for (KnownFile &known : files_) {
        if (known.device != fresh.device || known.inode != fresh.inode || known.flags != fresh.flags) continue;
        ++known.uses;
        return &known;
    }
    return addLocked(std::move(fresh), file);
}

Result<KnownFile *>
Ledger::addLocked(KnownFile fresh, const kit::File &file) {
    abi::FileDescription description{.type = abi::kOpaqueFd, .fd = fresh.fd.get(), .operations = nullptr};
    files_.push_back(std::move(fresh)); // first: what cuFile knows must not get lost
    KnownFile &added = files_.back();
    const abi::FileError error = driver_.file().cuFileHandleRegister(&added.handle, &description);
    if (!error.err) {
        added.uses = 1;
        return &added;
    }
    const auto other = error.err != abi::kHandleAlreadyRegistered
        ? files_.end()
        : std::find_if(files_.begin(), files_.end(), [&](const KnownFile &known) {
              return &known != &added && known.device == added.device && known.inode == added.inode &&
                  suffices(known.flags, added.flags);
          });
    if (other != files_.end()) ++other->uses;
    files_.pop_back();
    if (other != files_.end()) return &*other;
    Status refused = driver_.failure(file.name() + " cannot be registered with cuFile", error);
    if (error.err != abi::kHandleAlreadyRegistered) return refused;
    return {refused.code(),
            refused.message() + "; open it once, for reading and writing, or deregister the other one first"};
}

void
Ledger::done(KnownFile &file) noexcept {
    const MutexLock lock(mutex_);
    if (--file.uses > 0) return;
    driver_.file().cuFileHandleDeregister(file.handle); // before its descriptor is closed
    files_.remove_if([&](const KnownFile &known) { return &known == &file; });
}

// ---- Memory of GPUs ------------------------------------------------------------------------------------------------

Result<KnownRange *>
Ledger::use(const nixlBasicDesc &range) {
    auto device = driver_.deviceOf(range.devId, range.addr);
    if (!device.ok()) return std::move(device).status();
    const MutexLock lock(mutex_);
    for (KnownRange &known : ranges_) {
        if (known.begin > range.addr || known.end < range.addr + range.len) continue;
        ++known.uses;
        return &known;
    }
    ranges_.push_back({range.addr, range.addr + range.len, *device, 1});
    const Driver::Within within(driver_, device->context);
    const abi::FileError error =
        driver_.file().cuFileBufRegister(reinterpret_cast<const void *>(range.addr), range.len, 0);
    if (!error.err) return &ranges_.back();
    ranges_.pop_back();
    Status refused = driver_.failure("the memory cannot be registered with cuFile", error);
    if (error.err != abi::kMemoryAlreadyRegistered) return refused;
    return {refused.code(), refused.message() + "; a part of it is, register one range that has both"};
}

void
Ledger::done(KnownRange &range) noexcept {
    const MutexLock lock(mutex_);
    if (--range.uses > 0) return;
    {
        const Driver::Within within(driver_, range.device.context);
        driver_.file().cuFileBufDeregister(reinterpret_cast<const void *>(range.begin));
    }
    ranges_.remove_if([&](const KnownRange &known) { return &known == &range; });
}

} // namespace nx::gds
