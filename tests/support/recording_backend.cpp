// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "support/recording_backend.h"

#include <mutex>

#include "kit/nixl14.h"
#include "loopback/engine.h"

namespace nx::test {
namespace {

class Recorder final : public RecordingControl {
public:
    void
    reset() override {
        std::lock_guard lock(mutex_);
        calls_.clear();
        calls_.reserve(256); // letting go needs no memory
    }

    std::vector<RecordedCall>
    calls() const override {
        std::lock_guard lock(mutex_);
        return calls_;
    }

    /// Reserves the call's place in the order before it is done, so that calls made meanwhile come behind it.
    size_t
    begin(RecordedCall call) {
        std::lock_guard lock(mutex_);
        calls_.push_back(std::move(call));
        return calls_.size() - 1;
    }

    void
    end(size_t index, nixl_status_t status) {
        std::lock_guard lock(mutex_);
        if (index < calls_.size()) calls_[index].status = status; // a reset may have come between
    }

private:
    mutable std::mutex mutex_;
    std::vector<RecordedCall> calls_;
};

Recorder &
recorder() {
    static Recorder instance;
    return instance;
}

std::string
rangeText(const nixlBasicDesc &range) {
    return std::to_string(range.addr) + "+" + std::to_string(range.len) + " device " + std::to_string(range.devId);
}

std::string
memoryText(const nixlBlobDesc &range, nixl_mem_t memory) {
    return nixlEnumStrings::memTypeStr(memory) + " " + rangeText(range) +
        (range.metaInfo.empty() ? "" : " '" + range.metaInfo + "'");
}

std::string
notificationText(const std::string *notification) {
    return notification ? "'" + *notification + "'" : "no notification";
}

class RecordingEngine : public loopback::Engine {
public:
    using loopback::Engine::Engine;

    ~RecordingEngine() override {
        recorder().begin({agent_, "destroy", "", {}, NIXL_SUCCESS});
    }

    nixl_status_t
    registerMem(const nixlBlobDesc &mem, nixl_mem_t nixl_mem, nixlBackendMD *&out) override {
        return record("registerMem", memoryText(mem, nixl_mem),
                      [&] { return Engine::registerMem(mem, nixl_mem, out); });
    }

    nixl_status_t
    deregisterMem(nixlBackendMD *meta) override {
        const loopback::WindowKey &key = static_cast<loopback::LocalMemory *>(meta)->window->key();
        const nixlBlobDesc range(key.address, key.length, key.device_id, key.name);
        return record("deregisterMem", memoryText(range, key.memory), [&] { return Engine::deregisterMem(meta); });
    }

    nixl_status_t
    getPublicData(const nixlBackendMD *meta, std::string &data) const override {
        return record("getPublicData", "", [&] { return Engine::getPublicData(meta, data); });
    }

    nixl_status_t
    loadLocalMD(nixlBackendMD *input, nixlBackendMD *&output) override {
        return record("loadLocalMD", "", [&] { return Engine::loadLocalMD(input, output); });
    }

    nixl_status_t
    loadRemoteMD(const nixlBlobDesc &input,
                 nixl_mem_t nixl_mem,
                 const std::string &remote_agent,
                 nixlBackendMD *&output) override {
        return record("loadRemoteMD", remote_agent + " " + memoryText(input, nixl_mem),
                      [&] { return Engine::loadRemoteMD(input, nixl_mem, remote_agent, output); });
    }

    nixl_status_t
    unloadMD(nixlBackendMD *input) override {
        return record("unloadMD", "", [&] { return Engine::unloadMD(input); });
    }

    nixl_status_t
    getConnInfo(std::string &info) const override {
        return record("getConnInfo", "", [&] { return Engine::getConnInfo(info); });
    }

    nixl_status_t
    loadPeer(const std::string &remote_agent,
             const std::string &connection_info,
             const std::string *peer_info) override {
        return record("loadPeer", remote_agent,
                      [&] { return Engine::loadPeer(remote_agent, connection_info, peer_info); });
    }

    nixl_status_t
    connect(const std::string &remote_agent) override {
        return record("connect", remote_agent, [&] { return Engine::connect(remote_agent); });
    }

