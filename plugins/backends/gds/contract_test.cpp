// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// GDS and GDS_MT in the suites of tests/contract, over the doubles of cuFile and of the CUDA driver: files by path and
// by descriptor.
#include "contract/contract.h"
#include "support/file_stores.h"

nx::test::BackendUnderTest
nx::test::backendUnderTest() {
    return {.stores = {pathKind("File", FILE_SEG, ""), descriptorKind()}};
}
