// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What UCX engines of ours tell each other, with their metadata and over a link: a refusal is a MISMATCH with a
// sentence; what is accepted comes back, and an offer holds no more addresses than allowed and only checked ones.
#include "ucx/peer_info.h"

#include "fuzz/invariant.h"
#include "ucx/address.h"

namespace {

template<class T>
bool
isRefused(const nx::Result<T> &result) {
    if (result.ok()) return false;
    NX_INVARIANT(result.code() == NIXL_ERR_MISMATCH);
    NX_INVARIANT(!result.message().empty() && result.message().size() < 1000);
    return true;
}

} // namespace

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const std::string_view bytes = nx::fuzz::text(data, size);
    if (const auto info = nx::ucx::decodePeerInfo(bytes); !isRefused(info)) {
        NX_INVARIANT(!info->host.empty());
        const auto again = nx::ucx::decodePeerInfo(nx::ucx::encodePeerInfo(*info));
        NX_INVARIANT(again.ok() && again->host == info->host && again->link == info->link);
        NX_INVARIANT(again->features == info->features);
    }
    if (const auto offer = nx::ucx::decodeOffer(bytes); !isRefused(offer)) {
        NX_INVARIANT(offer->size() <= nx::ucx::kOfferWorkersMax);
        for (const std::string &address : *offer) NX_INVARIANT(nx::ucx::checkAddress(address).ok());
        const auto again = nx::ucx::decodeOffer(nx::ucx::encodeOffer(*offer));
        NX_INVARIANT(again.ok() && *again == *offer);
    }
    return 0;
}
