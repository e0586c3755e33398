// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/files/files.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <fcntl.h>
#include <filesystem>
#include <optional>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <unordered_map>
#include <utility>

#include "base/fd.h"
#include "base/mutex.h"
#include "kit/files/fd_cache.h"
#include "kit/files/file_kind.h"
#include "kit/files/file_path.h"
#include "kit/files/file_query.h"
#include "kit/files/file_root.h"
#include "kit/files/file_version.h"

namespace nx::kit {
namespace {

/// With these flags writes do not go where they should.
bool
appends(int flags) noexcept {
    return (flags & O_APPEND) && (flags & O_ACCMODE) != O_RDONLY;
}

Status
appendRefused(const std::string &name) {
    return {NIXL_ERR_INVALID_PARAM,
            name + " has O_APPEND, with which every write goes to the end of the file; open it without"};
}

} // namespace

/// A file that has a device id.
class RegisteredFile : public File {
public:
    RegisteredFile(std::shared_ptr<FileTable> table, uint64_t device_id)
        : table_(std::move(table)),
          device_id_(device_id) {}
    ~RegisteredFile() override;

    uint64_t
    deviceId() const noexcept {
        return device_id_;
    }

    /// The same file by the same name.
    virtual bool
    isSame(const RegisteredFile &other) const noexcept = 0;

    /// May take over the device id of another live file.
    virtual bool
    supersedes(const RegisteredFile &other) const noexcept = 0;

    /// It can be used, and is open if it stays so: at its registration.
    virtual Status
    tryOpen() {
        Result<int> fd = use();
        if (!fd.ok()) return std::move(fd).status();
        done();
        return {};
    }

    void
    done() noexcept override;

protected:
    /// The slot's second descriptor, which is opened without O_DIRECT and otherwise with `flags`. While it is in use.
    Result<int>
    withoutDirect(int flags);

    const std::shared_ptr<FileTable> table_;
    mutable FdCache::Slot slot_;
    Mutex mutex_; ///< one opens at a time

private:
    const uint64_t device_id_;
};

/// What the files of one engine share: who has which device id, which paths are open. Self-synchronised.
class FileTable {
public:
    explicit FileTable(const FilesOptions &options) : root(options.root), cache(openMax(options.open_max)) {}

    /// The live file that is the same as `fresh`, or `fresh`, which has its device id now. INVALID_PARAM: another file
    /// has it.
    Result<std::shared_ptr<RegisteredFile>>
    claim(const std::shared_ptr<RegisteredFile> &fresh);

    void
    forget(const RegisteredFile &file) noexcept;

    /// What is known of a path, shared by all who ask while one of them has it, and forgotten by the last.
    std::shared_ptr<KnownVersion>
    knownAt(const std::string &path);
    void
    forgetKnown(std::shared_ptr<const AtomicPath> at) noexcept;

    const FileRoot root;
    FdCache cache;

private:
    static size_t
    openMax(size_t wanted) noexcept {
        rlimit limit{.rlim_cur = 256, .rlim_max = 256};
        if (wanted == 0) ::getrlimit(RLIMIT_NOFILE, &limit);
        return wanted > 0 ? wanted : std::max<size_t>(limit.rlim_cur / 4, 1);
    }

    struct Owner {
        const RegisteredFile *file = nullptr;
        std::weak_ptr<RegisteredFile> alive;
    };

