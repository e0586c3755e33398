// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Time of the steady clock as plain numbers.
#pragma once

#include <chrono>
#include <cstdint>

namespace nixlTime {
using namespace std::chrono;

using ns_t = uint64_t;
using us_t = uint64_t;
using ms_t = uint64_t;
using sec_t = uint64_t;

inline ns_t
getNs() {
    return duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count();
}

inline us_t
getUs() {
    return duration_cast<microseconds>(steady_clock::now().time_since_epoch()).count();
}

inline ms_t
getMs() {
    return duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
}

inline sec_t
getSec() {
    return duration_cast<seconds>(steady_clock::now().time_since_epoch()).count();
}
} // namespace nixlTime
