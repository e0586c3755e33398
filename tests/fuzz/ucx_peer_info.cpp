// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What UCX engines of ours tell each other: a refusal is a MISMATCH with a sentence; what is accepted comes back, holds
// no more addresses than allowed, and only such as have passed the check.
#include "ucx/peer_info.h"

#include "fuzz/invariant.h"
#include "ucx/address.h"

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const std::string_view bytes = nx::fuzz::text(data, size);
    const auto info = nx::ucx::decodePeerInfo(bytes);
    if (!info.ok()) {
        NX_INVARIANT(info.code() == NIXL_ERR_MISMATCH);
        NX_INVARIANT(!info.message().empty() && info.message().size() < 1000);
        return 0;
    }
    NX_INVARIANT(!info->host.empty());
    NX_INVARIANT(info->local_addresses.size() <= nx::ucx::kPeerWorkersMax);
    for (const std::string &address : info->local_addresses) NX_INVARIANT(nx::ucx::checkAddress(address).ok());
    const auto again = nx::ucx::decodePeerInfo(nx::ucx::encodePeerInfo(*info));
    NX_INVARIANT(again.ok());
    NX_INVARIANT(again->host == info->host && again->beacon == info->beacon);
    NX_INVARIANT(again->local_addresses == info->local_addresses);
    return 0;
}
