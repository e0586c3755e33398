// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Descriptor lists as bytes (docs/wire.md), for nixlDescList and for metadata blobs alike. Pure functions.
#pragma once

#include <limits>
#include <span>
#include <vector>

#include "nixl_descriptors.h"
#include "wire/reader.h"
#include "wire/writer.h"

namespace nx::wire {

template<class Descriptor> struct List {
    nixl_mem_t memory = DRAM_SEG;
    std::vector<Descriptor> descs;
};

/// The descriptor's bytes on the wire: the 24 bytes it has in memory. The view points into `desc`.
std::string_view
rangeBytes(const nixlBasicDesc &desc);

/// The inverse for the first 24 of `bytes`, which has at least as many.
nixlBasicDesc
rangeFromBytes(std::string_view bytes);

size_t
encodedSize(std::span<const nixlBasicDesc> descs);
size_t
encodedSize(std::span<const nixlBlobDesc> descs);

void
encodeList(Writer &writer, nixl_mem_t memory, std::span<const nixlBasicDesc> descs);
void
encodeList(Writer &writer, nixl_mem_t memory, std::span<const nixlBlobDesc> descs);

/// An empty list when the reader fails. Costs memory in proportion to the bytes.
List<nixlBasicDesc>
decodeBasicList(Reader &reader);

/// The same; more than `count_max` descriptors are a failure.
List<nixlBlobDesc>
decodeBlobList(Reader &reader, size_t count_max = std::numeric_limits<int>::max());

} // namespace nx::wire
