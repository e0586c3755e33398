// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The POSIX backend in the suites of tests/contract: files by path and by descriptor, through the page cache and
// direct, and a file in a block device's place. NIXL_POSIX_TEST_QUEUE names the parameter of the queue under test.
#include <fcntl.h>
#include <unistd.h>

#include "contract/contract.h"
#include "nixlx/engine.h"
#include "support/file_stores.h"

namespace nx::test {
namespace {

bool
directWorks() {
    const std::string path = newPath();
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0644);
    if (fd >= 0) ::close(fd);
    ::unlink(path.c_str());
    return fd >= 0;
}

} // namespace

BackendUnderTest
backendUnderTest() {
    BackendUnderTest posix{
        .stores = {pathKind("File", FILE_SEG, ""), descriptorKind(), pathKind("Block", BLK_SEG, "")}};
    if (directWorks()) posix.stores.push_back(pathKind("Direct", FILE_SEG, ",direct"));
    if (const auto queue = nixlx::configValue("NIXL_POSIX_TEST_QUEUE")) posix.params[*queue] = "true";
    return posix;
}

} // namespace nx::test
