// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Where paths lead: anywhere, or into one folder that they cannot leave, whoever renames and links meanwhile. The
// kernel sees to that (openat2). Immutable.
#pragma once

#include <string>
#include <sys/stat.h>

#include "base/fd.h"

namespace nx::kit {

class FileRoot {
public:
    /// Empty: anywhere. Throws std::runtime_error if it is not a folder, or the system cannot confine paths.
    explicit FileRoot(const std::string &folder);

    /// Opens a path: relative to the root, or absolute and beneath it. None: errno says why; EXDEV: it leaves the root,
    /// ELOOP: a symbolic link is on the way, which a root does not allow. A new file has the mode 0644.
    Fd
    open(const std::string &path, int flags) const noexcept;

    /// As stat(2), within the root: 0 or an errno.
    int
    look(const std::string &path, struct stat &info) const noexcept;

    /// As it was given.
    const std::string &
    folder() const noexcept {
        return folder_;
    }

private:
    const char *
    beneath(const std::string &path) const noexcept;

    std::string folder_;
    std::string real_; ///< the same without symbolic links
    Fd fd_;            ///< none: paths lead anywhere
};

} // namespace nx::kit
