// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What becomes of the codes of cuFile and of the system. All else needs an agent: agent_test.cpp.
#include "gds/driver.h"

#include <cerrno>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nx::gds {
namespace {

TEST(GdsCodes, EachHasTheStatusThatTellsTheCallerWhatToDo) {
    for (int code : {5012, 5013, 5014, 5015, 5016, 5017, 5022, 5024, 5027}) {
        EXPECT_EQ(statusOf(code), NIXL_ERR_INVALID_PARAM) << code;
    }
    for (int code : {5007, 5008, 5009, 5018, 5038, ENOSYS, EOPNOTSUPP}) {
        EXPECT_EQ(statusOf(code), NIXL_ERR_NOT_SUPPORTED) << code;
    }
    for (int code : {5023, 5025, 5028}) EXPECT_EQ(statusOf(code), NIXL_ERR_NOT_ALLOWED) << code;
    for (int code : {5043, ENOMEM}) EXPECT_EQ(statusOf(code), NIXL_ERR_NO_MEMORY) << code;
    for (int code : {5001, 5011, 5030, 5033, 5037, 5044, 5050, 5999, EIO, ENOSPC, 0}) {
        EXPECT_EQ(statusOf(code), NIXL_ERR_BACKEND) << code;
    }
}

TEST(GdsCodes, EachIsToldByItsName) {
    EXPECT_EQ(textOf(5028), "cuFile says HANDLE_ALREADY_REGISTERED (5028)");
    EXPECT_EQ(textOf(5038), "cuFile says ASYNC_NOT_SUPPORTED (5038)");
    EXPECT_EQ(textOf(5050), "cuFile says IO_MAX_ERROR (5050)");
    EXPECT_THAT(textOf(5021), testing::HasSubstr("does not know (5021)"));
    EXPECT_THAT(textOf(5051), testing::HasSubstr("does not know (5051)"));
    EXPECT_THAT(textOf(ENOSPC), testing::StartsWith("the system says: "));
}

} // namespace
} // namespace nx::gds
