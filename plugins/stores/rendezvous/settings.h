// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Where to look for a rendezvous, and where this agent can be one. Owned.
#pragma once

#include <string>
#include <vector>

#include "base/fd.h"
#include "loop/endpoint.h"

namespace nx::rendezvous {

/// "10.0.0.1:7000", "[::1]:7000", "node7:7000". INVALID_PARAM: it is none.
Result<Endpoint>
endpointIn(const std::string &text);

/// Several, with commas between them; at least one.
Result<std::vector<Endpoint>>
endpointsIn(const std::string &text);

struct Place {
    Fd socket;           ///< listens; none: it does not
    std::string address; ///< for others: "10.0.0.1:7000"; ":7000" if it is bound to all addresses
};

/// Where the option NIXL_RENDEZVOUS_LISTEN says: a port, or a numeric address with one; empty: nowhere. A port alone is
/// that of `address`; if this is empty, too, of all addresses. A port that is taken is replaced by a free one, so that
/// the agents of a host can have one setting in common. INVALID_PARAM: it says neither; BACKEND: the system does not
/// allow it.
Result<Place>
placeFor(const std::string &option, const std::string &address = "");

} // namespace nx::rendezvous
