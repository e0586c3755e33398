// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "posix/memory.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <linux/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"

namespace nx::posix {

namespace {
/// Of the page cache: a page is never half direct, half not. No device has larger blocks in practice.
constexpr uint64_t kPage = 4096;
} // namespace

Result<Alignment>
alignmentOf(kit::File &file) {
    const Result<int> fd = file.use();
    if (!fd.ok()) return {fd.code(), fd.message()};
    Alignment alignment;
    if (file.direct()) {
        alignment = {kPage, kPage, kPage};
        struct statx info{};
        // The C library's headers are older than the question.
        const bool known =
            ::syscall(SYS_statx, *fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 && info.stx_mask & STATX_DIOALIGN;
        if (known && info.stx_dio_offset_align > 0) {
            alignment.page = std::max<uint64_t>(kPage, info.stx_dio_offset_align);
            alignment.block = info.stx_dio_offset_align;
            alignment.memory = std::max<uint64_t>(1, info.stx_dio_mem_align);
        }
    }
    file.done();
    return alignment;
}

Status
syncFolderOf(kit::File &file) {
    const Result<int> fd = file.use();
    if (!fd.ok()) return {fd.code(), fd.message()};
    std::error_code error;
    const auto path = std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(*fd), error);
    file.done();
    const std::string folder = path.parent_path().string();
    const Fd opened(error ? -1 : ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (opened && ::fsync(opened.get()) == 0) return {};
    return {NIXL_ERR_BACKEND, withErrno("the folder of " + file.name() + " could not be made durable", errno)};
}

} // namespace nx::posix
