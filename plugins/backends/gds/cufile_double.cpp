// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The double of libcufile.so.0 (double.h). Functions are found by their names, as in the real one.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

#include "base/mutex.h"
#include "gds/abi.h"
#include "gds/double.h"

#define NX_EXPORT extern "C" __attribute__((visibility("default")))

extern "C" int
cuPointerGetAttribute(void *data, int attribute, uint64_t address);
extern "C" int
nxTestCurrentGpu();
extern "C" int
nxTestRetained();

namespace {

using nx::gds::abi::BatchEntry;
using nx::gds::abi::BatchEvent;
using nx::gds::abi::FileDescription;
using nx::gds::abi::FileError;
using nx::gds::test::Counts;
using nx::gds::test::Faults;

constexpr int kContextMismatch = 5015, kInvalidValue = 5022, kBufferRegistered = 5023, kFileRegistered = 5028,
              kBatchFull = 5037, kNotOpen = 5001;

struct File {
    int fd;
    ino_t inode;
};

struct Batch {
    unsigned entry_count_max;
    std::vector<BatchEvent> events;
};

nx::Mutex mutex;
nx::CondVar changed;
Faults faults NX_GUARDED_BY(mutex);
Counts counts NX_GUARDED_BY(mutex);
std::mt19937_64 random_bits NX_GUARDED_BY(mutex);
std::map<const char *, size_t> buffers NX_GUARDED_BY(mutex);
std::set<ino_t> files NX_GUARDED_BY(mutex); // each once

bool
chance(unsigned percent) NX_REQUIRES(mutex) {
    return random_bits() % 100 < percent;
}

void
violation(const std::string &what) NX_REQUIRES(mutex) {
    if (!counts.violation[0]) std::snprintf(counts.violation, sizeof counts.violation, "%s", what.c_str());
}

FileError
answer(int error) {
    return {error, 0};
}

/// Memory of a GPU needs its context.
bool
contextFits(const void *memory) {
    int device = -1;
    if (cuPointerGetAttribute(&device, 9, reinterpret_cast<uint64_t>(memory)) != 0) return true;
    return device == nxTestCurrentGpu();
}

ino_t
inodeOf(int fd) {
    struct stat info{};
    return ::fstat(fd, &info) == 0 ? info.st_ino : 0;
}

/// As cuFileRead and cuFileWrite, errno and all.
ssize_t
move(bool writes, File *file, char *memory, size_t size, off_t offset) {
    {
        const nx::MutexLock lock(mutex);
        ++counts.waiting;
        while (faults.held) changed.wait(mutex);
        --counts.waiting;
        counts.piece_max = std::max(counts.piece_max, size);
        if (!contextFits(memory)) {
            violation("memory of a GPU that is not the current context's");
            return -kContextMismatch;
        }
        if (inodeOf(file->fd) != file->inode) violation("the descriptor of a registered file was closed");
        if (faults.only_inode == 0 || faults.only_inode == file->inode) {
            if (chance(faults.error_percent)) {
                ++counts.failed;
                errno = faults.io_error;
                return faults.io_error < 5000 ? -1 : -faults.io_error;
            }
            if (size > 1 && chance(faults.short_percent)) size = 1 + random_bits() % (size - 1);
        }
    }
    return writes ? ::pwrite(file->fd, memory, size, offset) : ::pread(file->fd, memory, size, offset);
}

BatchEvent
perform(const BatchEntry &entry) {
    auto *const file = static_cast<File *>(entry.file);
    {
        const nx::MutexLock lock(mutex);
        if ((faults.only_inode == 0 || faults.only_inode == file->inode) && chance(faults.event_percent)) {
            ++counts.failed;
            return {entry.cookie, faults.event_status, static_cast<size_t>(-5044)};
        }
    }
    const ssize_t result =
        move(entry.operation == 1, file, static_cast<char *>(entry.memory), entry.size, entry.file_offset);
    if (result >= 0) return {entry.cookie, nx::gds::abi::kComplete, static_cast<size_t>(result)};
    return {entry.cookie, nx::gds::abi::kFailed, static_cast<size_t>(result == -1 ? -errno : result)};
}

} // namespace

NX_EXPORT void
nxTestSetFaults(const Faults &wanted) {
    {
        const nx::MutexLock lock(mutex);
        faults = wanted;
        random_bits.seed(wanted.seed);
    }
    changed.notifyAll();
}

NX_EXPORT Counts
nxTestCounts() {
    const nx::MutexLock lock(mutex);
    counts.files = static_cast<int>(files.size());
    counts.buffers = static_cast<int>(buffers.size());
    counts.contexts = nxTestRetained();
    return counts;
}

NX_EXPORT FileError
cuFileDriverOpen() {
    const nx::MutexLock lock(mutex);
    if (!faults.open_error) ++counts.drivers_open;
    return answer(faults.open_error);
}

