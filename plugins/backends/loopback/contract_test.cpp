// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The loopback engine in the suites of tests/contract: its stores in memory, and what they cannot do.
#include <atomic>

#include "contract/contract.h"

namespace nx::test {
namespace {

/// A store is made by registering a name, and goes with the process's last LOOPBACK backend.
Store
newStore() {
    static std::atomic<uint64_t> number{0};
    const uint64_t mine = ++number;
    return {nixlBlobDesc(0, 0, mine, "contract " + std::to_string(mine))};
}

StoreKind
inMemory(const char *name, nixl_mem_t memory) {
    return {.name = name,
            .memory = memory,
            .make = [](size_t) { return newStore(); },
            .has_no_end = memory == BLK_SEG,
            .missing = newStore};
}

} // namespace

BackendUnderTest
backendUnderTest() {
    return {.stores = {inMemory("File", FILE_SEG), inMemory("Object", OBJ_SEG), inMemory("Block", BLK_SEG)},
            .deviation = [](const std::string &claim, const Mode &mode) -> std::string {
                if (claim == "Any.MovesMoreThanTwoGibibytesInOneBlock" && mode.reach == Reach::kStore) {
                    return "a store in memory holds 1 GiB";
                }
                if (claim == "Storage.AReadOnlyStoreIsReadAndNotWritten") return "every store in memory can be written";
                if (claim == "Storage.AFullStoreTakesNothing") return "to fill a store in memory takes 1 GiB of it";
                return "";
            }};
}

} // namespace nx::test
