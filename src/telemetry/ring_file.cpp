// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "telemetry/ring_file.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/ownership.h"

namespace nx::telemetry {

using nixlx::TelemetryRingHeader;
using nixlx::telemetryRingOffset;

namespace {

Status
unusable(const std::string &path, const std::string &why) {
    return {NIXL_ERR_BACKEND, nx::quoted(path, 300) + " cannot be used: " + why};
}

/// The system's error, or success if all `size` bytes are written.
Status
writeAt(int fd, const std::string &path, const void *bytes, size_t size, uint64_t offset) {
    const auto *next = static_cast<const char *>(bytes);
    while (size > 0) {
        const ssize_t written = ::pwrite(fd, next, size, static_cast<off_t>(offset));
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return unusable(path, withErrno("pwrite", errno));
        next += written;
        offset += static_cast<uint64_t>(written);
        size -= static_cast<size_t>(written);
    }
    return {};
}

/// The header of the file; zeros where it is too short for one.
TelemetryRingHeader
readHeader(int fd) {
    TelemetryRingHeader header{0, 0, 0, 0, 0, 0};
    while (::pread(fd, &header, sizeof header, 0) < 0 && errno == EINTR) {}
    return header;
}

uint64_t
sizeOf(int fd) {
    struct stat info;
    return ::fstat(fd, &info) == 0 ? static_cast<uint64_t>(info.st_size) : 0;
}

/// Makes an empty ring of the file. All its space is allocated now, so that a full disk is told here and a reader that
/// maps the file finds every page.
Status
format(int fd, const std::string &path, uint64_t capacity) {
    TelemetryRingHeader header;
    header.capacity = capacity;
    header.mask = capacity - 1;
    const uint64_t size = telemetryRingOffset(capacity);
    int failure;
    do {
        failure = ::posix_fallocate(fd, 0, static_cast<off_t>(size));
    } while (failure == EINTR);
    if (failure != 0) return unusable(path, withErrno("allocating " + std::to_string(size) + " bytes", failure));
    return writeAt(fd, path, &header, sizeof header, 0);
}

/// Worth replacing by a ring of ours: an empty file, or a ring, of whatever version and in whatever state.
bool
wasRing(const TelemetryRingHeader &header, uint64_t size) {
    return size == 0 ||
        (header.capacity > 1 && (header.capacity & (header.capacity - 1)) == 0 && header.mask == header.capacity - 1 &&
         header.version > 0 && header.version < 1000);
}

Result<Fd>
openDirectory(std::string path) {
    while (path.size() > 1 && path.ends_with('/')) path.pop_back(); // a trailing slash would follow a symbolic link
    constexpr int kFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    Fd folder(::open(path.c_str(), kFlags));
    if (!folder && errno == ENOENT && (::mkdir(path.c_str(), 0700) == 0 || errno == EEXIST)) {
        folder = Fd(::open(path.c_str(), kFlags));
    }
    if (!folder && (errno == ENOTDIR || errno == ELOOP)) return unusable(path, "it is no folder, or a symbolic link");
    struct stat info;
    if (!folder || ::fstat(folder.get(), &info) != 0) return unusable(path, withErrno("opening the folder", errno));
    if (info.st_mode & S_ISVTX) info.st_mode &= ~(S_IWGRP | S_IWOTH); // others cannot replace files that are ours
    const auto problem = changeableByOthers("the folder", info);
    if (!problem.empty()) return unusable(path, problem);
    return folder;
}

/// A file that writing into harms nobody, whatever it was put there for.
Status
checkFile(int fd, const std::string &path) {
    struct stat info;
    if (::fstat(fd, &info) != 0) return unusable(path, withErrno("fstat", errno));
    if (!S_ISREG(info.st_mode)) return unusable(path, "it is no regular file");
    if (info.st_uid != ::geteuid()) return unusable(path, "it belongs to user " + std::to_string(info.st_uid));
    if (info.st_nlink > 1) {
        return unusable(path, "it has " + std::to_string(info.st_nlink) + " names (hard links); remove this one");
    }
    return {};
}

/// Until the descriptor is closed or unlocked; two writers would overwrite each other's events.
Status
lock(int fd, const std::string &path) {
    // File systems without locks are used without.
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return {};
    return {NIXL_ERR_NOT_ALLOWED,
            nx::quoted(path, 300) +
                " is in use by another agent of this name; give each agent a name or a "
                "NIXL_TELEMETRY_DIR of its own"};
}

} // namespace

std::string
ringFileName(const std::string &agent) {
    constexpr std::string_view kEscaped("/%\0", 3);
    const bool plain = agent.size() <= NAME_MAX && agent != "." && agent != ".." && agent[0] != '%' &&
        agent.find_first_of(std::string_view("/\0", 2)) == std::string::npos;
    if (plain) return agent;
    std::string name = "%";
    for (const char c : agent) {
        if (kEscaped.find(c) == std::string_view::npos) {
            name += c;
        } else {
            char code[4];
            std::snprintf(code, sizeof code, "%%%02X", static_cast<unsigned char>(c));
            name += code;
        }
    }
    if (name.size() <= NAME_MAX) return name;
    uint64_t checksum = 0xcbf29ce484222325; // FNV-1a: names are the owner's own, nobody attacks them
    for (const char c : agent) checksum = (checksum ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    char ending[20];
    const int length = std::snprintf(ending, sizeof ending, "%%~%016llx", static_cast<unsigned long long>(checksum));
    name.resize(NAME_MAX - static_cast<size_t>(length));
    return name + ending;
}

Result<RingFile>
RingFile::open(const std::string &directory, const std::string &agent, uint64_t capacity) {
    if (capacity < 2 || (capacity & (capacity - 1)) != 0) {
        return {NIXL_ERR_INVALID_PARAM,
                std::string(TELEMETRY_BUFFER_SIZE_VAR) + " is " + std::to_string(capacity) +
                    "; for a ring file it must be a power of two of at least 2"};
    }
    auto folder = openDirectory(directory);
    if (!folder.ok()) return std::move(folder).status();
    const std::string name = ringFileName(agent);
    const std::string path = directory + "/" + name;

    // O_NONBLOCK: a FIFO or device must not hold us up before it is refused.
    constexpr int kFlags = O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    Fd file(::openat(folder->get(), name.c_str(), kFlags));
    if (!file && errno == ELOOP) return unusable(path, "it is a symbolic link");
    if (!file && errno != ENOENT) return unusable(path, withErrno("open", errno));
    if (file) {
        if (auto status = checkFile(file.get(), path); !status.ok()) return status;
        if (auto status = lock(file.get(), path); !status.ok()) return status;
        const auto header = readHeader(file.get());
        const uint64_t size = sizeOf(file.get());
        const auto problem = nixlx::telemetryRingProblem(header, size);
        if (problem.empty() && header.capacity == capacity) {
            if (::fchmod(file.get(), 0600) != 0) return unusable(path, withErrno("chmod 0600", errno));
            return RingFile(std::move(file), path, header);
        }
        if (!wasRing(header, size)) return unusable(path, "it is no ring file (" + problem + "); move it away");
        if (::unlinkat(folder->get(), name.c_str(), 0) != 0) return unusable(path, withErrno("unlink", errno));
    }

    file = Fd(::openat(folder->get(), name.c_str(), kFlags | O_CREAT | O_EXCL, 0600));
    if (!file) return unusable(path, withErrno("creating it", errno));
    if (auto status = lock(file.get(), path); !status.ok()) return status;
    if (auto status = format(file.get(), path, capacity); !status.ok()) {
        ::unlinkat(folder->get(), name.c_str(), 0);
        return status;
    }
    return RingFile(std::move(file), path, readHeader(file.get()));
}

RingFile::RingFile(Fd fd, std::string path, const TelemetryRingHeader &header)
    : fd_(std::move(fd)),
      path_(std::move(path)),
      mask_(header.mask),
      write_pos_(header.write_pos) {
    pending_.reserve(header.mask);
}

RingFile::~RingFile() {
    // Closing would not do while a forked child has the descriptor too.
    if (fd_) ::flock(fd_.get(), LOCK_UN);
}

Status
RingFile::begin(bool &restarted) {
    pending_.clear();
    auto header = readHeader(fd_.get());
    // The slots that the reader gave back are written after its position was read.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    restarted = !nixlx::telemetryRingProblem(header, sizeOf(fd_.get())).empty() || header.mask != mask_ ||
        header.write_pos != write_pos_;
    if (restarted) {
        room_ = 0;
        if (::ftruncate(fd_.get(), 0) != 0) return unusable(path_, withErrno("ftruncate", errno));
        if (auto status = format(fd_.get(), path_, mask_ + 1); !status.ok()) return status;
        write_pos_ = header.read_pos = 0;
    }
    room_ = (header.read_pos - write_pos_ - 1) & mask_;
    return {};
}

bool
RingFile::put(const nixlTelemetryEvent &event) {
    if (pending_.size() >= room_) return false;
    pending_.push_back({event.eventType_, 0, event.value_});
    return true;
}

Status
RingFile::end() {
    if (pending_.empty()) return {};
    static_assert(sizeof(Slot) == sizeof(nixlTelemetryEvent));
    const size_t to_end = std::min<size_t>(pending_.size(), mask_ + 1 - write_pos_);
    const size_t from_start = pending_.size() - to_end;
    auto status = writeAt(fd_.get(), path_, pending_.data(), to_end * sizeof(Slot), telemetryRingOffset(write_pos_));
    if (status.ok()) {
        status = writeAt(fd_.get(), path_, pending_.data() + to_end, from_start * sizeof(Slot), telemetryRingOffset(0));
    }
    if (!status.ok()) return status;
    const uint64_t write_pos = (write_pos_ + pending_.size()) & mask_;
    // A reader that sees the position sees the events. The fence orders the kernel's copies too: they are this
    // thread's. Eight aligned bytes are copied at once.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    status = writeAt(fd_.get(), path_, &write_pos, sizeof write_pos, offsetof(TelemetryRingHeader, write_pos));
    if (status.ok()) write_pos_ = write_pos;
    return status;
}

} // namespace nx::telemetry
