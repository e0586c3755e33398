// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "hf3fs/driver.h"

#include <cerrno>
#include <sys/stat.h>
#include <unistd.h>

#include "kit/files/file_plan.h"
#include "kit/vendor_library.h"
#include "nixlx/engine.h"

namespace nx::hf3fs {

namespace {

constexpr const char *kInstead = "; without it, POSIX serves files";
constexpr const char *kLibrary = "libhf3fs_api_shared.so";
constexpr int kErrnoMax = 4095;

/// HF3FS_LIB_DIR is what 3FS's own programs look at.
std::string
namedLibrary() {
    std::string named = nixlx::configValue("NIXL_HF3FS_LIBRARY").value_or("");
    if (!named.empty()) return named;
    const auto folder = nixlx::configValue("HF3FS_LIB_DIR");
    if (!folder) return {};
    const std::string path = *folder + "/" + kLibrary;
    return ::access(path.c_str(), R_OK) == 0 ? path : "";
}

} // namespace

nixl_status_t
statusOf(int code) noexcept {
    switch (code) {
    case EINVAL: return NIXL_ERR_INVALID_PARAM;
    case EBADF:
    case ENOENT: return NIXL_ERR_NOT_FOUND;
    case EACCES:
    case EPERM:
    case EROFS: return NIXL_ERR_NOT_ALLOWED;
    default: return kit::statusOfIo(code);
    }
}

std::string
textOf(int code) {
    return code > kErrnoMax ? "3FS says " + std::to_string(code) : withErrno("the system says", code);
}

Result<std::unique_ptr<Driver>>
Driver::open(const std::string &path) {
    std::unique_ptr<Driver> driver(new Driver);
    if (Status status = driver->load(); !status.ok()) return status;
    if (Status status = driver->findMount(path); !status.ok()) return status;
    return driver;
}

Status
Driver::load() {
    auto library = kit::VendorLibrary::load(
        {.name = "3FS",
         .soname = kLibrary,
         .path = namedLibrary(),
         .wheel_folders = {"hf3fs_py_usrbio"},
         .advice = std::string("it comes with 3FS; name the file with NIXL_HF3FS_LIBRARY") + kInstead});
    if (!library.ok()) return std::move(library).status();
    using kit::vendorSymbol;
    return library->resolve(
        {vendorSymbol("hf3fs_is_hf3fs", api_.hf3fs_is_hf3fs),
         vendorSymbol("hf3fs_extract_mount_point", api_.hf3fs_extract_mount_point),
         vendorSymbol("hf3fs_iovcreate", api_.hf3fs_iovcreate), vendorSymbol("hf3fs_iovdestroy", api_.hf3fs_iovdestroy),
         vendorSymbol("hf3fs_iovwrap", api_.hf3fs_iovwrap), vendorSymbol("hf3fs_iorcreate", api_.hf3fs_iorcreate),
         vendorSymbol("hf3fs_iordestroy", api_.hf3fs_iordestroy), vendorSymbol("hf3fs_reg_fd", api_.hf3fs_reg_fd),
         vendorSymbol("hf3fs_dereg_fd", api_.hf3fs_dereg_fd), vendorSymbol("hf3fs_prep_io", api_.hf3fs_prep_io),
         vendorSymbol("hf3fs_submit_ios", api_.hf3fs_submit_ios),
         vendorSymbol("hf3fs_wait_for_ios", api_.hf3fs_wait_for_ios)},
        "the library of a 3FS with USRBIO");
}

Status
Driver::findMount(const std::string &path) {
    struct stat info;
    if (::stat(path.c_str(), &info) != 0) { // the library does not survive a path that is not there
        return {NIXL_ERR_BACKEND, withErrno("the mount of 3FS, " + quoted(path) + " (mount_point)", errno) + kInstead};
    }
    char mount_point[sizeof(abi::Iov::mount_point)] = {};
    if (api_.hf3fs_extract_mount_point(mount_point, sizeof mount_point - 1, path.c_str()) <= 0) {
        return {NIXL_ERR_BACKEND, quoted(path) + " (mount_point) is not in a mount of 3FS" + kInstead};
    }
    mount_point_ = mount_point;
    return {};
}

// ---- Rooms and rings -----------------------------------------------------------------------------------------------

int
Room::create(const Driver &driver, size_t size, std::unique_ptr<Room> &out) {
    std::unique_ptr<Room> room(new Room(driver));
    const int result = driver.api().hf3fs_iovcreate(&room->iov_, driver.mountPoint().c_str(), size, 0, -1);
    if (result < 0) {
        room->iov_.base = nullptr;
        return -result;
    }
    out = std::move(room);
    return 0;
}

Room::~Room() {
    if (iov_.base) driver_.api().hf3fs_iovdestroy(&iov_);
}

int
Ring::create(const Driver &driver, bool for_read, int entry_count, std::unique_ptr<Ring> &out) {
    std::unique_ptr<Ring> ring(new Ring(driver));
    const int result =
        driver.api().hf3fs_iorcreate(&ring->ior_, driver.mountPoint().c_str(), entry_count, for_read, 0, -1);
    if (result < 0) {
        ring->ior_.handle = nullptr;
        return -result;
    }
    out = std::move(ring);
    return 0;
}

Ring::~Ring() {
    if (ior_.handle) driver_.api().hf3fs_iordestroy(&ior_);
}

} // namespace nx::hf3fs