NX_EXPORT FileError
cuFileDriverClose_v2() {
    const nx::MutexLock lock(mutex);
    if (counts.drivers_open == 1 && (!files.empty() || !buffers.empty() || counts.batches > 0)) {
        violation("closed with files, memory or batches");
    }
    --counts.drivers_open;
    return answer(0);
}

NX_EXPORT FileError
cuFileGetVersion(int *version) {
    *version = 1140;
    return answer(0);
}

NX_EXPORT FileError
cuFileHandleRegister(void **handle, FileDescription *description) {
    const nx::MutexLock lock(mutex);
    if (counts.drivers_open == 0) return answer(kNotOpen);
    if (faults.file_error) return answer(faults.file_error);
    const ino_t inode = inodeOf(description->fd);
    if (description->type != 1 || inode == 0) return answer(kInvalidValue);
    if (!files.insert(inode).second) return answer(kFileRegistered);
    *handle = new File{description->fd, inode};
    return answer(0);
}

NX_EXPORT void
cuFileHandleDeregister(void *handle) {
    const std::unique_ptr<File> file(static_cast<File *>(handle));
    const nx::MutexLock lock(mutex);
    if (inodeOf(file->fd) != file->inode) violation("a descriptor was closed before its file was deregistered");
    files.erase(file->inode);
}

NX_EXPORT FileError
cuFileBufRegister(const void *memory, size_t size, int) {
    const nx::MutexLock lock(mutex);
    if (faults.buffer_error) return answer(faults.buffer_error);
    if (!contextFits(memory)) return answer(kContextMismatch);
    const auto *const begin = static_cast<const char *>(memory);
    for (const auto &[other, length] : buffers) {
        if (begin < other + length && other < begin + size) return answer(kBufferRegistered);
    }
    buffers[begin] = size;
    return answer(0);
}

NX_EXPORT FileError
cuFileBufDeregister(const void *memory) {
    const nx::MutexLock lock(mutex);
    if (!contextFits(memory)) violation("memory deregistered without its context");
    if (buffers.erase(static_cast<const char *>(memory)) == 0) violation("memory deregistered twice");
    return answer(0);
}

NX_EXPORT ssize_t
cuFileRead(void *handle, void *memory, size_t size, off_t file_offset, off_t memory_offset) {
    return move(false, static_cast<File *>(handle), static_cast<char *>(memory) + memory_offset, size, file_offset);
}

NX_EXPORT ssize_t
cuFileWrite(void *handle, const void *memory, size_t size, off_t file_offset, off_t memory_offset) {
    auto *const bytes = static_cast<char *>(const_cast<void *>(memory)); // they are only read
    return move(true, static_cast<File *>(handle), bytes + memory_offset, size, file_offset);
}

NX_EXPORT FileError
cuFileBatchIOSetUp(void **batch, unsigned entry_count_max) {
    const nx::MutexLock lock(mutex);
    if (faults.setup_error) return answer(faults.setup_error);
    *batch = new Batch{entry_count_max, {}};
    ++counts.batches;
    return answer(0);
}

NX_EXPORT FileError
cuFileBatchIOSubmit(void *handle, unsigned count, BatchEntry *entries, unsigned) {
    auto &batch = *static_cast<Batch *>(handle);
    int error = 0;
    {
        const nx::MutexLock lock(mutex);
        if (!batch.events.empty()) violation("a batch was submitted before it had ended");
        if (count > batch.entry_count_max) return answer(kBatchFull);
        ++counts.submissions;
        counts.entries_max = std::max(counts.entries_max, count);
        error = faults.submit_error;
    }
    for (unsigned i = 0; i < (error ? count / 2 : count); ++i) batch.events.push_back(perform(entries[i]));
    const nx::MutexLock lock(mutex);
    std::shuffle(batch.events.begin(), batch.events.end(), random_bits);
    return answer(error);
}

NX_EXPORT FileError
cuFileBatchIOGetStatus(void *handle, unsigned, unsigned *count, BatchEvent *events, timespec *) {
    auto &batch = *static_cast<Batch *>(handle);
    const nx::MutexLock lock(mutex);
    if (faults.status_error) return answer(faults.status_error);
    if (faults.few_events && !batch.events.empty() && *count > 0) {
        *count = 1;
        events[0] = batch.events.back();
        if (chance(50)) {
            events[0].status = nx::gds::abi::kPending;
        } else {
            batch.events.pop_back();
        }
        return answer(0);
    }
    *count = std::min<unsigned>(*count, static_cast<unsigned>(batch.events.size()));
    std::copy_n(batch.events.end() - *count, *count, events);
    batch.events.resize(batch.events.size() - *count);
    return answer(0);
}

NX_EXPORT FileError
cuFileBatchIOCancel(void *handle) {
    static_cast<Batch *>(handle)->events.clear();
    return answer(0);
}

NX_EXPORT void
cuFileBatchIODestroy(void *handle) {
    const std::unique_ptr<Batch> batch(static_cast<Batch *>(handle));
    const nx::MutexLock lock(mutex);
    if (!batch->events.empty()) violation("a batch was destroyed before it had ended");
    --counts.batches;
}
