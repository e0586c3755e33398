// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The signature of a metadata blob, before anything in it is believed: what is signed, the signature and the last field
// are the whole blob, in that order, or it is refused.
#include "fuzz/invariant.h"
#include "wire/metadata.h"

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const std::string_view blob = nx::fuzz::text(data, size);
    const auto found = nx::wire::findSignature(blob);
    if (!found.ok()) {
        NX_INVARIANT(found.code() == NIXL_ERR_MISMATCH && found.message().size() < 1000);
        return 0;
    }
    if (!*found) return 0;
    const auto &[agent, content, signature] = **found;
    NX_INVARIANT(!agent.empty() && !signature.empty());
    std::string again(content);
    nx::wire::appendSignature(again, signature);
    NX_INVARIANT(again == blob);
    const auto decoded = nx::wire::decodeMetadata(content);
    NX_INVARIANT(!decoded.ok() || decoded->agent == agent);
    return 0;
}
