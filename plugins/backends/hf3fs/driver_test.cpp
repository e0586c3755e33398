// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What becomes of errors of the library and of the system. All else needs an agent: agent_test.cpp.
#include "hf3fs/driver.h"

#include <cerrno>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nx::hf3fs {
namespace {

TEST(Hf3fsCodes, EachHasTheStatusThatTellsTheCallerWhatToDo) {
    EXPECT_EQ(statusOf(EINVAL), NIXL_ERR_INVALID_PARAM);
    for (int code : {EBADF, ENOENT}) EXPECT_EQ(statusOf(code), NIXL_ERR_NOT_FOUND) << code;
    for (int code : {EACCES, EPERM, EROFS}) EXPECT_EQ(statusOf(code), NIXL_ERR_NOT_ALLOWED) << code;
    for (int code : {ENOSYS, EOPNOTSUPP}) EXPECT_EQ(statusOf(code), NIXL_ERR_NOT_SUPPORTED) << code;
    EXPECT_EQ(statusOf(ENOMEM), NIXL_ERR_NO_MEMORY);
    for (int code : {EIO, ENOSPC, EAGAIN, 0, 7001}) EXPECT_EQ(statusOf(code), NIXL_ERR_BACKEND) << code;
}

TEST(Hf3fsCodes, EachIsToldByWhoSaysIt) {
    EXPECT_THAT(textOf(ENOSPC), testing::StartsWith("the system says: "));
    EXPECT_EQ(textOf(7001), "3FS says 7001");
}

} // namespace
} // namespace nx::hf3fs
