// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// For a backend about which there is no more to say than its build line does.
#include "contract/contract.h"

nx::test::BackendUnderTest
nx::test::backendUnderTest() {
    return {};
}
