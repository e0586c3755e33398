// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Metadata blobs: a refusal is a MISMATCH with a sentence; what is accepted is exactly what was sent, and comes back.
#include "wire/metadata.h"

#include "fuzz/invariant.h"
#include "wire/limits.h"

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const std::string_view blob = nx::fuzz::text(data, size);
    const auto decoded = nx::wire::decodeMetadata(blob);
    if (!decoded.ok()) {
        NX_INVARIANT(decoded.code() == NIXL_ERR_MISMATCH);
        NX_INVARIANT(!decoded.message().empty() && decoded.message().size() < 1000);
        return 0;
    }
    nx::wire::Metadata metadata = *decoded;
    NX_INVARIANT(!metadata.agent.empty() && metadata.agent.size() <= nx::wire::kNameBytesMax);
    for (const auto &section : metadata.sections) {
        NX_INVARIANT(section.memory >= DRAM_SEG && section.memory <= FILE_SEG);
    }

    const std::string encoded = nx::wire::encodeMetadata(metadata);
    const auto again = nx::wire::decodeMetadata(encoded);
    NX_INVARIANT(again.ok());
    NX_INVARIANT((*again).trailer.has_value() == metadata.trailer.has_value());
    NX_INVARIANT(nx::wire::encodeMetadata(*again) == encoded);

    metadata.trailer.reset();
    NX_INVARIANT(blob.starts_with(nx::wire::encodeMetadata(metadata)));
    return 0;
}
