// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/files/file_version.h"

#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace nx::kit {

std::string
AtomicPath::folder() const {
    const auto slash = path.rfind('/');
    return slash == path.npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

std::string
AtomicPath::base() const {
    return path.substr(path.rfind('/') + 1); // npos + 1 is 0
}

FileVersion::FileVersion(std::shared_ptr<const AtomicPath> at, bool writes, const FileVersion *beside)
    : at_(std::move(at)),
      writes_(writes),
      folder_path_(at_->folder()),
      base_(at_->base()),
      folder_(beside && beside->folder_path_ == folder_path_ ? beside->folder_ : std::make_shared<Folder>()) {}

Result<int>
FileVersion::use() {
    if (fd_) return fd_.get();
    Status status = writes_ ? make() : open();
    if (status.ok()) return fd_.get();
    drop();
    return status;
}

Result<int>
FileVersion::buffered() {
    if (!direct()) return fd_.get();
    if (buffered_) return buffered_.get();
    auto fd = reopen(*at_->cache, fd_.get(), writes_ ? at_->flags : O_RDONLY, name());
    if (!fd.ok()) return std::move(fd).status();
    buffered_ = *std::move(fd);
    return buffered_.get();
}

bool
FileVersion::direct() const noexcept {
    return at_->flags & O_DIRECT;
}

bool
FileVersion::lasts() const noexcept {
    return (at_->flags & O_SYNC) == O_SYNC;
}

void
FileVersion::drop() noexcept {
    if (!made_.empty()) ::unlinkat(folder(), made_.c_str(), 0);
    made_.clear();
    fd_.reset();
    buffered_.reset();
    dropFolder();
}

// ---- Reading -------------------------------------------------------------------------------------------------------

Status
FileVersion::open() {
    const int flags = (at_->flags & ~(O_ACCMODE | O_CREAT | O_SYNC)) | O_RDONLY | O_NOFOLLOW;
    const MutexLock lock(at_->known->mutex);
    auto &known = at_->known->identity;
    const bool is_expected = known || !(at_->flags & O_CREAT);
    auto fd = openPath(at_->path, flags, *at_->root, *at_->cache, known);
    if (fd.code() == NIXL_ERR_NOT_FOUND && !is_expected) {
        return {NIXL_ERR_NOT_FOUND, name() + " is not there yet, the first WRITE makes it"};
    }
    if (!fd.ok()) return std::move(fd).status();
    fd_ = *std::move(fd);
    return {};
}

// ---- Writing -------------------------------------------------------------------------------------------------------

Status
FileVersion::useFolder() {
    if (!folder_->fd) {
        const int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC; // not O_PATH: it may have to be synced
        folder_->fd = at_->cache->open([&] { return at_->root->open(folder_path_, flags); });
        if (!folder_->fd) {
            const int error = errno;
            return notOpened("the folder of " + name(), error, flags, *at_->root);
        }
    }
    ++folder_->uses;
    uses_folder_ = true;
    return {};
}

void
FileVersion::dropFolder() noexcept {
    if (std::exchange(uses_folder_, false) && --folder_->uses == 0) folder_->fd.reset();
}

Status
FileVersion::make() {
    if (Status status = useFolder(); !status.ok()) return status;
    constexpr mode_t kNewFileMode = 0644;
    struct stat old;
    const bool replaces = ::fstatat(folder(), base_.c_str(), &old, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(old.st_mode);
    const mode_t mode = replaces ? old.st_mode & 0777 : kNewFileMode; // not what it may do as its owner
    int error = EEXIST;
    for (unsigned number = 0; error == EEXIST && number < kWritersMax; ++number) error = tryName(number, mode);
    if (error == EEXIST) {
        return {NIXL_ERR_BACKEND,
                name() + " is being replaced by " + std::to_string(kWritersMax) +
                    " others at this moment, which is the most; try again"};
    }
    const int flags = at_->flags | O_EXCL;
    if (error) return notOpened("a new file for " + name(), error, flags, *at_->root, "made beside it");
    const auto kind = kindOf(fd_.get());
    // The program's umask is for files that are new.
    if (!kind || (replaces && ::fchmod(fd_.get(), mode) != 0)) {
        return {NIXL_ERR_BACKEND, withErrno("a new file for " + name() + " cannot be given its mode", errno)};
    }
    identity_ = kind->identity;
    return {};
}

int
FileVersion::tryName(unsigned number, mode_t mode) {
    std::string name = nameOf(number);
    const auto made = [&] {
        const int flags = at_->flags | O_CREAT | O_EXCL | O_NOFOLLOW;
        fd_ = at_->cache->open([&] { return Fd(::openat(folder(), name.c_str(), flags, mode)); });
        return fd_ ? 0 : errno;
    };
    int error = made();
    if (error == EEXIST && removeLeft(name)) error = made();
    if (error == EINVAL) removeLeft(name); // made, and then refused for direct I/O
    if (error) return error;
    // In the moment before the lock somebody may have taken it for left over. Where there are no locks nobody does.
    const bool is_lost = ::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (is_lost || !leadsTo(name, fd_.get())) {
        fd_.reset();
        return EEXIST;
    }
    made_ = std::move(name);
    return 0;
}

bool
FileVersion::leadsTo(const std::string &name, int fd) const noexcept {
    struct stat there, here;
    return ::fstatat(folder(), name.c_str(), &there, AT_SYMLINK_NOFOLLOW) == 0 && ::fstat(fd, &here) == 0 &&
        there.st_dev == here.st_dev && there.st_ino == here.st_ino;
}

/// True: what had the name was ours, nobody was at it any more, and it is gone.
bool
FileVersion::removeLeft(const std::string &name) const noexcept {
    const Fd left(::openat(folder(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    struct stat info;
    return left && ::fstat(left.get(), &info) == 0 && S_ISREG(info.st_mode) && info.st_uid == ::geteuid() &&
        ::flock(left.get(), LOCK_EX | LOCK_NB) == 0 && leadsTo(name, left.get()) &&
        ::unlinkat(folder(), name.c_str(), 0) == 0;
}

std::string
FileVersion::nameOf(unsigned number) const {
    constexpr size_t kKept = 200; // of the 255 that a name may have
    return "." + base_.substr(0, kKept) + ".nixl-" + std::to_string(number);
}

Status
FileVersion::publish() {
    if (made_.empty()) return {};
    const MutexLock lock(at_->known->mutex); // who opens the path gets the one that is known, before or after this
    if (::renameat(folder(), made_.c_str(), folder(), base_.c_str()) != 0) {
        const int error = errno;
        const std::string what = "the new file " + quoted(made_) + " for " + name();
        if (error == EISDIR) return {NIXL_ERR_BACKEND, withErrno(what + " cannot take its place", error)};
        return notOpened(what, error, O_EXCL, *at_->root, "put in its place");
    }
    made_.clear();
    at_->known->identity = identity_;
    ::flock(fd_.get(), LOCK_UN); // a child of fork may have the descriptor, too
    return {};
}

// ---- Registration --------------------------------------------------------------------------------------------------

Status
FileVersion::check(const std::shared_ptr<const AtomicPath> &at) {
    FileVersion present(at, false, nullptr), next(at, true, nullptr);
    Result<int> fd = present.use();
    if (!fd.ok() && (fd.code() != NIXL_ERR_NOT_FOUND || !(at->flags & O_CREAT))) return std::move(fd).status();
    if (next.base_.empty()) return notAFile(next.name(), noFile(S_IFDIR));
    struct stat info;
    if (fd.ok() && ::fstat(*fd, &info) == 0 && !S_ISREG(info.st_mode)) {
        return notAFile(next.name(), "is a device, which 'atomic' would replace by a file");
    }
    if (Status status = next.useFolder(); !status.ok()) return status;
    for (unsigned number = 0; number < kWritersMax; ++number) next.removeLeft(next.nameOf(number));
    return {};
}

} // namespace nx::kit
