// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "gds/memory.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <iterator>
#include <sys/stat.h>
#include <utility>

#include "kit/files/file_engine.h"

namespace nx::gds {

namespace {

/// `opened` can do what `wanted` is registered for.
bool
suffices(int opened, int wanted) noexcept {
    const int access = opened & O_ACCMODE;
    return access == O_RDWR || access == (wanted & O_ACCMODE);
}

/// Of the process; never gone, as agents may end after everything else.
struct Shared {
    Mutex mutex;
    std::unique_ptr<Ledger> ledger NX_GUARDED_BY(mutex);
    size_t uses NX_GUARDED_BY(mutex) = 0;
};

Shared &
shared() {
    static Shared &one = *new Shared;
    return one;
}

} // namespace

Result<Ledger::Use>
Ledger::open() {
    Shared &all = shared();
    const MutexLock lock(all.mutex);
    if (!all.ledger) {
        auto driver = Driver::open();
        if (!driver.ok()) return std::move(driver).status();
        all.ledger = std::make_unique<Ledger>(*std::move(driver));
    }
    ++all.uses;
    return Use(all.ledger.get());
}

void
Ledger::Release::operator()(Ledger *) const noexcept {
    Shared &all = shared();
    const MutexLock lock(all.mutex);
    if (--all.uses == 0) all.ledger.reset();
}

// ---- Files ---------------------------------------------------------------------------------------------------------

Result<Ledger::Files::iterator>
Ledger::use(kit::File &file) {
    auto fd = kit::ownDescriptor(file);
    if (!fd.ok()) return std::move(fd).status();
    struct stat info;
    if (::fstat(fd->get(), &info) != 0) return {NIXL_ERR_BACKEND, withErrno(file.name(), errno)};
    KnownFile fresh{.flags = ::fcntl(fd->get(), F_GETFL), .fd = *std::move(fd), .uses = 1};
    const Files::key_type key(info.st_dev, info.st_ino);
    const MutexLock lock(mutex_);
    const auto [begin, end] = files_.equal_range(key);
    auto known = std::find_if(begin, end, [&](const auto &each) { return each.second.flags == fresh.flags; });
    if (known != end) {
        ++known->second.uses;
        return known;
    }
    const auto added = files_.emplace(key, std::move(fresh)); // first: what cuFile knows must not get lost
    abi::FileDescription description{.type = abi::kOpaqueFd, .fd = added->second.fd.get(), .operations = nullptr};
    const abi::FileError refusal = driver_->file().cuFileHandleRegister(&added->second.handle, &description);
    if (!refusal.err) return added;
    const int flags = added->second.flags;
    files_.erase(added);
    Status refused = driver_->failure(file.name() + " cannot be registered with cuFile", refusal);
    if (refusal.err == abi::kHandleNotRegistered) {
        return {refused.code(),
                refused.message() +
                    "; it asks udev about the file's device, for which it needs /run/udev and a file "
                    "system on a device (cufile.log says more)"};
    }
    if (refusal.err != abi::kHandleAlreadyRegistered) return refused;
    const auto others = files_.equal_range(key);
    known =
        std::find_if(others.first, others.second, [&](const auto &each) { return suffices(each.second.flags, flags); });
    if (known != others.second) {
        ++known->second.uses;
        return known;
    }
    return {refused.code(),
            refused.message() + "; open it once, for reading and writing, or deregister the other one first"};
}

void
Ledger::done(Files::iterator file) noexcept {
    const MutexLock lock(mutex_);
    if (--file->second.uses > 0) return;
    driver_->file().cuFileHandleDeregister(file->second.handle); // before its descriptor is closed
    files_.erase(file);
}

// ---- Memory of GPUs ------------------------------------------------------------------------------------------------

Result<Ledger::Ranges::iterator>
Ledger::use(const nixlBasicDesc &range) {
    auto device = driver_->deviceOf(range.devId, range.addr);
    if (!device.ok()) return std::move(device).status();
    const uintptr_t end = range.addr + range.len;
    const MutexLock lock(mutex_);
    auto known = ranges_.upper_bound(range.addr);
    if (known != ranges_.begin() && std::prev(known)->second.end >= end) {
        ++(--known)->second.uses;
        return known;
    }
    const auto [added, is_new] = ranges_.emplace(range.addr, KnownRange{end, *device, 1});
    const Driver::Within within(*driver_, device->context);
    const abi::FileError error = is_new
        ? driver_->file().cuFileBufRegister(reinterpret_cast<const void *>(range.addr), range.len, 0)
        : abi::FileError{abi::kMemoryAlreadyRegistered, 0};
    if (!error.err) return added;
    if (is_new) ranges_.erase(added);
    Status refused = driver_->failure("the memory cannot be registered with cuFile", error);
    if (error.err != abi::kMemoryAlreadyRegistered) return refused;
    return {refused.code(), refused.message() + "; a part of it is, register one range that has both"};
}

void
Ledger::done(Ranges::iterator range) noexcept {
    const MutexLock lock(mutex_);
    if (--range->second.uses > 0) return;
    {
        const Driver::Within within(*driver_, range->second.device.context);
        driver_->file().cuFileBufDeregister(reinterpret_cast<const void *>(range->first));
    }
    ranges_.erase(range);
}

} // namespace nx::gds
