// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Leads the connections of this process through a relay, UCX's too. UCX publishes its port and tells it again when it
// connects, so that metadata with another port in it would not do; instead the program's own connect() stands in for
// that of the C library and goes elsewhere. Needs no privileges. The program links nx_test_relay and has
// ENABLE_EXPORTS. Only what this process connects is led: answers come back on the same connection, what a peer begins
// by itself goes straight.
//
//     PairedAgent b("B", {"UCX", kUcxOverTcp});
//     Relay relay(ucxPort(b.metadata()));
//     Detour detour(relay);
#pragma once

#include <cstdint>

#include "nixl_params.h"
#include "nixl_types.h"
#include "support/relay.h"

namespace nx::test {

/// Connections of this process to the relay's target at 127.0.0.1 go to the relay while this exists. One at a time.
class Detour {
public:
    explicit Detour(const Relay &relay);
    ~Detour();
    Detour(const Detour &) = delete;
    Detour &
    operator=(const Detour &) = delete;
};

/// Parameters of a backend: TCP, and one device, whose address is 127.0.0.1.
inline const nixl_b_params_t kUcxOverTcp = {{"engine_config", "TLS=tcp,NET_DEVICES=lo"}};

/// The port of an agent's UCX, from its metadata. Throws std::runtime_error unless there is exactly one.
uint16_t
ucxPort(const nixl_blob_t &metadata);

/// The metadata without what ours tell each other in it, so that agents of one host use the network.
nixl_blob_t
forTheNetwork(nixl_blob_t metadata);

} // namespace nx::test
