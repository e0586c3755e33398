// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/request_base.h"

#include <utility>

namespace nx::kit {

void
RequestBase::begin() noexcept {
    if (status_.load(std::memory_order_relaxed) != NIXL_SUCCESS) {
        const MutexLock lock(mutex_);
        failure_ = NIXL_SUCCESS;
        sentence_.clear();
    }
    stop_.store(false, std::memory_order_relaxed);
    bytes_done_.store(0, std::memory_order_relaxed);
    status_.store(NIXL_IN_PROG, std::memory_order_release);
}

nixl_status_t
RequestBase::fail(nixl_status_t status, std::string sentence) noexcept {
    stop_.store(true, std::memory_order_release);
    const MutexLock lock(mutex_);
    if (failure_ == NIXL_SUCCESS) {
        failure_ = status;
        sentence_ = std::move(sentence);
    }
    return status;
}

nixl_status_t
RequestBase::finish(bool complete) noexcept {
    nixl_status_t status = NIXL_SUCCESS;
    if (stopping()) {
        const MutexLock lock(mutex_);
        status = failure_ != NIXL_SUCCESS ? failure_ : complete ? NIXL_SUCCESS : NIXL_ERR_CANCELED;
    }
    status_.store(status, std::memory_order_release);
    return status;
}

nixl_status_t
RequestBase::outcome() const {
    const nixl_status_t now = status();
    if (now == NIXL_ERR_NOT_POSTED) return nixlx::fail(now, "the request was never posted");
    return now < 0 ? nixlx::fail(now, describe({}).error) : now;
}

nixlx::RequestInfo
RequestBase::describe(std::string path) const {
    const nixl_status_t now = status();
    if (now == NIXL_ERR_CANCELED) return {std::move(path), "the request was cancelled"};
    if (now == NIXL_IN_PROG) return {std::move(path), {}};
    const MutexLock lock(mutex_);
    return {std::move(path), sentence_};
}

} // namespace nx::kit
