// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "base/thread.h"

#include <csignal>
#include <pthread.h>

namespace nx {

Thread::Thread(const std::string &name, std::function<void()> body) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); // inherited by the new thread
    try {
        thread_ = std::thread([name = name.substr(0, 15), body = std::move(body)] {
            pthread_setname_np(pthread_self(), name.c_str());
            body();
        });
    }
    catch (...) {
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
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
