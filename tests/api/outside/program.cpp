// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Loads the plugin OUTSIDE, moves bytes with it and lists what else there is. Status 0 if all is as it should be.
#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include <nixl.h>

int
main() {
    const auto must = [](const char *what, nixl_status_t status) {
        if (status == NIXL_SUCCESS) return;
        std::cerr << what << ": " << nixlEnumStrings::statusStr(status) << ": " << nixlx::lastError() << "\n";
        std::exit(1);
    };
    nixlAgent agent("outside", nixlAgentConfig());
    std::vector<nixl_backend_t> plugins;
    must("getAvailPlugins", agent.getAvailPlugins(plugins));
    if (std::find(plugins.begin(), plugins.end(), "OUTSIDE") == plugins.end()) return 2;

    nixlBackendH *backend = nullptr;
    must("createBackend", agent.createBackend("OUTSIDE", {}, backend));
    std::string text = "from here to ....";
    const auto address = reinterpret_cast<uintptr_t>(text.data());
    nixl_reg_dlist_t registered(DRAM_SEG);
    registered.addDesc(nixlBlobDesc(address, text.size(), 0));
    must("registerMem", agent.registerMem(registered));
    nixl_xfer_dlist_t source(DRAM_SEG), target(DRAM_SEG);
    source.addDesc(nixlBasicDesc(address + 5, 4, 0));
    target.addDesc(nixlBasicDesc(address + 13, 4, 0));
    nixlXferReqH *request = nullptr;
    must("createXferReq", agent.createXferReq(NIXL_WRITE, source, target, "outside", request));
    must("postXferReq", agent.postXferReq(request));
    must("getXferStatus", agent.getXferStatus(request));
    must("releaseXferReq", agent.releaseXferReq(request));
    must("deregisterMem", agent.deregisterMem(registered));
    return text == "from here to here" ? 0 : 3;
}
