// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/peer.h"

namespace nx::agent {

std::string
backendFailure(const std::string &function, nixl_status_t status) {
    return takeBackendSentence(function + " failed with " + nixlEnumStrings::statusStr(status));
}

void
disconnect(const Backend &backend, const std::string &peer) {
    (void)backend.call<nixlx::RemotePeers>("disconnect", [&](auto &peers) { return peers.disconnect(peer); });
}

void
beginRefetch(const std::shared_ptr<Peer> &peer) {
    if (const auto fetch = peer->origin.begin()) {
        fetch([peer](const Status &outcome) { peer->origin.finish(outcome); });
    }
}

} // namespace nx::agent
