// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Two agents in one process: registration, metadata by a side channel (here: a variable), a transfer with a
// notification, partial metadata, teardown. `two_agents [BACKEND]`, by default UCX.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "nixl.h"

namespace {

constexpr size_t kBlockBytes = 64 * 1024;
constexpr size_t kBlockCount = 16;
constexpr auto kPatience = std::chrono::seconds(10);

/// Turns a failed call into an exception that says what NIXL said.
void
check(nixl_status_t status) {
    if (status < 0) throw std::runtime_error(nixlx::lastError() + " (" + nixlEnumStrings::statusStr(status) + ")");
}

/// The same of a call that waited, until `event` or for 10 s.
void
checkInTime(nixl_status_t status, const std::string &event) {
    check(status);
    if (status == NIXL_IN_PROG) throw std::runtime_error(event + " did not come in 10 s");
}

/// An agent with one backend and one registered buffer.
struct Node {
    nixlAgent agent;
    std::vector<uint8_t> buffer;
    nixl_reg_dlist_t registered{DRAM_SEG};

    Node(const std::string &name, const std::string &backend, uint8_t content)
        : agent(name, nixlAgentConfig(true)),
          buffer(kBlockBytes * kBlockCount, content) {
        nixlBackendH *handle;
        check(agent.createBackend(backend, {}, handle));
        registered.addDesc(nixlBlobDesc(address(0), buffer.size(), 0, ""));
        check(agent.registerMem(registered));
    }

    uintptr_t
    address(size_t block) const {
        return reinterpret_cast<uintptr_t>(buffer.data()) + block * kBlockBytes;
    }

    /// `count` blocks from `first` on.
    nixl_xfer_dlist_t
    blocks(size_t first, size_t count) const {
        nixl_xfer_dlist_t list(DRAM_SEG);
        for (size_t i = first; i < first + count; ++i) list.addDesc(nixlBasicDesc(address(i), kBlockBytes, 0));
        return list;
    }

    bool
    holds(uint8_t content) const {
        return std::ranges::all_of(buffer, [content](uint8_t byte) { return byte == content; });
    }
};

void
run(const std::string &backend) {
    Node target("target", backend, 0x11);
    Node initiator("initiator", backend, 0x22);

    // Metadata: how to reach the target and what it registered. Any channel will do; here both sides are at hand.
    nixl_blob_t metadata;
    std::string name;
    check(target.agent.getLocalMD(metadata));
    check(initiator.agent.loadRemoteMD(metadata, name));
    std::cout << "the initiator knows '" << name << "' from " << metadata.size() << " bytes of metadata\n";

    // Write all blocks; the message arrives after the data.
    nixl_opt_args_t options;
    options.notif = "blocks written";
    nixlXferReqH *request;
    check(initiator.agent.createXferReq(NIXL_WRITE, initiator.blocks(0, kBlockCount), target.blocks(0, kBlockCount),
                                        name, request, &options));
    check(initiator.agent.postXferReq(request));
    checkInTime(initiator.agent.waitXfer(request, kPatience), "the end of the transfer");

    nixl_notifs_t messages;
    checkInTime(target.agent.waitNotifs(messages, kPatience), "the notification");
    if (messages["initiator"].front() != *options.notif) throw std::runtime_error("the notification is a wrong one");
    if (!target.holds(0x22)) throw std::runtime_error("the target's buffer does not hold what was written");

    nixlx::Report report;
    check(initiator.agent.getXferReport(request, report));
    std::cout << report.total_bytes << " bytes written by " << report.backend << " (" << report.path << ")\n";
    check(initiator.agent.releaseXferReq(request));

    // Partial metadata: a guest is told of one more buffer of the target's, and of no other.
    Node guest("guest", backend, 0x33);
    std::vector<uint8_t> shared(2 * kBlockBytes);
    nixl_reg_dlist_t extra(DRAM_SEG);
    extra.addDesc(nixlBlobDesc(reinterpret_cast<uintptr_t>(shared.data()), shared.size(), 0, ""));
    options = {};
    options.includeConnInfo = true;
    check(target.agent.registerMem(extra));
    check(target.agent.getLocalPartialMD(extra, metadata, &options));
    check(guest.agent.loadRemoteMD(metadata, name));
    if (guest.agent.checkRemoteMD(name, extra.trim()) != NIXL_SUCCESS) {
        throw std::runtime_error("the guest does not know the memory it was told of");
    }
    if (guest.agent.checkRemoteMD(name, target.blocks(0, 1)) != NIXL_ERR_NOT_FOUND) {
        throw std::runtime_error("the guest knows memory it was not told of");
    }
    std::cout << "the guest knows what it was told of, and nothing else\n";

    // Teardown. What is left goes with the agents.
    check(guest.agent.invalidateRemoteMD("target"));
    check(initiator.agent.invalidateRemoteMD("target"));
    check(target.agent.deregisterMem(extra));
    for (Node *node : {&initiator, &target, &guest}) {
        check(node->agent.deregisterMem(node->registered));
    }
}

} // namespace

int
main(int count, char **arguments) {
    try {
        run(count > 1 ? arguments[1] : "UCX");
    }
    catch (const std::exception &error) {
        std::cerr << "two_agents: " << error.what() << "\n";
        return EXIT_FAILURE;
    }
    std::cout << "done\n";
    return EXIT_SUCCESS;
}
