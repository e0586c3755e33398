// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The UCX backend in the suites of tests/contract.
#include "contract/contract.h"

nx::test::BackendUnderTest
nx::test::backendUnderTest() {
    return {.target_must_call = true, .deviation = [](const std::string &claim, const nx::test::Mode &) -> std::string {
                return claim == "Remote.ATargetRefusesWhatItHasDeregistered"
                    ? "with UCX no code at the target checks an access"
                    : "";
            }};
}
