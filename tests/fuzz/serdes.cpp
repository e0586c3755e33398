// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The public nixlSerDes driven by a small program. The input's first part, up to the first byte 0xff, are the steps:
// each byte chooses a call and a tag. The rest are the bytes to read.
#include "utils/serdes/serdes.h"

#include <algorithm>
#include <string>
#include <vector>

#include "fuzz/invariant.h"

namespace {

constexpr size_t kStepsMax = 64;
const std::string kTags[] = {"", "t", "n", "c", "msg", "name", "Agent", "Conns"};

void
step(nixlSerDes &serdes, uint8_t choice, size_t bytes) {
    const std::string &tag = kTags[(choice >> 2) % std::size(kTags)];
    const ssize_t length = serdes.getBufLen(tag);
    NX_INVARIANT(length < 0 || static_cast<size_t>(length) < bytes);
    switch (choice & 3) {
    case 0: {
        const std::string text = serdes.getStr(tag);
        NX_INVARIANT(text.size() == static_cast<size_t>(std::max<ssize_t>(length, 0)));
        break;
    }
    case 1: {
        std::vector<char> buffer(static_cast<size_t>(std::max<ssize_t>(length, 1)));
        const auto status = serdes.getBuf(tag, buffer.data(), length);
        NX_INVARIANT((status == NIXL_SUCCESS) == (length >= 0));
        break;
    }
    case 2: {
        char small[3];
        const auto status = serdes.getBuf(tag, small, sizeof small);
        NX_INVARIANT(status == (length == 3 ? NIXL_SUCCESS : NIXL_ERR_MISMATCH));
        break;
    }
    case 3: NX_INVARIANT(serdes.getBufLen(tag) == length); break;
    }
}

} // namespace

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *const mark = std::find(data, data + size, uint8_t{0xff});
    const size_t steps = static_cast<size_t>(mark - data);
    const size_t start = std::min(size, steps + 1);
    const std::string bytes(nx::fuzz::text(data + start, size - start));

    nixlSerDes serdes;
    if (serdes.importStr(bytes) == NIXL_SUCCESS) {
        NX_INVARIANT(serdes.exportStr() == bytes);
    } else {
        NX_INVARIANT(serdes.exportStr() == "nixlSerDes|");
    }
    for (size_t i = 0; i < std::min(steps, kStepsMax); ++i) step(serdes, data[i], std::max<size_t>(bytes.size(), 1));

    // Whatever was read before, what is added behind is found when everything before it is a whole field.
    nixlSerDes writer;
    writer.addStr("name", bytes);
    writer.addBuf("c", data, static_cast<ssize_t>(size));
    nixlSerDes reader;
    NX_INVARIANT(reader.importStr(writer.exportStr()) == NIXL_SUCCESS);
    NX_INVARIANT(reader.getStr("name") == bytes);
    NX_INVARIANT(reader.getBufLen("c") == static_cast<ssize_t>(size));
    return 0;
}
