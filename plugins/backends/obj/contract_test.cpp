// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// OBJ in the suites of tests/contract, at a real S3 server. An object has no part that is written alone, so that the
// claims about such are not its own.
#include <atomic>
#include <filesystem>
#include <set>

#include "contract/contract.h"
#include "support/s3_server.h"

namespace nx::test {
namespace {

S3Server &
server() {
    static S3Server server;
    return server;
}

Store
newObject() {
    static std::atomic<uint64_t> number{0};
    const uint64_t id = ++number;
    return {nixlBlobDesc(0, 0, id, "object " + std::to_string(id)), {}};
}

void
remove(const Store &store) {
    std::filesystem::remove(server().bucket("contract") / std::string(store.registration.metaInfo));
}

/// Claims that write a part of what is there, or parts with others between.
const std::set<std::string> kWritesParts{"Any.MovesEverySizeFromEveryAlignment",
                                         "Any.ElementsOfLengthZeroMoveNothing",
                                         "Any.CreatesARequestOfAHundredThousandDescriptors",
                                         "Any.ResolvesInNestedAndOverlappingRegistrations",
                                         "Any.ManyThreadsMoveTheirPartsWithOneAgent",
                                         "Any.MakesRequestsFromStridedLists",
                                         "Any.IndicesMustMatch",
                                         "Storage.EverySizeAtEveryOffsetAndNoByteBeside",
                                         "Storage.ManyBlocksInAnyOrder",
                                         "Storage.BlocksThatOverlapInTheStore",
                                         "Storage.APartOfAStoreIsRegisteredAndNoMoreOfItReached"};

std::string
deviation(const std::string &claim, const Mode &mode) {
    if (const std::string why = S3Server::whyNot(); !why.empty()) return why;
    if (kWritesParts.contains(claim)) return "an object is written as a whole";
    if (mode.progress_thread && claim == "Any.MovesMoreThanTwoGibibytesInOneBlock") {
        return "the same threads move it as without a progress thread";
    }
    if (claim == "Storage.AReadOnlyStoreIsReadAndNotWritten" || claim == "Storage.AFullStoreTakesNothing") {
        return "a test cannot make an object that refuses bytes";
    }
    return {};
}

} // namespace

BackendUnderTest
backendUnderTest() {
    BackendUnderTest obj{.stores = {{.name = "Object",
                                     .memory = OBJ_SEG,
                                     .make = [](size_t) { return newObject(); },
                                     .destroy = remove,
                                     .missing = newObject}},
                         .deviation = deviation};
    if (!S3Server::whyNot().empty()) return obj;
    server().bucket("contract");
    obj.params = {{"endpoint_override", server().endpoint()},
                  {"access_key", server().accessKey()},
                  {"secret_key", server().secretKey()},
                  {"bucket", "contract"}};
    return obj;
}

} // namespace nx::test
