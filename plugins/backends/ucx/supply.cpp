// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/supply.h"

#include <cerrno>
#include <fcntl.h>
#include <string>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <system_error>
#include <vector>

#include "base/fd.h"
#include "base/thread.h"

namespace nx::ucx {

namespace {

Status
tryDescriptors(size_t count) {
    std::vector<Fd> taken;
    taken.reserve(count);
    taken.emplace_back(::eventfd(0, EFD_CLOEXEC));
    while (taken.back() && taken.size() < count) taken.emplace_back(::fcntl(taken[0].get(), F_DUPFD_CLOEXEC, 0));
    if (taken.back()) return {};
    const int error = errno;
    return {NIXL_ERR_NO_MEMORY,
            withErrno("UCX needs up to " + std::to_string(count) + " file descriptors now, and there are " +
                          std::to_string(taken.size() - 1) + " (see ulimit -n)",
                      error)};
}

Status
tryAddressSpace(size_t bytes) {
    void *const taken = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (taken == MAP_FAILED) {
        return {
            NIXL_ERR_NO_MEMORY,
            withErrno("UCX needs up to " + std::to_string(bytes >> 20) + " MiB of address space now (see ulimit -v)",
                      errno)};
    }
    ::munmap(taken, bytes);
    return {};
}

Status
tryThread() {
    try {
        Thread("nixl-ucx-try", [] {});
        return {};
    }
    catch (const std::system_error &error) {
        return {NIXL_ERR_NO_MEMORY, std::string("UCX needs a thread: ") + error.what()};
    }
}

} // namespace

Status
trySupply(const Supply &needed) {
    Status status = needed.descriptors > 0 ? tryDescriptors(needed.descriptors) : Status();
    if (status.ok() && needed.address_space > 0) status = tryAddressSpace(needed.address_space);
    if (status.ok() && needed.thread) status = tryThread();
    return status;
}

} // namespace nx::ucx
