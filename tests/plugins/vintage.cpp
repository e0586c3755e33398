// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A plugin as NIXL 1.4 knows it: nixl_plugin_init only, no descriptor, optional functions left out. Its engines copy
// DRAM between agents of one process, which find each other by name in a table. A transfer is IN_PROG at the first
// check and done at the second; its notification arrives with the second. With the parameter "telemetry" every
// registration adds an event, XFER_TIME 42.
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "backend/backend_plugin.h"

namespace {

struct Mailbox {
    std::mutex mutex;
    notif_list_t messages;
};

std::mutex mailboxes_mutex;
std::map<std::string, std::shared_ptr<Mailbox>> mailboxes;

std::shared_ptr<Mailbox>
findMailbox(const std::string &agent) {
    std::lock_guard lock(mailboxes_mutex);
    const auto it = mailboxes.find(agent);
    return it == mailboxes.end() ? nullptr : it->second;
}

class Memory : public nixlBackendMD {
public:
    explicit Memory(const nixlBasicDesc &range) : nixlBackendMD(true), range(range) {}
    const nixlBasicDesc range;
};

class Request : public nixlBackendReqH {
public:
    int checks_left = 0;
    std::string peer;
    std::string message;
    bool has_message = false;
};

class Engine : public nixlBackendEngine {
public:
    explicit Engine(const nixlBackendInitParams *params)
        : nixlBackendEngine(params),
          mailbox_(std::make_shared<Mailbox>()) {
        std::lock_guard lock(mailboxes_mutex);
        mailboxes[localAgent] = mailbox_;
    }

    ~Engine() override {
        std::lock_guard lock(mailboxes_mutex);
        const auto it = mailboxes.find(localAgent);
        if (it != mailboxes.end() && it->second == mailbox_) mailboxes.erase(it);
    }

    bool
    supportsRemote() const override {
        return true;
    }

    bool
    supportsLocal() const override {
        return true;
    }

    bool
    supportsNotif() const override {
        return true;
    }

    nixl_mem_list_t
    getSupportedMems() const override {
        return {DRAM_SEG};
    }

    nixl_status_t
    registerMem(const nixlBlobDesc &mem, const nixl_mem_t &nixl_mem, nixlBackendMD *&out) override {
        if (nixl_mem != DRAM_SEG) return NIXL_ERR_NOT_SUPPORTED;
        std::string ignored;
        if (getInitParam("telemetry", ignored) == NIXL_SUCCESS) {
            addTelemetryEvent(nixl_telemetry_event_type_t::AGENT_XFER_TIME, 42);
        }
        out = new Memory(mem);
        return NIXL_SUCCESS;
    }

    nixl_status_t
    deregisterMem(nixlBackendMD *meta) override {
        delete meta;
        return NIXL_SUCCESS;
    }

    nixl_status_t
    getPublicData(const nixlBackendMD *meta, std::string &key) const override {
        key = static_cast<const Memory *>(meta)->range.serialize();
        return NIXL_SUCCESS;
    }

    nixl_status_t
    getConnInfo(std::string &info) const override {
        info = "vintage " + localAgent;
        return NIXL_SUCCESS;
    }

    nixl_status_t
    loadRemoteConnInfo(const std::string &remote_agent, const std::string &info) override {
        return info == "vintage " + remote_agent ? NIXL_SUCCESS : NIXL_ERR_MISMATCH;
    }

    nixl_status_t
    connect(const std::string &remote_agent) override {
        return findMailbox(remote_agent) ? NIXL_SUCCESS : NIXL_ERR_NOT_FOUND;
    }

    nixl_status_t
    disconnect(const std::string &) override {
        return NIXL_SUCCESS;
    }

    nixl_status_t
    loadRemoteMD(const nixlBlobDesc &input, const nixl_mem_t &, const std::string &, nixlBackendMD *&out) override {
        const nixlBasicDesc range(input.metaInfo);
        if (!range.covers(input)) return NIXL_ERR_MISMATCH;
        out = new Memory(range);
        return NIXL_SUCCESS;
    }

