// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// How the suites of tests/contract come by files for the FILE backend. FILE needs no more to be tested.
#include <atomic>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <unistd.h>

#include "contract/contract.h"

namespace nx::test {
namespace {

std::string
newPath() {
    static std::atomic<unsigned> number{0};
    const std::string name = "nixl-file-" + std::to_string(::getpid()) + "-" + std::to_string(number++);
    return (std::filesystem::temp_directory_path() / name).string();
}

/// By its path. The device id tells stores apart.
Store
byPath(const std::string &path) {
    static std::atomic<uint64_t> number{1000};
    return {nixlBlobDesc(0, 0, number++, path)};
}

Store
readOnly(const std::string &contents) {
    const std::string path = newPath();
    std::ofstream(path) << contents;
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC); // root may write any file, but not through this
    ::unlink(path.c_str());
    if (fd < 0) throw std::runtime_error("no file at " + path);
    return {nixlBlobDesc(0, 0, static_cast<uint64_t>(fd), "")};
}

void
destroy(const Store &store) {
    const auto &[range, name] = store;
    if (range.metaInfo.empty()) ::close(static_cast<int>(range.devId));
    else if (range.metaInfo != "/dev/full") ::unlink(range.metaInfo.c_str());
}

} // namespace

BackendUnderTest
backendUnderTest() {
    return {.stores = {{.name = "File",
                        .memory = FILE_SEG,
                        .make = [](size_t) { return byPath(newPath()); },
                        .destroy = destroy,
                        .missing = [] { return byPath(newPath()); },
                        .make_read_only = readOnly,
                        .make_full = [] { return byPath("/dev/full"); }}}};
}

} // namespace nx::test
