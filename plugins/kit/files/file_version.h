// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Files that are replaced as a whole ("atomic"), as objects are. What a request writes is a new file beside the old
// one, which takes its name when it is whole; what a request reads is one version from its first byte to its last.
//
//   new version      .NAME.nixl-N, with flock, in the folder of NAME, N below kWritersMax
//   of who crashed   the same without flock: whoever writes or registers the path next removes it
//
// A name that is tried, not a random one, so that what was left is found without reading the folder; not O_TMPFILE,
// which network file systems do not have, and which needs a name to replace another file, too.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/fd.h"
#include "base/mutex.h"
#include "kit/files/file_kind.h"
#include "kit/files/files.h"

namespace nx::kit {

/// Which file a path leads to as far as its engine knows, by what it has published or opened there. Self-synchronised.
struct KnownVersion {
    Mutex mutex; ///< held while it is published or opened
    std::optional<Identity> identity NX_GUARDED_BY(mutex);
};

/// A path whose file is replaced as a whole. Immutable.
struct AtomicPath {
    std::string path;
    int flags = 0; ///< of open(2); O_CREAT: the first version may be missing
    std::shared_ptr<const FileRoot> root;
    std::shared_ptr<FdCache> cache; ///< gives up descriptors where none is left
    std::shared_ptr<KnownVersion> known;

    std::string
    folder() const;
    std::string
    base() const;
};

/// The version that one request reads or writes: opened or made at the first use(), the same until drop().
class FileVersion final : public File {
public:
    static constexpr unsigned kWritersMax = 16; ///< of one path at a time, of all processes

    /// `beside`: another one of the request, which shares its folder's descriptor if that is the same.
    FileVersion(std::shared_ptr<const AtomicPath> at, bool writes, const FileVersion *beside);
    ~FileVersion() override {
        drop();
    }

    Result<int>
    use() override;
    void
    done() noexcept override {}
    Result<int>
    buffered() override;
    bool
    direct() const noexcept override;
    bool
    readOnly() const noexcept override {
        return !writes_;
    }
    /// That of the path.
    std::string
    name() const override {
        return quotedPath(at_->path);
    }

    /// What was written takes the path, and is not to be written to any more. No effect if there was no use().
    /// NOT_FOUND, NOT_ALLOWED, BACKEND: it does not.
    Status
    publish();

    /// Of the path's folder, to be synced for a published version to last; -1: nothing was written.
    int
    folder() const noexcept {
        return uses_folder_ ? folder_->fd.get() : -1;
    }

    /// Registered with "sync": bytes are on the device when they are written, and so should the name be.
    bool
    lasts() const noexcept;

    /// Ends its use; a new version that was not published is gone. Again usable.
    void
    drop() noexcept;

    /// Of a path that is registered: it can be read, or is missing and may be, and nothing is left of who crashed.
    static Status
    check(const std::shared_ptr<const AtomicPath> &at);

private:
    struct Folder {
        Fd fd;
        size_t uses = 0;
    };

    Status
    open();
    Status
    make();
    Status
    useFolder();
    void
    dropFolder() noexcept;
    /// 0 or an errno; EEXIST: another one has it.
    int
    tryName(unsigned number, mode_t mode);
    bool
    leadsTo(const std::string &name, int fd) const noexcept;
    bool
    removeLeft(const std::string &name) const noexcept;
    std::string
    nameOf(unsigned number) const;

    const std::shared_ptr<const AtomicPath> at_;
    const bool writes_;
    const std::string folder_path_, base_;
    const std::shared_ptr<Folder> folder_; ///< shared by versions of one request
    bool uses_folder_ = false;
    Fd fd_;
    Fd buffered_;
    std::string made_;  ///< the new version's name while it is not published
    Identity identity_; ///< of the new version
};

} // namespace nx::kit
