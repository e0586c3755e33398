// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "hf3fs/memory.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kit/files/file_engine.h"

namespace nx::hf3fs {

namespace {

constexpr const char *kSharedFolder = "/dev/shm/", *kOurs = "/dev/shm/nixl-hf3fs-";

using Id = std::array<uint8_t, 16>;

/// 8-4-4-4-12 digits, as 3FS names what it maps.
std::string
nameOf(const Id &id) {
    static constexpr const char *kDigits = "0123456789abcdef";
    std::string text;
    for (size_t i = 0; i < id.size(); ++i) {
        if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
        text += kDigits[id[i] >> 4];
        text += kDigits[id[i] & 15];
    }
    return text;
}

Id
newId() {
    Id id;
    if (::getrandom(id.data(), id.size(), 0) != static_cast<ssize_t>(id.size())) {
        throw std::runtime_error("the system has no random numbers");
    }
    return id;
}

/// A line of /proc/self/maps.
struct Mapping {
    uintptr_t begin = 0, end = 0;
    std::string access; ///< "rw-p"
    uint64_t offset = 0;
    uint64_t inode = 0;
    std::string file;
};

/// That which has the first byte.
Mapping
mappingAt(uintptr_t address) {
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
        Mapping mapping;
        char dash = 0;
        std::string device;
        std::istringstream in(line);
        in >> std::hex >> mapping.begin >> dash >> mapping.end >> mapping.access >> mapping.offset >> device >>
            std::dec >> mapping.inode >> std::ws;
        std::getline(in, mapping.file);
        if (mapping.begin <= address && address < mapping.end) return mapping;
    }
    return {};
}

/// The bytes from the mapping's beginning that lie in a file that 3FS can map as well; 0: it cannot.
size_t
sharedSize(const Mapping &mapping) {
    struct stat info;
    const bool fits = mapping.access.starts_with("rw") && mapping.access.ends_with("s") && mapping.offset == 0 &&
        mapping.file.starts_with(kSharedFolder) && !mapping.file.starts_with(kOurs); // these end with another engine
    if (!fits || ::stat(mapping.file.c_str(), &info) != 0 || info.st_ino != mapping.inode) return 0;
    return std::min(mapping.end - mapping.begin, static_cast<size_t>(info.st_size));
}

bool
canBeExchanged(const Mapping &mapping, uintptr_t begin, size_t size) {
    const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    return begin % page == 0 && size % page == 0 && mapping.access.starts_with("rw") && mapping.access.ends_with("p") &&
        mapping.inode == 0 && mapping.end - begin >= size &&
        (mapping.file.empty() || mapping.file.starts_with("[anon"));
}

/// Puts pages of `fd`, or such of its own if that is -1, with the same bytes, where others are. An errno, or 0.
int
putPages(uintptr_t begin, size_t size, int fd) noexcept {
    const int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void *const fresh = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (fresh == MAP_FAILED) return errno;
    auto *const place = reinterpret_cast<void *>(begin);
    std::memcpy(fresh, place, size);
    if (::mremap(fresh, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, place) != MAP_FAILED) return 0;
    const int error = errno;
    ::munmap(fresh, size);
    return error;
}

Status
refused(const std::string &what, int error) {
    return {statusOf(error), what + ": " + textOf(error)};
}

} // namespace

// ---- Memory --------------------------------------------------------------------------------------------------------

Status
Lent::lend(const std::string &file) {
    const Id id = newId();
    const std::string &mount_point = driver_.mountPoint();
    std::string link = mount_point + "/3fs-virt/iovs/" + nameOf(id);
    if (::symlink(file.c_str(), link.c_str()) != 0) {
        return refused("3FS does not map " + file + " by " + link, errno);
    }
    link_ = std::move(link);
    const int result = driver_.api().hf3fs_iovwrap(&iov_, reinterpret_cast<void *>(begin_), id.data(),
                                                   mount_point.c_str(), size_, 0, -1);
    return result < 0 ? refused("the memory cannot be registered with 3FS", -result) : Status();
}

Status
Lent::exchange() {
    const std::string file = kOurs + std::to_string(::getpid()) + "-" + nameOf(newId());
    const Fd fd(::open(file.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!fd) return refused(file, errno);
    file_ = file;
    // Now, not when it is touched, which would be a SIGBUS.
    if (const int error = ::posix_fallocate(fd.get(), 0, static_cast<off_t>(size_))) {
        return {NIXL_ERR_NO_MEMORY,
                withErrno("no " + std::to_string(size_) + " bytes of shared memory in /dev/shm", error)};
    }
    if (Status status = lend(file); !status.ok()) return status;
    if (const int error = putPages(begin_, size_, fd.get())) return refused("the pages cannot be exchanged", error);
    exchanged_ = true;
    return {};
}

Lent::~Lent() {
    if (!link_.empty()) ::unlink(link_.c_str());
    // If there is no memory for that, the pages stay what they are.
    if (exchanged_) putPages(begin_, size_, -1);
    if (!file_.empty()) ::unlink(file_.c_str());
}

Result<std::shared_ptr<Lent>>
Lender::lend(uintptr_t begin, size_t size) {
    if (copying_ == Copying::kAlways || size == 0) return std::shared_ptr<Lent>();
    const MutexLock lock(mutex_);
    std::erase_if(all_, [](const std::weak_ptr<Lent> &each) { return each.expired(); });
    for (const std::weak_ptr<Lent> &each : all_) {
        if (auto lent = each.lock(); lent && lent->has(begin, size)) return lent;
    }
    const Mapping mapping = mappingAt(begin);
    auto lent = std::make_shared<Lent>(driver_, mapping.begin, sharedSize(mapping));
    Status status;
    if (lent->has(begin, size)) {
        status = lent->lend(mapping.file);
    } else if (copying_ == Copying::kWhereNeeded) {
        return std::shared_ptr<Lent>();
    } else if (canBeExchanged(mapping, begin, size)) {
        lent = std::make_shared<Lent>(driver_, begin, size);
        status = lent->exchange();
    } else {
        return {NIXL_ERR_INVALID_PARAM,
                "without copies (mem_config dram_zc), memory has to be whole pages of the process's own, or to lie in "
                "a file in /dev/shm that is mapped from its beginning; mem_config auto copies what is neither"};
    }
    if (!status.ok()) {
        if (copying_ == Copying::kWhereNeeded) return std::shared_ptr<Lent>();
        return status;
    }
    all_.push_back(lent);
    return lent;
}

// ---- Files ---------------------------------------------------------------------------------------------------------

Result<std::unique_ptr<FileMemory>>
FileMemory::create(const Driver &driver, std::shared_ptr<kit::File> file) {
    auto fd = kit::ownDescriptor(*file);
    if (!fd.ok()) return std::move(fd).status();
    std::unique_ptr<FileMemory> made(new FileMemory(driver, std::move(file), *std::move(fd)));
    if (!driver.api().hf3fs_is_hf3fs(made->descriptor())) {
        return {NIXL_ERR_INVALID_PARAM, made->file->name() + " is not on 3FS; POSIX serves it"};
    }
    const int error = driver.api().hf3fs_reg_fd(made->descriptor(), 0);
    if (error > 0) return refused(made->file->name() + " cannot be registered with 3FS", error);
    made->known_ = true;
    return made;
}

FileMemory::~FileMemory() {
    if (known_) driver_.api().hf3fs_dereg_fd(fd_.get()); // before it is closed
}

} // namespace nx::hf3fs