    Mutex mutex_;
    std::unordered_map<uint64_t, Owner> owners_ NX_GUARDED_BY(mutex_);
    std::unordered_map<std::string, std::weak_ptr<KnownVersion>> known_ NX_GUARDED_BY(mutex_);
};

std::unique_ptr<FileVersion>
File::version(bool, const FileVersion *) {
    return nullptr;
}

RegisteredFile::~RegisteredFile() {
    table_->cache.drop(slot_);
    table_->forget(*this);
}

void
RegisteredFile::done() noexcept {
    table_->cache.done(slot_);
}

Result<int>
RegisteredFile::withoutDirect(int flags) {
    if (const int fd = slot_.second(); fd >= 0) return fd;
    const MutexLock lock(mutex_);
    if (const int fd = slot_.second(); fd >= 0) return fd;
    if (slot_.get() < 0) return {NIXL_ERR_NO_MEMORY, name() + " cannot be opened once more: no descriptor is left"};
    auto fd = reopen(table_->cache, slot_.get(), flags, name());
    if (!fd.ok()) return std::move(fd).status();
    table_->cache.fillSecond(slot_, std::move(*fd));
    return slot_.second();
}

Result<std::shared_ptr<RegisteredFile>>
FileTable::claim(const std::shared_ptr<RegisteredFile> &fresh) {
    std::shared_ptr<RegisteredFile> live; // let go without the mutex
    const MutexLock lock(mutex_);
    Owner &owner = owners_[fresh->deviceId()];
    live = owner.alive.lock();
    if (live && live->isSame(*fresh)) return live;
    if (live && !fresh->supersedes(*live)) {
        return {NIXL_ERR_INVALID_PARAM,
                "device id " + std::to_string(fresh->deviceId()) + " is in use for " + live->name() +
                    "; deregister that first, or give " + fresh->name() + " another device id"};
    }
    owner = {.file = fresh.get(), .alive = fresh};
    return fresh;
}

void
FileTable::forget(const RegisteredFile &file) noexcept {
    const MutexLock lock(mutex_);
    const auto owner = owners_.find(file.deviceId());
    if (owner != owners_.end() && owner->second.file == &file) owners_.erase(owner);
}

std::shared_ptr<KnownVersion>
FileTable::knownAt(const std::string &path) {
    const MutexLock lock(mutex_);
    std::weak_ptr<KnownVersion> &known = known_[path];
    std::shared_ptr<KnownVersion> live = known.lock();
    if (!live) known = live = std::make_shared<KnownVersion>();
    return live;
}

void
FileTable::forgetKnown(std::shared_ptr<const AtomicPath> at) noexcept {
    const MutexLock lock(mutex_);
    const auto known = known_.find(at->path);
    at.reset();
    if (known != known_.end() && known->second.expired()) known_.erase(known);
}

namespace {

/// A file that is opened by its path, and closed and opened again as the cache needs it.
class FileByPath : public RegisteredFile {
public:
    FileByPath(std::shared_ptr<FileTable> table, uint64_t device_id, FilePath file)
        : RegisteredFile(std::move(table), device_id),
          flags_(file.flags),
          path_(std::move(file.path)) {}

    bool
    isSame(const RegisteredFile &other) const noexcept override {
        const auto *const file = dynamic_cast<const FileByPath *>(&other);
        return file && file->path_ == path_ && file->flags_ == flags_;
    }

    bool
    supersedes(const RegisteredFile &) const noexcept override {
        return false;
    }

    Result<int>
    use() override {
        const int fd = slot_.use();
        return fd >= 0 ? Result<int>(fd) : openAgain();
    }

    Result<int>
    buffered() override {
        return direct() ? withoutDirect(flags_) : Result<int>(slot_.get());
    }

    bool
    direct() const noexcept override {
        return flags_ & O_DIRECT;
    }

    bool
    readOnly() const noexcept override {
        return (flags_ & O_ACCMODE) == O_RDONLY;
    }

    std::string
    name() const override {
        return quotedPath(path_);
    }

private:
    /// The use is counted already.
    Result<int>
    openAgain() {
        const MutexLock lock(mutex_);
        if (const int fd = slot_.get(); fd >= 0) return fd;
        auto status = openLocked();
        if (status.ok()) return slot_.get();
        table_->cache.done(slot_);
        return status;
    }

    Status
    openLocked() NX_REQUIRES(mutex_) {
        auto fd = openPath(path_, flags_, table_->root, table_->cache, known_);
        if (!fd.ok()) return std::move(fd).status();
        table_->cache.fill(slot_, *std::move(fd));
        return {};
    }

    const int flags_;
    const std::string path_;
    std::optional<Identity> known_ NX_GUARDED_BY(mutex_); ///< since it was opened for the first time
};

/// A file that is replaced as a whole.
class AtomicFile : public RegisteredFile {
public:
    AtomicFile(const std::shared_ptr<FileTable> &table, uint64_t device_id, FilePath file)
        : RegisteredFile(table, device_id),
          at_(std::make_shared<AtomicPath>(AtomicPath{.path = file.path,
                                                      .flags = file.flags,
                                                      .root = {table, &table->root},
                                                      .cache = {table, &table->cache},
                                                      .known = table->knownAt(file.path)})) {}
    ~AtomicFile() override {
        table_->forgetKnown(std::move(at_));
    }

