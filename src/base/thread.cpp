// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "base/thread.h"

#include <csignal>
#include <pthread.h>
#include <system_error>

namespace nx {

namespace {

/// All signals blocked while it lives; a new thread inherits that.
struct SignalsBlocked {
    SignalsBlocked() {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
    }
    ~SignalsBlocked() {
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }
    sigset_t before;
};

} // namespace

Thread::Thread(const std::string &name, std::function<void()> body) {
    const SignalsBlocked blocked;
    try {
        thread_ = std::thread([name = name.substr(0, 15), body = std::move(body)] {
            pthread_setname_np(pthread_self(), name.c_str());
            body();
        });
    }
    catch (const std::system_error &error) {
        throw std::system_error(error.code(), "starting thread " + name + " (see ulimit -u)");
    }
}

Thread &
Thread::operator=(Thread &&other) noexcept {
    join();
    thread_ = std::move(other.thread_);
    return *this;
}

Thread::~Thread() {
    join();
}

void
Thread::join() {
    if (thread_.joinable()) thread_.join();
}

} // namespace nx
