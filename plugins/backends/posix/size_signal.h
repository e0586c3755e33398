// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A write beyond the process's limit for files (RLIMIT_FSIZE) fails, and sends the thread SIGXFSZ, which ends a program
// that does not expect it: one that calls us need not. Confined to the thread that makes it.
#pragma once

#include <csignal>
#include <ctime>
#include <sys/resource.h>

namespace nx::posix {

/// The process has such a limit. A system call.
inline bool
fileSizeIsLimited() noexcept {
    rlimit limit{};
    return ::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
}

/// While it exists the thread does not get the signal, nor later one that was sent meanwhile.
class WithoutSizeSignal {
public:
    explicit WithoutSizeSignal(bool needed) noexcept : needed_(needed) {
        if (!needed_) return;
        ::sigemptyset(&signal_);
        ::sigaddset(&signal_, SIGXFSZ);
        ::pthread_sigmask(SIG_BLOCK, &signal_, &before_);
    }
    ~WithoutSizeSignal() {
        if (!needed_ || ::sigismember(&before_, SIGXFSZ)) return;
        const timespec now{};
        while (::sigtimedwait(&signal_, nullptr, &now) == SIGXFSZ) {}
        ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    }
    WithoutSizeSignal(const WithoutSizeSignal &) = delete;
    WithoutSizeSignal &
    operator=(const WithoutSizeSignal &) = delete;

private:
    const bool needed_;
    sigset_t signal_;
    sigset_t before_;
};

} // namespace nx::posix
