// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// How an engine keeps the promise of nixlx::Waiting: whatever changes rings, and that costs a system call only if
// somebody sleeps. Self-synchronised.
#pragma once

#include <atomic>

#include "base/fd.h"

namespace nx::kit {

class Bell {
public:
    /// Throws std::runtime_error with a sentence if the system refuses a descriptor.
    Bell();

    /// As nixlx::Waiting::descriptor().
    int
    descriptor() const noexcept {
        return wake_.get();
    }

    /// Something has changed, and whoever looks now sees it. Any thread; a few nanoseconds while nobody sleeps.
    void
    ring() noexcept {
        if (state_.exchange(State::kRung) == State::kArmed) wake_.wake();
    }

    /// True: it has not rung since the last call, and the descriptor becomes readable when it does. False: it has. One
    /// thread at a time.
    bool
    arm() noexcept;

private:
    enum class State { kQuiet, kRung, kArmed };

    const WakeFd wake_;
    std::atomic<State> state_{State::kQuiet};
};

} // namespace nx::kit
