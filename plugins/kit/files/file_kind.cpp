// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/files/file_kind.h"

#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <sys/stat.h>

namespace nx::kit {

namespace {

bool
isShortage(int error) noexcept {
    return error == EMFILE || error == ENFILE || error == ENOMEM;
}

} // namespace

std::optional<Kind>
kindOf(int fd) noexcept {
    struct statx info;
    if (::statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO | STATX_BTIME, &info) != 0)
        return {};
    Kind kind{.identity = {.device = uint64_t{info.stx_dev_major} << 32 | info.stx_dev_minor, .inode = info.stx_ino},
              .mode = info.stx_mode};
    if (info.stx_mask & STATX_BTIME) {
        kind.identity.born_s = info.stx_btime.tv_sec;
        kind.identity.born_ns = info.stx_btime.tv_nsec;
    }
    return kind;
}

const char *
noFile(mode_t mode) noexcept {
    switch (mode & S_IFMT) {
    case S_IFDIR: return "is a directory";
    case S_IFIFO: return "is a pipe";
    case S_IFSOCK: return "is a socket";
    case S_IFLNK: return "is a symbolic link";
    case S_IFREG:
    case S_IFBLK:
    case S_IFCHR: return nullptr;
    default: return "is something of the kernel's"; // an eventfd, for example
    }
}

Status
notAFile(const std::string &name, const char *why) {
    return {NIXL_ERR_INVALID_PARAM, name + " " + why + ", not a file or a block device"};
}

std::string
quotedPath(const std::string &path) {
    constexpr size_t kMax = 300; // more than the usual name has
    return quoted(path, kMax);
}

Status
notOpened(const std::string &name, int error, int flags, const FileRoot &root, const char *verb) {
    const auto status = [&](nixl_status_t code, const std::string &advice = {}) -> Status {
        return {code, withErrno(name + " cannot be " + verb, error) + advice};
    };
    switch (error) {
    case ENOENT:
        if (flags & O_EXCL) return status(NIXL_ERR_NOT_FOUND, "; somebody removed its folder, or what is in it");
        if (flags & O_DIRECTORY) return status(NIXL_ERR_NOT_FOUND, "; make it first");
        return status(NIXL_ERR_NOT_FOUND, "; make it first, or register it with 'create'");
    case ENOTDIR: return status(NIXL_ERR_NOT_FOUND);
    case EACCES:
        return status(NIXL_ERR_NOT_ALLOWED, flags & O_EXCL ? "; 'atomic' needs the right to write to the folder" : "");
    case EROFS: return status(NIXL_ERR_NOT_ALLOWED, "; 'ro:' can read it");
    case EPERM: return status(NIXL_ERR_NOT_ALLOWED, flags & O_NOATIME ? "; 'noatime' is for its owner" : "");
    case ELOOP:
    case EXDEV:
        if (root.folder().empty() && flags & O_NOFOLLOW) {
            return status(NIXL_ERR_INVALID_PARAM,
                          "; it is a symbolic link, which 'atomic' would replace: register what it leads to");
        }
        if (root.folder().empty()) return status(NIXL_ERR_BACKEND);
        return status(NIXL_ERR_NOT_ALLOWED,
                      "; it has to be beneath the root " + quoted(root.folder()) + ", without symbolic links");
    case ENAMETOOLONG: return status(NIXL_ERR_INVALID_PARAM);
    case EISDIR: return notAFile(name, noFile(S_IFDIR));
    case ENXIO: return notAFile(name, "is a socket, or a device that is not there");
    case EINVAL:
        if (!(flags & O_DIRECT)) return status(NIXL_ERR_INVALID_PARAM);
        return status(NIXL_ERR_NOT_SUPPORTED, "; its file system does no direct I/O, leave out 'direct'");
    case EOPNOTSUPP: return status(NIXL_ERR_NOT_SUPPORTED);
    case EMFILE: return status(NIXL_ERR_NO_MEMORY, "; all of them are in use, allow more (ulimit -n)");
    default: return status(isShortage(error) ? NIXL_ERR_NO_MEMORY : NIXL_ERR_BACKEND);
    }
}

Result<Fd>
openPath(const std::string &path, int flags, const FileRoot &root, FdCache &cache, std::optional<Identity> &known) {
    if (known) flags &= ~O_CREAT;
    flags |= O_NOCTTY;
    const bool read_only = (flags & O_ACCMODE) == O_RDONLY;
    const int kept = flags & (O_DIRECT | O_NOATIME);
    if (read_only) flags |= O_NONBLOCK; // not to wait for a pipe's writer
    Fd fd = cache.open([&] { return root.open(path, flags); });
    if (!fd) {
        const int error = errno;
        if (known && error == ENOENT) {
            return {NIXL_ERR_NOT_FOUND,
                    quotedPath(path) + " is not there any more, it was removed since it was registered"};
        }
        return notOpened(quotedPath(path), error, flags, root);
    }
    const auto kind = kindOf(fd.get());
    if (!kind) return {NIXL_ERR_BACKEND, withErrno(quotedPath(path) + " cannot be looked at", errno)};
    if (const char *const why = noFile(kind->mode)) return notAFile(quotedPath(path), why);
    if (known && *known != kind->identity) {
        return {NIXL_ERR_STALE,
                quotedPath(path) +
                    " is another file than the one that was registered; somebody replaced it, register it again"};
    }
    // io_uring takes O_NONBLOCK of a file to heart.
    if (read_only && ::fcntl(fd.get(), F_SETFL, kept) != 0) {
        return {NIXL_ERR_BACKEND, withErrno(quotedPath(path) + " cannot be made to wait for its data", errno)};
    }
    known = kind->identity;
    return fd;
}

Result<Fd>
reopen(FdCache &cache, int fd, int flags, const std::string &name) {
    char path[32];
    std::snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const int kept = (flags & (O_ACCMODE | O_SYNC | O_DSYNC | O_NOATIME)) | O_CLOEXEC;
    Fd file = cache.open([&] { return Fd(::open(path, kept)); });
    if (file) return file;
    const int error = errno;
    return {isShortage(error) ? NIXL_ERR_NO_MEMORY : NIXL_ERR_BACKEND,
            withErrno(name + " cannot be opened once more, without O_DIRECT, by way of " + path, error)};
}

} // namespace nx::kit
