// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Notifications: what is accepted is exactly what was sent.
#include "wire/notification.h"

#include "fuzz/invariant.h"

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const std::string_view bytes = nx::fuzz::text(data, size);
    const auto decoded = nx::wire::decodeNotification(bytes);
    if (!decoded.ok()) {
        NX_INVARIANT(decoded.code() == NIXL_ERR_MISMATCH && !decoded.message().empty());
        return 0;
    }
    NX_INVARIANT(bytes.starts_with(nx::wire::encodeNotification((*decoded).sender, (*decoded).message)));
    return 0;
}
