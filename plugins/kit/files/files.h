// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What backends with files share: files that registrations name, by an open descriptor of the program's or by a path
// that we open, and questions about paths. A path's descriptor may be closed between uses, so that a million
// registrations need few descriptors; whoever opens it again gets the same file or STALE. Self-synchronised.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend_aux.h"
#include "base/error.h"
#include "nixl_descriptors.h"

namespace nx::kit {

class FileVersion;

/// A file that registrations name. Any thread; each pair of use() and done() by one that holds it meanwhile.
class File {
public:
    virtual ~File() = default;

    /// The descriptor to use, which stays open and the same file until done(); only where none is left for a duplicate
    /// of the program's, that one itself. STALE: the path leads to another file by now, or the program's descriptor
    /// does. NOT_FOUND: the path leads nowhere any more, or the program has closed its descriptor. NO_MEMORY: all
    /// descriptors of the process are in use; try again after a done(). INVALID_PARAM: the program's descriptor has got
    /// O_APPEND. NOT_ALLOWED, BACKEND: it cannot be opened any more. Without system calls for a path that is open.
    virtual Result<int>
    use() = 0;
    virtual void
    done() noexcept = 0;

    /// A descriptor of the same file without O_DIRECT, for pieces that direct I/O cannot do; between use() and done().
    /// It is use()'s for a file that is not opened with O_DIRECT.
    virtual Result<int>
    buffered() = 0;

    /// Opened with O_DIRECT; at the last use(), if the program may have changed it.
    virtual bool
    direct() const noexcept = 0;
    /// Opened for reading only.
    virtual bool
    readOnly() const noexcept = 0;

    /// Replaced as a whole by each request that writes to it: it has no use(), but requests have versions of it
    /// (file_version.h).
    virtual bool
    atomic() const noexcept {
        return false;
    }
    /// The one that a request reads or writes, null unless it is atomic(). `beside`: another one of that request, or
    /// null.
    virtual std::unique_ptr<FileVersion>
    version(bool writes, const FileVersion *beside);

    /// For sentences: "'/data/cache.bin'", "descriptor 7 ('/data/cache.bin')".
    virtual std::string
    name() const = 0;
};

struct FilesOptions {
    std::string root;    ///< paths stay beneath it: no symbolic link, no magic link, no ".." out of it; empty: anywhere
    size_t open_max = 0; ///< descriptors of paths kept open while nobody uses them; 0: a quarter of RLIMIT_NOFILE
};

class FileTable;

/// The files of one engine.
class Files {
public:
    /// Throws std::runtime_error if paths cannot be kept beneath the root.
    explicit Files(FilesOptions options);
    ~Files();

    /// The file that a registration names (file_path.h); the same one for the same device id and path again. A path is
    /// opened here, and closed when the last who holds the file lets go; "create" makes the file here or never, but
    /// for one that is atomic, which the first version makes. INVALID_PARAM: not a file's name, another live file has
    /// this device id, the device id is no descriptor that is open, or what it names is a directory, pipe or socket,
    /// or writes at its end only (O_APPEND), or is atomic and a link or device. NOT_FOUND: no such file. NOT_ALLOWED:
    /// permissions, a read-only file system, or a path that leaves the root. NO_MEMORY: no descriptor is free.
    /// NOT_SUPPORTED: no direct I/O there. BACKEND: it cannot be opened for another reason.
    Result<std::shared_ptr<File>>
    add(const nixlBlobDesc &registration);

    /// One answer for each name, in order: size, mode and mtime (seconds) as decimal text, or nothing for what is not
    /// there or cannot be looked at, whatever the reason, as in 1.4. A name is a path or `<ro|rw>...:<path>`. Many
    /// names are looked at by several threads. NO_MEMORY: no memory or descriptor is free.
    nixl_status_t
    query(const nixl_reg_dlist_t &names, std::vector<nixl_query_resp_t> &answers) const;

    /// FilesOptions::open_max, or what stands for 0.
    size_t
    openMax() const noexcept;

private:
    const std::shared_ptr<FileTable> table_; ///< files hold it, too
};

} // namespace nx::kit
