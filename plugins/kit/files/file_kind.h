// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What the system says of a file: which one it is, what it is, and why it cannot be opened. Plain functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <sys/types.h>

#include "base/error.h"
#include "base/fd.h"
#include "kit/files/fd_cache.h"
#include "kit/files/file_root.h"

namespace nx::kit {

/// Which file it is, though another one takes its name or its inode's number.
struct Identity {
    uint64_t device = 0;
    uint64_t inode = 0;
    int64_t born_s = 0; ///< both 0: the file system does not tell
    uint32_t born_ns = 0;

    /// When it was born counts where it is known for both: a network file system may have it at one time only.
    bool
    operator==(const Identity &other) const noexcept {
        const bool known = (born_s != 0 || born_ns != 0) && (other.born_s != 0 || other.born_ns != 0);
        return device == other.device && inode == other.inode &&
            (!known || (born_s == other.born_s && born_ns == other.born_ns));
    }
};

struct Kind {
    Identity identity;
    mode_t mode = 0;
};

/// Nothing: errno says why. What does not change needs no round trip to a server.
std::optional<Kind>
kindOf(int fd) noexcept;

/// Why it has no offsets to read and write at; null: it has.
const char *
noFile(mode_t mode) noexcept;

Status
notAFile(const std::string &name, const char *why);

/// Of a path in a sentence.
std::string
quotedPath(const std::string &path);

/// "'/x' cannot be opened: No such file or directory (errno 2); ..."
Status
notOpened(const std::string &name, int error, int flags, const FileRoot &root, const char *verb = "opened");

/// Opens a path for the first time, or the file that is `known` again. `known` is the file that is returned.
Result<Fd>
openPath(const std::string &path, int flags, const FileRoot &root, FdCache &cache, std::optional<Identity> &known);

/// Another descriptor of the file behind `fd`, without O_DIRECT.
Result<Fd>
reopen(FdCache &cache, int fd, int flags, const std::string &name);

} // namespace nx::kit
