// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/files/file_root.h"

#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <linux/openat2.h>
#include <memory>
#include <stdexcept>
#include <string_view>
#include <sys/syscall.h>
#include <unistd.h>

namespace nx::kit {
namespace {

constexpr mode_t kNewFileMode = 0644;

/// The kernel gives up a path with ".." in it when somebody renames meanwhile.
constexpr int kTriesMax = 1000;

Fd
openBeneath(int root, const char *path, int flags) noexcept {
    open_how how{};
    how.flags = static_cast<unsigned>(flags);
    how.mode = flags & O_CREAT ? kNewFileMode : 0;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    int fd = -1;
    for (int tries = 0; tries < kTriesMax; ++tries) {
        fd = static_cast<int>(::syscall(SYS_openat2, root, path, &how, sizeof how));
        if (fd >= 0 || (errno != EAGAIN && errno != EINTR)) break;
    }
    return Fd(fd);
}

/// What follows `folder` in `path`, or null.
const char *
after(std::string_view folder, const std::string &path) noexcept {
    while (folder.ends_with('/')) folder.remove_suffix(1);
    if (!std::string_view(path).starts_with(folder)) return nullptr;
    const char *rest = path.c_str() + folder.size();
    if (*rest != '/' && *rest != '\0') return nullptr;
    while (*rest == '/') ++rest;
    return *rest == '\0' ? "." : rest;
}

} // namespace

FileRoot::FileRoot(const std::string &folder) : folder_(folder) {
    if (folder.empty()) return;
    fd_ = Fd(::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!fd_) throw std::runtime_error(withErrno("the root " + quoted(folder) + " of paths cannot be opened", errno));
    const std::unique_ptr<char, void (*)(void *)> real(::realpath(folder.c_str(), nullptr), ::free);
    real_ = real ? real.get() : folder;
    if (!openBeneath(fd_.get(), ".", O_PATH | O_CLOEXEC)) {
        throw std::runtime_error(withErrno("paths cannot be kept beneath the root " + quoted(folder) +
                                               ": openat2 (Linux 5.6) is missing or forbidden here",
                                           errno));
    }
}

const char *
FileRoot::beneath(const std::string &path) const noexcept {
    if (!path.starts_with('/')) return path.c_str();
    const char *const rest = after(folder_, path);
    return rest ? rest : after(real_, path);
}

Fd
FileRoot::open(const std::string &path, int flags) const noexcept {
    if (!fd_) {
        int fd = ::open(path.c_str(), flags, kNewFileMode);
        while (fd < 0 && errno == EINTR) fd = ::open(path.c_str(), flags, kNewFileMode);
        return Fd(fd);
    }
    const char *const relative = beneath(path);
    if (!relative) {
        errno = EXDEV;
        return Fd();
    }
    return openBeneath(fd_.get(), relative, flags);
}

int
FileRoot::look(const std::string &path, struct stat &info) const noexcept {
    if (!fd_) return ::stat(path.c_str(), &info) == 0 ? 0 : errno;
    const Fd file = open(path, O_PATH | O_CLOEXEC);
    return file && ::fstat(file.get(), &info) == 0 ? 0 : errno;
}

} // namespace nx::kit