    nixl_status_t
    loadLocalMD(nixlBackendMD *input, nixlBackendMD *&out) override {
        out = new Memory(static_cast<Memory *>(input)->range);
        return NIXL_SUCCESS;
    }

    nixl_status_t
    unloadMD(nixlBackendMD *input) override {
        delete input;
        return NIXL_SUCCESS;
    }

    nixl_status_t
    prepXfer(const nixl_xfer_op_t &,
             const nixl_meta_dlist_t &local,
             const nixl_meta_dlist_t &remote,
             const std::string &remote_agent,
             nixlBackendReqH *&handle,
             const nixl_opt_b_args_t *) const override {
        if (local.descCount() != remote.descCount()) return NIXL_ERR_INVALID_PARAM;
        for (int i = 0; i < local.descCount(); ++i) {
            if (local[i].len != remote[i].len || !inside(local[i]) || !inside(remote[i])) return NIXL_ERR_INVALID_PARAM;
        }
        auto request = std::make_unique<Request>();
        request->peer = remote_agent;
        handle = request.release();
        return NIXL_SUCCESS;
    }

    nixl_status_t
    postXfer(const nixl_xfer_op_t &operation,
             const nixl_meta_dlist_t &local,
             const nixl_meta_dlist_t &remote,
             const std::string &remote_agent,
             nixlBackendReqH *&handle,
             const nixl_opt_b_args_t *opt_args) const override {
        if (!findMailbox(remote_agent)) return NIXL_ERR_REMOTE_DISCONNECT;
        for (int i = 0; i < local.descCount(); ++i) {
            auto *here = reinterpret_cast<void *>(local[i].addr);
            auto *there = reinterpret_cast<void *>(remote[i].addr);
            if (operation == NIXL_WRITE) std::swap(here, there);
            std::memmove(here, there, local[i].len);
        }
        auto *request = static_cast<Request *>(handle);
        request->checks_left = 2;
        request->has_message = opt_args && opt_args->hasNotif;
        if (request->has_message) request->message = opt_args->notifMsg;
        return NIXL_IN_PROG;
    }

    nixl_status_t
    checkXfer(nixlBackendReqH *handle) const override {
        auto *request = static_cast<Request *>(handle);
        if (request->checks_left > 0) --request->checks_left;
        if (request->checks_left > 0) return NIXL_IN_PROG;
        if (std::exchange(request->has_message, false)) return genNotif(request->peer, request->message);
        return NIXL_SUCCESS;
    }

    nixl_status_t
    releaseReqH(nixlBackendReqH *handle) const override {
        delete handle;
        return NIXL_SUCCESS;
    }

    nixl_status_t
    getNotifs(notif_list_t &notifs) override {
        std::lock_guard lock(mailbox_->mutex);
        notifs = std::exchange(mailbox_->messages, {});
        return NIXL_SUCCESS;
    }

    nixl_status_t
    genNotif(const std::string &remote_agent, const std::string &msg) const override {
        const auto mailbox = findMailbox(remote_agent);
        if (!mailbox) return NIXL_ERR_REMOTE_DISCONNECT;
        std::lock_guard lock(mailbox->mutex);
        mailbox->messages.emplace_back(localAgent, msg);
        return NIXL_SUCCESS;
    }

private:
    static bool
    inside(const nixlMetaDesc &element) {
        return static_cast<const Memory *>(element.metadataP)->range.covers(element);
    }

    const std::shared_ptr<Mailbox> mailbox_;
};

nixlBackendPlugin plugin = {
    NIXL_PLUGIN_API_VERSION,
    [](const nixlBackendInitParams *params) -> nixlBackendEngine * { return new Engine(params); },
    [](nixlBackendEngine *engine) { delete engine; },
    [] { return "VINTAGE"; },
    [] { return "1.4.0"; },
    nullptr,
    nullptr};

} // namespace

nixlBackendPlugin *
nixl_plugin_init() {
    return &plugin;
}