    bool
    isSame(const RegisteredFile &other) const noexcept override {
        const auto *const file = dynamic_cast<const AtomicFile *>(&other);
        return file && file->at_->path == at_->path && file->at_->flags == at_->flags;
    }

    bool
    supersedes(const RegisteredFile &) const noexcept override {
        return false;
    }

    Status
    tryOpen() override {
        return FileVersion::check(at_);
    }

    Result<int>
    use() override {
        return {NIXL_ERR_NOT_SUPPORTED,
                name() + ": this backend cannot replace a file as a whole ('atomic'), POSIX can"};
    }

    Result<int>
    buffered() override {
        return use();
    }

    bool
    direct() const noexcept override {
        return at_->flags & O_DIRECT;
    }

    bool
    readOnly() const noexcept override {
        return false;
    }

    bool
    atomic() const noexcept override {
        return true;
    }

    std::unique_ptr<FileVersion>
    version(bool writes, const FileVersion *beside) override {
        return std::make_unique<FileVersion>(at_, writes, beside);
    }

    std::string
    name() const override {
        return quotedPath(at_->path);
    }

private:
    std::shared_ptr<const AtomicPath> at_; ///< versions have it, too
};

/// A file behind a descriptor of the program's, which may close it, or use its number for another file, at any time.
/// What is under way uses a duplicate, so that it reaches no other file. That stays for the next use, because a close
/// may take long: a server is asked for it.
class FileByDescriptor : public RegisteredFile {
public:
    /// INVALID_PARAM: it cannot be used.
    static Result<std::shared_ptr<RegisteredFile>>
    create(const std::shared_ptr<FileTable> &table, uint64_t device_id);

    FileByDescriptor(std::shared_ptr<FileTable> table, int fd, int flags, const Identity &identity)
        : RegisteredFile(std::move(table), static_cast<uint64_t>(fd)),
          fd_(fd),
          identity_(identity),
          flags_(flags) {}

    bool
    isSame(const RegisteredFile &other) const noexcept override {
        const auto *const file = dynamic_cast<const FileByDescriptor *>(&other);
        return file && file->identity_ == identity_;
    }

    /// The program has closed that one and opened this, before it deregistered that one.
    bool
    supersedes(const RegisteredFile &other) const noexcept override {
        return dynamic_cast<const FileByDescriptor *>(&other) != nullptr;
    }

    Result<int>
    use() override {
        const int flags = ::fcntl(fd_, F_GETFL);
        const auto kind = kindOf(fd_);
        if (flags < 0 || !kind) {
            return {NIXL_ERR_NOT_FOUND,
                    "descriptor " + std::to_string(fd_) +
                        " is not open any more; deregister it before it is closed, and register the file's new one"};
        }
        if (kind->identity != identity_) return anotherFile();
        if (appends(flags)) return appendRefused(nameOf(fd_));
        flags_.store(flags, std::memory_order_relaxed);
        int fd = slot_.use();
        if (fd >= 0 && ::fcntl(fd, F_GETFL) != flags) { // the program has opened the same file anew
            table_->cache.done(slot_);
            table_->cache.drop(slot_);
            fd = slot_.use();
        }
        return fd >= 0 ? Result<int>(fd) : duplicate();
    }

    Result<int>
    buffered() override {
        return direct() ? withoutDirect(flags_.load(std::memory_order_relaxed)) : Result<int>(inUse(slot_.get()));
    }

    bool
    direct() const noexcept override {
        return flags_.load(std::memory_order_relaxed) & O_DIRECT;
    }

    bool
    readOnly() const noexcept override {
        return (flags_.load(std::memory_order_relaxed) & O_ACCMODE) == O_RDONLY;
    }

    std::string
    name() const override {
        std::string name = nameOf(inUse(slot_.use()));
        table_->cache.done(slot_);
        return name;
    }

private:
    int
    inUse(int duplicate) const noexcept {
        return duplicate >= 0 ? duplicate : fd_;
    }

