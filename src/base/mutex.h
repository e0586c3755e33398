// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The standard library's mutex, scoped lock and condition variable under names that Clang's thread-safety analysis
// knows (libstdc++'s are not annotated), and the macros that say what a mutex guards. Clang refuses code that touches a
// guarded member without its mutex (./check step thread-safety, docs/threads.md); for GCC the macros are empty. All of
// it is inline and costs what the standard library's costs.
//
//     nx::Mutex mutex_;
//     size_t open_ NX_GUARDED_BY(mutex_) = 0;
//     void closeLocked() NX_REQUIRES(mutex_);
#pragma once

#include <chrono>
#include <condition_variable>

#ifdef __clang__
#define NX_THREAD_SAFETY(attribute) __attribute__((attribute))
#else
#define NX_THREAD_SAFETY(attribute)
#endif

// Of a class: it is a mutex, or holds one for as long as it exists.
#define NX_CAPABILITY(kind) NX_THREAD_SAFETY(capability(kind))
#define NX_SCOPED_CAPABILITY NX_THREAD_SAFETY(scoped_lockable)
// Of a member: read and written with the mutex held only.
#define NX_GUARDED_BY(mutex) NX_THREAD_SAFETY(guarded_by(mutex))
// Of a function: its caller holds the mutex; its caller does not hold it, because the function takes it.
#define NX_REQUIRES(...) NX_THREAD_SAFETY(requires_capability(__VA_ARGS__))
#define NX_EXCLUDES(...) NX_THREAD_SAFETY(locks_excluded(__VA_ARGS__))
// Of a function: it takes the mutex, gives it back, or takes it if it returns the value named first.
#define NX_ACQUIRE(...) NX_THREAD_SAFETY(acquire_capability(__VA_ARGS__))
#define NX_RELEASE(...) NX_THREAD_SAFETY(release_capability(__VA_ARGS__))
#define NX_TRY_ACQUIRE(...) NX_THREAD_SAFETY(try_acquire_capability(__VA_ARGS__))
// Of a mutex: the order of two that one thread may hold at once.
#define NX_ACQUIRED_BEFORE(...) NX_THREAD_SAFETY(acquired_before(__VA_ARGS__))
#define NX_ACQUIRED_AFTER(...) NX_THREAD_SAFETY(acquired_after(__VA_ARGS__))
// Of a function that gives out a mutex, and of one that stands for the promise of its caller that it is held.
#define NX_RETURN_CAPABILITY(mutex) NX_THREAD_SAFETY(lock_returned(mutex))
#define NX_ASSERT_CAPABILITY(mutex) NX_THREAD_SAFETY(assert_capability(mutex))

namespace nx {

class NX_CAPABILITY("mutex") Mutex {
public:
    constexpr Mutex() noexcept = default;

    void
    lock() NX_ACQUIRE() {
        mutex_.lock();
    }

    bool
    try_lock() NX_TRY_ACQUIRE(true) {
        return mutex_.try_lock();
    }

    void
    unlock() NX_RELEASE() {
        mutex_.unlock();
    }

private:
    friend class CondVar;
    std::mutex mutex_;
};

/// Holds a Mutex, or another class with its functions and annotations, for as long as it exists.
template<class M = Mutex> class NX_SCOPED_CAPABILITY MutexLock {
public:
    [[nodiscard]] explicit MutexLock(M &mutex) NX_ACQUIRE(mutex) : mutex_(mutex) {
        mutex_.lock();
    }

    /// The caller has taken it, by try_lock().
    [[nodiscard]] MutexLock(M &mutex, std::adopt_lock_t) NX_REQUIRES(mutex) : mutex_(mutex) {}

    ~MutexLock() NX_RELEASE() {
        mutex_.unlock();
    }

    MutexLock(const MutexLock &) = delete;
    MutexLock &
    operator=(const MutexLock &) = delete;

private:
    M &mutex_;
};

/// Waits give the mutex back while they sleep and may return for no reason: always in a loop that looks at the state.
/// They take no predicate, because the analysis would not know that a lambda runs with the mutex held.
class CondVar {
public:
    void
    wait(Mutex &mutex) NX_REQUIRES(mutex) {
        std::unique_lock lock(mutex.mutex_, std::adopt_lock);
        variable_.wait(lock);
        lock.release();
    }

    /// False: the time has come. `while (!ready_ && changed_.waitUntil(mutex_, deadline)) {}`
    bool
    waitUntil(Mutex &mutex, std::chrono::steady_clock::time_point deadline) NX_REQUIRES(mutex) {
        std::unique_lock lock(mutex.mutex_, std::adopt_lock);
        const auto outcome = variable_.wait_until(lock, deadline);
        lock.release();
        return outcome == std::cv_status::no_timeout;
    }

    void
    notifyOne() noexcept {
        variable_.notify_one();
    }

    void
    notifyAll() noexcept {
        variable_.notify_all();
    }

private:
    std::condition_variable variable_;
};

} // namespace nx
