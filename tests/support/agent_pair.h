// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Two agents of one process with the same backend, and the usual steps of a test with them. Public API only. Owned.
#pragma once

#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "nixl.h"
#include "support/buffer.h"
#include "support/eventually.h"

namespace nx::test {

struct PairOptions {
    std::string backend = "LOOPBACK";
    nixl_b_params_t params;
    bool progress_thread = false;
    bool listen = false; ///< for metadata, on a port of the system's choice
    bool capture_telemetry = false;
    bool notifications = true; ///< the backend has them
};

inline nixl_xfer_dlist_t
listOf(std::initializer_list<nixlBasicDesc> descs, nixl_mem_t memory = DRAM_SEG) {
    nixl_xfer_dlist_t list(memory);
    for (const nixlBasicDesc &desc : descs) list.addDesc(desc);
    return list;
}

inline nixl_reg_dlist_t
registrationOf(std::initializer_list<nixlBasicDesc> descs, nixl_mem_t memory = DRAM_SEG) {
    nixl_reg_dlist_t list(memory);
    for (const nixlBasicDesc &desc : descs) list.addDesc(nixlBlobDesc(desc, ""));
    return list;
}

/// Throws std::runtime_error with the agent's sentence.
inline void
require(nixl_status_t status, const std::string &what) {
    if (status == NIXL_SUCCESS) return;
    throw std::runtime_error(what + ": " + nixlEnumStrings::statusStr(status) + ": " + nixlx::lastError());
}

/// An agent with one backend and what arrived at it.
struct PairedAgent {
    PairedAgent(const std::string &name, const PairOptions &options) : name(name) {
        nixlAgentConfig config;
        config.useProgThread = options.progress_thread;
        config.useListenThread = options.listen;
        config.listenPort = 0;
        config.captureTelemetry = options.capture_telemetry;
        agent = std::make_unique<nixlAgent>(name, config);
        require(agent->createBackend(options.backend, options.params, backend), "create " + options.backend);
        with_backend.backends = {backend};
    }

    nixlAgent *
    operator->() const {
        return agent.get();
    }

    /// Where it listens, as an argument of metadata calls.
    nixl_opt_args_t
    address(const std::string &host = "127.0.0.1") const {
        uint16_t port = 0;
        require(agent->getListenPort(port), "port of " + name);
        nixl_opt_args_t args;
        args.ipAddr = host;
        args.port = port;
        return args;
    }

    nixl_blob_t
    metadata() const {
        nixl_blob_t blob;
        require(agent->getLocalMD(blob), "metadata of " + name);
        return blob;
    }

    void
    load(const nixl_blob_t &blob) const {
        std::string loaded;
        require(agent->loadRemoteMD(blob, loaded), "load metadata into " + name);
    }

    const std::string name;
    std::unique_ptr<nixlAgent> agent;
    nixlBackendH *backend = nullptr;
    nixl_opt_args_t with_backend; ///< hints at the backend
    nixl_notifs_t inbox;
};

class AgentPair {
public:
    explicit AgentPair(const PairOptions &options = {})
        : a("A", options),
          b("B", options),
          notifications_(options.notifications) {}

    /// Each loads what the other has now.
    void
    exchange() {
        const nixl_blob_t from_a = a.metadata(), from_b = b.metadata();
        a.load(from_b);
        b.load(from_a);
    }

    /// Registers both ranges, tells each agent about the other, and makes a request of A that moves all of one to or
    /// from the other.
    nixlXferReqH *
    request(nixl_xfer_op_t operation, const Buffer &at_a, const Buffer &at_b) {
        require(a->registerMem(registrationOf({at_a.desc()})), "register at A");
        require(b->registerMem(registrationOf({at_b.desc()})), "register at B");
        exchange();
        nixlXferReqH *made = nullptr;
        require(a->createXferReq(operation, listOf({at_a.desc()}), listOf({at_b.desc()}), b.name, made), "create");
        return made;
    }

    /// Lets both agents make progress and gathers what arrived.
    void
    progress() {
        if (!notifications_) return;
        for (PairedAgent *each : {&a, &b}) {
            if (each->agent) require((*each)->getNotifs(each->inbox), "notifications of " + each->name);
        }
    }

    /// Polls a request of A until its status is final. `posted` is what postXferReq returned.
    nixl_status_t
    finish(nixlXferReqH *request, nixl_status_t posted) {
        nixl_status_t status = posted;
        eventually([&] {
            // In bursts: an engine may take in as little as one message per call.
            for (int i = 0; i < 100 && status == NIXL_IN_PROG; ++i) {
                status = a->getXferStatus(request);
                progress();
            }
            return status != NIXL_IN_PROG;
        });
        return status;
    }

    nixl_status_t
    run(nixlXferReqH *request, const nixl_opt_args_t *args = nullptr) {
        return finish(request, a->postXferReq(request, args));
    }

    /// Waits for `count` messages of `sender` at `receiver` and takes everything that came from there.
    std::vector<nixl_blob_t>
    receive(PairedAgent &receiver, const std::string &sender, size_t count) {
        eventually([&] {
            progress();
            return receiver.inbox[sender].size() >= count;
        });
        return std::exchange(receiver.inbox[sender], {});
    }

    /// Releases a request of A that may still be settling.
    nixl_status_t
    release(nixlXferReqH *request) {
        nixl_status_t status;
        eventually([&] {
            status = a->releaseXferReq(request);
            progress();
            return status != NIXL_ERR_REPOST_ACTIVE;
        });
        return status;
    }

    PairedAgent a;
    PairedAgent b;

private:
    const bool notifications_;
};

} // namespace nx::test
