// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The double of libcuda.so.1 (double.h). Functions are found by their names, as in the real one.
#include <atomic>
#include <cstdlib>
#include <map>
#include <vector>

#include "base/mutex.h"
#include "gds/double.h"

#define NX_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int kInvalidValue = 1, kNotInitialized = 3, kNoDevice = 100, kInvalidDevice = 101, kInvalidContext = 201;

struct Range {
    uint64_t end;
    int device;
};

nx::Mutex mutex;
std::map<uint64_t, Range> ranges NX_GUARDED_BY(mutex);
int retained[nx::gds::test::kGpuCount] NX_GUARDED_BY(mutex);
char contexts[nx::gds::test::kGpuCount]; // each of which stands for one
bool started = false;
std::atomic<int> init_error{0};
std::atomic<bool> empty{false};
thread_local std::vector<void *> current;

int
deviceOf(const void *context) {
    for (int device = 0; device < nx::gds::test::kGpuCount; ++device) {
        if (context == &contexts[device]) return device;
    }
    return -1;
}

} // namespace

NX_EXPORT int
cuInit(unsigned) {
    started = true;
    return init_error;
}

NX_EXPORT int
cuGetErrorName(int error, const char **name) {
    *name = error == kNoDevice ? "CUDA_ERROR_NO_DEVICE" : error == kInvalidValue ? "CUDA_ERROR_INVALID_VALUE" : nullptr;
    return *name ? 0 : kInvalidValue;
}

NX_EXPORT int
cuDeviceGetCount(int *count) {
    *count = empty ? 0 : nx::gds::test::kGpuCount;
    return started ? 0 : kNotInitialized;
}

NX_EXPORT int
cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return ordinal >= 0 && ordinal < nx::gds::test::kGpuCount ? 0 : kInvalidDevice;
}

NX_EXPORT int
cuDevicePrimaryCtxRetain(void **context, int device) {
    const nx::MutexLock lock(mutex);
    ++retained[device];
    *context = &contexts[device];
    return 0;
}

NX_EXPORT int
cuDevicePrimaryCtxRelease_v2(int device) {
    const nx::MutexLock lock(mutex);
    return --retained[device] < 0 ? kInvalidContext : 0;
}

NX_EXPORT int
cuCtxSetCurrent(void *context) {
    if (!current.empty()) current.pop_back();
    if (context) current.push_back(context);
    return 0;
}

NX_EXPORT int
cuCtxPushCurrent_v2(void *context) {
    current.push_back(context);
    return 0;
}

NX_EXPORT int
cuCtxPopCurrent_v2(void **context) {
    if (current.empty()) return kInvalidContext;
    *context = current.back();
    current.pop_back();
    return 0;
}

NX_EXPORT int
cuMemAlloc_v2(uint64_t *address, size_t size) {
    const int device = current.empty() ? -1 : deviceOf(current.back());
    if (device < 0) return kInvalidContext;
    *address = reinterpret_cast<uint64_t>(std::malloc(size));
    const nx::MutexLock lock(mutex);
    ranges[*address] = {*address + size, device};
    return 0;
}

NX_EXPORT int
cuMemFree_v2(uint64_t address) {
    const nx::MutexLock lock(mutex);
    if (ranges.erase(address) == 0) return kInvalidValue;
    std::free(reinterpret_cast<void *>(address));
    return 0;
}

NX_EXPORT int
cuPointerGetAttribute(void *data, int attribute, uint64_t address) {
    const nx::MutexLock lock(mutex);
    auto range = ranges.upper_bound(address);
    if (range == ranges.begin() || address >= (--range)->second.end) return kInvalidValue;
    if (attribute == 2) *static_cast<unsigned *>(data) = 2; // its type: of a device
    if (attribute == 9) *static_cast<int *>(data) = range->second.device;
    return 0;
}

/// What cuInit answers, and whether there is a GPU, from now on.
NX_EXPORT void
nxTestSetCuda(int error, bool no_gpu) {
    init_error = error;
    empty = no_gpu;
}

/// The GPU of the calling thread's context; -1: it has none.
NX_EXPORT int
nxTestCurrentGpu() {
    return current.empty() ? -1 : deviceOf(current.back());
}

NX_EXPORT int
nxTestRetained() {
    const nx::MutexLock lock(mutex);
    int sum = 0;
    for (int count : retained) sum += count;
    return sum;
}
