// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "file/files.h"

#include <cerrno>
#include <dirent.h>
#include <fcntl.h>
#include <memory>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/ownership.h"

namespace nx::file_store {

namespace {

constexpr int kLockPause_ms = 1;

bool
isFull(int errnum) {
    return errnum == ENOMEM || errnum == ENOSPC || errnum == EDQUOT || errnum == EMFILE || errnum == ENFILE;
}

Status
writeAll(const Fd &file, std::string_view bytes) {
    while (!bytes.empty()) {
        const ssize_t put = ::write(file.get(), bytes.data(), bytes.size());
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return failed("write", errno);
        bytes.remove_prefix(static_cast<size_t>(put));
    }
    return {};
}

bool
isThere(const Fd &parent, const std::string &name, const Fd &folder) {
    struct stat by_name;
    struct stat by_descriptor;
    return ::fstatat(parent.get(), name.c_str(), &by_name, AT_SYMLINK_NOFOLLOW) == 0 &&
        ::fstat(folder.get(), &by_descriptor) == 0 && by_name.st_ino == by_descriptor.st_ino &&
        by_name.st_dev == by_descriptor.st_dev;
}

} // namespace

Status
failed(const std::string &what, int errnum) {
    if (errnum == ENOENT || errnum == ENOTDIR) return {NIXL_ERR_NOT_FOUND, withErrno(what, errnum)};
    return {isFull(errnum) ? NIXL_ERR_NO_MEMORY : NIXL_ERR_BACKEND, withErrno(what, errnum)};
}

Result<Fd>
openRoot(const std::string &path) {
    Fd root(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!root) return failed("the folder cannot be opened", errno);
    struct stat info;
    if (::fstat(root.get(), &info) != 0) return failed("stat", errno);
    if (auto problem = changeableByOthers("it", info); !problem.empty()) return {NIXL_ERR_NOT_ALLOWED, problem};
    return root;
}

Result<Fd>
openFolder(const Fd &parent, const std::string &name) {
    Fd folder(::openat(parent.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!folder && (errno == ENOTDIR || errno == ELOOP)) return {NIXL_ERR_MISMATCH, quoted(name) + " is no folder"};
    if (!folder) return failed("open " + quoted(name), errno);
    return folder;
}

Result<Fd>
createFile(const Fd &folder, const std::string &name, std::initializer_list<std::string_view> parts) {
    ::unlinkat(folder.get(), name.c_str(), 0); // of a process that died in the middle
    Fd file(::openat(folder.get(), name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!file) return failed("create " + quoted(name), errno);
    for (const auto part : parts) {
        if (auto status = writeAll(file, part); !status.ok()) {
            ::unlinkat(folder.get(), name.c_str(), 0);
            return status;
        }
    }
    return file;
}

Result<Fd>
openFile(const Fd &folder, const std::string &name) {
    // A FIFO must not block us, and a link lead us nowhere.
    Fd file(::openat(folder.get(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (!file && errno != ELOOP && errno != ENXIO) return failed("open " + quoted(name), errno);
    struct stat info;
    if (!file || ::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
        return {NIXL_ERR_MISMATCH, quoted(name) + " is no regular file"};
    }
    return file;
}

Result<std::string>
readFile(const Fd &file, const std::string &name, size_t bytes_max) {
    struct stat info;
    if (::fstat(file.get(), &info) != 0) return failed("stat " + quoted(name), errno);
    if (info.st_size > static_cast<off_t>(bytes_max)) {
        return {NIXL_ERR_MISMATCH,
                quoted(name) + " has " + std::to_string(info.st_size) + " bytes, more than " +
                    std::to_string(bytes_max)};
    }
    std::string bytes(static_cast<size_t>(info.st_size), '\0');
    for (size_t done = 0; done < bytes.size();) {
        const ssize_t got = ::read(file.get(), bytes.data() + done, bytes.size() - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return failed("read " + quoted(name), errno);
        if (got == 0) return {NIXL_ERR_MISMATCH, quoted(name) + " became shorter while it was read"};
        done += static_cast<size_t>(got);
    }
    return bytes;
}

Status
renameFile(const Fd &folder, const std::string &from, const std::string &to) {
    if (::renameat(folder.get(), from.c_str(), folder.get(), to.c_str()) == 0) return {};
    const int why = errno;
    ::unlinkat(folder.get(), from.c_str(), 0);
    return failed("rename to " + quoted(to), why);
}

std::vector<std::string>
namesIn(const Fd &folder) {
    std::vector<std::string> names;
    const int own = ::openat(folder.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); // with a position of its own
    const std::unique_ptr<DIR, int (*)(DIR *)> entries(own < 0 ? nullptr : ::fdopendir(own), ::closedir);
    if (!entries) {
        if (own >= 0) ::close(own);
        return names;
    }
    while (const auto *entry = ::readdir(entries.get())) {
        const std::string name = entry->d_name;
        if (name != "." && name != "..") names.push_back(name);
    }
    return names;
}

Result<LockedFolder>
LockedFolder::make(const Fd &parent, const std::string &name, Deadline deadline) {
    for (;;) {
        if (::mkdirat(parent.get(), name.c_str(), 0700) != 0 && errno != EEXIST) {
            return failed("make the folder " + quoted(name), errno);
        }
        auto locked = open(parent, name, deadline);
        // Removed in between: its last start has just ended.
        if (locked.ok() || locked.code() != NIXL_ERR_NOT_FOUND || std::chrono::steady_clock::now() >= deadline) {
            return locked;
        }
    }
}

Result<LockedFolder>
LockedFolder::open(const Fd &parent, const std::string &name, Deadline deadline) {
    for (;;) {
        auto opened = openFolder(parent, name);
        if (!opened.ok()) return std::move(opened).status();
        LockedFolder folder(*std::move(opened));
        while (::flock(folder.fd_.get(), LOCK_EX | LOCK_NB) != 0) {
            if (errno != EWOULDBLOCK && errno != EINTR) return failed("lock " + quoted(name), errno);
            if (std::chrono::steady_clock::now() >= deadline) {
                return {NIXL_ERR_TIMEOUT, "another process holds the folder " + quoted(name) + "; is it stopped?"};
            }
            ::poll(nullptr, 0, kLockPause_ms);
        }
        if (isThere(parent, name, folder.fd_)) return folder;
    }
}

LockedFolder::~LockedFolder() {
    if (fd_) ::flock(fd_.get(), LOCK_UN);
}

} // namespace nx::file_store
