// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The pool of this process behind the public functions.
#include <pthread.h>

#include "base/last_error.h"
#include "nixlx/memory.h"
#include "shared/pool.h"
#include "utils/common/nixl_log.h"

namespace {

using nx::shared::Pool;

// Never destroyed: memory is used until the process ends.
Pool &
pool() {
    static Pool &made = *new Pool;
    return made;
}

void
beforeFork() NX_ACQUIRE(pool().mutex()) {
    pool().mutex().lock();
}

void
afterForkInParent() NX_RELEASE(pool().mutex()) {
    pool().mutex().unlock();
}

void
afterForkInChild() NX_RELEASE(pool().mutex()) {
    pool().inheritLocked();
    pool().mutex().unlock();
}

} // namespace

namespace nixlx {

void *
allocShared(std::size_t bytes) noexcept {
    static const int registered = ::pthread_atfork(beforeFork, afterForkInParent, afterForkInChild);
    static_cast<void>(registered);
    try {
        auto memory = pool().allocate(bytes);
        if (memory.ok()) return *memory;
        nx::setLastError("allocShared: " + memory.message());
    }
    catch (const std::exception &) {
        nx::setLastError("no memory"); // fits into the string itself
    }
    return nullptr;
}

void
freeShared(void *memory) noexcept {
    if (!memory) return;
    try {
        const auto status = pool().free(memory);
        if (!status.ok()) NIXL_ERROR << "freeShared: " << memory << ": " << status.message();
    }
    catch (const std::exception &) { // of the log line: the pool needs no memory to free
        return;
    }
}

std::optional<SharedBlock>
findShared(uint64_t address, uint64_t length) noexcept {
    try {
        return pool().find(address, length);
    }
    catch (const std::exception &) { // the first call, without memory: there is no block either
        return {};
    }
}

} // namespace nixlx
