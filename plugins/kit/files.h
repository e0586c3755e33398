// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What backends with files share: files that registrations name, by an open descriptor of the program's or by a path
// that we open, and questions about paths. A path's descriptor may be closed between uses, so that a million
// registrations need few descriptors; whoever opens it again gets the same file or STALE. Self-synchronised.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend_aux.h"
#include "base/error.h"
#include "nixl_descriptors.h"

namespace nx::kit {

/// `<ro|rw>[,direct|sync|noatime|create]*:<path>`, what the metaInfo of a FILE registration may say.
struct FilePath {
    int flags = 0; ///< of open(2); always O_CLOEXEC
    std::string path;
};

/// Nothing: the text is empty, the device id is an open descriptor. INVALID_PARAM: it is neither empty nor a path, for
/// example for an unknown word, which is named.
Result<std::optional<FilePath>>
parseFilePath(std::string_view meta_info);

/// A file that registrations name. Any thread.
class File {
public:
    virtual ~File() = default;

    /// The descriptor to use, which stays open and the same file until done(). STALE: the path leads to another file
    /// by now, or the program's descriptor does. BACKEND: it cannot be opened any more.
    virtual Result<int>
    use() = 0;
    virtual void
    done() noexcept = 0;

    /// A descriptor of the same file without O_DIRECT, for pieces that direct I/O cannot do; open as long as the file
    /// is. It is `use()`'s for a file that is not opened with O_DIRECT.
    virtual Result<int>
    buffered() = 0;

    /// Opened with O_DIRECT.
    virtual bool
    direct() const noexcept = 0;
    /// Opened for reading only.
    virtual bool
    readOnly() const noexcept = 0;

    /// For sentences: "'/data/cache.bin'", "descriptor 7 ('/data/cache.bin')".
    virtual std::string
    name() const = 0;
};

struct FilesOptions {
    std::string root;    ///< paths stay beneath it: no symbolic link, no "..", no magic link; empty: anywhere
    size_t open_max = 0; ///< descriptors of paths at most; 0: a quarter of RLIMIT_NOFILE
};

/// The files of one engine.
class Files {
public:
    explicit Files(FilesOptions options);
    ~Files();

    /// The file that a registration names; the same one for the same device id and path again. It is closed when the
    /// last who holds it lets go. INVALID_PARAM: not a file's name, another live path has this device id, or the
    /// device id is no descriptor that is open. BACKEND: it cannot be opened (why is said).
    Result<std::shared_ptr<File>>
    add(const nixlBlobDesc &registration);

    /// One answer for each name, in order: size, mode and mtime (seconds) as text, or nothing for what is not there.
    nixl_status_t
    query(const nixl_reg_dlist_t &names, std::vector<nixl_query_resp_t> &answers) const;

private:
    class State;
    const std::shared_ptr<State> state_;
};

} // namespace nx::kit