    nixl_status_t
    disconnect(const std::string &remote_agent) override {
        return record("disconnect", remote_agent, [&] { return Engine::disconnect(remote_agent); });
    }

    nixl_status_t
    getPeerInfo(std::string &info) const override {
        return record("getPeerInfo", "", [&] { return Engine::getPeerInfo(info); });
    }

    nixl_status_t
    validatePeer(const std::string &connection_info,
                 const std::string *peer_info,
                 std::span<const std::string> public_data) const override {
        return record("validatePeer", "",
                      [&] { return Engine::validatePeer(connection_info, peer_info, public_data); });
    }

    nixl_status_t
    getNotifs(notif_list_t &notifications) override {
        return record("getNotifs", "", [&] { return Engine::getNotifs(notifications); });
    }

    nixl_status_t
    genNotif(const std::string &remote_agent, const std::string &message) const override {
        return record("genNotif", remote_agent + " " + notificationText(&message),
                      [&] { return Engine::genNotif(remote_agent, message); });
    }

    nixl_status_t
    queryMem(const nixl_reg_dlist_t &descs, std::vector<nixl_query_resp_t> &resp) const override {
        return record("queryMem", std::to_string(descs.descCount()), [&] { return Engine::queryMem(descs, resp); });
    }

    nixl_status_t
    prepare(const nixlx::Plan &plan, const nixl_opt_b_args_t *args, nixlBackendReqH *&request) override {
        const std::string text = nixlEnumStrings::xferOpStr(plan.operation) + " " +
            nixlEnumStrings::memTypeStr(plan.local_memory) + " " + nixlEnumStrings::memTypeStr(plan.remote_memory) +
            " " + std::string(plan.remote_agent) + " " + std::to_string(plan.total_bytes) + " bytes " +
            std::to_string(plan.block_count) + " blocks" +
            (args && !args->customParam.empty() ? " '" + args->customParam + "'" : "");
        return record("prepare", text, [&] { return Engine::prepare(plan, args, request); },
                      {plan.runs.begin(), plan.runs.end()});
    }

    nixl_status_t
    post(nixlBackendReqH *request, const std::string *notification) override {
        return record("post", notificationText(notification), [&] { return Engine::post(request, notification); });
    }

    nixl_status_t
    check(nixlBackendReqH *request) override {
        return record("check", "", [&] { return Engine::check(request); });
    }

    void
    cancel(nixlBackendReqH *request) override {
        recorder().begin({agent_, "cancel", "", {}, NIXL_SUCCESS});
        Engine::cancel(request);
    }

    void
    release(nixlBackendReqH *request) override {
        recorder().begin({agent_, "release", "", {}, NIXL_SUCCESS});
        Engine::release(request);
    }

private:
    template<class Body>
    nixl_status_t
    record(const char *function, std::string arguments, Body body, std::vector<nixlx::Run> runs = {}) const {
        const size_t index = recorder().begin({agent_, function, std::move(arguments), std::move(runs), NIXL_IN_PROG});
        const nixl_status_t status = body();
        recorder().end(index, status);
        return status;
    }
};

} // namespace
} // namespace nx::test

extern "C" NIXL_PLUGIN_EXPORT nx::test::RecordingControl *
nx_test_recording_control() {
    return &nx::test::recorder();
}

extern "C" const nixlx_plugin_descriptor_t nixlx_plugin_descriptor = {
    .magic = NIXLX_PLUGIN_MAGIC,
    .struct_size = sizeof(nixlx_plugin_descriptor_t),
    .api_version = NIXLX_PLUGIN_API_VERSION,
    .capabilities = NIXLX_CAP_LOCAL,
    .kind = "backend",
    .name = "RECORDING",
    .version = "1.0.0",
    .abi = NIXLX_ABI_TAG,
    .build_id = "",
    .conflicts = "",
    .partners = {31, 31, 31, 31, 31},
    .create = [](const nixlBackendInitParams *params) -> nixlx::Engine * {
        return new nx::test::RecordingEngine(params);
    },
    .options = nullptr,
    .option_size = sizeof(nixlx_option),
    .option_count = 0,
};

extern "C" NIXL_PLUGIN_EXPORT nixlBackendPlugin *
nixl_plugin_init() {
    return nx::kit::nixl14Plugin<nixlx_plugin_descriptor>();
}
