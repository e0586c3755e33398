// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Memory keys of UCX, alone or with one of ours behind: what is accepted is exactly what was sent, each key has passed
// the check, and no key names a domain that is refused.
#include <cstring>

#include "fuzz/invariant.h"
#include "ucx/address.h"
#include "ucx/peer_info.h"

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const std::string_view bytes = nx::fuzz::text(data, size);
    const auto keys = nx::ucx::decodeKeys(bytes);
    if (!keys.ok()) {
        NX_INVARIANT(keys.code() == NIXL_ERR_INVALID_PARAM);
        NX_INVARIANT(!keys.message().empty() && keys.message().size() < 300);
        return 0;
    }
    NX_INVARIANT(nx::ucx::encodeKeys(*keys) == bytes);
    NX_INVARIANT(nx::ucx::checkKey(keys->plain).ok());
    NX_INVARIANT(keys->local.empty() || nx::ucx::checkKey(keys->local).ok());
    uint64_t domains;
    std::memcpy(&domains, keys->plain.data(), sizeof domains);
    NX_INVARIANT(nx::ucx::decodeKeys(bytes, ~domains).ok());
    NX_INVARIANT(domains == 0 || !nx::ucx::decodeKeys(bytes, domains).ok());
    return 0;
}
