// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "file/lease.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <pthread.h>
#include <fstream>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

#include "base/mutex.h"
#include "file/files.h"
#include "file/format.h"

namespace nx::file_store {

namespace {

constexpr char kNewLease[] = ".start.new";
constexpr char kClock[] = ".clock";
constexpr size_t kLeaseBytesMax = 256;
constexpr int kAbandonedAfter = 10; // limits: a host that was only slow must not find its entry gone

// A lock belongs to the open file, which parent and child have in common: the child has to close it.
Mutex held_mutex;
std::vector<int> held NX_GUARDED_BY(held_mutex);

void
beforeFork() NX_ACQUIRE(held_mutex) {
    held_mutex.lock();
}

void
afterForkInParent() NX_RELEASE(held_mutex) {
    held_mutex.unlock();
}

void
afterForkInChild() NX_RELEASE(held_mutex) {
    for (const int fd : held) ::close(fd);
    held.clear();
    held_mutex.unlock();
}

void
remember(int fd) {
    static const int registered = ::pthread_atfork(beforeFork, afterForkInParent, afterForkInChild);
    static_cast<void>(registered);
    const MutexLock lock(held_mutex);
    held.push_back(fd);
}

void
forget(int fd) noexcept {
    const MutexLock lock(held_mutex);
    held.erase(std::remove(held.begin(), held.end(), fd), held.end());
}

/// Of this host, until it is started again.
const std::string &
ownHost() {
    static const std::string host = [] {
        std::string id;
        std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), id);
        return id;
    }();
    return host;
}

std::chrono::nanoseconds
timeOf(const timespec &time) {
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

/// By the clock that gives files their times, which on another host's disk is another one.
std::chrono::nanoseconds
now(const Fd &root) {
    const Fd file(::openat(root.get(), kClock, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600));
    struct stat info;
    if (file && ::futimens(file.get(), nullptr) == 0 && ::fstat(file.get(), &info) == 0) return timeOf(info.st_mtim);
    return std::chrono::system_clock::now().time_since_epoch();
}

} // namespace

Result<Lease>
Lease::take(const Fd &folder, const std::string &start) {
    auto file = createFile(folder, kNewLease,
                           {start, "\nprocess " + std::to_string(::getpid()) + "\n", kHostWord + ownHost() + "\n"});
    if (!file.ok()) return std::move(file).status();
    if (::flock(file->get(), LOCK_EX | LOCK_NB) != 0) {
        const int why = errno;
        ::unlinkat(folder.get(), kNewLease, 0);
        return failed("lock " + quoted(kNewLease), why);
    }
    Lease lease(*std::move(file));
    if (auto status = renameFile(folder, kNewLease, kLeaseFile); !status.ok()) return status;
    return lease;
}

Lease::Lease(Fd file) : file_(std::move(file)) {
    remember(file_.get());
}

Lease &
Lease::operator=(Lease &&other) noexcept {
    release();
    file_ = std::move(other.file_);
    return *this;
}

Lease::~Lease() {
    release();
}

void
Lease::beat() const noexcept {
    (void)::futimens(file_.get(), nullptr); // others see by its age that it failed
}

void
Lease::release() noexcept {
    if (!file_) return;
    ::flock(file_.get(), LOCK_UN);
    forget(file_.get());
    file_.reset();
}

Result<LeaseState>
readLease(const Fd &root, const Fd &folder, std::chrono::milliseconds limit) {
    const auto file = openFile(folder, kLeaseFile);
    if (!file.ok()) return {file.code(), file.message()};
    const auto text = readFile(*file, kLeaseFile, kLeaseBytesMax);
    if (!text.ok()) return {text.code(), text.message()};
    const auto start = startIn(*text, kLeaseFile);
    if (!start.ok()) return {start.code(), start.message()};
    if (const auto host = hostIn(*text); !host.empty() && host != ownHost()) {
        struct stat info;
        if (::fstat(file->get(), &info) != 0) return failed("stat " + quoted(kLeaseFile), errno);
        const auto age = now(root) - timeOf(info.st_mtim);
        return LeaseState{std::string(*start), age <= limit, true, age > kAbandonedAfter * limit};
    }
    if (::flock(file->get(), LOCK_SH | LOCK_NB) == 0) {
        ::flock(file->get(), LOCK_UN);
        return LeaseState{std::string(*start), false, false, true};
    }
    if (errno == EWOULDBLOCK) return LeaseState{std::string(*start), true, false, false};
    return failed("lock " + quoted(kLeaseFile), errno);
}

} // namespace nx::file_store
