// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "support/lock_watch.h"

#include <cstdlib>
#include <dlfcn.h>
#include <pthread.h>

#if !defined(__SANITIZE_THREAD__) && defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__
#endif
#endif

namespace {

constexpr size_t kTakenMax = 4096;

thread_local bool watched = false;
thread_local size_t count = 0;
thread_local const void *taken_now[kTakenMax]; // as they come, the same one again and again

void
note(const void *mutex) noexcept {
    if (!watched) return;
    if (count == kTakenMax) std::abort(); // the test does too much at once
    taken_now[count++] = mutex;
}

} // namespace

#ifndef __SANITIZE_THREAD__

extern "C" __attribute__((visibility("default"))) int
pthread_mutex_lock(pthread_mutex_t *mutex) noexcept {
    static auto *const real = reinterpret_cast<int (*)(pthread_mutex_t *)>(dlsym(RTLD_NEXT, "pthread_mutex_lock"));
    note(mutex);
    return real(mutex);
}

extern "C" __attribute__((visibility("default"))) int
pthread_mutex_trylock(pthread_mutex_t *mutex) noexcept {
    static auto *const real = reinterpret_cast<int (*)(pthread_mutex_t *)>(dlsym(RTLD_NEXT, "pthread_mutex_trylock"));
    note(mutex);
    return real(mutex);
}

#endif

namespace nx::test {

LockWatch::LockWatch() noexcept {
    count = 0;
    watched = true;
}

LockWatch::~LockWatch() {
    watched = false;
}

std::set<const void *>
LockWatch::taken() const {
    watched = false;
    std::set<const void *> mutexes(taken_now, taken_now + count);
    watched = true;
    return mutexes;
}

bool
LockWatch::works() noexcept {
#ifdef __SANITIZE_THREAD__
    return false;
#else
    return true;
#endif
}

} // namespace nx::test
