// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// How many descriptors this process has, and may have.
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <sys/resource.h>

#include <gtest/gtest.h>

namespace nx::test {

inline size_t
openDescriptors() {
    size_t count = 0;
    for ([[maybe_unused]] const auto &entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
    return count;
}

/// While it exists, how many this process and those that it starts may have.
class DescriptorLimit {
public:
    explicit DescriptorLimit(rlim_t count) {
        ::getrlimit(RLIMIT_NOFILE, &before_);
        const rlimit limit{std::min(count, before_.rlim_max), before_.rlim_max};
        EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
    }
    ~DescriptorLimit() {
        ::setrlimit(RLIMIT_NOFILE, &before_);
    }
    DescriptorLimit(const DescriptorLimit &) = delete;
    DescriptorLimit &
    operator=(const DescriptorLimit &) = delete;

private:
    rlimit before_{};
};

} // namespace nx::test
