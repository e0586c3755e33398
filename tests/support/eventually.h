// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Waiting for another thread or process: the only place where a test may sleep.
#pragma once

#include <algorithm>
#include <chrono>
#include <thread>

namespace nx::test {

/// Long enough for the slowest build on the busiest machine; reaching it is a failure.
inline constexpr std::chrono::seconds kPatience{120};

/// Asks `predicate` until it is true or `patience` is over; its last answer.
template<class Predicate>
bool
eventually(Predicate predicate, std::chrono::milliseconds patience = kPatience) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    for (auto pause = std::chrono::microseconds(1); !predicate();
         pause = std::min(2 * pause, std::chrono::microseconds(1000))) {
        if (std::chrono::steady_clock::now() >= deadline) return predicate();
        std::this_thread::sleep_for(pause);
    }
    return true;
}

} // namespace nx::test
