// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Lets libnixl write and read nixlSerDes in place, so that descriptor lists have one encoder and one decoder. Thread
// rule as nixlSerDes.
#pragma once

#include <string>

#include "utils/serdes/serdes.h"
#include "wire/reader.h"

namespace nixlx {

struct SerDesAccess {
    static std::string &
    bytes(nixlSerDes &serdes) {
        return serdes.workingStr;
    }

    /// Reads from the cursor on; the cursor itself stays.
    static nx::wire::Reader
    reader(const nixlSerDes &serdes) {
        return nx::wire::Reader(serdes.workingStr, static_cast<size_t>(serdes.des_offset));
    }

    /// Moves the cursor behind what `reader` has read. `reader` must not have failed.
    static void
    advance(nixlSerDes &serdes, const nx::wire::Reader &reader) {
        serdes.des_offset = static_cast<ssize_t>(reader.position());
    }
};

} // namespace nixlx
