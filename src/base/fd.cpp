// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "base/fd.h"

#include <cerrno>
#include <cstdint>
#include <sys/eventfd.h>
#include <unistd.h>

namespace nx {

Fd &
Fd::operator=(Fd &&other) noexcept {
    if (this != &other) {
        reset();
        fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
}

Fd::~Fd() {
    reset();
}

void
Fd::reset() noexcept {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
}

Result<WakeFd>
WakeFd::create() {
    const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) return {NIXL_ERR_BACKEND, withErrno("eventfd", errno)};
    return WakeFd(Fd(fd));
}

void
WakeFd::wake() const noexcept {
    const uint64_t one = 1;
    // A full counter (EAGAIN) is readable already.
    [[maybe_unused]] const auto written = ::write(fd_.get(), &one, sizeof one);
}

void
WakeFd::drain() const noexcept {
    uint64_t count;
    [[maybe_unused]] const auto taken = ::read(fd_.get(), &count, sizeof count);
}

} // namespace nx
