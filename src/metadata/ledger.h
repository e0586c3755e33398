// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What became of the calls that return before they are done: how many are open, and the failures nobody has asked for
// yet, by the address they went to. Self-synchronised.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/mutex.h"

namespace nx::metadata {

class Ledger {
public:
    /// False if `open_max` calls to this address are open; then nothing is opened.
    bool
    open(const std::string &address, size_t open_max);
    void
    close(const std::string &address, const Status &outcome);
    /// The same for the API's call `name` of `agent`, whose failure is logged here, once.
    void
    conclude(const std::string &address, const std::string &name, const std::string &agent, const Status &outcome);

    /// Waits until no call to `address` (nothing: to any) is open, at most until `deadline`. IN_PROG: some still are.
    /// Otherwise the first failure not yet returned, which is forgotten, or success.
    Status
    wait(const std::optional<std::string> &address, std::chrono::steady_clock::time_point deadline);

private:
    struct Entry {
        size_t open = 0;
        uint64_t failed_at = 0; ///< order of the failures; 0: none
        Status failure;
    };

    /// Calls to `address`, or to any.
    size_t
    openLocked(const std::optional<std::string> &address) const NX_REQUIRES(mutex_);

    Mutex mutex_;
    CondVar changed_;
    std::map<std::string, Entry> entries_ NX_GUARDED_BY(mutex_); ///< those with something to tell
    size_t open_ NX_GUARDED_BY(mutex_) = 0;
    uint64_t failures_ NX_GUARDED_BY(mutex_) = 0;
};

} // namespace nx::metadata