    /// The use is counted already.
    Result<int>
    duplicate() {
        const MutexLock lock(mutex_);
        if (const int fd = slot_.get(); fd >= 0) return fd;
        Fd fd = table_->cache.open([this] { return Fd(::fcntl(fd_, F_DUPFD_CLOEXEC, 0)); });
        if (!fd) return fd_; // none is left: the program's own has to do
        if (const auto kind = kindOf(fd.get()); !kind || kind->identity != identity_) {
            table_->cache.done(slot_);
            return anotherFile();
        }
        table_->cache.fill(slot_, std::move(fd));
        return slot_.get();
    }

    Status
    anotherFile() const {
        return {NIXL_ERR_STALE,
                nameOf(fd_) + " is another file than the one that was registered with this number; " +
                    "deregister a descriptor before it is closed, and register the new one"};
    }

    /// By the path of `fd`, which may be the duplicate.
    std::string
    nameOf(int fd) const {
        const std::string number = "descriptor " + std::to_string(fd_);
        std::error_code error;
        const auto path = std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(fd), error);
        return error ? number : number + " (" + quotedPath(path.native()) + ")";
    }

    const int fd_;
    const Identity identity_;
    std::atomic<int> flags_; ///< at the last use
};

Result<std::shared_ptr<RegisteredFile>>
FileByDescriptor::create(const std::shared_ptr<FileTable> &table, uint64_t device_id) {
    const auto refused = [](const std::string &why) -> Status { return {NIXL_ERR_INVALID_PARAM, why}; };
    const std::string number = "device id " + std::to_string(device_id);
    static const std::string advice = "; without a path in the metaInfo the device id has to be an open descriptor";
    if (device_id > INT_MAX) return refused(number + " is no descriptor" + advice);
    const int fd = static_cast<int>(device_id);
    const int flags = ::fcntl(fd, F_GETFL);
    const auto kind = kindOf(fd);
    if (flags < 0 || !kind) return refused(number + " is no descriptor that is open" + advice);
    const auto file = std::make_shared<FileByDescriptor>(table, fd, flags, kind->identity);
    if (const char *const why = noFile(kind->mode)) return notAFile(file->name(), why);
    if (flags & O_PATH) return refused(file->name() + " is opened with O_PATH, which nothing can be read from");
    if (appends(flags)) return appendRefused(file->name());
    return std::shared_ptr<RegisteredFile>(file);
}

} // namespace

Files::Files(FilesOptions options) : table_(std::make_shared<FileTable>(options)) {}

Files::~Files() = default;

Result<std::shared_ptr<File>>
Files::add(const nixlBlobDesc &registration) {
    auto path = parseFilePath(registration.metaInfo);
    if (!path.ok()) return std::move(path).status();
    if (!*path) {
        auto fresh = FileByDescriptor::create(table_, registration.devId);
        if (!fresh.ok()) return std::move(fresh).status();
        auto file = table_->claim(*fresh);
        if (!file.ok()) return std::move(file).status();
        return std::shared_ptr<File>(std::move(*file));
    }
    std::error_code error;
    if (table_->root.folder().empty() && !(*path)->path.starts_with('/')) {
        // The program may go to another folder before the file is opened again.
        const auto folder = std::filesystem::current_path(error);
        if (!error) (*path)->path = (folder / (*path)->path).native();
    }
    std::shared_ptr<RegisteredFile> fresh;
    if ((*path)->atomic) fresh = std::make_shared<AtomicFile>(table_, registration.devId, std::move(**path));
    else fresh = std::make_shared<FileByPath>(table_, registration.devId, std::move(**path));
    auto file = table_->claim(fresh);
    if (!file.ok()) return std::move(file).status();
    // Of two that register it at once, both open it: who comes second finds it open, or the reason.
    if (Status opened = (*file)->tryOpen(); !opened.ok()) return opened;
    return std::shared_ptr<File>(std::move(*file));
}

size_t
Files::openMax() const noexcept {
    return table_->cache.openMax();
}

nixl_status_t
Files::query(const nixl_reg_dlist_t &names, std::vector<nixl_query_resp_t> &answers) const {
    return queryPaths(
        names,
        [&](const std::string &path, struct stat &info) {
            int error = table_->root.look(path, info);
            while ((error == EMFILE || error == ENFILE) && table_->cache.closeSome())
                error = table_->root.look(path, info);
            return error;
        },
        answers);
}

} // namespace nx::kit
