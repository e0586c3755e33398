// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// How the suites of tests/contract come by files, for backends that take them as kit/files/files.h does: by a path and
// by a descriptor. Owned by the suite.
#pragma once

#include <atomic>
#include <fcntl.h>
#include <fstream>
#include <stdexcept>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

#include "contract/contract.h"
#include "support/temp_dir.h"

namespace nx::test {

inline std::string
newPath() {
    static const TempDir folder;
    static std::atomic<uint64_t> number{0};
    return folder / std::to_string(++number);
}

inline int
opened(const std::string &path, int flags) {
    const int fd = ::open(path.c_str(), flags | O_CLOEXEC, 0644);
    if (fd < 0) throw std::runtime_error("cannot open " + path);
    return fd;
}

/// A file that can have no byte.
inline int
newFullFile() {
    const int fd = ::memfd_create("full", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ::fcntl(fd, F_ADD_SEALS, F_SEAL_GROW) != 0) throw std::runtime_error("cannot make a sealed file");
    return fd;
}

inline std::string
newReadOnly(const std::string &contents) {
    const std::string path = newPath();
    std::ofstream(path, std::ios::binary) << contents;
    return path;
}

// ---- By path, with a device id of our choice

inline Store
byPath(const std::string &words, const std::string &path) {
    static std::atomic<uint64_t> device{1000};
    return {nixlBlobDesc(0, 0, ++device, words + ":" + path), path};
}

/// `words`: of the registration, behind "rw" or "ro": ",direct".
inline StoreKind
pathKind(const char *name, nixl_mem_t memory, const std::string &words) {
    return {.name = name,
            .memory = memory,
            .make =
                [=](size_t size) {
                    const std::string path = newPath();
                    ::close(opened(path, O_RDWR | O_CREAT));
                    // A device has its size from the beginning.
                    if (memory == BLK_SEG && ::truncate(path.c_str(), static_cast<off_t>(size)) != 0) {
                        throw std::runtime_error("cannot make " + path);
                    }
                    return byPath("rw" + words, path);
                },
            .destroy = [](const Store &store) { ::unlink(store.query_name.c_str()); },
            .has_no_end = memory == BLK_SEG,
            .missing = [=] { return byPath("rw" + words, newPath()); },
            .make_read_only = [=](const std::string &contents) { return byPath("ro" + words, newReadOnly(contents)); },
            .make_full =
                [=] {
                    static std::vector<int> full; // open as long as the program
                    full.push_back(newFullFile());
                    return byPath("rw" + words, "/proc/self/fd/" + std::to_string(full.back()));
                }};
}

// ---- By a descriptor of the program's

inline Store
byDescriptor(int fd, const std::string &path = {}) {
    return {nixlBlobDesc(0, 0, static_cast<uint64_t>(fd), ""), path};
}

inline StoreKind
descriptorKind() {
    return {.name = "Descriptor",
            .memory = FILE_SEG,
            .make =
                [](size_t) {
                    const std::string path = newPath();
                    return byDescriptor(opened(path, O_RDWR | O_CREAT), path);
                },
            .destroy =
                [](const Store &store) {
                    ::close(static_cast<int>(store.registration.devId));
                    if (!store.query_name.empty()) ::unlink(store.query_name.c_str());
                },
            .missing = [] { return byDescriptor(1 << 29, newPath()); },
            .make_read_only =
                [](const std::string &contents) {
                    const std::string path = newReadOnly(contents);
                    return byDescriptor(opened(path, O_RDONLY), path);
                },
            .make_full = [] { return byDescriptor(newFullFile()); }};
}

} // namespace nx::test
