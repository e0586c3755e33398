// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Folders and small files of the store, by descriptors: no link is followed but in the folder's own path, nothing that
// is no regular file is opened for long, and what a failed call wrote is removed. Functions without state.
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace nx::file_store {

using Deadline = std::chrono::steady_clock::time_point;

/// "open: No space left on device" with the status for errno: NOT_FOUND for what is not there, NO_MEMORY for a disk or
/// table that is full, BACKEND otherwise.
Status
failed(const std::string &what, int errnum);

/// The folder at `path`. NOT_ALLOWED: others can write in it, so that anybody could speak for any agent.
Result<Fd>
openRoot(const std::string &path);

/// A folder in `parent`.
Result<Fd>
openFolder(const Fd &parent, const std::string &name);

/// A new file of this content, in place of an older one of its name. Nothing is left of it after a failure.
Result<Fd>
createFile(const Fd &folder, const std::string &name, std::initializer_list<std::string_view> parts);

/// For reading. MISMATCH: it is no regular file.
Result<Fd>
openFile(const Fd &folder, const std::string &name);

/// All of it. MISMATCH: it has more bytes than `bytes_max`.
Result<std::string>
readFile(const Fd &file, const std::string &name, size_t bytes_max);

Status
renameFile(const Fd &folder, const std::string &from, const std::string &to);

/// Names in a folder, in no order; none if it cannot be read.
std::vector<std::string>
namesIn(const Fd &folder);

/// A folder in `parent` that nobody else who asks for it so can change meanwhile. Held for as long as this exists; a
/// child of a fork does not keep it.
class LockedFolder {
public:
    /// Makes the folder if there is none. TIMEOUT: another process changes it all the time.
    static Result<LockedFolder>
    make(const Fd &parent, const std::string &name, Deadline deadline);
    /// NOT_FOUND: there is none. TIMEOUT as above; with a deadline that is over, at the first refusal.
    static Result<LockedFolder>
    open(const Fd &parent, const std::string &name, Deadline deadline);

    LockedFolder(LockedFolder &&) noexcept = default;
    LockedFolder &
    operator=(LockedFolder &&) = delete;
    ~LockedFolder();

    const Fd &
    fd() const noexcept {
        return fd_;
    }

private:
    explicit LockedFolder(Fd fd) noexcept : fd_(std::move(fd)) {}
    Fd fd_;
};

} // namespace nx::file_store
