// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Memory in which whoever touches its first page waits, the kernel too, until the test lets it go on: an I/O that is
// under way for as long as a test needs it. Owned by the test's thread.
#pragma once

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <string>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

#include "support/buffer.h"
#include "support/eventually.h"

namespace nx::test {

class HeldMemory {
public:
    /// In which nobody waits yet.
    explicit HeldMemory(size_t size) : buffer(size) {}
    ~HeldMemory() {
        letGo();
        if (watchdog_.joinable()) watchdog_.join();
        if (fd_ >= 0) ::close(fd_);
    }
    HeldMemory(const HeldMemory &) = delete;
    HeldMemory &
    operator=(const HeldMemory &) = delete;

    /// From now on its first page is not there, and touching it waits. Why not, if the system does not allow that.
    std::string
    hold() {
        fd_ = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
        uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
        uffdio_register range{.range = page(), .mode = UFFDIO_REGISTER_MODE_MISSING, .ioctls = 0};
        if (fd_ < 0 || ::ioctl(fd_, UFFDIO_API, &api) != 0 || ::madvise(buffer.data(), kPage, MADV_DONTNEED) != 0 ||
            ::ioctl(fd_, UFFDIO_REGISTER, &range) != 0) {
            return std::string("userfaultfd: ") + std::strerror(errno);
        }
        holding_ = true;
        // A call that waits for the page itself must end, so that the test can fail.
        watchdog_ = std::thread([this] {
            timed_out_ = !eventually([this] { return !holding_; }, std::chrono::seconds(20));
            if (timed_out_) letGo();
        });
        return "";
    }

    /// Somebody waits in there.
    bool
    touched() const {
        pollfd readable{fd_, POLLIN, 0};
        return ::poll(&readable, 1, 0) > 0;
    }

    void
    letGo() {
        if (!holding_.exchange(false)) return;
        uffdio_range range = page();
        ::ioctl(fd_, UFFDIO_UNREGISTER, &range); // wakes them
    }

    /// It was let go because a call of the test did not return.
    bool
    timedOut() const {
        return timed_out_;
    }

    const Buffer buffer;

private:
    static constexpr size_t kPage = 4096;

    uffdio_range
    page() const {
        return {buffer.address(), kPage};
    }

    int fd_ = -1;
    std::atomic<bool> holding_{false}, timed_out_{false};
    std::thread watchdog_;
};

} // namespace nx::test
