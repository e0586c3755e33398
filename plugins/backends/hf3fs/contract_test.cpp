// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// HF3FS in the suites of tests/contract, over the double of 3FS's library: files by path and by descriptor, in a mount
// that is an ordinary directory.
#include <filesystem>

#include "contract/contract.h"
#include "support/file_stores.h"

nx::test::BackendUnderTest
nx::test::backendUnderTest() {
    static const TempDir folder;
    std::filesystem::create_directories(folder / "3fs-virt/iovs");
    return {.params = {{"mount_point", folder.path()}}, .stores = {pathKind("File", FILE_SEG, ""), descriptorKind()}};
}
