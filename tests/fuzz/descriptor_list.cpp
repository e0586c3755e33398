// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// nixlDescList from hostile bytes: never throws, and what it accepts it writes back byte for byte.
#include "fuzz/invariant.h"
#include "nixl_descriptors.h"
#include "utils/serdes/serdes.h"

namespace {

template<class List>
void
readAndCheck(const std::string &bytes) {
    nixlSerDes serdes;
    if (serdes.importStr(bytes) != NIXL_SUCCESS) return;
    const List list(&serdes);
    NX_INVARIANT(list.getType() >= DRAM_SEG && list.getType() <= FILE_SEG);
    NX_INVARIANT(static_cast<size_t>(list.descCount()) <= bytes.size() / 24);
    if (list.isEmpty()) return;

    nixlSerDes again;
    NX_INVARIANT(list.serialize(&again) == NIXL_SUCCESS);
    NX_INVARIANT(bytes.starts_with(again.exportStr()));
    NX_INVARIANT(List(&again) == list);

    const auto &first = list[0];
    for (const auto &desc : list) {
        NX_INVARIANT(first.overlaps(desc) == desc.overlaps(first));
        // A range that starts before, or whose last byte lies behind, is not covered, however the sums wrap.
        if (!first.covers(desc)) continue;
        NX_INVARIANT(desc.addr >= first.addr && desc.len <= first.len);
        NX_INVARIANT(desc.addr - first.addr <= first.len - desc.len);
        NX_INVARIANT(desc.len == 0 || first.overlaps(desc));
    }
}

} // namespace

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const std::string bytes(nx::fuzz::text(data, size));
    readAndCheck<nixl_xfer_dlist_t>(bytes);
    readAndCheck<nixl_reg_dlist_t>(bytes);
    return 0;
}
