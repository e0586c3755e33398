// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// UCX worker addresses: a refusal is an INVALID_PARAM with a sentence; what is accepted ends where it ends, for UCX is
// not told where that is: no beginning of it and nothing longer is accepted too.
#include "ucx/address.h"

#include <algorithm>

#include "fuzz/invariant.h"

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const std::string address(nx::fuzz::text(data, size));
    const auto status = nx::ucx::checkAddress(address);
    if (!status.ok()) {
        NX_INVARIANT(status.code() == NIXL_ERR_INVALID_PARAM);
        NX_INVARIANT(!status.message().empty() && status.message().size() < 300);
        return 0;
    }
    NX_INVARIANT(size >= nx::ucx::kAddressBytesMin && size <= nx::ucx::kAddressBytesMax);
    NX_INVARIANT(!nx::ucx::checkAddress(address + '\0').ok());
    for (size_t length = size - std::min<size_t>(size, 300); length < size; ++length) {
        NX_INVARIANT(!nx::ucx::checkAddress(address.substr(0, length)).ok());
    }
    return 0;
}
