// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "gds/driver.h"

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <unistd.h>

#include "kit/files/file_plan.h"
#include "nixlx/engine.h"

namespace nx::gds {

namespace {

constexpr const char *kInstead = "; without it, POSIX serves files";
constexpr int kFirstCode = 5000;

const char *
nameOf(int code) noexcept {
    static constexpr const char *kNames[] = {
        nullptr,
        "DRIVER_NOT_INITIALIZED",
        "INVALID_PROPS",
        "UNSUPPORTED_LIMIT",
        "VERSION_MISMATCH",
        "VERSION_READ_ERROR",
        "DRIVER_CLOSING",
        "PLATFORM_NOT_SUPPORTED",
        "IO_NOT_SUPPORTED",
        "DEVICE_NOT_SUPPORTED",
        "NVFS_DRIVER_ERROR",
        "CUDA_DRIVER_ERROR",
        "CUDA_POINTER_INVALID",
        "CUDA_MEMORY_TYPE_INVALID",
        "CUDA_POINTER_RANGE_ERROR",
        "CUDA_CONTEXT_MISMATCH",
        "INVALID_MAPPING_SIZE",
        "INVALID_MAPPING_RANGE",
        "INVALID_FILE_TYPE",
        "INVALID_FILE_OPEN_FLAG",
        "DIO_NOT_SET",
        nullptr,
        "INVALID_VALUE",
        "MEMORY_ALREADY_REGISTERED",
        "MEMORY_NOT_REGISTERED",
        "PERMISSION_DENIED",
        "DRIVER_ALREADY_OPEN",
        "HANDLE_NOT_REGISTERED",
        "HANDLE_ALREADY_REGISTERED",
        "DEVICE_NOT_FOUND",
        "INTERNAL_ERROR",
        "GETNEWFD_FAILED",
        nullptr,
        "NVFS_SETUP_ERROR",
        "IO_DISABLED",
        "BATCH_SUBMIT_FAILED",
        "GPU_MEMORY_PINNING_FAILED",
        "BATCH_FULL",
        "ASYNC_NOT_SUPPORTED",
        // From here on as of 1.20; earlier ones have fewer.
        "INTERNAL_BATCH_SETUP_ERROR",
        "INTERNAL_BATCH_SUBMIT_ERROR",
        "INTERNAL_BATCH_GETSTATUS_ERROR",
        "INTERNAL_BATCH_CANCEL_ERROR",
        "NOMEM_ERROR",
        "IO_ERROR",
        "INTERNAL_BUF_REGISTER_ERROR",
        "HASH_OPR_ERROR",
        "INVALID_CONTEXT_ERROR",
        "NVFS_INTERNAL_DRIVER_ERROR",
        "BATCH_NOCOMPAT_ERROR",
        "IO_MAX_ERROR",
    };
    const int index = code - kFirstCode;
    return index > 0 && index < static_cast<int>(std::size(kNames)) ? kNames[index] : nullptr;
}

kit::VendorSearch
cudaSearch() {
    return {.name = "the CUDA driver",
            .soname = "libcuda.so.1",
            .path = nixlx::configValue("NIXL_CUDA_LIBRARY").value_or(""),
            .advice = std::string("it comes with NVIDIA's kernel driver") + kInstead};
}

kit::VendorSearch
cufileSearch() {
    return {.name = "cuFile",
            .soname = "libcufile.so.0",
            .path = nixlx::configValue("NIXL_CUFILE_LIBRARY").value_or(""),
            // The last one is the toolkit's own, which few loaders know.
            .wheel_folders = {"nvidia/cufile/lib", "nvidia/cu13/lib", "/usr/local/cuda/lib64"},
            .advice =
                std::string("install the Python package nvidia-cufile-cu12 (for CUDA 13: nvidia-cufile) or CUDA's "
                            "toolkit, or name the file with NIXL_CUFILE_LIBRARY") +
                kInstead};
}

} // namespace

nixl_status_t
statusOf(int code) noexcept {
    if (code < kFirstCode) return kit::statusOfIo(code);
    switch (code - kFirstCode) {
    case 12:
    case 13:
    case 14:
    case 15:
    case 16:
    case 17:
    case 22:
    case 24:
    case 27: return NIXL_ERR_INVALID_PARAM;
    case 7:
    case 8:
    case 9:
    case 18:
    case 38: return NIXL_ERR_NOT_SUPPORTED;
    case 23:
    case 25:
    case 28: return NIXL_ERR_NOT_ALLOWED;
    case 43: return NIXL_ERR_NO_MEMORY;
    default: return NIXL_ERR_BACKEND;
    }
}

std::string
textOf(int code) {
    if (code < kFirstCode) return withErrno("the system says", code);
    const char *const name = nameOf(code);
    return std::string("cuFile says ") + (name ? name : "an error that this library does not know") + " (" +
        std::to_string(code) + ")";
}

Result<std::unique_ptr<Driver>>
Driver::open() {
    std::unique_ptr<Driver> driver(new Driver);
    if (Status status = driver->start(); !status.ok()) return status;
    return driver;
}

Status
Driver::start() {
    if (Status status = startCuda(); !status.ok()) return status;
    auto library = kit::VendorLibrary::load(cufileSearch());
    if (!library.ok()) return std::move(library).status();
    using kit::vendorSymbol;
    Status resolved = library->resolve(
        {vendorSymbol("cuFileDriverOpen", file_.cuFileDriverOpen),
         vendorSymbol("cuFileDriverClose_v2", file_.cuFileDriverClose_v2, false),
         vendorSymbol("cuFileDriverClose", file_.cuFileDriverClose, false),
         vendorSymbol("cuFileGetVersion", file_.cuFileGetVersion, false),
         vendorSymbol("cuFileHandleRegister", file_.cuFileHandleRegister),
         vendorSymbol("cuFileHandleDeregister", file_.cuFileHandleDeregister),
         vendorSymbol("cuFileBufRegister", file_.cuFileBufRegister),
         vendorSymbol("cuFileBufDeregister", file_.cuFileBufDeregister), vendorSymbol("cuFileRead", file_.cuFileRead),
         vendorSymbol("cuFileWrite", file_.cuFileWrite), vendorSymbol("cuFileBatchIOSetUp", file_.cuFileBatchIOSetUp),
         vendorSymbol("cuFileBatchIOSubmit", file_.cuFileBatchIOSubmit),
         vendorSymbol("cuFileBatchIOGetStatus", file_.cuFileBatchIOGetStatus),
         vendorSymbol("cuFileBatchIOCancel", file_.cuFileBatchIOCancel),
         vendorSymbol("cuFileBatchIODestroy", file_.cuFileBatchIODestroy)},
        "cuFile 1.6 or later");
    if (!resolved.ok()) return resolved;
    int version = 0;
    if (file_.cuFileGetVersion) file_.cuFileGetVersion(&version);
    name_ = "cuFile " + std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
    // cuFile reads this file without looking whether it is there, for ever. Who names the library knows better.
    if (library->origin() != kit::VendorLibrary::Origin::kNamed && ::access("/proc/modules", R_OK) != 0) {
        return {NIXL_ERR_BACKEND, withErrno("cuFile does not start without /proc/modules", errno) + kInstead};
    }
    const abi::FileError error = file_.cuFileDriverOpen();
    opened_ = error.err == 0;
    if (opened_ || error.err == abi::kDriverAlreadyOpen) return {};
    const Status refused = failure("cuFileDriverOpen of " + name_ + " at " + library->path(), error);
    return {NIXL_ERR_BACKEND,
            refused.message() +
                "; without the kernel module nvidia-fs it needs its compatibility mode (allow_compat_mode in the file "
                "that CUFILE_ENV_PATH_JSON names)" +
                kInstead};
}

Status
Driver::startCuda() {
    auto library = kit::VendorLibrary::load(cudaSearch());
    if (!library.ok()) return std::move(library).status();
    using kit::vendorSymbol;
    Status resolved = library->resolve(
        {vendorSymbol("cuInit", cuda_.cuInit), vendorSymbol("cuGetErrorName", cuda_.cuGetErrorName),
         vendorSymbol("cuDeviceGetCount", cuda_.cuDeviceGetCount), vendorSymbol("cuDeviceGet", cuda_.cuDeviceGet),
         vendorSymbol("cuDevicePrimaryCtxRetain", cuda_.cuDevicePrimaryCtxRetain),
         vendorSymbol("cuDevicePrimaryCtxRelease_v2", cuda_.cuDevicePrimaryCtxRelease_v2),
         vendorSymbol("cuCtxSetCurrent", cuda_.cuCtxSetCurrent),
         vendorSymbol("cuCtxPushCurrent_v2", cuda_.cuCtxPushCurrent_v2),
         vendorSymbol("cuCtxPopCurrent_v2", cuda_.cuCtxPopCurrent_v2),
         vendorSymbol("cuPointerGetAttribute", cuda_.cuPointerGetAttribute)},
        "the driver of CUDA 11 or later");
    if (!resolved.ok()) return resolved;
    const auto refused = [&](const std::string &why) -> Status {
        return {NIXL_ERR_BACKEND, "the CUDA driver at " + library->path() + " " + why + kInstead};
    };
    if (const int error = cuda_.cuInit(0)) return refused("does not start: " + cudaText(error));
    if (const int error = cuda_.cuDeviceGetCount(&device_count_)) return refused("fails: " + cudaText(error));
    return device_count_ > 0 ? Status() : refused("has no device");
}

Driver::~Driver() {
    if (opened_) {
        const auto close = file_.cuFileDriverClose_v2 ? file_.cuFileDriverClose_v2 : file_.cuFileDriverClose;
        if (close) close();
    }
    for (const Device &device : devices_) {
        int id = 0;
        if (cuda_.cuDeviceGet(&id, device.ordinal) == 0) cuda_.cuDevicePrimaryCtxRelease_v2(id);
    }
}

Status
Driver::failure(const std::string &what, const abi::FileError &error) const {
    std::string text = what + ": " + textOf(error.err);
    if (error.err == abi::kCudaDriverError) text += ", " + cudaText(error.cu_err);
    return {statusOf(error.err), text};
}

std::string
Driver::cudaText(int error) const {
    const char *name = nullptr;
    if (cuda_.cuGetErrorName(error, &name) != 0 || !name) name = "an error that it does not know itself";
    return std::string("CUDA says ") + name + " (" + std::to_string(error) + ")";
}

Result<abi::Context>
Driver::contextOf(int ordinal) {
    const MutexLock lock(mutex_);
    const auto known =
        std::find_if(devices_.begin(), devices_.end(), [&](const Device &device) { return device.ordinal == ordinal; });
    if (known != devices_.end()) return known->context;
    devices_.reserve(devices_.size() + 1);
    int id = 0;
    abi::Context context = nullptr;
    int error = cuda_.cuDeviceGet(&id, ordinal);
    if (!error) error = cuda_.cuDevicePrimaryCtxRetain(&context, id);
    if (error) return {NIXL_ERR_BACKEND, "GPU " + std::to_string(ordinal) + " cannot be used: " + cudaText(error)};
    devices_.push_back({ordinal, context});
    return context;
}

Result<Device>
Driver::deviceOf(uint64_t ordinal, uintptr_t address) {
    if (ordinal >= static_cast<uint64_t>(device_count_)) {
        return {NIXL_ERR_INVALID_PARAM,
                "device id " + std::to_string(ordinal) + " is no GPU; there are " + std::to_string(device_count_)};
    }
    const Device device{static_cast<int>(ordinal), nullptr};
    auto context = contextOf(device.ordinal);
    if (!context.ok()) return std::move(context).status();
    const Within within(*this, *context);
    unsigned type = 0;
    int owner = -1;
    // Memory that CUDA does not know at all is an error to the first question.
    const bool is_vram = cuda_.cuPointerGetAttribute(&type, abi::kAttributeMemoryType, address) == 0 &&
        type == abi::kMemoryOfDevice && cuda_.cuPointerGetAttribute(&owner, abi::kAttributeDevice, address) == 0;
    if (is_vram && owner == device.ordinal) return Device{device.ordinal, *context};
    return {NIXL_ERR_INVALID_PARAM,
            is_vram ? "the memory is GPU " + std::to_string(owner) + "'s, not that of GPU " + std::to_string(ordinal)
                    : "the memory is not a GPU's; register it as DRAM_SEG"};
}

} // namespace nx::gds
